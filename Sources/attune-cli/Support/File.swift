import Glibc

/// Whole files, with the system's reason when something is wrong.
enum File {
  static func read(_ path: String) throws -> [UInt8] {
    let fd = open(path, O_RDONLY | O_CLOEXEC)
    guard fd >= 0 else { throw Failure("cannot read \(path): \(reason())") }
    defer { close(fd) }
    var info = stat()
    guard fstat(fd, &info) == 0 else { throw Failure("cannot read \(path): \(reason())") }
    guard info.st_mode & S_IFMT == S_IFREG else { throw Failure("cannot read \(path): not a regular file") }
    let size = Int(info.st_size)
    var failed: String?
    let bytes = [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
      while count < size, let base = buffer.baseAddress {
        let n = Glibc.read(fd, base + count, size - count)
        if n < 0 && errno == EINTR { continue }
        if n < 0 { failed = reason() }
        if n <= 0 { break }
        count += n
      }
    }
    if let failed { throw Failure("cannot read \(path): \(failed)") }
    return bytes
  }

  /// Writes `parts` one after the other; the file appears whole or not at all.
  static func write(_ parts: [UnsafeRawBufferPointer], to path: String) throws {
    let temporary = "\(path).\(getpid()).part"
    let fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
    guard fd >= 0 else { throw Failure("cannot write \(path): \(reason())") }
    do {
      defer { close(fd) }
      for part in parts {
        var rest = part
        while let base = rest.baseAddress, !rest.isEmpty {
          let n = Glibc.write(fd, base, rest.count)
          if n < 0 && errno == EINTR { continue }
          guard n > 0 else { throw Failure("cannot write \(path): \(reason())") }
          rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst(n))
        }
      }
    } catch {
      unlink(temporary)
      throw error
    }
    guard rename(temporary, path) == 0 else {
      let why = reason()
      unlink(temporary)
      throw Failure("cannot write \(path): \(why)")
    }
  }

  static func write(_ text: String, to path: String) throws {
    var text = text
    try text.withUTF8 { try write([UnsafeRawBufferPointer($0)], to: path) }
  }

  static func exists(_ path: String) -> Bool { access(path, R_OK) == 0 }

  /// Absolute, without links; nil when there is no such path.
  static func resolve(_ path: String) -> String? {
    guard let real = realpath(path, nil) else { return nil }
    defer { free(real) }
    return String(cString: real)
  }

  /// Names in a folder, sorted bytewise, without those that begin with a dot; nil when it is no folder.
  static func names(in folder: String) -> [String]? {
    guard let dir = opendir(folder) else { return nil }
    defer { closedir(dir) }
    var names: [String] = []
    while let entry = readdir(dir) {
      let name = withUnsafeBytes(of: entry.pointee.d_name) { text(upToNUL: $0) }
      if !name.hasPrefix(".") { names.append(name) }
    }
    return names.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
  }

  static func reason() -> String { String(cString: strerror(errno)) }
}
