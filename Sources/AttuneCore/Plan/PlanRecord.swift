import CAttune
import CRuntime

/// A prepared call as plain memory: everything execute reads, and nothing that Swift counts references of. An `attune_plan`
/// is the address of one.
struct PlanRecord {
  static let alive: UInt64 = 0x4e41_4c50_454e_5554  // "TUNEPLAN"
  var magic: UInt64
  var owner: Unmanaged<Plan>
  var program: Unmanaged<BindProgram>

  var bindingCount: Int32, tensorCount: Int32, paramCount: Int32, symbolCount: Int32
  var order: UnsafePointer<Int32>  // binding -> tensor of the entry
  var tensors: UnsafePointer<PlanTensor>  // of the entry
  var present: UInt64, outputs: UInt64
  var params: UnsafePointer<attune_value>
  var paramSpecs: UnsafePointer<PlanParam>
  var symbols: UnsafePointer<Int64>, bound: UInt64
  var ranks: UnsafePointer<Int32>, givenRanks: UnsafePointer<Int32>, dtypes: UnsafePointer<Int32>

  var candidates: UnsafePointer<PlanCandidate>  // best first
  var candidateCount: Int32
  var isForced: Bool
  var rulesUseLooseParams: Bool
  var checked: Bool
  /// Above 1: run only one piece in so many, for trials of the tuner.
  var every: Int64 = 1
  var check: (@convention(c) (UnsafePointer<attune_exec>?) -> attune_status)?
  var host: UnsafePointer<attune_host>?
  var instance: UnsafeMutableRawPointer?
  var region: crt_region
  var workspaceBytes: UInt64
  var frameBytes: Int
}

struct PlanTensor {
  var rank: Int32, dtype: DType, isOutput: Bool, stridedLast: Bool
  var typeBits: UInt32, alignMask: UInt  // the DLPack type as one word; element size - 1
  var state: Int32  // STATE_OUT: its STATE, else -1
  var shape: UnsafePointer<Int64>
  var strides: UnsafePointer<Int64>, bytes: Int64  // of the compact tensor of this shape
}

struct PlanParam {
  var name: UnsafePointer<CChar>
  var kind: Descriptor.Param.Kind
  var isStructural: Bool, minOpen: Bool, maxOpen: Bool
  var min: attune_value, max: attune_value
  var words: UnsafePointer<UnsafePointer<CChar>>, wordCount: Int32
}

struct PlanCode {
  var nodes: UnsafePointer<Expression.Node>
  var root: Int32
  @inline(__always) func value(_ env: UnsafePointer<Environment>, _ fault: inout Fault) -> Int64 {
    evaluate(nodes, root, env, &fault)
  }
}

struct PlanArgument {
  enum Kind: UInt8 { case data, tensor, stride, expr, param, workspace, taskBegin, taskEnd, worker, exec }
  var kind: Kind
  var ctype: Descriptor.Argument.CType
  var index: Int32 = -1, dim: Int32 = 0
  var isReal = false  // an f64 parameter
  var code: PlanCode?
}

struct PlanCandidate {
  var run: attune_kernel_fn?, native: attune_native_fn?
  var cif: OpaquePointer?
  var arguments: UnsafePointer<PlanArgument>, argumentCount: Int32
  var knobs: UnsafePointer<Int64>
  var user: UnsafeMutableRawPointer?
  var when: PlanCode?, tasksCode: PlanCode?, workspaceCode: PlanCode?
  var minAlign: UInt32, ownsThreads: Bool
  var workers: UInt32
  var tasks: Int64, workspace: UInt64, grain: Int64  // at the plan's sizes; tasks 1 when the kernel has none
  var nsPerTask: Double
}

/// Owns a `PlanRecord` and all memory it points at. Immutable after `init`; freed when the last holder is gone.
package final class Plan: @unchecked Sendable {
  package let problem: BoundProblem
  package let registration: Registration
  package let choice: Choice
  let record: UnsafeMutablePointer<PlanRecord>
  /// The context, for plans that a caller holds; a context's own cached plans leave it nil, or neither would ever go.
  private let keepAlive: AnyObject?
  private var blocks: [UnsafeMutableRawPointer] = []
  private var cifs: [OpaquePointer] = []
  package let pluginName: UnsafePointer<CChar>, kernelName: UnsafePointer<CChar>, knobsText: UnsafePointer<CChar>

  package init(
    problem: BoundProblem, registration: Registration, choice: Choice, request: Problem, region: crt_region,
    host: UnsafePointer<attune_host>?, checked: Bool, keepAlive: AnyObject?
  ) throws(Refusal) {
    let entry = problem.entry
    let op = problem.op
    var memory = PlanMemory()
    self.problem = problem
    self.registration = registration
    self.choice = choice
    self.keepAlive = keepAlive
    record = .allocate(capacity: 1)

    var tensors: [PlanTensor] = []
    var outputs: UInt64 = 0
    for (i, model) in entry.tensors.enumerated() {
      let given = problem.isPresent(i)
      if given, model.isOutput { outputs |= 1 << UInt64(i) }
      let shape = given ? problem.shape(i) : []
      tensors.append(
        PlanTensor(
          rank: given ? problem.storage.givenRanks[i] : -1, dtype: problem.dtype(i), isOutput: model.isOutput,
          stridedLast: model.spec.stridedLast, typeBits: Layout.bits(problem.dtype(i).dlpack),
          alignMask: UInt(problem.dtype(i).size - 1), state: Int32(model.state ?? -1),
          shape: UnsafePointer(problem.storage.extents + 8 * i), strides: memory.array(Layout.compactStrides(shape)),
          bytes: Binder.byteCount(shape, problem.storage.dtypes[i]) ?? 0))
    }
    var cifs: [OpaquePointer] = []
    var list: [PlanCandidate] = []
    for c in choice.order {
      let k = entry.kernels[c.kernel]
      let arguments = k.args.map { Plan.argument($0, op, &memory) }
      var cif: OpaquePointer?
      if k.spec.native != nil {
        let types = k.spec.args.map { $0.ctype.rawValue }
        cif = types.withUnsafeBufferPointer { crt_cif_create($0.baseAddress, UInt32($0.count)) }
        guard let cif else {
          throw Refusal(.noMemory, "", "\(op.id) \(entry.name): no memory for the call of \(k.spec.name)")
        }
        cifs.append(cif)
      }
      let tasks = c.tasks ?? 1
      let serial = c.estimate * Double(max(1, min(Int64(c.workers), tasks)))
      let perTask = tasks > 0 ? serial / Double(tasks) : 0
      list.append(
        PlanCandidate(
          run: k.spec.run, native: k.spec.native, cif: cif, arguments: memory.array(arguments),
          argumentCount: Int32(arguments.count), knobs: memory.array(c.knobs), user: k.spec.user,
          when: memory.code(k.when), tasksCode: memory.code(k.tasks), workspaceCode: memory.code(k.workspace),
          minAlign: k.spec.minAlign, ownsThreads: k.spec.ownsThreads, workers: c.workers, tasks: tasks,
          workspace: c.workspace, grain: Plan.grain(tasks, c.workers, perTask), nsPerTask: perTask))
    }
    var specs: [PlanParam] = []
    for x in op.params {
      var words: [UnsafePointer<CChar>] = []
      for w in x.words { words.append(memory.string(w)) }
      specs.append(
        PlanParam(
          name: memory.string(x.name), kind: x.kind, isStructural: x.isStructural, minOpen: x.minOpen,
          maxOpen: x.maxOpen,
          min: x.min, max: x.max, words: memory.array(words), wordCount: Int32(words.count)))
    }
    let best = choice.order[0]
    let bestKernel = entry.kernels[best.kernel]
    pluginName = memory.string(registration.plugin.id)
    kernelName = memory.string(bestKernel.spec.name)
    knobsText = memory.string(
      zip(bestKernel.spec.knobs, best.knobs).map { "\($0.name)=\($1)" }.joined(separator: ","))
    // The slack lets a caller's buffer begin anywhere; kernels get it aligned to 64.
    let most = min(list.map(\.workspace).max() ?? 0, UInt64(Int64.max) - 63)
    let workspace = most == 0 ? 0 : most + 63
    crt_arena_reserve(most)
    record.initialize(
      to: PlanRecord(
        magic: PlanRecord.alive, owner: Unmanaged.passUnretained(self),
        program: Unmanaged.passUnretained(problem.program),
        bindingCount: Int32(problem.order.count), tensorCount: Int32(entry.tensors.count),
        paramCount: Int32(op.params.count), symbolCount: Int32(entry.symbols.count),
        order: memory.array(problem.order.map { Int32($0) }), tensors: memory.array(tensors), present: problem.present,
        outputs: outputs, params: UnsafePointer(problem.storage.params), paramSpecs: memory.array(specs),
        symbols: UnsafePointer(problem.storage.symbols), bound: problem.bound,
        ranks: UnsafePointer(problem.storage.ranks), givenRanks: UnsafePointer(problem.storage.givenRanks),
        dtypes: UnsafePointer(problem.storage.dtypes), candidates: memory.array(list),
        candidateCount: Int32(list.count),
        isForced: request.kernel != nil, rulesUseLooseParams: problem.program.rulesUseLooseParams, checked: checked,
        check: entry.descriptor.check, host: host, instance: registration.plugin.instance, region: region,
        workspaceBytes: workspace,
        frameBytes: CallFrame.bytes(tensors: entry.tensors.count, params: op.params.count, symbols: entry.symbols.count)
      ))
    blocks = memory.blocks
    self.cifs = cifs
  }

  deinit {
    record.pointee.magic = 0
    record.deinitialize(count: 1)
    record.deallocate()
    for c in cifs { crt_cif_release(c) }
    for b in blocks { b.deallocate() }
  }

  /// Tasks per piece: about 50 us of work, but at least four pieces per worker.
  static func grain(_ tasks: Int64, _ workers: UInt32, _ nsPerTask: Double) -> Int64 {
    if workers < 2 { return max(tasks, 1) }
    let fair = max(1, tasks / (4 * Int64(workers)))
    guard nsPerTask > 0, nsPerTask.isFinite else { return fair }
    let byTime = min(max(1, 50_000 / nsPerTask), 1e15)
    return max(1, min(fair, Int64(byTime)))
  }

  private static func argument(_ a: KernelArgument, _ op: Operator, _ memory: inout PlanMemory) -> PlanArgument {
    switch a {
    case .data(let t): PlanArgument(kind: .data, ctype: .ptr, index: Int32(t))
    case .tensor(let t): PlanArgument(kind: .tensor, ctype: .ptr, index: Int32(t))
    case .stride(let t, let d, let c): PlanArgument(kind: .stride, ctype: c, index: Int32(t), dim: Int32(d))
    case .expr(let e, let c): PlanArgument(kind: .expr, ctype: c, code: memory.code(e))
    case .param(let p, let c):
      PlanArgument(kind: .param, ctype: c, index: Int32(p), isReal: op.params[p].kind == .f64)
    case .workspace: PlanArgument(kind: .workspace, ctype: .ptr)
    case .exec: PlanArgument(kind: .exec, ctype: .ptr)
    case .taskBegin(let c): PlanArgument(kind: .taskBegin, ctype: c)
    case .taskEnd(let c): PlanArgument(kind: .taskEnd, ctype: c)
    case .worker(let c): PlanArgument(kind: .worker, ctype: c)
    }
  }
}

/// Copies of arrays, strings and code on the heap, owned by a plan.
private struct PlanMemory {
  var blocks: [UnsafeMutableRawPointer] = []

  /// Plain types only: nothing inside may count references, because the copies are never deinitialised.
  mutating func array<T>(_ a: [T]) -> UnsafePointer<T> {
    let p = UnsafeMutablePointer<T>.allocate(capacity: max(a.count, 1))
    for (i, x) in a.enumerated() { (p + i).initialize(to: x) }
    blocks.append(UnsafeMutableRawPointer(p))
    return UnsafePointer(p)
  }
  mutating func string(_ s: String) -> UnsafePointer<CChar> {
    array(s.utf8.map { CChar(bitPattern: $0) } + [0])
  }
  mutating func code(_ e: Expression?) -> PlanCode? {
    guard let e, !e.nodes.isEmpty else { return nil }
    return PlanCode(nodes: array(e.nodes), root: Int32(e.nodes.count - 1))
  }
}
