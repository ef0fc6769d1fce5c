import CAttune
import CRuntime

/// The arguments of attune_run.
private struct RunCall {
  var context: Unmanaged<Context>
  var problem: UnsafePointer<attune_problem>
  var bindings: UnsafePointer<attune_bindings>?
  var error: UnsafeMutablePointer<attune_error>?
}

@c @implementation
public func attune_run(
  _ context: OpaquePointer?, _ problem: UnsafePointer<attune_problem>?, _ bindings: UnsafePointer<attune_bindings>?,
  _ error: UnsafeMutablePointer<attune_error>?
) -> attune_status {
  guard let context, UInt(bitPattern: context) & 7 == 0,
    UnsafePointer<ContextRecord>(context).pointee.magic == ContextRecord.alive, let problem,
    CallerMemory.verdict(problem) == .good
  else {
    return guarded(error) { () throws(Refusal) in
      _ = try contextOrRefusal(context)
      _ = try CallerMemory.view(problem, "problem")
    }
  }
  var call = RunCall(
    context: UnsafePointer<ContextRecord>(context).pointee.owner, problem: problem, bindings: bindings, error: error)
  let repeated = call.context._withUnsafeGuaranteedRef { context -> UnsafePointer<PlanRecord>? in
    guard let known = context.cache.recent, known.pointee.isFor(problem) else { return nil }
    return UnsafePointer(known.pointee.plan)
  }
  if let repeated { return execute(repeated, &call) }
  return withUnsafeMutablePointer(to: &call) { call in
    crt_with_frame(
      RunCache.firstKeyBytes + RunCache.secondKeyBytes,
      { context, memory in
        guard let context, let memory else { return attune_status(ATTUNE_E_INTERNAL) }
        return lookUpAndRun(context.assumingMemoryBound(to: RunCall.self), memory)
      }, call)
  }
}

/// `memory`: room for both keys.
private func lookUpAndRun(_ call: UnsafeMutablePointer<RunCall>, _ memory: UnsafeMutableRawPointer) -> attune_status {
  let problem = call.pointee.problem
  var first = RunKey<Writing>(memory, RunCache.firstKeyBytes)
  guard first.structure(of: problem) else { return runWithoutCache(call) }
  let length = first.length
  let secondMemory = memory.advanced(by: RunCache.firstKeyBytes)
  let known = call.pointee.context._withUnsafeGuaranteedRef { context -> UnsafeMutablePointer<PlanRecord>? in
    var second = RunKey<Writing>(secondMemory, RunCache.secondKeyBytes)
    guard let s = context.cache.structure(memory, length), second.sizes(of: problem, s) else { return nil }
    return context.cache.plan(secondMemory, second.length)
  }
  if let known { return execute(UnsafePointer(known), &call.pointee) }
  return makeAndRun(call, memory, length, secondMemory)
}

private func execute(_ plan: UnsafePointer<PlanRecord>, _ run: inout RunCall) -> attune_status {
  let problem = run.problem
  var call = Call(
    plan: plan, tensors: nil, references: problem.pointee.tensors.data,
    referenceStride: Int(problem.pointee.tensors.stride), problemParams: problem.pointee.params, params: attune_span(),
    workspace: nil, workspaceBytes: 0, cancel: nil, stream: nil, error: run.error)
  if let b = run.bindings {
    guard CallerMemory.verdict(b) == .good,
      b.pointee.tensors == nil || b.pointee.n_tensors == UInt32(plan.pointee.bindingCount)
    else { return bindingsRefusal(b, plan, run.error) }
    if let t = b.pointee.tensors { call.tensors = UnsafePointer(t) }
    call.params = b.pointee.params
    (call.workspace, call.workspaceBytes) = (b.pointee.workspace, b.pointee.workspace_bytes)
    (call.cancel, call.stream) = (b.pointee.cancel, b.pointee.stream)
  }
  return Execute.run(&call)
}

private func bindingsRefusal(
  _ b: UnsafePointer<attune_bindings>, _ plan: UnsafePointer<PlanRecord>, _ error: UnsafeMutablePointer<attune_error>?
) -> attune_status {
  let want = plan.pointee.bindingCount
  return guarded(error) { () throws(Refusal) in
    let c = try CallerMemory.view(b, "bindings").pointee
    guard c.n_tensors == UInt32(want) else {
      throw Refusal(
        .invalid, "bindings.n_tensors", "bindings.n_tensors is \(c.n_tensors), the problem has \(want)",
        detail: (Int64(want), Int64(c.n_tensors)))
    }
    throw Refusal(.invalid, "bindings.tensors", "bindings.tensors is NULL, expected \(want) pointers")
  }
}

/// First call of its kind: binds, chooses, remembers, runs. Cold path.
private func makeAndRun(
  _ call: UnsafeMutablePointer<RunCall>, _ firstKey: UnsafeMutableRawPointer, _ length: Int,
  _ secondKey: UnsafeMutableRawPointer
) -> attune_status {
  let context = call.pointee.context.takeUnretainedValue()
  var record: UnsafeMutablePointer<PlanRecord>?
  var dropped: Plan?
  let status = guarded(call.pointee.error) { () throws(Refusal) in
    var request = try Problem(reading: call.pointee.problem)
    let registration = try context.registry.find(request.op)
    let exact = try context.bind(registration.op, request)  // the caller's own sizes are judged first
    for i in request.tensors.indices { request.tensors[i].isAligned = 64 }  // execute looks at real addresses
    var largest: BoundProblem?
    if let tensors = exact.tensorsOfBucket(request.tensors.map(\.given)) {
      largest = try? Binder.bind(op: registration.op, entry: request.entry, tensors: tensors, params: request.params)
    }
    let structure = context.cache.addStructure(
      firstKey, length, problem: exact, params: request.params, exact: largest == nil)
    var second = RunKey<Writing>(secondKey, RunCache.secondKeyBytes)
    let fits = second.sizes(of: call.pointee.problem, structure)
    let plan = try context.makePlan(request, registration, largest ?? exact, held: false)
    if fits, !context.cache.isFull {
      record = context.cache.add(secondKey, second.length, structure, plan)
    } else {
      dropped = plan
      record = plan.record
    }
  }
  guard status == 0, let record else { return status }
  return withExtendedLifetime(dropped) { execute(UnsafePointer(record), &call.pointee) }
}

/// A problem that does not fit a key or cannot be read: planned from scratch, which also finds the words for what is wrong.
private func runWithoutCache(_ call: UnsafeMutablePointer<RunCall>) -> attune_status {
  let context = call.pointee.context.takeUnretainedValue()
  var plan: Plan?
  let status = guarded(call.pointee.error) { () throws(Refusal) in
    let request = try Problem(reading: call.pointee.problem)
    plan = try context.makePlan(request, held: false)
  }
  guard status == 0, let plan else { return status }
  return withExtendedLifetime(plan) { execute(UnsafePointer(plan.record), &call.pointee) }
}
