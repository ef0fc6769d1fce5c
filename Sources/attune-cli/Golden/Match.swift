import AttuneCore

/// How far a result is from what is wanted: |got - want| <= atol + rtol * |want|, element by element; infinities equal;
/// never NaN; integers equal.
struct Match {
  /// Largest |got - want| / (atol + rtol * |want|); at most 1 passes. Infinite where no ratio exists.
  var worst = 0.0
  /// The first violation.
  var failure: String?

  /// Both tensors have the same shape and are both of floats or both of integers, or that is the failure.
  /// `ignore` lists boxes that are left out.
  init(_ name: String, got: HostTensor, want: HostTensor, limits: GoldenCase.Limits, ignore: [[Range<Int64>]] = []) {
    guard got.shape == want.shape else {
      worst = .infinity
      failure = "\(name) has shape \(got.shape), expected \(want.shape)"
      return
    }
    let exact = !Match.isFloat(want.dtype)
    guard exact != Match.isFloat(got.dtype) else {
      worst = .infinity
      failure = "\(name) has type \(got.dtype.name), expected \(want.dtype.name)"
      return
    }
    var violations = 0
    var first = ""
    for i in 0..<want.count {
      let (g, w) = (got.value(at: i), want.value(at: i))
      let ratio = exact ? (g == w ? 0 : .infinity) : Match.ratio(g, w, limits)
      guard ratio > worst || ratio > 1 else { continue }
      if !ignore.isEmpty && Match.isInside(Match.index(i, want.shape), ignore) { continue }
      worst = max(worst, ratio)
      guard ratio > 1 else { continue }
      if violations == 0 {
        first = "\(name)\(Match.index(i, want.shape)) is \(g), expected \(w)"
      }
      violations += 1
    }
    if violations > 0 { failure = "\(first) (\(violations) of \(want.count) elements beyond the tolerance)" }
  }

  private static func isFloat(_ t: DType) -> Bool { t == .f32 || t == .f64 || t == .bf16 || t == .f16 }

  private static func ratio(_ got: Double, _ want: Double, _ limits: GoldenCase.Limits) -> Double {
    if got == want { return 0 }
    guard got.isFinite, want.isFinite else { return .infinity }
    let room = limits.atol + limits.rtol * abs(want)
    return room > 0 ? abs(got - want) / room : .infinity
  }

  /// Index of element `i` in row-major order.
  private static func index(_ i: Int, _ shape: [Int64]) -> [Int64] {
    var rest = Int64(i)
    var index = [Int64](repeating: 0, count: shape.count)
    for d in shape.indices.reversed() where shape[d] > 0 {
      index[d] = rest % shape[d]
      rest /= shape[d]
    }
    return index
  }

  private static func isInside(_ index: [Int64], _ boxes: [[Range<Int64>]]) -> Bool {
    boxes.contains { box in zip(box, index).allSatisfy { $0.contains($1) } }
  }
}
