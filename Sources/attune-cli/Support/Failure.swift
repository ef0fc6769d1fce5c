import CAttune
import Glibc

/// What ends the program: one line for stderr that says what to do, and the exit code.
/// 1 = a check failed, 2 = usage or input.
struct Failure: Error {
  var message: String
  var code: Int32 = 2
  init(_ message: String, code: Int32 = 2) {
    self.message = message
    self.code = code
  }
}

/// An `attune_error` that the library filled.
struct LibraryError: Error {
  let status: attune_status
  let argument: String
  let message: String

  /// "E_SHAPE"
  var name: String { attune_status_name(status).map { String(cString: $0) } ?? "E_\(status)" }
  /// The kernel (or the entry) says that it does not take this problem.
  var isDecline: Bool { status == attune_status(ATTUNE_E_UNSUPPORTED) }

  init(status: attune_status, record: attune_error) {
    self.status = status
    argument = withUnsafeBytes(of: record.argument) { text(upToNUL: $0) }
    let sentence = withUnsafeBytes(of: record.message) { text(upToNUL: $0) }
    message = sentence.isEmpty ? "the library gave no reason" : sentence
  }
}

func text(upToNUL bytes: UnsafeRawBufferPointer) -> String {
  String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
}

/// Calls a function of the C API and throws what it reports.
func checked(_ body: (UnsafeMutablePointer<attune_error>) -> attune_status) throws(LibraryError) {
  var record = attune_error()
  record.struct_size = UInt32(MemoryLayout<attune_error>.size)
  let status = body(&record)
  guard status == 0 else { throw LibraryError(status: status, record: record) }
}

/// Writes all of `text` to a file descriptor; a closed pipe ends the program quietly, as other tools do.
func write(_ text: String, to descriptor: Int32) {
  var text = text
  text.withUTF8 { bytes in
    var rest = UnsafeRawBufferPointer(bytes)
    while let base = rest.baseAddress, !rest.isEmpty {
      let n = Glibc.write(descriptor, base, rest.count)
      if n < 0 && errno == EINTR { continue }
      if n <= 0 { return }
      rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst(n))
    }
  }
}

func say(_ line: String) { write(line + "\n", to: STDOUT_FILENO) }
func warn(_ line: String) { write("attune: \(line)\n", to: STDERR_FILENO) }
