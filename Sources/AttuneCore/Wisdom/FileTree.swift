import Glibc
import Synchronization

/// Changing files so that nobody ever sees half of a change, not after a crash either.
package enum FileTree {
  /// Between a file's name and the process and number of whoever is writing it anew.
  package static let temporary = ".tmp."
  private static let counter = Atomic<UInt32>(0)

  /// Writes beside the file, then puts the new one in its place, on disk before it returns. Mode 0600. Not nil: the
  /// step that failed, and why; the file is as it was.
  package static func replace(_ path: String, with bytes: [UInt8]) -> (step: String, code: Int32)? {
    let number = counter.wrappingAdd(1, ordering: .relaxed).newValue
    let name = "\(path)\(temporary)\(getpid()).\(number)"
    let descriptor = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
    guard descriptor >= 0 else { return ("creating a file beside it", errno) }
    var failed: (step: String, code: Int32)?
    if let code = write(bytes, to: descriptor) { failed = ("writing a file beside it", code) }
    if failed == nil, fsync(descriptor) != 0 { failed = ("writing a file beside it", errno) }
    close(descriptor)
    if failed == nil, rename(name, path) != 0 { failed = ("replacing it", errno) }
    if failed != nil { unlink(name) } else { sync(directory: Path.directory(of: path)) }
    return failed
  }

  private static func write(_ bytes: [UInt8], to descriptor: Int32) -> Int32? {
    bytes.withUnsafeBytes { bytes in
      var rest = bytes
      while let base = rest.baseAddress, !rest.isEmpty {
        let n = Glibc.write(descriptor, base, rest.count)
        if n < 0 && errno == EINTR { continue }
        guard n > 0 else { return n < 0 ? errno : ENOSPC }
        rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst(n))
      }
      return nil
    }
  }

  /// The new name has to reach the disk too. Some file systems cannot do that on request; the file is whole anyway.
  private static func sync(directory: String) {
    let descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { return }
    fsync(descriptor)
    close(descriptor)
  }

  /// With what is missing above it, mode 0700. Whether it worked shows when it is used.
  package static func makeDirectory(_ path: String) {
    if mkdir(path, 0o700) == 0 || errno != ENOENT { return }
    let above = Path.directory(of: path)
    guard above != path, above != "." else { return }
    makeDirectory(above)
    mkdir(path, 0o700)
  }

  /// Names in a directory, in no order; none when it cannot be read.
  package static func names(in directory: String) -> [String] {
    guard let handle = opendir(directory) else { return [] }
    defer { closedir(handle) }
    var names: [String] = []
    while let entry = readdir(handle) {
      let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
        String(validating: bytes.prefix { $0 != 0 }, as: UTF8.self)
      }
      if let name { names.append(name) }
    }
    return names
  }
}
