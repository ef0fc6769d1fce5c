import CAttune
import Testing

@testable import AttuneCore

@Suite struct CompileTests {
  @Test func everyDescriptorIsThere() { #expect(TestDescriptors.names.count == 9) }

  @Test(arguments: TestDescriptors.names) func compiles(name: String) throws {
    let spec = try TestDescriptors.load(name)
    let op = try OperatorCompiler.compile(spec)
    #expect(op.entries.count == spec.entries.count)
    for (entry, before) in zip(op.entries, spec.entries) {
      #expect(entry.tensors.count == before.tensors.count)
      #expect(entry.rules.count == before.rules.count)
      #expect(entry.kernels.count == 1 && entry.droppedKernels.isEmpty)
    }
  }

  @Test func resolvesNames() throws {
    let op = try TestDescriptors.compile("softmax")
    let step = try #require(op.entry(named: "step"))
    let cache = try #require(step.tensorIndex("k_cache_state"))
    let out = try #require(step.tensorIndex("k_cache_state_out"))
    #expect(step.tensors[out].state == cache && step.tensors[out].isOutput && !step.tensors[cache].isOutput)
    let nk = try #require(step.symbols.firstIndex(of: "Nk"))
    #expect(step.derived == 1 << UInt64(nk))
    let forward = try #require(op.entry(named: "forward"))
    let lse = try #require(forward.tensorIndex("lse"))
    #expect(forward.tensors[lse].isOutput)
    let backward = try #require(op.entry(named: "backward"))
    #expect(!backward.tensors[try #require(backward.tensorIndex("lse"))].isOutput)
    let cuts = try #require(forward.tensorIndex("cu_seqlens_q"))
    guard case .alternatives(let list) = forward.tensors[cuts].shape else {
      Issue.record("a shape of its own expected")
      return
    }
    #expect(list.first?.dims.first?.bare?.offset == 1)
  }

  // MARK: refusals

  struct Broken: CustomTestStringConvertible, Sendable {
    let testDescription: String
    let sentence: String  // part of it
    let edit: @Sendable (inout Descriptor.Operator) -> Void
  }

  static let broken: [Broken] = [
    // The list of Tests/ABI/test_model.py.
    Broken(testDescription: "unknown symbol in a shape", sentence: "softmax.forward: tensor q: unknown word Z") {
      $0.entries[0].tensors[0].shape = "B,Hq,Nq,Z"
    },
    Broken(testDescription: "rule ends early", sentence: "softmax.forward: rule 0") {
      $0.entries[0].rules[0].expr = "Hq%"
    },
    Broken(testDescription: "flops of a loose parameter", sentence: "scale is not structural") {
      $0.entries[0].flops = "p.scale"
    },
    Broken(testDescription: "illegal default", sentence: "parameter layout") { $0.params[0].def.i = 7 },
    Broken(testDescription: "reserved name", sentence: "\"params\" may not be the name") {
      $0.entries[0].tensors[0].name = "params"
    },
    Broken(testDescription: "too many nodes", sentence: "more than 128 nodes") {
      $0.entries[0].rules[0].expr = "1" + String(repeating: "+1", count: 100)
    },
    Broken(testDescription: "symbol that nothing binds", sentence: "gives symbol Zz a value") {
      $0.entries[0].symbols += ",Zz"
    },
    Broken(testDescription: "symbol in needed", sentence: "symbol Nq is not visible") {
      $0.entries[0].tensors[1].needed = "Nq>1"
    },
    Broken(testDescription: "repeated tensor", sentence: "q is there twice") {
      $0.entries[0].tensors.append($0.entries[0].tensors[0])
    },
    Broken(testDescription: "pair of nothing", sentence: "its pair nothing") {
      let last = $0.entries[1].tensors.count - 1
      $0.entries[1].tensors[last].pair = "nothing"
    },
    // Further checks of ABI.md.
    Broken(testDescription: "no forward", sentence: "no entry forward") { $0.entries.removeFirst() },
    Broken(testDescription: "operator id", sentence: "no operator id") { $0.id = "a@b" },
    Broken(testDescription: "two entries", sentence: "two entries forward") { $0.entries.append($0.entries[0]) },
    Broken(testDescription: "17 entries", sentence: "17 entries") {
      for i in $0.entries.count..<17 {
        var entry = $0.entries[3]
        entry.name = "extra\(i)"
        $0.entries.append(entry)
      }
    },
    Broken(testDescription: "two parameters", sentence: "two parameters scale") { $0.params.append($0.params[3]) },
    Broken(testDescription: "NaN default", sentence: "parameter scale") { $0.params[3].def.f = .nan },
    Broken(testDescription: "parameter named like a tensor", sentence: "\"scale\" may not be") {
      $0.entries[0].tensors[2].name = "scale"
    },
    Broken(testDescription: "symbol of the grammar", sentence: "hides a word") { $0.entries[0].symbols += ",min" },
    Broken(testDescription: "backward without of", sentence: "BACKWARD needs") { $0.entries[1].of = nil },
    Broken(testDescription: "of nothing", sentence: "differentiates nothing") { $0.entries[1].of = "nothing" },
    Broken(testDescription: "no dtypes", sentence: "dtypes") { $0.entries[0].tensors[0].dtypes = 0 },
    Broken(testDescription: "unknown dtypes", sentence: "dtypes") { $0.entries[0].tensors[0].dtypes = 1 << 40 },
    Broken(testDescription: "state_out without pair", sentence: "STATE_OUT and nothing else") {
      let last = $0.entries[2].tensors.count - 1
      $0.entries[2].tensors[last].pair = nil
    },
    Broken(testDescription: "pair that is no state", sentence: "no STATE of this entry") {
      let last = $0.entries[2].tensors.count - 1
      $0.entries[2].tensors[last].pair = "q"
    },
    Broken(testDescription: "like of like", sentence: "no shape of its own") {
      let last = $0.entries[1].tensors.count - 1
      $0.entries[1].tensors[last].shape = "like dq"
    },
    Broken(testDescription: "rank 9", sentence: "rank over 8") { $0.entries[0].tensors[0].shape = "B,1,1,1,1,1,1,1,1" },
    Broken(testDescription: "guard without end", sentence: "guard without }") {
      $0.entries[0].tensors[0].shape = "{p.causal B"
    },
    Broken(testDescription: "let without symbol", sentence: "let: Q is no symbol") { $0.entries[0].let = "Q=1" },
    Broken(testDescription: "long let", sentence: "let longer") {
      $0.entries[0].let += String(repeating: " ", count: 600)
    },
    Broken(testDescription: "bucket rule", sentence: "rule \"pow3\"") { $0.entries[0].buckets = "B:pow3" },
    Broken(testDescription: "rule code", sentence: "does not answer E_IO") { $0.entries[0].rules[0].code = .io },
    Broken(testDescription: "generator", sentence: "no generator gauss") { $0.entries[0].tensors[0].gen = "gauss" },
    Broken(testDescription: "generator arguments", sentence: "0 or 2 arguments") {
      $0.entries[0].tensors[0].gen = "normal(1)"
    },
    Broken(testDescription: "no demo", sentence: "DEMO") { $0.presets[0].isDemo = false },
    Broken(testDescription: "no bench", sentence: "BENCH") {
      for i in $0.presets.indices { $0.presets[i].isBench = false }
    },
    Broken(testDescription: "preset of no entry", sentence: "preset prefill: no entry") {
      $0.presets[1].entry = "nothing"
    },
    Broken(testDescription: "preset parameter", sentence: "preset prefill: softmax has no parameter caussal") {
      $0.presets[1].params = "caussal=true"
    },
    Broken(testDescription: "preset that does not bind", sentence: "preset prefill: softmax forward: Hq must be") {
      $0.presets[1].shape = "B=1,Hq=8,Hkv=3,Nq=2,Nk=2,D=4,Dv=4"
    },
    Broken(testDescription: "preset without a size", sentence: "a size for D is missing") {
      $0.presets[1].shape = "B=1,Hq=8,Hkv=8,Nq=2,Nk=2,Dv=4"
    },
    Broken(testDescription: "flops without a value", sentence: "softmax.merge: \"1/(P-P)\" has no value: division") {
      $0.entries[3].flops = "1/(P-P)"
      $0.presets.removeAll { $0.entry == "merge" }
    },
    Broken(testDescription: "negative flops", sentence: "softmax.merge: flops") {
      $0.entries[3].flops = "0-P"
      $0.presets.removeAll { $0.entry == "merge" }
    },
    Broken(testDescription: "rule that never has a value", sentence: "softmax.merge: rule") {
      $0.entries[3].rules[0].expr = "1/(P-P)"
      $0.presets.removeAll { $0.entry == "merge" }
    },
    Broken(testDescription: "no reference", sentence: "0 REFERENCE kernels") { $0.entries[0].kernels = [] },
    Broken(testDescription: "two references", sentence: "2 REFERENCE kernels") {
      $0.entries[0].kernels.append(TestDescriptors.reference("second"))
    },
    Broken(testDescription: "reference with a when", sentence: "has no when") { $0.entries[0].kernels[0].when = "1" },
    Broken(testDescription: "reference with an isa", sentence: "names no arch and isa") {
      $0.entries[0].kernels[0].isa.0 = 2
    },
    Broken(testDescription: "native reference", sentence: "sets run") {
      $0.entries[0].kernels[0].run = nil
      $0.entries[0].kernels[0].native = {}
    },
    Broken(
      testDescription: "reference whose workspace has no value", sentence: "REFERENCE kernel reference cannot be used"
    ) {
      $0.entries[0].kernels[0].workspace = "1/(B-B)"
    },
    Broken(testDescription: "tolerance", sentence: "tolerance of f32") { $0.tolerances[0].rtol = .nan },
  ]

  @Test(arguments: broken) func refuses(_ broken: Broken) throws {
    var spec = try TestDescriptors.load("softmax")
    broken.edit(&spec)
    let refusal = #expect(throws: Refusal.self) { try OperatorCompiler.compile(spec) }
    #expect(refusal?.code == .load)
    #expect(refusal?.message.contains(broken.sentence) == true, "\(refusal?.message ?? "compiled")")
  }

  // MARK: kernels

  struct BrokenKernel: CustomTestStringConvertible, Sendable {
    let testDescription: String
    let reason: String
    let edit: @Sendable (inout Descriptor.Kernel) -> Void
  }

  static func native(_ rows: [Descriptor.Argument]) -> @Sendable (inout Descriptor.Kernel) -> Void {
    {
      $0.run = nil
      $0.native = {}
      $0.args = rows
    }
  }
  static func row(
    _ kind: Descriptor.Argument.Kind, _ ctype: Descriptor.Argument.CType, _ name: String = "", _ dim: Int32 = 0
  ) -> Descriptor.Argument { Descriptor.Argument(kind: kind, ctype: ctype, dim: dim, name: name) }

  static let brokenKernels: [BrokenKernel] = [
    BrokenKernel(testDescription: "refused while reading", reason: "unknown flag") { $0.refused = "unknown flag" },
    BrokenKernel(testDescription: "name", reason: "a-z") { $0.name = "Fast" },
    BrokenKernel(testDescription: "same name", reason: "same name") { $0.name = "reference" },
    BrokenKernel(testDescription: "device", reason: "device type 2") { $0.deviceType = 2 },
    BrokenKernel(testDescription: "no function", reason: "run and native") { $0.run = nil },
    BrokenKernel(testDescription: "two functions", reason: "run and native") { $0.native = {} },
    BrokenKernel(testDescription: "arguments of run", reason: "without a native") { $0.args = [row(.exec, .ptr)] },
    BrokenKernel(testDescription: "alignment", reason: "power of two") { $0.minAlign = 24 },
    BrokenKernel(testDescription: "efficiency", reason: "efficiency") { $0.efficiency = .nan },
    BrokenKernel(testDescription: "tasks of a thread owner", reason: "OWNS_THREADS") {
      $0.ownsThreads = true
      $0.tasks = "B"
    },
    BrokenKernel(testDescription: "when", reason: "when: ") { $0.when = "Z>1" },
    BrokenKernel(testDescription: "knob in when", reason: "k.bq is not visible") {
      $0.knobs = [Descriptor.Knob(name: "bq", values: [1])]
      $0.when = "k.bq>1"
    },
    BrokenKernel(testDescription: "workers in flops", reason: "$workers is not visible") { $0.flops = "$workers" },
    BrokenKernel(testDescription: "unknown knob", reason: "k.bk is not visible") { $0.tasks = "k.bk" },
    BrokenKernel(testDescription: "tasks without a value", reason: "\"B/(B-B)\" has no value") { $0.tasks = "B/(B-B)" },
    BrokenKernel(testDescription: "negative workspace", reason: "workspace \"0-B\" is") { $0.workspace = "0-B" },
    BrokenKernel(testDescription: "knob without values", reason: "0 values") {
      $0.knobs = [Descriptor.Knob(name: "bq")]
    },
    BrokenKernel(testDescription: "17 values", reason: "17 values") {
      $0.knobs = [Descriptor.Knob(name: "bq", values: Array(repeating: 1, count: 17))]
    },
    BrokenKernel(testDescription: "knob default", reason: "default 1") {
      $0.knobs = [Descriptor.Knob(name: "bq", values: [1], def: 1)]
    },
    BrokenKernel(testDescription: "two knobs", reason: "two knobs bq") {
      $0.knobs = [Descriptor.Knob(name: "bq", values: [1]), Descriptor.Knob(name: "bq", values: [1])]
    },
    BrokenKernel(testDescription: "9 knobs", reason: "9 knobs") {
      $0.knobs = (0..<9).map { Descriptor.Knob(name: "k\($0)", values: [1]) }
    },
    BrokenKernel(testDescription: "too many candidates", reason: "4096") {
      $0.knobs = (0..<4).map { Descriptor.Knob(name: "k\($0)", values: Array(0..<8)) }
    },
    BrokenKernel(testDescription: "pointer as integer", reason: "C type i64", edit: native([row(.data, .i64, "q")])),
    BrokenKernel(testDescription: "stride as float", reason: "C type f32", edit: native([row(.stride, .f32, "q")])),
    BrokenKernel(
      testDescription: "stride of no dim", reason: "q has no dim 4", edit: native([row(.stride, .i64, "q", 4)])),
    BrokenKernel(testDescription: "no tensor", reason: "no tensor z", edit: native([row(.tensor, .ptr, "z")])),
    BrokenKernel(testDescription: "expression as float", reason: "C type f64", edit: native([row(.expr, .f64, "B")])),
    BrokenKernel(
      testDescription: "bad expression", reason: "argument 1: ",
      edit: native([row(.exec, .ptr), row(.expr, .i64, "B+")])),
    BrokenKernel(testDescription: "no parameter", reason: "no parameter z", edit: native([row(.param, .i64, "z")])),
    BrokenKernel(testDescription: "real as integer", reason: "C type i64", edit: native([row(.param, .i64, "scale")])),
    BrokenKernel(testDescription: "begin without end", reason: "come together", edit: native([row(.taskBegin, .i64)])),
    BrokenKernel(testDescription: "tasks without begin and end", reason: "needs TASK_BEGIN") {
      native([row(.data, .ptr, "q")])(&$0)
      $0.tasks = "B"
    },
    BrokenKernel(
      testDescription: "65 arguments", reason: "65 arguments",
      edit: native(Array(repeating: row(.exec, .ptr), count: 65))),
  ]

  /// Only that kernel goes, and says why; its neighbours stay.
  @Test(arguments: brokenKernels) func drops(_ broken: BrokenKernel) throws {
    var spec = try TestDescriptors.load("softmax")
    var bad = TestDescriptors.reference("bad")
    var good = TestDescriptors.reference("good")
    bad.isReference = false
    good.isReference = false
    broken.edit(&bad)
    spec.entries[0].kernels += [bad, good]
    let entry = try #require(OperatorCompiler.compile(spec).entry(named: "forward"))
    #expect(entry.kernels.map(\.spec.name) == ["reference", "good"])
    let reason = try #require(entry.droppedKernels.first).reason
    #expect(entry.droppedKernels.count == 1 && entry.droppedKernels.first?.name == bad.name)
    #expect(reason.contains(broken.reason), "\(reason)")
  }

  @Test func acceptsNativeKernels() throws {
    var spec = try TestDescriptors.load("softmax")
    var kernel = TestDescriptors.reference("rows")
    kernel.isReference = false
    CompileTests.native([
      CompileTests.row(.data, .ptr, "q"), CompileTests.row(.tensor, .ptr, "k"), CompileTests.row(.stride, .i32, "v", 3),
      CompileTests.row(.expr, .i64, "B*Hq/k.bq*$workers"), CompileTests.row(.param, .f32, "scale"),
      CompileTests.row(.param, .i32, "causal"), CompileTests.row(.workspace, .ptr), CompileTests.row(.taskBegin, .i64),
      CompileTests.row(.taskEnd, .i64), CompileTests.row(.worker, .i32), CompileTests.row(.exec, .ptr),
    ])(&kernel)
    kernel.knobs = [Descriptor.Knob(name: "bq", values: [32, 64], def: 1)]
    kernel.tasks = "B*Hq*cdiv(Nq,k.bq)"
    kernel.workspace = "$workers*k.bq*Dv*4"
    kernel.knobWhen = "k.bq<=2*Nq"
    kernel.when = "p.layout==bhnd&&dt(q)==f32&&!has(mask)"
    spec.entries[0].kernels.append(kernel)
    let entry = try #require(OperatorCompiler.compile(spec).entry(named: "forward"))
    #expect(entry.droppedKernels.isEmpty)
    #expect(entry.kernels.last?.args.count == 11)
  }
}
