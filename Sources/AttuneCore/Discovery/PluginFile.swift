import CAttune
import Glibc

/// A file that may be opened as a plugin: its owner, mode, machine and note were looked at, none of its code has run.
package struct PluginFile: Sendable {
  package let path: String  // where it was found
  package let resolved: String  // absolute, without links: what is opened
  package let identity: FileStatus.Identity
  package let rank: Int
  /// nil only for files that a program named itself.
  package let note: PluginNote?
  /// Tells builds of a plugin apart: the linker's build id, else a hash of the file. What was measured with one build
  /// says little about another.
  package let build: String
  package var name: String { Path.name(of: path) }

  private static let sizes: ClosedRange<Int64> = 64...(1 << 30)

  /// `isExplicit`: named in `attune_load`. E_IO, E_DENIED, E_ABI, E_LOAD; every sentence begins with the path.
  package static func inspect(
    _ path: String, rank: Int, isExplicit: Bool, trust: FileTrust, cpu: CPUFeatures
  ) throws(Refusal) -> PluginFile {
    guard let resolved = Path.resolved(path) else { throw cannotOpen(path) }
    // A FIFO would block an ordinary open for ever; a link put in place meanwhile must not be followed.
    let descriptor = open(resolved, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW)
    guard descriptor >= 0 else { throw cannotOpen(path) }
    defer { close(descriptor) }
    guard let status = FileStatus(descriptor: descriptor) else { throw cannotOpen(path) }
    guard status.isRegular else { throw Refusal(.denied, "", "\(path): it is not a regular file") }
    if let refusal = trust.refusal(of: path, status) { throw refusal }
    // Where it lies, and where it was found: either could put another file in its place.
    for directory in Set([Path.directory(of: resolved), Path.resolved(Path.directory(of: path))].compactMap(\.self)) {
      if let refusal = trust.refusal(ofDirectory: directory) {
        throw Refusal(
          refusal.code, "", "\(path): its directory \(refusal.message)", detail: refusal.detail, source: refusal.source)
      }
    }
    let size = status.identity.size
    guard sizes.contains(size) else {
      throw Refusal(
        .load, "", "\(path): it has \(size) bytes, expected \(sizes.lowerBound) to \(sizes.upperBound)",
        detail: (sizes.lowerBound, size))
    }
    let (note, build) = try Untrusted.located(path) { () throws(Refusal) in
      let source = reader(descriptor, size: size)
      let elf = ELFReader(arch: cpu.arch, size: UInt64(clamping: size), source: source)
      let note = try elf.note()
      try check(note, isExplicit: isExplicit, cpu: cpu)
      return (note, try elf.buildID() ?? hash(source, size: size))
    }
    return PluginFile(path: path, resolved: resolved, identity: status.identity, rank: rank, note: note, build: build)
  }

  /// FNV-1a of the whole file, 16 hex digits; "unreadable" when it is cut short meanwhile, which loading will notice.
  private static func hash(_ source: ELFReader.Source, size: Int64) -> String {
    var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    var at: Int64 = 0
    while at < size {
      let count = min(size &- at, 1 << 20)
      guard let bytes = source(UInt64(at), Int(count)) else { return "unreadable" }
      for b in bytes { hash = (hash ^ UInt64(b)) &* 0x100_0000_01b3 }
      at = at &+ count
    }
    let digits = String(hash, radix: 16)
    return String(repeating: "0", count: 16 &- digits.utf8.count) + digits
  }

  private static func check(_ note: PluginNote?, isExplicit: Bool, cpu: CPUFeatures) throws(Refusal) {
    guard let note else {
      if isExplicit { return }
      throw Refusal(.load, "", "it has no note of Attune; only attune_load takes such a file")
    }
    let missing = cpu.missing(note.isaBaseline)
    guard missing.isEmpty else {
      throw Refusal(.load, "", "all of it needs \(missing.joined(separator: ", ")), which may not be used here")
    }
  }

  private static func cannotOpen(_ path: String) -> Refusal {
    let code = errno
    return Refusal(.io, "", "cannot open \(path): \(systemError(code))", detail: (0, Int64(code)), source: .system)
  }

  /// Reads with pread and not through a mapping: a file cut short meanwhile is then an error and not a SIGBUS.
  private static func reader(_ descriptor: Int32, size: Int64) -> ELFReader.Source {
    { offset, count in
      let (end, overflow) = offset.addingReportingOverflow(UInt64(count))
      guard !overflow, end <= UInt64(size) else { return nil }
      var bytes = [UInt8](repeating: 0, count: count)
      var have = 0
      while have < count {
        let got = bytes.withUnsafeMutableBytes {
          pread(descriptor, $0.baseAddress.map { $0 + have }, count &- have, off_t(offset) &+ off_t(have))
        }
        if got < 0 && errno == EINTR { continue }
        guard got > 0 else { return nil }
        have = have &+ got
      }
      return bytes
    }
  }
}
