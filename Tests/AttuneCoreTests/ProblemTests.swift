import CAttune
import Foundation
import Testing

@testable import AttuneCore

@Suite struct BucketTests {
  @Test func roundsUp() {
    let sizes: [Int64] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 17, 24, 25, 2049]
    #expect(sizes.map(BucketRule.pow2.round) == [0, 1, 2, 4, 4, 8, 8, 8, 8, 16, 16, 16, 16, 32, 32, 32, 4096])
    #expect(sizes.map(BucketRule.half2.round) == [0, 1, 2, 3, 4, 6, 6, 8, 8, 12, 12, 16, 16, 24, 24, 32, 3072])
    #expect(sizes.map(BucketRule.exact.round) == sizes)
  }

  @Test(arguments: [BucketRule.pow2, .half2]) func neverOverflows(rule: BucketRule) {
    #expect(rule.round(.max) == .max && rule.round(1 << 62) == 1 << 62 && rule.round((1 << 62) + 1) == (1 << 62) + 1)
    #expect(rule.round((1 << 62) - 1) == 1 << 62 && rule.round(-1) == -1 && rule.round(.min) == .min)
  }

  /// A class is its own class, and classes keep the order of sizes.
  @Test(arguments: [BucketRule.pow2, .half2]) func isAProjection(rule: BucketRule) {
    var before: Int64 = 0
    for n in Int64(1)...5000 {
      let x = rule.round(n)
      #expect(x >= n && x <= 2 * n && rule.round(x) == x && x >= before)
      before = x
    }
  }

  /// The sizes of a class are those that round to it.
  @Test(arguments: [BucketRule.pow2, .half2, .exact]) func knowsItsSizes(rule: BucketRule) {
    let big = Int64(1) << 62
    for n in Array(-2...3000) + [big / 2, big / 4 * 3, big / 4 * 3 + 1, big - 1, big, big + 1, .max - 1, .max] {
      let range = rule.sizes(of: rule.round(n))
      #expect(range.above < n && n <= range.upTo)
      #expect(range.upTo == rule.round(n))
      #expect(rule.round(range.above) != range.upTo && rule.round(range.above &+ 1) == range.upTo)
    }
  }

  @Test func bucketsOfAnEntry() throws {
    let entry = try #require(TestDescriptors.compile("lla").entry(named: "forward"))
    #expect(entry.symbols == ["B", "Hq", "Hkv", "Nq", "Nk", "D", "Dv"])
    #expect(entry.bucket([3, 5, 5, 17, 33, 40, -1]) == [4, 5, 5, 24, 48, 40, -1])
  }
}

@Suite struct ProblemTests {
  /// Every preset of every operator, as the executable model finds it (Tests/ABI/presets.py).
  @Test func presetsAgreeWithTheModel() throws {
    let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("Presets.json")
    let rows = try JSON(JSONSerialization.jsonObject(with: Data(contentsOf: file))).array
    #expect(rows.count == 48)
    var op = try TestDescriptors.compile("softmax")
    for row in rows {
      if op.id != row["op"].string { op = try TestDescriptors.compile(row["op"].string) }
      let preset = try #require(op.descriptor.presets.first { $0.name == row["preset"].string })
      let problem = try ProblemShapes(op: op, preset: preset)
      let place = "\(op.id) \(preset.name)"
      for slot in problem.slots {
        let expected = row["tensors"][slot.name].array
        #expect(expected.first?.string == slot.dtype.name, "\(place) \(slot.name)")
        #expect(expected.last?.array.map(\.integer) == slot.shape, "\(place) \(slot.name)")
      }
      #expect(problem.slots.count == row["tensors"].keys.count, "\(place)")
      for (i, name) in problem.entry.symbols.enumerated() {
        #expect(
          row["symbols"][name].isNull || row["symbols"][name].integer == problem.bound.symbol(i), "\(place) \(name)")
      }
      #expect(problem.bound.flops == row["flops"].integer, "\(place)")
    }
  }

  @Test func typesFollowTheirVariable() throws {
    let op = try TestDescriptors.compile("softmax")
    let preset = try #require(op.descriptor.presets.first { $0.name == "prefill" })
    let problem = try ProblemShapes(op: op, preset: preset, dtype: .bf16)
    #expect(problem.slots.map(\.name) == ["q", "k", "v", "o"])
    #expect(problem.slots.map(\.dtype) == [.bf16, .bf16, .bf16, .bf16])
  }

  @Test func extrasBringTheirGenerator() throws {
    let op = try TestDescriptors.compile("softmax")
    let entry = try #require(op.entry(named: "forward"))
    let symbols = try ProblemText.symbols("B=1, Hq=2,Hkv=2,Nq=3,Nk=5,D=4,Dv=4", entry)
    let extras = try ProblemText.tensors("mask = bernoulli(0.25); sinks; lse", op, entry)
    let problem = try ProblemShapes(op: op, entry: entry, params: [], symbols: symbols, extras: extras)
    let mask = try #require(problem.slots.first { $0.name == "mask" })
    #expect(mask.shape == [1, 2, 3, 5] && mask.dtype == .u8 && mask.gen.kind == .bernoulli)
    guard case .number(0.25)? = mask.gen.arguments.first else {
      Issue.record("0.25 expected")
      return
    }
    #expect(problem.slots.map(\.name) == ["q", "k", "v", "mask", "sinks", "o", "lse"])
  }

  static let refused: [(String, String, String, Status, String)] = [
    ("B=1,Hq=2,Hkv=2,Nq=3,D=4,Dv=4", "", "", .shape, "size for Nk is missing"),
    ("B=1,Hq=3,Hkv=2,Nq=3,Nk=3,D=4,Dv=4", "", "", .shape, "Hq must be a multiple"),
    ("B=1,Hq=2,Hkv=2,Nq=3,Nk=3,D=4,Dv=4,Tq=7", "", "", .shape, "Tq is 7, expected 3"),
    ("B=1,Z=2", "", "", .shape, "no symbol Z"), ("B", "", "", .shape, "no SYMBOL=INTEGER"),
    ("B=x", "", "", .shape, "no SYMBOL"),
    ("B=-1", "", "", .shape, "B is -1"), ("B=1,B=2", "", "", .shape, "B is there twice"),
    ("B=99999999999999999999", "", "", .shape, "no SYMBOL=INTEGER"),
    ("B=9223372036854775807,Hq=2,Hkv=2,Nq=3,Nk=3,D=4,Dv=4", "", "", .shape, ""),
    ("B=1,Hq=2,Hkv=2,Nq=3,Nk=3,D=4,Dv=4", "z=1", "", .param, "no parameter z"),
    ("B=1,Hq=2,Hkv=2,Nq=3,Nk=3,D=4,Dv=4", "causal", "", .param, "no NAME=VALUE"),
    ("B=1,Hq=2,Hkv=2,Nq=3,Nk=3,D=4,Dv=4", "causal=1", "", .param, "causal is \"1\", expected true or false"),
    ("B=1,Hq=2,Hkv=2,Nq=3,Nk=3,D=4,Dv=4", "layout=abc", "", .param, "expected bhnd or thd or paged"),
    ("B=1,Hq=2,Hkv=2,Nq=3,Nk=3,D=4,Dv=4", "window_left=1.5", "", .param, "expected an integer"),
    ("B=1,Hq=2,Hkv=2,Nq=3,Nk=3,D=4,Dv=4", "softcap=x", "", .param, "expected a number"),
    ("B=1,Hq=2,Hkv=2,Nq=3,Nk=3,D=4,Dv=4", "softcap=nan", "", .param, "finite"),
    ("B=1,Hq=2,Hkv=2,Nq=3,Nk=3,D=4,Dv=4", "softcap=-1", "", .param, "softcap is -1"),
    ("B=1,Hq=2,Hkv=2,Nq=3,Nk=3,D=4,Dv=4", "", "z", .invalid, "no tensor z"),
    ("B=1,Hq=2,Hkv=2,Nq=3,Nk=3,D=4,Dv=4", "", "mask=noise", .invalid, "no generator noise"),
    ("B=1,Hq=2,Hkv=2,Nq=3,Nk=3,D=4,Dv=4", "", "k_pages", .invalid, "k_pages is given, but not used"),
  ]

  @Test(arguments: refused.indices) func refuses(row: Int) throws {
    let op = try TestDescriptors.compile("softmax")
    let entry = try #require(op.entry(named: "forward"))
    let (shape, params, tensors, code, sentence) = ProblemTests.refused[row]
    let refusal = #expect(throws: Refusal.self) {
      try ProblemShapes(
        op: op, entry: entry, params: ProblemText.params(params, op), symbols: ProblemText.symbols(shape, entry),
        extras: ProblemText.tensors(tensors, op, entry))
    }
    #expect(refusal?.code == code)
    #expect(sentence.isEmpty || refusal?.message.contains(sentence) == true, "\(refusal?.message ?? "")")
  }

  /// Every entry of every operator: legal (the draw binds forwards), the same again, different for another seed.
  @Test(arguments: TestDescriptors.names) func drawsRandomProblems(name: String) throws {
    let op = try TestDescriptors.compile(name)
    for entry in op.entries {
      var shapes: Set<[[Int64]]> = []
      var optional: Set<String> = []
      for seed in UInt64(0)..<40 {
        let problem = try RandomProblem.draw(op, entry, seed: seed)
        shapes.insert(problem.slots.map(\.shape))
        #expect(problem.bound.flops <= 1 << 24)
        for slot in problem.slots where entry.tensors[slot.index].needed?.text == "0" { optional.insert(slot.name) }
        if seed == 7 {
          let again = try RandomProblem.draw(op, entry, seed: seed)
          #expect(again.slots.map(\.shape) == problem.slots.map(\.shape))
          #expect(again.params.map(\.value) == problem.params.map(\.value))
        }
      }
      #expect(shapes.count > 30, "\(name) \(entry.name): \(shapes.count)")
      let offered = entry.tensors.count { $0.needed?.text == "0" && $0.allowed == nil }
      #expect(optional.count >= offered, "\(name) \(entry.name): \(optional)")
    }
  }

  @Test func drawsOtherTypes() throws {
    let op = try TestDescriptors.compile("nsa")
    let entry = try #require(op.entry(named: "forward"))
    for seed in UInt64(0)..<10 {
      let problem = try RandomProblem.draw(op, entry, seed: seed, dtype: .f16)
      #expect(problem.slots.first?.dtype == .f16)
    }
  }

  @Test func saysWhenNothingIsLegal() throws {
    var spec = try TestDescriptors.load("lla")
    spec.entries[2].rules.append(Descriptor.Rule(code: .unsupported, expr: "B==77", text: "only 77"))
    spec.presets.removeAll { $0.entry == "step" }
    let op = try OperatorCompiler.compile(spec)
    let entry = try #require(op.entry(named: "step"))
    let refusal = #expect(throws: Refusal.self) { try RandomProblem.draw(op, entry, seed: 1) }
    #expect(refusal?.message.contains("no legal problem in 1000") == true)
  }
}
