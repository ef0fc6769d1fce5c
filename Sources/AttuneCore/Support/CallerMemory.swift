import CAttune
import Glibc

/// Reading what a caller hands over: pointers that may be NULL or misaligned, sizes that may lie, strings without an end.
/// What can be detected is refused with a sentence; nothing here traps.
package enum CallerMemory {
  /// A struct whose first field is `struct_size`: at least the size this version knows, zero beyond it.
  package static func view<T>(_ p: UnsafePointer<T>?, _ name: String) throws(Refusal) -> UnsafePointer<T> {
    guard let p else { throw Refusal(.invalid, name, "\(name) is NULL") }
    switch verdict(p) {
    case .good: return p
    case .misaligned: throw Refusal(.invalid, name, "\(name) is not a multiple of \(MemoryLayout<T>.alignment)")
    case .small, .huge:
      let got = declaredSize(p)
      throw Refusal(
        .invalid, name, "\(name): struct_size is \(got), expected \(MemoryLayout<T>.size)",
        detail: (Int64(MemoryLayout<T>.size), Int64(got)))
    case .unknownTail:
      throw Refusal(
        .unsupported, name,
        "\(name): bytes beyond the \(MemoryLayout<T>.size) known to this version are set (struct_size is \(declaredSize(p)))",
        detail: (Int64(MemoryLayout<T>.size), Int64(declaredSize(p))))
    }
  }

  /// A struct that is written, not read: large enough and aligned. What lies beyond is the caller's.
  package static func output<T>(_ p: UnsafeMutablePointer<T>?, _ name: String) throws(Refusal) -> UnsafeMutablePointer<
    T
  > {
    guard let p else { throw Refusal(.invalid, name, "\(name) is NULL") }
    if verdict(UnsafePointer(p)) != .unknownTail { _ = try view(UnsafePointer(p), name) }
    return p
  }

  enum Verdict { case good, misaligned, small, huge, unknownTail }
  private static func declaredSize<T>(_ p: UnsafePointer<T>) -> UInt32 {
    UnsafeRawPointer(p).loadUnaligned(as: UInt32.self)
  }

  /// The same judgement without a sentence, for the execute path.
  @inline(__always)
  static func verdict<T>(_ p: UnsafePointer<T>) -> Verdict {
    if UInt(bitPattern: p) & UInt(MemoryLayout<T>.alignment &- 1) != 0 { return .misaligned }
    let size = Int(declaredSize(p))
    if size == MemoryLayout<T>.size { return .good }
    if size < MemoryLayout<T>.size { return .small }
    if size > 4096 { return .huge }  // no struct of this ABI will be that large: the field was not written
    let bytes = UnsafeRawPointer(p)
    for i in MemoryLayout<T>.size..<size where bytes.load(fromByteOffset: i, as: UInt8.self) != 0 {
      return .unknownTail
    }
    return .good
  }

  /// Elements of a span of structs that begin with struct_size.
  package static func elements<T>(
    _ span: attune_span, _: T.Type, limit: Int, _ name: String
  ) throws(Refusal) -> [UnsafePointer<T>] {
    if span.count == 0 { return [] }
    guard let base = span.data else { throw Refusal(.invalid, name, "\(name): data is NULL, count is \(span.count)") }
    guard Int(span.count) <= limit else {
      throw Refusal(
        .invalid, name, "\(name): count is \(span.count), at most \(limit) are allowed",
        detail: (Int64(limit), Int64(span.count)))
    }
    guard Int(span.stride) >= MemoryLayout<T>.size, span.stride % 8 == 0, span.stride <= 4096 else {
      throw Refusal(
        .invalid, name, "\(name): stride is \(span.stride), expected \(MemoryLayout<T>.size) or a larger multiple of 8",
        detail: (Int64(MemoryLayout<T>.size), Int64(span.stride)))
    }
    var out: [UnsafePointer<T>] = []
    for i in 0..<Int(span.count) {
      let p = base.advanced(by: i * Int(span.stride)).assumingMemoryBound(to: T.self)
      out.append(try view(p, "\(name)[\(i)]"))
      guard Int(declaredSize(p)) <= Int(span.stride) else {
        throw Refusal(
          .invalid, name, "\(name)[\(i)]: struct_size is \(declaredSize(p)), more than the stride \(span.stride)")
      }
    }
    return out
  }

  /// A bounded, valid UTF-8 string.
  package static func string(_ p: UnsafePointer<CChar>?, limit: Int = 255, _ name: String) throws(Refusal) -> String {
    guard let p else { throw Refusal(.invalid, name, "\(name) is NULL") }
    let length = strnlen(p, limit + 1)
    guard length <= limit else { throw Refusal(.invalid, name, "\(name) has no end within \(limit) bytes") }
    let bytes = UnsafeRawBufferPointer(start: p, count: length)
    guard let s = String(validating: bytes, as: UTF8.self) else {
      throw Refusal(.invalid, name, "\(name) is not UTF-8")
    }
    return s
  }
}
