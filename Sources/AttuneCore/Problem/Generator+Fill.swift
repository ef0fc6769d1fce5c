import CAttune
import Glibc

extension Generator {
  /// Fills a compact row-major buffer with test data (table "Generators" of ABI.md).
  ///
  /// - data: room for all elements of `shape` in `dtype`; the caller's, kept only during the call.
  /// - shape: extents, none negative.
  /// - environment: a bound problem of the entry the generator belongs to; arguments may be expressions.
  /// - seed, name: the same pair gives the same numbers on every machine. `name` is the tensor's.
  ///
  /// Throws E_SHAPE when an argument has no value. Codes of quantised tensors (i8, u8 with a real-valued generator) are
  /// spread over all values of the type. Any thread.
  package func fill(
    _ data: UnsafeMutableRawPointer, _ dtype: DType, shape: [Int64], environment: Environment, seed: UInt64,
    name: String
  ) throws(Refusal) {
    var values: [Double] = []
    for argument in arguments { values.append(try value(argument, environment, name)) }
    guard shape.allSatisfy({ $0 > 0 }), let bytes = Binder.byteCount(shape, dtype.rawValue) else { return }
    let count = Int(bytes) / dtype.size
    let row = Int(shape.last ?? 1)
    let filler = GeneratorFiller(
      out: ElementWriter(base: data, dtype: dtype), count: count, row: row, rows: count / row,
      period: shape.count > 1 ? Int(shape[shape.count - 2]) : 1, a: values.first ?? 0, b: values.last ?? 0)
    var numbers = SeededNumbers(seed: seed, name: name)
    filler.run(self, &numbers)
  }

  private func value(_ argument: Argument, _ environment: Environment, _ name: String) throws(Refusal) -> Double {
    switch argument {
    case .number(let x): return x
    case .expression(let e):
      var copy = environment
      return Double(try e.cold(&copy, "gen of \(name)"))
    }
  }
}

/// One fill. `count` > 0 elements in `rows` rows of `row`.
private struct GeneratorFiller {
  let out: ElementWriter
  let count: Int, row: Int, rows: Int
  let period: Int  // extent of the dim before the last
  let a: Double, b: Double  // first and last argument

  func run(_ generator: Generator, _ numbers: inout SeededNumbers) {
    let low = integer(a)
    let high = integer(b)
    switch generator.kind {
    case .zeros: each { _ in 0 }
    case .ones: each { _ in 1 }
    case .normal where isCode, .uniform where isCode, .weight where isCode:
      let range = out.dtype == .u8 ? (Int64(0), Int64(255)) : (-127, 127)
      each { _ in Double(numbers.within(range.0, range.1)) }
    case .normal:
      let (mean, deviation) = generator.arguments.isEmpty ? (0, 1) : (a, b)
      each { _ in mean + deviation * numbers.normal() }
    case .weight:
      let deviation = 1 / max(a, 1).squareRoot()
      each { _ in deviation * numbers.normal() }
    case .uniform: each { _ in a + (b - a) * numbers.unit() }
    case .bernoulli: each { _ in numbers.chance(a) ? 1 : 0 }
    case .ints: each { _ in Double(numbers.within(low, high)) }
    case .lengths:
      let full = Int(numbers.below(Int64(count)))
      each { i in
        let length = numbers.within(min(low, high), high)
        return Double(i == full ? high : length)
      }
    case .cuts: for r in 0..<rows { cuts(row: r, total: max(low, 0), &numbers) }
    case .pages: pages(low, &numbers)
    case .distinct: for r in 0..<rows { distinct(row: r, low, &numbers) }
    // libm is accurate to far below a unit of f32 here, so the stored numbers agree between machines.
    case .slopes: each { i in exp2(-8 * Double(i % row + 1) / Double(row)) }
    case .sin: each { i in Glibc.sin(angle(i)) }
    case .cos: each { i in Glibc.cos(angle(i)) }
    }
  }

  private var isCode: Bool { out.dtype == .i8 || out.dtype == .u8 }

  private func each(_ value: (Int) -> Double) {
    for i in 0..<count { out.store(value(i), at: i) }
  }

  /// An argument that counts something; sizes beyond 2^53 do not fit into memory anyway.
  private func integer(_ x: Double) -> Int64 { Int64(exactly: x.rounded()) ?? 0 }

  /// Rotation angle of element i: position times 10000^(-2(j/2)/D), j the index in the last dim.
  private func angle(_ i: Int) -> Double {
    let position = i / row % period
    let pair = i % row / 2
    return Double(position) * pow(10000, -2 * Double(pair) / Double(row))
  }

  /// Cumulative lengths of row - 1 pieces; with 4 or more of them one is empty, because kernels must cope with that.
  private func cuts(row r: Int, total: Int64, _ numbers: inout SeededNumbers) {
    let pieces = row - 1
    guard pieces > 0 else { return out.store(0, at: r * row) }
    var inner = (1..<max(pieces, 1)).map { _ in numbers.within(0, total) }.sorted()
    if pieces >= 4 {
      let i = Int(numbers.below(Int64(inner.count)))
      inner[i] = i > 0 ? inner[i - 1] : 0
    }
    for (i, x) in ([0] + inner + [total]).enumerated() { out.store(Double(x), at: r * row + i) }
  }

  /// Page numbers in random order: all different, starting over only when there are more entries than pages.
  private func pages(_ n: Int64, _ numbers: inout SeededNumbers) {
    guard n > 0 else { return each { _ in 0 } }
    var i = 0
    while i < count {
      // A Fisher-Yates shuffle of 0..<n that holds only the numbers it has moved.
      var moved: [Int64: Int64] = [:]
      for k in 0..<min(n, Int64(count - i)) {
        let j = numbers.within(k, n - 1)
        out.store(Double(moved[j] ?? j), at: i)
        moved[j] = moved[k] ?? k
        i += 1
      }
    }
  }

  /// Different numbers below n, ascending, then -1 (Floyd's sampling).
  private func distinct(row r: Int, _ n: Int64, _ numbers: inout SeededNumbers) {
    var chosen: Set<Int64> = []
    let wanted = min(Int64(row), max(n, 0))
    for k in (n - wanted)..<max(n, n - wanted) {
      if !chosen.insert(numbers.within(0, k)).inserted { chosen.insert(k) }
    }
    let ascending = chosen.sorted()
    for i in 0..<row { out.store(i < ascending.count ? Double(ascending[i]) : -1, at: r * row + i) }
  }
}
