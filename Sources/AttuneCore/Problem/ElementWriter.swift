/// Writes numbers as elements of any type: the value is rounded to f32 first, 16-bit floats are that f32 rounded to
/// nearest even, integers are rounded to nearest and clamped. So data of one generator and seed agree between types.
struct ElementWriter {
  let base: UnsafeMutableRawPointer
  let dtype: DType

  /// `i`: element index within the buffer that `base` begins.
  @inline(__always)
  func store(_ x: Double, at i: Int) {
    switch dtype {
    case .f32: base.storeBytes(of: Float(x), toByteOffset: 4 &* i, as: Float.self)
    case .f64: base.storeBytes(of: x, toByteOffset: 8 &* i, as: Double.self)
    case .bf16: base.storeBytes(of: ElementWriter.bf16(Float(x)), toByteOffset: 2 &* i, as: UInt16.self)
    case .f16: base.storeBytes(of: Float16(Float(x)).bitPattern, toByteOffset: 2 &* i, as: UInt16.self)
    case .i32: base.storeBytes(of: ElementWriter.integer(x), toByteOffset: 4 &* i, as: Int32.self)
    case .i64: base.storeBytes(of: ElementWriter.integer(x), toByteOffset: 8 &* i, as: Int64.self)
    case .u8: base.storeBytes(of: ElementWriter.integer(x), toByteOffset: i, as: UInt8.self)
    case .i8: base.storeBytes(of: ElementWriter.integer(x), toByteOffset: i, as: Int8.self)
    case .bool: base.storeBytes(of: x != 0 ? 1 : 0, toByteOffset: i, as: UInt8.self)
    }
  }

  /// Round to nearest even; a NaN stays one.
  static func bf16(_ x: Float) -> UInt16 {
    let bits = x.bitPattern
    if x.isNaN { return UInt16(truncatingIfNeeded: bits >> 16) | 0x40 }
    return UInt16(truncatingIfNeeded: (bits &+ 0x7fff &+ (bits >> 16 & 1)) >> 16)
  }

  private static func integer<T: FixedWidthInteger>(_ x: Double) -> T {
    let rounded = x.rounded(.toNearestOrEven)
    if let exact = T(exactly: rounded) { return exact }
    if rounded.isNaN { return 0 }
    return rounded < 0 ? .min : .max
  }
}
