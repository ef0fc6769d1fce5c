import CAttune
import Glibc

/// A struct of the ABI that begins with `struct_size` and grows at its end.
package protocol GrowingStruct {
  init()
  /// Its size in minor 0: a smaller one is refused (ABI.md section 3).
  static var minimumSize: Int { get }
}

extension attune_tensor_spec: GrowingStruct { package static var minimumSize: Int { 80 } }
extension attune_param_spec: GrowingStruct { package static var minimumSize: Int { 88 } }
extension attune_arg: GrowingStruct { package static var minimumSize: Int { 24 } }
extension attune_knob: GrowingStruct { package static var minimumSize: Int { 40 } }
extension attune_kernel: GrowingStruct { package static var minimumSize: Int { 168 } }
extension attune_rule: GrowingStruct { package static var minimumSize: Int { 24 } }
extension attune_entry: GrowingStruct { package static var minimumSize: Int { 128 } }
extension attune_preset: GrowingStruct { package static var minimumSize: Int { 56 } }
extension attune_tolerance: GrowingStruct { package static var minimumSize: Int { 24 } }
extension attune_op: GrowingStruct { package static var minimumSize: Int { 120 } }
extension attune_plugin: GrowingStruct { package static var minimumSize: Int { 88 } }

/// Checked copies of what lies behind the pointers of a plugin's tables. Nothing is assumed about alignment.
///
/// Refusals carry E_LOAD for what is malformed and E_UNSUPPORTED for what only a later version would understand, and
/// name the field. Pointers themselves cannot be judged inside the process; sizes, counts and lengths are bounded.
package enum Untrusted {
  /// Larger than any struct will ever be; bounds how far a lie about a size can lead.
  private static let maxStructSize = 1 << 14

  /// Copies the struct at `p`, reading missing fields as 0 and refusing non-zero bytes beyond the known ones.
  package static func structure<T: GrowingStruct>(
    _ p: UnsafeRawPointer?, as type: T.Type, stride: Int = maxStructSize
  ) throws(Refusal) -> T {
    guard let p else { throw Refusal(.load, "", "\(T.self) is NULL") }
    let size = Int(p.loadUnaligned(as: UInt32.self))
    guard size >= T.minimumSize else {
      throw Refusal(
        .load, "struct_size", "struct_size of \(T.self) is \(size), expected at least \(T.minimumSize)",
        detail: (Int64(T.minimumSize), Int64(size)))
    }
    guard size <= min(stride, maxStructSize) else {
      throw Refusal(
        .load, "struct_size", "struct_size of \(T.self) is \(size), expected at most \(min(stride, maxStructSize))",
        detail: (Int64(min(stride, maxStructSize)), Int64(size)))
    }
    let known = MemoryLayout<T>.size
    var value = T()
    withUnsafeMutableBytes(of: &value) {
      $0.copyMemory(from: UnsafeRawBufferPointer(start: p, count: min(size, known)))
    }
    for offset in min(size, known)..<size where p.load(fromByteOffset: offset, as: UInt8.self) != 0 {
      throw Refusal(
        .unsupported, "struct_size",
        "\(T.self) uses byte \(offset), which this version of the library (\(known) bytes) does not know",
        detail: (Int64(known), Int64(size)))
    }
    return value
  }

  /// Addresses of the elements of a span whose count, stride and pointer make sense.
  package static func elements<T: GrowingStruct>(
    _ span: attune_span, of type: T.Type, _ name: String, limit: Int
  ) throws(Refusal) -> (addresses: [UnsafeRawPointer], stride: Int) {
    let count = Int(span.count)
    let stride = Int(span.stride)
    guard count > 0 else { return ([], 0) }
    guard count <= limit else {
      throw Refusal(
        .load, name, "\(name) has \(count) elements, expected at most \(limit)", detail: (Int64(limit), Int64(count)))
    }
    guard stride >= T.minimumSize, stride <= maxStructSize, stride % 8 == 0 else {
      throw Refusal(
        .load, name,
        "\(name) has stride \(stride), expected a multiple of 8 from \(T.minimumSize) to \(maxStructSize)",
        detail: (Int64(T.minimumSize), Int64(stride)))
    }
    guard let data = span.data else { throw Refusal(.load, name, "\(name) is NULL, expected \(count) elements") }
    return ((0..<count).map { data + $0 &* stride }, stride)
  }

  /// Copies of all elements of a span; the first bad one refuses the whole.
  package static func array<T: GrowingStruct>(
    _ span: attune_span, of type: T.Type, _ name: String, limit: Int
  ) throws(Refusal) -> [T] {
    let (addresses, stride) = try elements(span, of: T.self, name, limit: limit)
    var out: [T] = []
    for (i, address) in addresses.enumerated() {
      out.append(
        try located("\(name)[\(i)]") { () throws(Refusal) in
          try structure(address, as: T.self, stride: stride)
        })
    }
    return out
  }

  /// A string of at most `limit` bytes, required.
  package static func string(
    _ p: UnsafePointer<CChar>?, _ name: String, limit: Int
  ) throws(Refusal) -> String {
    guard let p else { throw Refusal(.load, name, "\(name) is NULL, expected a string") }
    let length = strnlen(p, limit &+ 1)
    guard length <= limit else {
      throw Refusal(
        .load, name, "\(name) is longer than \(limit) bytes", detail: (Int64(limit), Int64(length)))
    }
    let bytes = UnsafeRawBufferPointer(start: p, count: length)
    guard let text = String(validating: bytes, as: UTF8.self) else {
      throw Refusal(.load, name, "\(name) is not UTF-8")
    }
    return text
  }

  /// For messages of others: at most `limit` bytes, bad bytes replaced, NULL is empty.
  package static func lenientString(_ p: UnsafePointer<CChar>?, limit: Int) -> String {
    guard let p else { return "" }
    return String(decoding: UnsafeRawBufferPointer(start: p, count: strnlen(p, limit)), as: UTF8.self)
  }

  package static func flags(_ value: UInt32, known: Int, _ name: String) throws(Refusal) {
    guard value & ~UInt32(truncatingIfNeeded: known) == 0 else {
      throw Refusal(
        .unsupported, name,
        "\(name) is 0x\(String(value, radix: 16)), known are 0x\(String(known, radix: 16))",
        detail: (Int64(known), Int64(value)))
    }
  }

  package static func zero(_ value: UInt32, _ name: String) throws(Refusal) {
    guard value == 0 else {
      throw Refusal(.unsupported, name, "\(name) is \(value), expected 0", detail: (0, Int64(value)))
    }
  }

  /// Runs `body`, saying in front of its refusal where it happened.
  package static func located<R>(
    _ place: @autoclosure () -> String, _ body: () throws(Refusal) -> R
  ) throws(Refusal) -> R {
    do throws(Refusal) {
      return try body()
    } catch {
      var refusal = error
      refusal.message = "\(place()): \(refusal.message)"
      throw refusal
    }
  }
}
