import AttuneCore
import CAttune
import Glibc

/// A compact row-major CPU tensor that owns its memory, and the descriptor that the library sees.
/// Without data it is a prototype: type and shape only.
final class HostTensor {
  let dtype: DType
  let shape: [Int64]
  let count: Int
  /// 64-byte aligned; empty for a prototype.
  let bytes: UnsafeMutableRawBufferPointer
  let descriptor: UnsafeMutablePointer<attune_tensor>
  private let dims: UnsafeMutablePointer<Int64>

  /// The contents are undefined. Fails when the size overflows or there is no memory.
  init(_ dtype: DType, _ shape: [Int64], prototype: Bool = false) throws {
    let count = elementCount(shape) ?? .max
    let (size, overflow) = count.multipliedReportingOverflow(by: dtype.size)
    guard !overflow, size <= Int.max - 64 else { throw Failure("a tensor of shape \(shape) is too large") }
    var data: UnsafeMutableRawPointer?
    if !prototype {
      guard posix_memalign(&data, 64, max(size, 64)) == 0 else {
        throw Failure("no memory for a tensor of shape \(shape): \(size) bytes")
      }
    }
    self.dtype = dtype
    self.shape = shape
    self.count = count
    bytes = UnsafeMutableRawBufferPointer(start: data, count: data == nil ? 0 : size)
    dims = .allocate(capacity: max(shape.count, 1))
    for (i, extent) in shape.enumerated() { dims[i] = extent }
    descriptor = .allocate(capacity: 1)
    descriptor.initialize(
      to: attune_tensor_make(data, dtype.rawValue, Int32(truncatingIfNeeded: shape.count), dims))
  }

  deinit {
    free(bytes.baseAddress)
    dims.deallocate()
    descriptor.deallocate()
  }

  /// Fills an output so that what a kernel leaves unwritten cannot pass for a result: NaN, or a number nobody expects.
  func poison() {
    let isFloat = [DType.f32, .bf16, .f16, .f64].contains(dtype)
    if let base = bytes.baseAddress { memset(base, isFloat ? 0xFF : 0xA5, bytes.count) }
  }

  /// Element `i` in row-major order.
  func value(at i: Int) -> Double {
    guard i >= 0, i < count, !bytes.isEmpty else { return .nan }
    switch dtype {
    case .f32: return Double(load(i, Float.self))
    case .f64: return load(i, Double.self)
    case .bf16: return Double(Float(bitPattern: UInt32(load(i, UInt16.self)) << 16))
    case .f16: return HostTensor.widen(load(i, UInt16.self))
    case .i32: return Double(load(i, Int32.self))
    case .i64: return Double(load(i, Int64.self))
    case .u8, .bool: return Double(load(i, UInt8.self))
    case .i8: return Double(load(i, Int8.self))
    }
  }

  private func load<T: BitwiseCopyable>(_ i: Int, _ type: T.Type) -> T {
    bytes.load(fromByteOffset: i &* MemoryLayout<T>.size, as: type)
  }

  /// IEEE binary16, by hand because Float16 does not exist on every platform.
  private static func widen(_ bits: UInt16) -> Double {
    let magnitude = Double(bits & 0x3FF)
    let exponent = Int(bits >> 10 & 31)
    let absolute =
      exponent == 31
      ? (magnitude == 0 ? Double.infinity : .nan)
      : exponent == 0 ? scalbn(magnitude, -24) : scalbn(magnitude + 1024, Int32(exponent) - 25)
    return bits >> 15 == 0 ? absolute : -absolute
  }

  /// A copy of [start, stop) of `axis`; `drop` removes the axis, which must then have extent 1.
  func slice(axis: Int, start: Int64, stop: Int64, drop: Bool = false) throws -> HostTensor {
    guard shape.indices.contains(axis), start >= 0, start <= stop, stop <= shape[axis], !drop || stop - start == 1
    else {
      throw Failure("slice [\(start),\(stop)) of axis \(axis) does not fit shape \(shape)")
    }
    var cut = shape
    cut[axis] = stop - start
    let outer = elementCount(Array(shape[..<axis])) ?? 0
    let after = elementCount(Array(shape[(axis + 1)...])) ?? 0
    let inner = after &* dtype.size
    if drop { cut.remove(at: axis) }
    let result = try HostTensor(dtype, cut)
    let piece = Int(stop - start) &* inner
    let row = Int(shape[axis]) &* inner
    guard piece > 0, let from = bytes.baseAddress, let to = result.bytes.baseAddress else { return result }
    let begin = Int(start) &* inner
    for i in 0..<outer {
      let source = begin &+ i &* row
      memcpy(to + i &* piece, from + source, piece)
    }
    return result
  }
}

/// Product of the extents; nil when one is negative or the product overflows.
func elementCount(_ shape: [Int64]) -> Int? {
  var count: Int64 = 1
  for extent in shape {
    let (product, overflow) = count.multipliedReportingOverflow(by: extent)
    guard extent >= 0, !overflow else { return nil }
    count = product
  }
  return Int(exactly: count)
}
