import CAttune

/// What a plugin file says about itself without being loaded: the ELF note `.note.attune` (plugin.h, ATTUNE_NOTE).
package struct PluginNote: Sendable, Equatable {
  package let abiMajor: UInt32, abiMinor: UInt32
  package let isaBaseline: (UInt64, UInt64)
  package let id: String, version: String

  package static func == (a: Self, b: Self) -> Bool {
    a.abiMajor == b.abiMajor && a.abiMinor == b.abiMinor && a.isaBaseline == b.isaBaseline && a.id == b.id
      && a.version == b.version
  }
}

/// Reads an ELF file that nobody vouches for. Every offset and size comes from the file, so each is checked before use
/// and how much is read is bounded.
package struct ELFReader {
  /// `count` bytes from `offset`, nil when they are not all there.
  package typealias Source = (_ offset: UInt64, _ count: Int) -> [UInt8]?
  private let source: Source
  private let size: UInt64
  private let arch: UInt32

  private static let maxProgramHeaders = 256
  private static let maxNoteBytes: UInt64 = 1 << 16
  private static let maxSegments = 16

  /// `size`: of the file in bytes.
  package init(arch: UInt32, size: UInt64, source: @escaping Source) {
    self.source = source
    self.size = size
    self.arch = arch
  }

  /// nil: a shared object for this machine without the note. E_LOAD: not such an object. E_ABI: a note of another
  /// major.
  package func note() throws(Refusal) -> PluginNote? {
    let segments = try noteSegments()
    var found: PluginNote?
    for segment in segments {
      guard let bytes = source(segment.offset, segment.count) else {
        throw Refusal(.load, "", "its notes lie beyond the end of the file")
      }
      for descriptor in notes(in: bytes, alignment: segment.alignment, owner: "ATTUNE", type: 1) {
        guard found == nil else { throw Refusal(.load, "", "it has more than one note of Attune") }
        found = try parse(descriptor)
      }
    }
    return found
  }

  /// The linker's name for what it linked (note `.note.gnu.build-id`), in hex; nil: it gave none. E_LOAD as `note`.
  package func buildID() throws(Refusal) -> String? {
    for segment in try noteSegments() {
      guard let bytes = source(segment.offset, segment.count) else { continue }
      let ids = notes(in: bytes, alignment: segment.alignment, owner: "GNU", type: 3)
      if let id = ids.first(where: { (4...64).contains($0.count) }) { return hex(id) }
    }
    return nil
  }

  private func hex(_ bytes: [UInt8]) -> String {
    bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
  }

  private struct Segment { let offset: UInt64, count: Int, alignment: Int }

  private func noteSegments() throws(Refusal) -> [Segment] {
    guard let header = source(0, 64), header.starts(with: [0x7f, 0x45, 0x4c, 0x46]) else {
      throw Refusal(.load, "", "it is not an ELF file")
    }
    let h = Bytes(header)
    guard h.byte(4) == 2, h.byte(5) == 1 else {
      throw Refusal(.load, "", "it is not a 64-bit little-endian ELF file")
    }
    guard h.u16(16) == 3 else { throw Refusal(.load, "", "it is not a shared object (ELF type \(h.u16(16)))") }
    let wanted: UInt64 = arch == UInt32(ATTUNE_ARCH_AARCH64) ? 183 : 62
    guard h.u16(18) == wanted else {
      throw Refusal(
        .load, "", "it is for another machine (ELF machine \(h.u16(18)), expected \(wanted))",
        detail: (Int64(wanted), Int64(h.u16(18))))
    }
    let count = Int(h.u16(56))
    guard h.u16(54) == 56, count <= ELFReader.maxProgramHeaders, let table = source(h.u64(32), count &* 56) else {
      throw Refusal(.load, "", "its program headers are damaged")
    }
    let t = Bytes(table)
    var out: [Segment] = []
    for i in 0..<count {
      let type = t.u32(i &* 56)
      let alignment = t.u64(i &* 56 &+ 48)
      let offset = t.u64(i &* 56 &+ 8)
      let size = t.u64(i &* 56 &+ 32)
      if type == 1 { try checkLoadable(offset, size) }
      guard type == 4 else { continue }
      guard size <= ELFReader.maxNoteBytes, out.count < ELFReader.maxSegments else {
        throw Refusal(.load, "", "its notes are larger than any note needs to be")
      }
      out.append(Segment(offset: offset, count: Int(size), alignment: alignment == 8 ? 8 : 4))
    }
    return out
  }

  /// The dynamic loader does not look: it would map what is not there and die of SIGBUS.
  private func checkLoadable(_ offset: UInt64, _ bytes: UInt64) throws(Refusal) {
    let (end, overflow) = offset.addingReportingOverflow(bytes)
    guard !overflow, end <= size else {
      throw Refusal(
        .load, "", "it is cut short: it has \(size) bytes, its segments end at \(overflow ? UInt64.max : end)",
        detail: (Int64(clamping: overflow ? UInt64.max : end), Int64(clamping: size)))
    }
  }

  /// Descriptors of the notes of an owner and type. A note that does not fit ends the walk.
  private func notes(in bytes: [UInt8], alignment: Int, owner: String, type wanted: UInt64) -> [[UInt8]] {
    let b = Bytes(bytes)
    let name = Array(owner.utf8) + [0]
    var out: [[UInt8]] = []
    var at = 0
    func aligned(_ n: Int) -> Int { (n &+ alignment &- 1) & ~(alignment &- 1) }
    while at &+ 12 <= bytes.count {
      // At most 2^32 each, so sums of a few cannot overflow.
      let nameSize = Int(b.u32(at))
      let size = Int(b.u32(at &+ 4))
      let type = b.u32(at &+ 8)
      let start = aligned(at &+ 12 &+ nameSize)
      let end = start &+ size
      guard end <= bytes.count else { break }
      if type == wanted, nameSize == name.count, bytes[(at &+ 12)..<(at &+ 12 &+ nameSize)].elementsEqual(name) {
        out.append(Array(bytes[start..<end]))
      }
      at = aligned(end)
    }
    return out
  }

  private func parse(_ descriptor: [UInt8]) throws(Refusal) -> PluginNote {
    let d = Bytes(descriptor)
    let size = MemoryLayout<attune_note>.size &- 20  // without sizes, type and owner
    guard descriptor.count == size else {
      throw Refusal(
        .load, "", "its note of Attune has \(descriptor.count) bytes, expected \(size)",
        detail: (Int64(size), Int64(descriptor.count)))
    }
    let major = UInt32(d.u32(0))
    guard major == UInt32(ATTUNE_ABI_MAJOR) else {
      throw Refusal(
        .abi, "", "it is made for version \(major) of the ABI, this library has \(ATTUNE_ABI_MAJOR)",
        detail: (Int64(ATTUNE_ABI_MAJOR), Int64(major)))
    }
    guard d.u32(8) == 0, d.u32(12) == 0 else {
      throw Refusal(.abi, "", "its note has flags that this library does not know")
    }
    guard let id = d.text(32, 64), DescriptorReader.isIdentifier(id), let version = d.text(96, 16) else {
      throw Refusal(.load, "", "its note has no proper id and version")
    }
    return PluginNote(
      abiMajor: major, abiMinor: UInt32(d.u32(4)), isaBaseline: (d.u64(16), d.u64(24)), id: id, version: version)
  }
}

/// Little-endian fields of a byte array; 0 beyond its end.
private struct Bytes {
  private let bytes: [UInt8]
  init(_ bytes: [UInt8]) { self.bytes = bytes }

  func byte(_ i: Int) -> UInt8 { bytes.indices.contains(i) ? bytes[i] : 0 }
  private func number(_ i: Int, _ count: Int) -> UInt64 {
    (0..<count).reduce(0) { $0 | UInt64(byte(i &+ $1)) << UInt64(8 &* $1) }
  }
  func u16(_ i: Int) -> UInt64 { number(i, 2) }
  func u32(_ i: Int) -> UInt64 { number(i, 4) }
  func u64(_ i: Int) -> UInt64 { number(i, 8) }

  /// A terminated string in a field of `capacity` bytes.
  func text(_ i: Int, _ capacity: Int) -> String? {
    let field = (0..<capacity).map { byte(i &+ $0) }
    guard let end = field.firstIndex(of: 0) else { return nil }
    return String(validating: field[..<end], as: UTF8.self)
  }
}
