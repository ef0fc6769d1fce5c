import CAttune
import CRuntime

/// One execute call. No class, array, string or closure is touched unless something is refused: this path allocates nothing,
/// takes no lock and throws nothing.
struct Call {
  var plan: UnsafePointer<PlanRecord>
  /// Tensors in the plan's order: either the caller's array of pointers, or the references of a problem (attune_run).
  var tensors: UnsafePointer<UnsafePointer<attune_tensor>?>?
  var references: UnsafeRawPointer?, referenceStride: Int
  /// attune_run: the problem's parameters, of which the structural ones already chose the plan.
  var problemParams: attune_span
  var params: attune_span
  var workspace: UnsafeMutableRawPointer?, workspaceBytes: UInt64
  var cancel: UnsafePointer<Int32>?
  var stream: UnsafeMutableRawPointer?
  var error: UnsafeMutablePointer<attune_error>?

  @inline(__always)
  func tensor(_ i: Int) -> UnsafePointer<attune_tensor>? {
    if let tensors { return tensors[i] }
    guard let references else { return nil }
    return references.advanced(by: i &* referenceStride).assumingMemoryBound(to: attune_tensor_ref.self).pointee.tensor
  }
}

enum Execute {
  static func run(_ call: inout Call) -> attune_status {
    let bytes = call.plan.pointee.frameBytes
    return withUnsafeMutablePointer(to: &call) { p in
      crt_with_frame(
        bytes,
        { context, memory in
          guard let context, let memory else { return attune_status(ATTUNE_E_INTERNAL) }
          return Execute.body(context.assumingMemoryBound(to: Call.self), memory)
        }, p)
    }
  }

  private static func body(_ call: UnsafeMutablePointer<Call>, _ memory: UnsafeMutableRawPointer) -> attune_status {
    let plan = call.pointee.plan
    let n = Int(plan.pointee.tensorCount)
    let f = CallFrame(
      memory, tensors: n, params: Int(plan.pointee.paramCount), symbols: Int(plan.pointee.symbolCount))
    for i in 0..<n { f.pointers[i] = nil }

    // 1. tensors
    var same = true
    for i in 0..<Int(plan.pointee.bindingCount) {
      let e = Int(plan.pointee.order[i])
      let want = plan.pointee.tensors + e
      guard let t = call.pointee.tensor(i) else { return Cold.tensor(call, e, TensorFault(kind: .null), nil) }
      f.pointers[e] = UnsafePointer(f.tensors + e)
      if Layout.matches(t, want, into: f.tensors + e, range: &f.ranges[e]) { continue }
      let fault = Layout.normalize(
        t, isOutput: want.pointee.isOutput, stridedLast: want.pointee.stridedLast, needsData: true, into: f.tensors + e,
        shape: f.shapes + 8 &* e, strides: f.strides + 8 &* e, range: &f.ranges[e])
      if fault.kind != .none { return Cold.tensor(call, e, fault, t) }
      if (f.tensors + e).pointee.ndim != want.pointee.rank { return Cold.rank(call, e, t) }
      if DType((f.tensors + e).pointee.dtype) != want.pointee.dtype { return Cold.type(call, e, t) }
      for d in 0..<Int(want.pointee.rank) {
        let x = f.shapes[8 &* e &+ d]
        let limit = want.pointee.shape[d]
        if x != limit {
          if x > limit { return Cold.larger(call, e, d, x) }
          same = false
        }
      }
    }
    // 2. outputs lie apart from everything else, but for a state updated in place
    var outputs = plan.pointee.outputs
    while outputs != 0 {
      let o = outputs.trailingZeroBitCount
      outputs &= outputs &- 1
      var others = plan.pointee.present & ~(1 << UInt64(o))
      while others != 0 {
        let e = others.trailingZeroBitCount
        others &= others &- 1
        if !f.ranges[o].meets(f.ranges[e]) { continue }
        if Execute.inPlace(plan.pointee.tensors + o, o, e, f) { continue }
        if Layout.share(f.tensors[o], f.tensors[e]) { return Cold.overlap(call, o, e) }
      }
    }
    // 3. parameters that may change per call
    var params = plan.pointee.params
    let hasParams = call.pointee.params.count > 0 || call.pointee.problemParams.count > 0
    if hasParams {
      for i in 0..<Int(plan.pointee.paramCount) { f.params[i] = params[i] }
      var status = CallParameters.read(call, call.pointee.problemParams, ofProblem: true, into: f.params)
      if status == 0 { status = CallParameters.read(call, call.pointee.params, ofProblem: false, into: f.params) }
      if status != 0 { return status }
      params = UnsafePointer(f.params)
    }
    // 4. sizes, when they are not the plan's
    var frame = BindFrame(
      symbols: UnsafeMutablePointer(mutating: plan.pointee.symbols), bound: plan.pointee.bound,
      present: plan.pointee.present, params: params, dtypes: plan.pointee.dtypes, ranks: plan.pointee.ranks,
      shapes: UnsafePointer(f.seen), given: UnsafePointer(f.given), givenRanks: plan.pointee.givenRanks,
      knobs: plan.pointee.symbols)
    if !same || (plan.pointee.rulesUseLooseParams && hasParams) {
      for e in 0..<n {
        f.given[e] = f.pointers[e] == nil ? nil : UnsafePointer(f.tensors[e].shape)
        f.seen[e] = plan.pointee.ranks[e] < 0 ? nil : f.given[e]
      }
      frame.symbols = f.symbols
      let outcome = plan.pointee.program._withUnsafeGuaranteedRef { $0.run(&frame, complete: true) }
      if !outcome.isGood { return Cold.binding(call, outcome, frame) }
      same = false
    }
    // 5. the first candidate that takes these sizes and addresses
    var env = frame.environment
    for c in 0..<Int(plan.pointee.candidateCount) {
      let candidate = plan.pointee.candidates + c
      env.knobs = candidate.pointee.knobs
      env.workers = Int64(candidate.pointee.workers)
      if candidate.pointee.minAlign > 1, !aligned(f, n, UInt(candidate.pointee.minAlign)) { continue }
      var tasks = candidate.pointee.tasks
      var needed = candidate.pointee.workspace
      var grain = candidate.pointee.grain
      if !same {
        var fault = Fault()
        if let when = candidate.pointee.when, when.value(&env, &fault) == 0 || fault.reason != .none { continue }
        tasks = candidate.pointee.tasksCode?.value(&env, &fault) ?? 1
        let bytes = candidate.pointee.workspaceCode?.value(&env, &fault) ?? 0
        if fault.reason != .none || tasks < 0 || tasks >= Int64.max / 4 || bytes < 0 { continue }
        needed = UInt64(bytes)
        grain = min(grain, max(1, tasks / (4 &* Int64(candidate.pointee.workers))))
      }
      return start(call, f, candidate, &env, params, tasks, needed, grain)
    }
    return Cold.noCandidate(call)
  }

  private static func aligned(_ f: CallFrame, _ n: Int, _ to: UInt) -> Bool {
    for e in 0..<n where f.pointers[e] != nil && UInt(bitPattern: f.tensors[e].data) % to != 0 { return false }
    return true
  }

  private static func inPlace(_ o: UnsafePointer<PlanTensor>, _ out: Int, _ other: Int, _ f: CallFrame) -> Bool {
    guard o.pointee.state == Int32(other), f.tensors[out].data == f.tensors[other].data,
      f.tensors[out].ndim == f.tensors[other].ndim
    else { return false }
    for d in 0..<Int(f.tensors[out].ndim) {
      // The stride of a dim with one entry is nobody's business.
      guard let sa = f.tensors[out].shape, let sb = f.tensors[other].shape, let ta = f.tensors[out].strides,
        let tb = f.tensors[other].strides
      else { return false }
      if sa[d] > 1, sb[d] > 1, ta[d] != tb[d] { return false }
    }
    return true
  }

  /// Workspace, the entry's check, then the tasks.
  private static func start(
    _ call: UnsafeMutablePointer<Call>, _ f: CallFrame, _ candidate: UnsafePointer<PlanCandidate>,
    _ env: inout Environment, _ params: UnsafePointer<attune_value>, _ tasks: Int64, _ needed: UInt64, _ grain: Int64
  ) -> attune_status {
    let plan = call.pointee.plan
    var workspace: UnsafeMutableRawPointer?
    var arena: UnsafeMutableRawPointer?
    if let given = call.pointee.workspace {
      let skip = UInt64((64 &- Int(bitPattern: given) & 63) & 63)
      let (end, over) = needed.addingReportingOverflow(skip)
      if needed > 0, over || end > call.pointee.workspaceBytes { return Cold.workspace(call, needed) }
      workspace = needed > 0 ? given.advanced(by: Int(skip)) : given
    } else if needed > 0 {
      guard let block = crt_arena_acquire(needed) else { return Cold.noMemory(call, needed) }
      arena = block
      workspace = block
    }
    defer { if let arena { crt_arena_release(arena) } }

    var region = plan.pointee.region
    region.workers = candidate.pointee.workers
    region.cancel = call.pointee.cancel
    return withUnsafeMutablePointer(to: &region) { region in
      withUnsafeMutablePointer(to: &env) { env in
        var exec = attune_exec()
        exec.struct_size = UInt32(MemoryLayout<attune_exec>.size)
        exec.n_tensors = UInt32(plan.pointee.tensorCount)
        exec.host = plan.pointee.host
        exec.tensors = UnsafePointer(f.pointers)
        exec.symbols = env.pointee.symbols
        exec.params = params
        exec.knobs = candidate.pointee.knobs
        exec.workspace = workspace
        exec.workspace_bytes = needed
        exec.n_workers = candidate.pointee.workers
        exec.device_type = Int32(ATTUNE_DEVICE_CPU)
        exec.stream = call.pointee.stream
        exec.instance = plan.pointee.instance
        exec.user = candidate.pointee.user
        exec.cancel = call.pointee.cancel
        exec.reserved = UnsafeMutableRawPointer(region)
        var tasksOfCall = TaskCall(
          call: call, candidate: candidate, env: UnsafePointer(env), exec: exec, failed: 0, status: 0)
        if let check = plan.pointee.check {
          let status = TaskCall.checked(&tasksOfCall, check)
          if status != 0 { return status }
        }
        if plan.pointee.checked {
          let status = CheckedCall.run(&tasksOfCall, f, tasks, grain)
          return status
        }
        if plan.pointee.every > 1 { return TaskCall.runShare(&tasksOfCall, tasks, grain) }
        return TaskCall.runAll(&tasksOfCall, tasks, grain)
      }
    }
  }
}
