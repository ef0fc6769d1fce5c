import CAttune
import Glibc
import Synchronization

/// Writes each distinct problem of this process once to the file of ATTUNE_RECORD_SHAPES, one JSON object per line, as
/// `attune tune --shapes` reads them.
final class ShapeLog: Sendable {
  private let path: String
  private let log: Log
  private struct State {
    var seen: Set<String> = []
    var isBroken = false
  }
  private let state = Mutex(State())
  /// A caller whose sizes never repeat must not fill the disk.
  private static let most = 4096

  init(path: String, log: Log) { (self.path, self.log) = (path, log) }

  func record(_ request: Problem, _ problem: BoundProblem, workers: UInt32) {
    let line = ShapeLog.line(request, problem, workers)
    state.withLock { state in
      guard !state.isBroken, state.seen.count < ShapeLog.most, state.seen.insert(line).inserted else { return }
      // One write to a file opened for appending: lines of several processes do not mix.
      let file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0o600)
      let text = line + "\n"
      let written =
        file < 0 ? -1 : text.utf8.withContiguousStorageIfAvailable { write(file, $0.baseAddress, $0.count) } ?? -1
      if file >= 0 { close(file) }
      if written != text.utf8.count {
        state.isBroken = true
        log(.warning, "cannot record shapes in \(path): \(systemError())")
      }
    }
  }

  private static func line(_ request: Problem, _ problem: BoundProblem, _ workers: UInt32) -> String {
    let tensors: [(String, JSON)] = zip(request.tensors, problem.order).map { tensor, t in
      let shape = problem.shape(t).map { JSON.integer($0) }
      return (tensor.name, .array([.string(problem.dtype(t).name)] + shape))
    }
    let params: [(String, JSON)] = request.params.map { name, value in
      switch value {
      case .flag(let b): (name, .bool(b))
      case .integer(let i): (name, .integer(i))
      case .real(let d): (name, .real(d))
      case .word(let s): (name, .string(s))
      }
    }
    var fields: [(String, JSON)] = [
      ("op", .string(request.op)), ("entry", .string(request.entry)), ("tensors", .object(tensors)),
      ("params", .object(params)), ("threads", .integer(Int64(workers))),
    ]
    if request.isDeterministic { fields.append(("deterministic", .bool(true))) }
    return JSON.object(fields).text
  }
}
