/// The Castagnoli checksum (RFC 3720): finds every change of up to 32 neighbouring bits.
package struct CRC32C: Sendable {
  private static let table: [UInt32] = (0..<256).map { i in
    (0..<8).reduce(UInt32(i)) { c, _ in c & 1 == 1 ? c >> 1 ^ 0x82f6_3b78 : c >> 1 }
  }
  private var state = UInt32.max

  package init() {}

  package mutating func add(_ byte: UInt8) {
    state = CRC32C.table[Int(truncatingIfNeeded: (state ^ UInt32(byte)) & 0xff)] ^ state >> 8
  }

  /// Of all bytes added so far.
  package var value: UInt32 { ~state }

  /// Eight digits.
  package static func text(_ value: UInt32) -> String {
    let digits = String(value, radix: 16)
    return String(repeating: "0", count: 8 &- digits.utf8.count) + digits
  }

  package static func of(_ bytes: some Sequence<UInt8>) -> UInt32 {
    var crc = CRC32C()
    for b in bytes { crc.add(b) }
    return crc.value
  }
}
