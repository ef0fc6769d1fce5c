import CAttune
import Testing

@testable import AttuneCore

/// Strides, overlap of an output with itself and with other tensors.
@Suite struct LayoutTests {
  /// A view into 4096 bytes, with its shape and strides.
  struct View {
    let offset: Int, shape: [Int64], strides: [Int64]
    let dtype = DType.f32

    func with<R>(_ base: UnsafeMutableRawPointer, _ body: (attune_tensor) -> R) -> R {
      var (shape, strides) = (shape, strides)
      return shape.withUnsafeMutableBufferPointer { s in
        strides.withUnsafeMutableBufferPointer { t in
          body(
            attune_tensor(
              data: base + offset, device: attune_device(device_type: 1, device_id: 0), ndim: Int32(s.count),
              dtype: dtype.dlpack, shape: s.baseAddress, strides: t.baseAddress, byte_offset: 0))
        }
      }
    }
    /// First bytes of all elements, with repetitions.
    var elements: [Int] {
      var out = [offset]
      for (x, step) in zip(shape, strides) {
        out = out.flatMap { o in (0..<Int(x)).map { o + $0 * Int(step) * dtype.size } }
      }
      return out
    }
    var bytes: Set<Int> { Set(elements.flatMap { $0..<$0 + dtype.size }) }
  }

  private func share(_ a: View, _ b: View) -> Bool {
    let base = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 64)
    defer { base.deallocate() }
    return a.with(base) { x in b.with(base) { y in Layout.share(x, y) } }
  }

  @Test func compactStrides() {
    #expect(Layout.compactStrides([2, 3, 4]) == [12, 4, 1])
    #expect(Layout.compactStrides([1, 3, 1]) == [0, 1, 1])
    #expect(Layout.compactStrides([5, 0, 4]) == [4, 0, 1])
    #expect(Layout.compactStrides([]) == [])
  }

  @Test func interleavedViewsAreApart() {
    // q, k, v and o of [N=5, 4, H=2, D=3] in one buffer.
    let views = (0..<4).map { View(offset: 24 * $0, shape: [1, 2, 5, 3], strides: [0, 3, 24, 1]) }
    for i in 0..<4 {
      for j in 0..<4 { #expect(share(views[i], views[j]) == (i == j)) }
    }
    // One element further, and o runs into the next token's q.
    #expect(share(views[0], View(offset: 76, shape: [1, 2, 5, 3], strides: [0, 3, 24, 1])))
  }

  @Test func neverMissesAnOverlap() {
    var random = SystemRandomNumberGenerator()
    var apart = 0
    for _ in 0..<4000 {
      func view() -> View {
        View(
          offset: 4 * Int.random(in: 0..<40, using: &random),
          shape: (0..<3).map { _ in Int64.random(in: 1...3, using: &random) },
          strides: (0..<3).map { _ in Int64.random(in: 0...12, using: &random) })
      }
      let (a, b) = (view(), view())
      if !share(a, b) {
        apart += 1
        #expect(a.bytes.isDisjoint(with: b.bytes), "\(a) \(b)")
      }
    }
    #expect(apart > 50)  // the test has something to say
  }

  @Test func findsOutputsThatOverlapThemselves() {
    var random = SystemRandomNumberGenerator()
    var nested = 0
    for _ in 0..<4000 {
      let v = View(
        offset: 0, shape: (0..<3).map { _ in Int64.random(in: 1...4, using: &random) },
        strides: (0..<3).map { _ in Int64.random(in: 0...16, using: &random) })
      if Layout.selfOverlap(3, v.shape, v.strides) == nil {
        nested += 1
        #expect(Set(v.elements).count == v.elements.count, "\(v)")
      }
    }
    #expect(nested > 100)
    #expect(Layout.selfOverlap(3, [2, 3, 4], [12, 4, 1]) == nil)
    #expect(Layout.selfOverlap(3, [2, 3, 4], [4, 8, 1]) == nil)  // BNHD seen as BHND
    #expect(Layout.selfOverlap(2, [2, 4], [0, 1]) == 0)
  }
}
