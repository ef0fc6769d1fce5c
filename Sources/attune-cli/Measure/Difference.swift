/// Distance of a result from REFERENCE, by the rule of an operator's tolerances:
/// |got - want| <= atol * max|want| + rtol * |want|, infinities equal, never NaN where REFERENCE has none.
struct Difference {
  private let got: HostTensor
  private let want: HostTensor
  /// Largest finite |want|.
  private let scale: Double
  /// Largest |got - want| as a share of the largest |want|; infinite when shapes differ, or one element is finite and
  /// the other is not.
  let relative: Double

  init(got: HostTensor, want: HostTensor) {
    self.got = got
    self.want = want
    var largest = 0.0
    for i in 0..<want.count {
      let x = abs(want.value(at: i))
      if x.isFinite { largest = max(largest, x) }
    }
    scale = largest
    guard got.shape == want.shape else {
      relative = .infinity
      return
    }
    var worst = 0.0
    for i in 0..<want.count { worst = max(worst, Difference.distance(got.value(at: i), want.value(at: i))) }
    relative = worst == 0 ? 0 : largest > 0 ? worst / largest : .infinity
  }

  /// The first element beyond the tolerance, as "[index] is 1.0, expected 2.0"; nil when there is none.
  func violation(rtol: Double, atol: Double) -> String? {
    guard got.shape == want.shape else { return " has shape \(got.shape), expected \(want.shape)" }
    for i in 0..<want.count {
      let (g, w) = (got.value(at: i), want.value(at: i))
      let room = atol * scale + (w.isFinite ? rtol * abs(w) : 0)
      if !(Difference.distance(g, w) <= room) { return "[\(i)] is \(g), expected \(w)" }
    }
    return nil
  }

  private static func distance(_ got: Double, _ want: Double) -> Double {
    if got == want || got.isNaN && want.isNaN { return 0 }
    guard got.isFinite, want.isFinite else { return .infinity }
    return abs(got - want)
  }
}
