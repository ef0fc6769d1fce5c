import CRuntime
import Glibc

/// Whose files may be run. Only what trusted users alone can write is trusted; the checks below cannot replace that,
/// they catch the mistakes.
package struct FileTrust: Sendable {
  package let owners: [uid_t]
  package let isSecure: Bool

  package init(owners: [uid_t], isSecure: Bool) {
    self.owners = owners
    self.isSecure = isSecure
  }

  /// Root, the effective user and whoever installed this library.
  package init(isSecure: Bool) {
    var owners: [uid_t] = [0, geteuid()]
    if let own = OwnImage.path, let status = FileStatus(path: own), !owners.contains(status.owner) {
      owners.append(status.owner)
    }
    self.init(owners: owners, isSecure: isSecure)
  }

  /// For files named in `attune_load` by a process with more rights than its user: only root's.
  package var onlyRoot: FileTrust { FileTrust(owners: [0], isSecure: isSecure) }

  /// Why a file or directory may not be used; nil: it may. E_DENIED.
  package func refusal(of path: String, _ status: FileStatus) -> Refusal? {
    let mode = "0" + String(status.permissions, radix: 8)
    guard owners.contains(status.owner) else {
      let known = owners.map { String($0) }.joined(separator: " or ")
      return Refusal(
        .denied, "", "\(path) is owned by user \(status.owner), expected \(known)",
        detail: (Int64(owners.first ?? 0), Int64(status.owner)))
    }
    if status.permissions & 0o002 != 0 {
      return Refusal(
        .denied, "", "\(path) is writable by everyone (mode \(mode))", detail: (0, Int64(status.permissions)))
    }
    if isSecure, status.permissions & 0o020 != 0 {
      return Refusal(
        .denied, "", "\(path) is writable by its group (mode \(mode)), which secure mode does not allow",
        detail: (0, Int64(status.permissions)))
    }
    return nil
  }

  /// The directory, and in secure mode everything above it: whoever may rename a parent may replace the file.
  /// `directory` is absolute with all links resolved.
  package func refusal(ofDirectory directory: String) -> Refusal? {
    var path = directory
    while true {
      guard let status = FileStatus(path: path) else {
        return Refusal(.io, "", "cannot look at \(path): \(systemError())", detail: (0, Int64(errno)), source: .system)
      }
      if let refusal = refusal(of: path, status) { return refusal }
      guard isSecure, path != "/" else { return nil }
      path = Path.directory(of: path)
    }
  }
}

/// What `stat` says, as far as it matters here.
package struct FileStatus: Sendable, Equatable {
  /// Enough to tell whether a name still means the same unchanged file.
  package struct Identity: Sendable, Equatable {
    package let device: UInt64, inode: UInt64, size: Int64, modifiedSeconds: Int64, modifiedNanoseconds: Int64
    package func isSameFile(as other: Identity) -> Bool { device == other.device && inode == other.inode }
  }
  package let identity: Identity
  package let owner: uid_t
  package let permissions: UInt32
  package let isRegular: Bool, isDirectory: Bool

  private init(_ s: stat) {
    identity = Identity(
      device: UInt64(s.st_dev), inode: UInt64(s.st_ino), size: Int64(s.st_size),
      modifiedSeconds: Int64(s.st_mtim.tv_sec),
      modifiedNanoseconds: Int64(s.st_mtim.tv_nsec))
    owner = s.st_uid
    permissions = UInt32(s.st_mode) & 0o7777
    isRegular = UInt32(s.st_mode) & UInt32(S_IFMT) == UInt32(S_IFREG)
    isDirectory = UInt32(s.st_mode) & UInt32(S_IFMT) == UInt32(S_IFDIR)
  }

  /// Follows links. nil: `errno` says why.
  package init?(path: String) {
    var s = stat()
    guard stat(path, &s) == 0 else { return nil }
    self.init(s)
  }

  package init?(descriptor: Int32) {
    var s = stat()
    guard fstat(descriptor, &s) == 0 else { return nil }
    self.init(s)
  }
}

package enum Path {
  /// Absolute, without links. nil: `errno` says why.
  package static func resolved(_ path: String) -> String? {
    guard let p = realpath(path, nil) else { return nil }
    defer { free(p) }
    return String(validatingCString: p)
  }

  /// "/a/b" -> "/a", "/a" -> "/", "a" -> ".".
  package static func directory(of path: String) -> String {
    guard let slash = path.utf8.lastIndex(of: UInt8(ascii: "/")) else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
  }

  package static func name(of path: String) -> String {
    guard let slash = path.utf8.lastIndex(of: UInt8(ascii: "/")) else { return path }
    return String(path[path.utf8.index(after: slash)...])
  }
}

/// The file that holds this code: libattune.so, or a program that was linked with it.
package enum OwnImage {
  package static var path: String? { crt_own_path().flatMap { Path.resolved(String(cString: $0)) } }
}

/// The sentence for `errno`.
func systemError(_ code: Int32 = errno) -> String {
  strerror(code).map { String(cString: $0) } ?? "error \(code)"
}
