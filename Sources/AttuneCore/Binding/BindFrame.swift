import CAttune

/// The memory one binding works in: symbols, and what is known of each tensor of the entry. Pointers into a block that the
/// caller provides (heap when a plan is made, the stack when it runs), so binding itself allocates nothing.
package struct BindFrame {
  package static let capacity = 64  // tensors, symbols and parameters of an entry, ABI.md section 5

  package var symbols: UnsafeMutablePointer<Int64>
  package var bound: UInt64 = 0
  package var present: UInt64 = 0
  package var params: UnsafePointer<attune_value>
  package var dtypes: UnsafePointer<Int32>
  /// What expressions see: -1 and nil for an output that is asked for and has no shape yet.
  package var ranks: UnsafePointer<Int32>
  package var shapes: UnsafePointer<UnsafePointer<Int64>?>
  /// What the caller brought; equal to `shapes` except for such outputs, which have a real tensor at execute time.
  package var given: UnsafePointer<UnsafePointer<Int64>?>
  package var givenRanks: UnsafePointer<Int32>
  package var knobs: UnsafePointer<Int64>
  package var workers: Int64 = 1

  package var environment: Environment {
    Environment(
      symbols: UnsafePointer(symbols), bound: bound, params: params, present: present, dtypes: dtypes, ranks: ranks,
      shapes: shapes, knobs: knobs, workers: workers)
  }
}

/// Heap storage behind a `BindFrame`, for the cold path.
package final class BindStorage {
  package let symbols: UnsafeMutablePointer<Int64>
  package let params: UnsafeMutablePointer<attune_value>
  package let dtypes: UnsafeMutablePointer<Int32>, ranks: UnsafeMutablePointer<Int32>
  package let shapes: UnsafeMutablePointer<UnsafePointer<Int64>?>
  package let given: UnsafeMutablePointer<UnsafePointer<Int64>?>, givenRanks: UnsafeMutablePointer<Int32>
  package let extents: UnsafeMutablePointer<Int64>  // 8 per tensor
  package let knobs: UnsafeMutablePointer<Int64>

  package init() {
    func make<T>(_ value: T, _ count: Int) -> UnsafeMutablePointer<T> {
      let p = UnsafeMutablePointer<T>.allocate(capacity: count)
      p.initialize(repeating: value, count: count)
      return p
    }
    let n = BindFrame.capacity
    symbols = make(-1, n)
    params = make(attune_value(), n)
    dtypes = make(-1, n)
    ranks = make(-1, n)
    shapes = make(nil, n)
    given = make(nil, n)
    givenRanks = make(-1, n)
    extents = make(0, 8 * n)
    knobs = make(0, 8)
  }
  deinit {
    symbols.deallocate()
    params.deallocate()
    dtypes.deallocate()
    ranks.deallocate()
    shapes.deallocate()
    given.deallocate()
    givenRanks.deallocate()
    extents.deallocate()
    knobs.deallocate()
  }

  /// `made`: the shape of an output that the caller left open; expressions do not see it.
  package func setShape(_ tensor: Int, _ dims: [Int64], made: Bool = false) {
    guard tensor >= 0, tensor < BindFrame.capacity, dims.count <= 8 else { return }
    for (i, x) in dims.enumerated() { extents[8 * tensor + i] = x }
    givenRanks[tensor] = Int32(dims.count)
    given[tensor] = UnsafePointer(extents + 8 * tensor)
    if !made {
      ranks[tensor] = Int32(dims.count)
      shapes[tensor] = given[tensor]
    }
  }
  package func shape(_ tensor: Int) -> [Int64]? {
    guard tensor >= 0, tensor < BindFrame.capacity, givenRanks[tensor] >= 0, let p = given[tensor] else { return nil }
    return (0..<Int(givenRanks[tensor])).map { p[$0] }
  }
  package var frame: BindFrame {
    BindFrame(
      symbols: symbols, params: UnsafePointer(params), dtypes: UnsafePointer(dtypes), ranks: UnsafePointer(ranks),
      shapes: UnsafePointer(shapes), given: UnsafePointer(given), givenRanks: UnsafePointer(givenRanks),
      knobs: UnsafePointer(knobs))
  }
}
