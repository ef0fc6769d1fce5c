import CRuntime
import Glibc

/// Why a file of wisdom cannot be used, as a sentence that begins with its path.
package struct WisdomFileFault: Error, Equatable, Sendable {
  package enum Kind: Sendable { case missing, unreadable, notWisdom, newer, unwritable }
  package let kind: Kind
  package let sentence: String
  package let systemCode: Int32  // errno, or 0
}

/// One file of wisdom on disk. Readers take no lock: the file only ever changes by being replaced as a whole.
package struct WisdomFile: Sendable {
  package let path: String

  package init(path: String) { self.path = path }

  /// What reading a file gave.
  package struct Contents: Sendable {
    package var book = WisdomBook()
    package var identity: FileStatus.Identity?  // nil: there was no file
    package var damaged = 0
    /// What is wrong with which line; the first ones.
    package var faults: [(line: Int, sentence: String)] = []
    /// Whole lines by what they are, in the order of the file; the header is none of them.
    package var lines: [WisdomLine] = []
    fileprivate var bytes: [UInt8] = []

    package init() {}
  }

  private static let maxFaults = 100

  // MARK: reading

  package func read() throws(WisdomFileFault) -> Contents {
    var contents = Contents()
    (contents.bytes, contents.identity) = try load()
    var newer: Int64?
    var good = 0
    contents.bytes.withUnsafeBufferPointer { bytes in
      WisdomLine.forEach(in: bytes) { number, verdict in
        switch verdict {
        case .good(let line):
          good &+= 1
          if case .header = line { return }
          contents.lines.append(line)
          contents.book.add(line)
        case .newer(let schema): newer = max(newer ?? 0, schema)
        case .bad(let fault):
          contents.damaged &+= 1
          if contents.faults.count < WisdomFile.maxFaults { contents.faults.append((number, fault.sentence)) }
        }
      }
    }
    if let newer {
      throw fault(.newer, "was written by a newer version (schema \(newer), expected \(WisdomLimits.schema))")
    }
    // Somebody's text under the wrong name must not be taken for a damaged file, which would be written over.
    guard good > 0 || contents.bytes.isEmpty else { throw fault(.notWisdom, "is not a file of wisdom") }
    return contents
  }

  /// Size and time of the file now; nil: there is none, or it cannot be looked at.
  package var identity: FileStatus.Identity? { FileStatus(path: path)?.identity }

  private func load() throws(WisdomFileFault) -> ([UInt8], FileStatus.Identity) {
    // A FIFO would block an ordinary open for ever.
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
    guard descriptor >= 0 else {
      let code = errno
      var status = stat()
      if code == ENOENT, lstat(path, &status) != 0 { throw fault(.missing, "does not exist", code) }
      throw fault(.unreadable, code == ENOENT ? "is a link to nothing" : "cannot be read: \(systemError(code))", code)
    }
    defer { close(descriptor) }
    guard let status = FileStatus(descriptor: descriptor) else { throw system(.unreadable, "cannot be read") }
    guard status.isRegular else { throw fault(.unreadable, "is not a regular file") }
    guard status.identity.size <= WisdomLimits.fileBytes else {
      throw fault(.unreadable, "has \(status.identity.size) bytes, at most \(WisdomLimits.fileBytes) are read")
    }
    let size = Int(max(status.identity.size, 0))
    var code: Int32 = 0
    let bytes = [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
      while count < size, let base = buffer.baseAddress {
        let got = Glibc.read(descriptor, base + count, size &- count)
        if got < 0 && errno == EINTR { continue }
        if got < 0 { code = errno }
        guard got > 0 else { break }
        count = count &+ got
      }
    }
    guard code == 0 else { throw fault(.unreadable, "cannot be read: \(systemError(code))", code) }
    return (bytes, status.identity)
  }

  // MARK: writing

  /// Reads, lets `change` have its way, and replaces the file if that changed anything, all under its lock. What was
  /// read and could not be used is kept as `<file>.damaged` first. waits: for the lock, at most two seconds.
  package func update(
    makesDirectory: Bool = false, waits: Bool = true, _ change: (inout WisdomBook) -> Void
  ) throws(WisdomFileFault) -> Contents {
    if makesDirectory { FileTree.makeDirectory(Path.directory(of: path)) }
    // The file behind a link is what is locked and replaced, not the link.
    let target = Path.resolved(path) ?? path
    let lock = try WisdomLock(for: target, waits: waits)
    defer { lock.release() }
    var contents = Contents()
    do throws(WisdomFileFault) {
      contents = try read()
    } catch {
      guard error.kind == .missing else { throw error }
    }
    let before = contents.book
    change(&contents.book)
    guard contents.book != before else { return contents }
    sweep(target)
    if contents.damaged > 0 { try write(contents.bytes, to: target + ".damaged") }
    let bytes = contents.book.file
    try write(bytes, to: target)
    contents.damaged = 0
    contents.identity = identity
    return contents
  }

  /// Replaces the file by `book`, whatever it was.
  package func replace(with book: WisdomBook) throws(WisdomFileFault) {
    let target = Path.resolved(path) ?? path
    if let status = FileStatus(path: target), !status.isRegular { throw fault(.unwritable, "is not a regular file") }
    try write(book.file, to: target)
  }

  private func write(_ bytes: [UInt8], to target: String) throws(WisdomFileFault) {
    if let failed = FileTree.replace(target, with: bytes) {
      throw fault(.unwritable, "cannot be written: \(failed.step): \(systemError(failed.code))", failed.code)
    }
  }

  /// Removes what writers that were killed left behind. Under the lock no other writer is at work.
  private func sweep(_ target: String) {
    let prefix = Path.name(of: target) + FileTree.temporary
    let directory = Path.directory(of: target)
    for name in FileTree.names(in: directory) where name.hasPrefix(prefix) {
      let rest = name.utf8.dropFirst(prefix.utf8.count)
      if rest.allSatisfy({ Lexer.isDigit($0) || $0 == UInt8(ascii: ".") }) { unlink(directory + "/" + name) }
    }
  }

  fileprivate func fault(_ kind: WisdomFileFault.Kind, _ what: String, _ code: Int32 = 0) -> WisdomFileFault {
    WisdomFileFault(kind: kind, sentence: "\(path) \(what)", systemCode: code)
  }

  fileprivate func system(_ kind: WisdomFileFault.Kind, _ what: String) -> WisdomFileFault {
    let code = errno
    return fault(kind, "\(what): \(systemError(code))", code)
  }
}

/// The right to replace a file, among all processes: a lock on `<file>.lock`, which is never removed.
private struct WisdomLock {
  private let descriptor: Int32
  private static let patience: Int64 = 2_000_000_000  // ns

  init(for target: String, waits: Bool) throws(WisdomFileFault) {
    let file = WisdomFile(path: target + ".lock")
    let begin = crt_now_ns()
    while true {
      let descriptor = open(file.path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0o600)
      guard descriptor >= 0 else { throw file.system(.unwritable, "cannot be opened") }
      if flock(descriptor, LOCK_EX | LOCK_NB) == 0 {
        // Somebody may have removed the name meanwhile: a lock on what has no name holds nobody off.
        if let own = FileStatus(descriptor: descriptor), let named = FileStatus(path: file.path),
          own.identity.isSameFile(as: named.identity)
        {
          self.descriptor = descriptor
          return
        }
        close(descriptor)
      } else {
        let code = errno
        close(descriptor)
        guard code == EWOULDBLOCK || code == EINTR else {
          throw file.fault(.unwritable, "cannot be locked: \(systemError(code))", code)
        }
      }
      if waits { usleep(2000) }
      guard waits, crt_now_ns() &- begin < WisdomLock.patience else {
        throw file.fault(.unwritable, "is held by another process", EWOULDBLOCK)
      }
    }
  }

  /// Unlocks by name and not by closing alone: a child forked meanwhile has the descriptor too.
  func release() {
    flock(descriptor, LOCK_UN)
    close(descriptor)
  }
}
