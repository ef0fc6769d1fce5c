import CAttune

/// The stack memory of one execute: normalised tensors, symbols, parameters. Its parts lie one behind the other in a block of
/// `bytes(...)` that the C runtime takes from the calling thread's stack.
struct CallFrame {
  var tensors: UnsafeMutablePointer<attune_tensor>
  var pointers: UnsafeMutablePointer<UnsafePointer<attune_tensor>?>
  var shapes: UnsafeMutablePointer<Int64>, strides: UnsafeMutablePointer<Int64>  // 8 per tensor
  var ranges: UnsafeMutablePointer<ByteRange>
  var symbols: UnsafeMutablePointer<Int64>
  var params: UnsafeMutablePointer<attune_value>
  var seen: UnsafeMutablePointer<UnsafePointer<Int64>?>, given: UnsafeMutablePointer<UnsafePointer<Int64>?>

  static func bytes(tensors n: Int, params p: Int, symbols s: Int) -> Int {
    n * (MemoryLayout<attune_tensor>.stride + 8 + 128 + MemoryLayout<ByteRange>.stride + 16) + s * 8 + p * 16 + 64
  }

  init(_ memory: UnsafeMutableRawPointer, tensors n: Int, params p: Int, symbols s: Int) {
    var next = memory
    func take<T>(_: T.Type, _ count: Int) -> UnsafeMutablePointer<T> {
      let here = next.assumingMemoryBound(to: T.self)
      next = next.advanced(by: count &* MemoryLayout<T>.stride)
      return here
    }
    tensors = take(attune_tensor.self, n)
    pointers = take(UnsafePointer<attune_tensor>?.self, n)
    shapes = take(Int64.self, 8 &* n)
    strides = take(Int64.self, 8 &* n)
    ranges = take(ByteRange.self, n)
    symbols = take(Int64.self, s)
    params = take(attune_value.self, p)
    seen = take(UnsafePointer<Int64>?.self, n)
    given = take(UnsafePointer<Int64>?.self, n)
  }
}
