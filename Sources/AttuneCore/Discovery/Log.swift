import CAttune
import Glibc

/// Where one context's messages go. Values are copied freely; the sink must be callable from any thread.
package struct Log: Sendable {
  package enum Level: Int32, Sendable, Comparable, CaseIterable {
    case debug = 0
    case info, warning, error
    package static func < (a: Level, b: Level) -> Bool { a.rawValue < b.rawValue }
    package var name: String { String(describing: self) }
  }

  /// Messages below it are dropped; nil drops everything.
  package let threshold: Level?
  private let sink: @Sendable (Level, String) -> Void

  package init(threshold: Level?, sink: @escaping @Sendable (Level, String) -> Void) {
    self.threshold = threshold
    self.sink = sink
  }

  package func callAsFunction(_ level: Level, _ text: @autoclosure () -> String) {
    guard let threshold, level >= threshold else { return }
    sink(level, text())
  }

  /// One write per line, so that lines of several threads do not mix.
  package static func standardError(threshold: Level?) -> Log {
    Log(threshold: threshold) { level, text in
      let line = "attune: \(level.name): \(text)\n"
      line.utf8.withContiguousStorageIfAvailable { _ = write(STDERR_FILENO, $0.baseAddress, $0.count) }
    }
  }

  /// The callback of `attune_context_options`. `user` belongs to the caller and must outlive the context.
  package static func callback(
    _ function: @escaping @convention(c) (UnsafeMutableRawPointer?, Int32, UnsafePointer<CChar>?) -> Void,
    user: UnsafeMutableRawPointer?, threshold: Level?
  ) -> Log {
    let user = UInt(bitPattern: user)  // an address is Sendable, a pointer is not
    return Log(threshold: threshold) { level, text in
      text.withCString { function(UnsafeMutableRawPointer(bitPattern: user), level.rawValue, $0) }
    }
  }
}
