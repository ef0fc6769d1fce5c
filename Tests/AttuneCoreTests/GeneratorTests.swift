import CAttune
import Glibc
import Testing

@testable import AttuneCore

@Suite struct GeneratorTests {
  /// Elements of a filled buffer, as numbers. Sizes: B=2, N=16, Nk=48, D=64; count=64.
  static func fill(
    _ text: String, _ shape: [Int64], _ dtype: DType = .f32, seed: UInt64 = 1, name: String = "x"
  ) throws -> [Double] {
    let generator = try Generator(parsing: text, in: ExpressionContext.scope)
    let count = Int(shape.reduce(1, *))
    let guardBytes = 64
    let buffer = UnsafeMutableRawPointer.allocate(byteCount: count * dtype.size + guardBytes, alignment: 64)
    defer { buffer.deallocate() }
    buffer.initializeMemory(as: UInt8.self, repeating: 0xa5, count: count * dtype.size + guardBytes)
    let context = ExpressionContext()
    try withExtendedLifetime(context) {
      try generator.fill(buffer, dtype, shape: shape, environment: context.environment, seed: seed, name: name)
    }
    for i in 0..<guardBytes { #expect(buffer.load(fromByteOffset: count * dtype.size + i, as: UInt8.self) == 0xa5) }
    return (0..<count).map { load(buffer, dtype, $0) }
  }

  private static func load(_ p: UnsafeMutableRawPointer, _ dtype: DType, _ i: Int) -> Double {
    switch dtype {
    case .f32: Double(p.load(fromByteOffset: 4 * i, as: Float.self))
    case .f64: p.load(fromByteOffset: 8 * i, as: Double.self)
    case .bf16: Double(Float(bitPattern: UInt32(p.load(fromByteOffset: 2 * i, as: UInt16.self)) << 16))
    case .f16: Double(Float16(bitPattern: p.load(fromByteOffset: 2 * i, as: UInt16.self)))
    case .i32: Double(p.load(fromByteOffset: 4 * i, as: Int32.self))
    case .i64: Double(p.load(fromByteOffset: 8 * i, as: Int64.self))
    case .u8, .bool: Double(p.load(fromByteOffset: i, as: UInt8.self))
    case .i8: Double(p.load(fromByteOffset: i, as: Int8.self))
    }
  }

  private func mean(_ x: [Double]) -> Double { x.reduce(0, +) / Double(x.count) }
  private func deviation(_ x: [Double]) -> Double {
    let m = mean(x)
    return (x.reduce(0) { $0 + ($1 - m) * ($1 - m) } / Double(x.count)).squareRoot()
  }

  @Test func constants() throws {
    #expect(try GeneratorTests.fill("zeros", [3]) == [0, 0, 0])
    #expect(try GeneratorTests.fill("ones", [2], .u8) == [1, 1])
    #expect(try GeneratorTests.fill("ones", []) == [1])
    #expect(try GeneratorTests.fill("normal", [4, 0, 2]).isEmpty)
  }

  @Test func normals() throws {
    let x = try GeneratorTests.fill("normal", [200, 500])
    #expect(abs(mean(x)) < 0.015 && abs(deviation(x) - 1) < 0.01)
    // Shares within 1, 2 and 3 deviations.
    for (bound, share) in [(1.0, 0.6827), (2, 0.9545), (3, 0.9973)] {
      #expect(abs(Double(x.count { abs($0) < bound }) / 1e5 - share) < 0.006)
    }
    let y = try GeneratorTests.fill("normal(3,0.5)", [200, 500])
    #expect(abs(mean(y) - 3) < 0.01 && abs(deviation(y) - 0.5) < 0.01)
    let w = try GeneratorTests.fill("weight(D)", [200, 500])
    #expect(abs(mean(w)) < 0.002 && abs(deviation(w) - 0.125) < 0.002)
  }

  @Test func uniformsAndCoins() throws {
    let x = try GeneratorTests.fill("uniform(-2.5,-2)", [100_000])
    #expect(x.allSatisfy { $0 >= -2.5 && $0 <= -2 } && abs(mean(x) + 2.25) < 0.003)
    let b = try GeneratorTests.fill("bernoulli(0.9)", [100_000], .bool)
    #expect(b.allSatisfy { $0 == 0 || $0 == 1 } && abs(mean(b) - 0.9) < 0.005)
  }

  @Test func integers() throws {
    let x = try GeneratorTests.fill("ints(1,B+1)", [3000], .i32)
    #expect(Set(x) == [1, 2, 3])
    let lengths = try GeneratorTests.fill("lengths(1,Nk)", [2], .i32)
    #expect(lengths.contains(48) && lengths.allSatisfy { (1...48).contains($0) })
    #expect(try GeneratorTests.fill("lengths(1,0)", [4], .i32).allSatisfy { $0 == 0 })
    #expect(try GeneratorTests.fill("ints(5,2)", [4], .i32) == [5, 5, 5, 5])
    let codes = try GeneratorTests.fill("normal", [5000], .u8)
    #expect(Set(codes).count == 256)
  }

  @Test(arguments: [1, 2, 3, 4, 5, 9, 33]) func cuts(count: Int) throws {
    for seed in UInt64(0)..<20 {
      let x = try GeneratorTests.fill("cuts(Nk)", [Int64(count)], .i32, seed: seed)
      #expect(x.first == 0 && (count == 1 || x.last == 48))
      let lengths = zip(x.dropFirst(), x).map { $0 - $1 }
      #expect(lengths.allSatisfy { $0 >= 0 })
      #expect(count < 5 || lengths.contains(0))
    }
  }

  @Test func pages() throws {
    let x = try GeneratorTests.fill("pages(Nk)", [4, 12], .i32)
    #expect(Set(x) == Set((0..<48).map { Double($0) }) && x != x.sorted())
    let few = try GeneratorTests.fill("pages(Nk)", [10], .i32)
    #expect(Set(few).count == 10 && few.allSatisfy { (0..<48).contains($0) })
    let many = try GeneratorTests.fill("pages(B)", [9], .i32)
    #expect(many.count { $0 == 0 } + many.count { $0 == 1 } == 9 && Set(many[..<2]).count == 2)
    #expect(try GeneratorTests.fill("pages(0)", [3], .i32) == [0, 0, 0])
  }

  @Test func distinct() throws {
    let x = try GeneratorTests.fill("distinct(5)", [50, 3], .i32)
    for r in 0..<50 {
      let row = Array(x[(3 * r)..<(3 * r + 3)])
      #expect(row == row.sorted() && Set(row).count == 3 && row.allSatisfy { (0..<5).contains($0) })
    }
    #expect(Set(x) == [0, 1, 2, 3, 4])
    #expect(try GeneratorTests.fill("distinct(2)", [1, 4], .i32) == [0, 1, -1, -1])
    #expect(try GeneratorTests.fill("distinct(0-3)", [1, 2], .i32) == [-1, -1])
    #expect(try GeneratorTests.fill("distinct(1000000000000)", [64], .i64).allSatisfy { $0 >= 0 && $0 < 1e12 })
  }

  @Test func formulas() throws {
    #expect(
      try GeneratorTests.fill("slopes", [2, 4]) == [
        0.25, 0.0625, 0.015625, 0.00390625, 0.25, 0.0625, 0.015625, 0.00390625,
      ])
    let sin = try GeneratorTests.fill("sin", [2, 3, 4], .f64)
    let cos = try GeneratorTests.fill("cos", [2, 3, 4], .f64)
    for i in 0..<24 { #expect(abs(sin[i] * sin[i] + cos[i] * cos[i] - 1) < 1e-6) }
    #expect(sin[..<4] == [0, 0, 0, 0] && sin[12..<16] == [0, 0, 0, 0])
    // Position 2: angles 2, 2, 2/100, 2/100.
    for (i, expected) in [0.9092974268, 0.9092974268, 0.0199986667, 0.0199986667].enumerated() {
      #expect(abs(sin[8 + i] - expected) < 1e-9)
    }
  }

  /// Types differ by rounding only.
  @Test func typesShareTheirNumbers() throws {
    let exact = try GeneratorTests.fill("normal", [1000], .f32)
    let half = try GeneratorTests.fill("normal", [1000], .f16)
    let brain = try GeneratorTests.fill("normal", [1000], .bf16)
    for i in 0..<1000 {
      #expect(abs(half[i] - exact[i]) <= max(abs(exact[i]) * 0x1p-11, 0x1p-25))
      #expect(abs(brain[i] - exact[i]) <= abs(exact[i]) * 0x1p-8)
    }
  }

  @Test func roundsToNearestEven() {
    let cases: [(Float, UInt16)] = [
      (1, 0x3f80), (1.00390625, 0x3f80), (1.01171875, 0x3f82), (1.0039064, 0x3f81), (-1.00390625, 0xbf80),
      (.greatestFiniteMagnitude, 0x7f80), (.infinity, 0x7f80), (0, 0), (-0.0, 0x8000), (.leastNonzeroMagnitude, 0),
    ]
    for (x, bits) in cases { #expect(ElementWriter.bf16(x) == bits, "\(x)") }
    #expect(Float(bitPattern: UInt32(ElementWriter.bf16(.nan)) << 16).isNaN)
    #expect(Float(bitPattern: UInt32(ElementWriter.bf16(Float(bitPattern: 0x7f80_0001))) << 16).isNaN)
  }

  /// Seeded, per tensor, and the same on every machine: these numbers are part of what other tests build on.
  @Test func isReproducible() throws {
    let x = try GeneratorTests.fill("normal", [64], seed: 5)
    let again = try GeneratorTests.fill("normal", [64], seed: 5)
    #expect(x == again)
    #expect(try GeneratorTests.fill("normal", [64], seed: 6) != x)
    #expect(try GeneratorTests.fill("normal", [64], seed: 5, name: "y") != x)
    var numbers = SeededNumbers(seed: 0)
    #expect(numbers.next() == 0xe220_a839_7b1d_cdaf)  // the published first output of splitmix64
  }

  @Test func logarithmIsAccurate() {
    var numbers = SeededNumbers(seed: 3)
    for _ in 0..<2000 {
      let x = numbers.unit() * (numbers.chance(0.5) ? 1 : 1e-9) + .leastNormalMagnitude
      let want = Glibc.log(x)
      #expect(abs(SeededNumbers.log(x) - want) <= 4e-16 * max(abs(want), 1))
    }
    #expect(SeededNumbers.log(1) == 0)
  }

  @Test(arguments: [
    "", "gauss", "normal(", "normal)", "normal(1)", "normal(1,2,3)", "zeros(1)", "ints(1)", "weight(Z)", "weight()",
    "ints(1,1e3)",
    "uniform(p.loose,1)", "normal(1,2)x", "Normal",
  ]) func refuses(text: String) {
    #expect(throws: Refusal.self) { try Generator(parsing: text, in: ExpressionContext.scope) }
  }

  @Test func saysWhichArgumentHasNoValue() {
    let refusal = #expect(throws: Refusal.self) { try GeneratorTests.fill("weight(U)", [3], name: "w") }
    #expect(refusal?.code == .shape && refusal?.message.contains("gen of w") == true)
  }
}
