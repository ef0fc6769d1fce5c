import CAttune

/// Filling a caller's `attune_error`. A record that is NULL or too small is left alone; the code is returned either way.
package enum ErrorRecord {
  package static func fill(_ record: UnsafeMutablePointer<attune_error>?, _ refusal: Refusal) -> attune_status {
    guard let record, isUsable(record) else { return refusal.code.rawValue }
    record.pointee.code = refusal.code.rawValue
    record.pointee.source = refusal.source.rawValue
    record.pointee.reserved = 0
    record.pointee.detail = refusal.detail
    copy(refusal.argument, to: &record.pointee.argument)
    copy(refusal.message, to: &record.pointee.message)
    return refusal.code.rawValue
  }

  package static func isUsable(_ record: UnsafeMutablePointer<attune_error>) -> Bool {
    UInt(bitPattern: record) & 7 == 0 && Int(record.pointee.struct_size) >= MemoryLayout<attune_error>.size
  }

  /// A terminated copy, cut between characters when it does not fit.
  private static func copy<T>(_ s: String, to field: inout T) {
    withUnsafeMutableBytes(of: &field) { out in
      var n = 0
      for scalar in s.unicodeScalars {
        let bytes = UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter
        guard n + bytes.count < out.count else { break }
        for b in bytes where b != 0 {
          out[n] = b
          n += 1
        }
      }
      for i in n..<out.count { out[i] = 0 }
    }
  }

  /// The sentence a plugin wrote into a record, always ended.
  package static func message(of record: attune_error) -> String { text(record.message) }
  package static func argument(of record: attune_error) -> String { text(record.argument) }
  private static func text<T>(_ field: T) -> String {
    withUnsafeBytes(of: field) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
  }
}
