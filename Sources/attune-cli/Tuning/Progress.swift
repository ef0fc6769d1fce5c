import CRuntime
import Glibc

/// A line on the terminal that shows how far a long command is. Nothing when standard error is no terminal.
struct Progress {
  private let total: Int
  private let begin = crt_now_ns()
  private let isShown = isatty(STDERR_FILENO) == 1

  init(total: Int) { self.total = max(total, 1) }

  func show(done: Int, _ what: String) {
    guard isShown else { return }
    let width = 24
    let full = width * done / total
    let bar = String(repeating: "#", count: full) + String(repeating: ".", count: width - full)
    let spent = Double(crt_now_ns() &- begin) / 1e9
    let left = done > 0 ? ", \(fixed(spent / Double(done) * Double(total - done), 0)) s left" : ""
    write("\r\u{1B}[K[\(bar)] \(done)/\(total)\(left)  \(what.prefix(90))", to: STDERR_FILENO)
  }

  func clear() { if isShown { write("\r\u{1B}[K", to: STDERR_FILENO) } }
}
