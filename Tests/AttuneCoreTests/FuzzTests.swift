import Testing

@testable import AttuneCore

/// The fuzz target on seeded inputs, so that every test run covers it. `Tests/Fuzz/run` searches further.
@Suite struct FuzzTests {
  private static let seeds = [
    "B*N+D/2", "p.mode==a&&p.ratio>0.5||has(mask)", "ftrunc(p.ratio,N)+dim(q,1)%3", "min(B,max(N,-1))-cdiv(D,2)",
    "{p.mode==a}B,N,D; N+1|D,2*D", "like q", "B=?1; M=cdiv(N,2); U=?N*2", "N:half2; B:pow2", "normal(0,0.1)",
    "ints(1,N/4)", "cuts(N)", "pages(M)", "distinct(N)", "lengths(1,N)", "flag=true;count=-3;ratio=1e3;mode=b",
    "B=1,N=8,D=4",
    "mask=bernoulli(0.5); o", "!(-$workers*k.bq)", "bytes(q)*9223372036854775807",
    #"{"schema": 1, "kind": "machine", "cpu": "a", "peak_gflops": {"avx2": 1.5}, "l2_gbs": 1, "l3_gbs": 0, "dram_gbs": 2e3, "#
      + #""region_ns": 250.0, "date": 1}"#,
    #"{"schema": 1, "kind": "tuned", "cpu": "a", "op": "b", "family": "c", "sizes": {"N": 1}, "winner": {"kernel": "k", "#
      + #""revision": 1, "knobs": "", "workers": 2}, "rigor": "measure", "weighed": 0, "plugin": "", "build": "", "#
      + #""library": "", "date": 0, "drift": 0.0, "loaded": true, "trials": []}"#,
  ]
  private static let alphabet = Array("BNDMUpqk.=?:;,|&<>!+-*/%(){}0123456789 _$abe\t\n\u{0}\u{e9}".utf8)

  /// A seed with a few bytes replaced, inserted, removed, doubled or exchanged with another seed's; or noise.
  private static func input(_ numbers: inout SeededNumbers) -> [UInt8] {
    func pick<T>(_ list: [T]) -> T { list[Int(numbers.below(Int64(list.count)))] }
    if numbers.chance(0.1) { return (0..<numbers.below(300)).map { _ in UInt8(truncatingIfNeeded: numbers.next()) } }
    var bytes = Array(pick(seeds).utf8)
    for _ in 0..<numbers.below(5) {
      let at = Int(numbers.below(Int64(bytes.count + 1)))
      switch numbers.below(5) {
      case 0: bytes.insert(pick(alphabet), at: at)
      case 1 where at < bytes.count: bytes[at] = pick(alphabet)
      case 2 where at < bytes.count: bytes.remove(at: at)
      case 3: bytes.insert(contentsOf: bytes, at: at)
      default: bytes.insert(contentsOf: Array(pick(seeds).utf8), at: at)
      }
    }
    return bytes
  }

  @Test func parsersSurviveAnyText() throws {
    let target = try FuzzTarget()
    var numbers = SeededNumbers(seed: 1)
    for _ in 0..<200_000 {
      let input = FuzzTests.input(&numbers)
      target.parse(input, with: UInt8(truncatingIfNeeded: numbers.next()))
    }
  }

  @Test func compilerSurvivesAnyDescriptor() throws {
    let target = try FuzzTarget()
    var numbers = SeededNumbers(seed: 2)
    for _ in 0..<1000 {
      let changed = numbers.below(16)
      let lines = (0..<16).map { $0 == changed || numbers.chance(0.05) ? FuzzTests.input(&numbers) : Array("=".utf8) }
      target.compile(Array(lines.joined(separator: [UInt8(ascii: "\n")])))
    }
  }

  /// The inputs above are not all refused at the door.
  @Test func seedsAreUnderstood() throws {
    let spec = FuzzTarget.descriptor()
    let op = try OperatorCompiler.compile(spec)
    #expect(op.entries.first?.kernels.count == 1)
    let scope = Scope(params: spec.params, symbols: ["B", "N", "D", "M", "U"], tensors: ["q", "mask", "o"]).withKnobs([
      "bq"
    ])
    let parsed = FuzzTests.seeds.count { (try? Expression(parsing: $0, in: scope)) != nil }
    #expect(parsed == 6)
    #expect(FuzzTests.seeds.count { (try? Generator(parsing: $0, in: scope)) != nil } == 6)
  }
}
