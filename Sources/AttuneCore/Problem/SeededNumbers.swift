/// A small random number generator (splitmix64) with the same numbers on every machine: tests, benchmarks and tuning
/// trials must be repeatable anywhere. Not for secrets.
package struct SeededNumbers: RandomNumberGenerator, Sendable {
  private var state: UInt64
  private var spare: Double?

  package init(seed: UInt64) { state = seed }

  /// A stream of its own for every name, so that tensors of one problem are independent and adding one changes no
  /// other.
  package init(seed: UInt64, name: String) {
    var mixer = SeededNumbers(seed: seed)
    state = mixer.next() ^ SeededNumbers.hash(name)
  }

  /// FNV-1a: Swift's own hashes change from run to run.
  static func hash(_ name: String) -> UInt64 {
    name.utf8.reduce(0xcbf2_9ce4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 }
  }

  package mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }

  /// In [0, 1), 53 bits.
  package mutating func unit() -> Double { Double(next() >> 11) * 0x1p-53 }

  /// In [0, count); 0 when count is not positive.
  package mutating func below(_ count: Int64) -> Int64 {
    guard count > 0 else { return 0 }
    return Int64(truncatingIfNeeded: next().multipliedFullWidth(by: UInt64(count)).high)
  }

  /// In [low, high], both included; `low` when the range is empty.
  package mutating func within(_ low: Int64, _ high: Int64) -> Int64 {
    guard low < high else { return low }
    let width = UInt64(bitPattern: high &- low)
    let offset = width == .max ? next() : next().multipliedFullWidth(by: width &+ 1).high
    return low &+ Int64(bitPattern: offset)
  }

  package mutating func chance(_ probability: Double) -> Bool { unit() < probability }

  /// Standard normal by Marsaglia's polar method. Its logarithm is computed here and its square root is exact by
  /// IEEE, so the numbers do not depend on the machine's libm.
  package mutating func normal() -> Double {
    if let x = spare {
      spare = nil
      return x
    }
    while true {
      let x = 2 * unit() - 1
      let y = 2 * unit() - 1
      let s = x * x + y * y
      guard s < 1, s > 0 else { continue }
      let scale = (-2 * SeededNumbers.log(s) / s).squareRoot()
      spare = y * scale
      return x * scale
    }
  }

  /// Natural logarithm of a normal positive number, relative error about 1e-15.
  static func log(_ x: Double) -> Double {
    var exponent = Double(x.exponent)
    var m = x.significand
    if m > 1.4142135623730951 {
      m /= 2
      exponent += 1
    }
    // ln m = 2 artanh z with |z| <= 0.172: ten terms reach the last bit.
    let z = (m - 1) / (m + 1)
    let square = z * z
    var sum = 0.0
    for k in stride(from: 21.0, through: 1, by: -2) { sum = sum * square + 1 / k }
    return exponent * 0.6931471805599453 + 2 * z * sum
  }
}
