import CAttune
import CRuntime

@c @implementation
public func attune_plan_create(
  _ context: OpaquePointer?, _ problem: UnsafePointer<attune_problem>?, _ out: UnsafeMutablePointer<OpaquePointer?>?,
  _ error: UnsafeMutablePointer<attune_error>?
) -> attune_status {
  guarded(error) { () throws(Refusal) in
    let context = try contextOrRefusal(context)
    guard let out else { throw Refusal(.invalid, "out", "out is NULL") }
    let plan = try context.makePlan(try Problem(reading: problem), held: true)
    out.pointee = OpaquePointer(Unmanaged.passRetained(plan).takeUnretainedValue().record)
  }
}

@c @implementation
public func attune_plan_release(_ plan: OpaquePointer?) {
  guard let plan, let record = PlanRecord.find(plan) else { return }
  record.pointee.owner.release()
}

@c @implementation
public func attune_plan_tensor(
  _ plan: OpaquePointer?, _ name: UnsafePointer<CChar>?, _ out: UnsafeMutablePointer<attune_tensor>?,
  _ shape: UnsafeMutablePointer<Int64>?, _ strides: UnsafeMutablePointer<Int64>?,
  _ error: UnsafeMutablePointer<attune_error>?
) -> attune_status {
  guarded(error) { () throws(Refusal) in
    let plan = try planOrRefusal(plan)
    let name = try CallerMemory.string(name, limit: 63, "name")
    guard let out else { throw Refusal(.invalid, "out", "out is NULL") }
    guard let shape else { throw Refusal(.invalid, "shape", "shape is NULL") }
    guard let strides else { throw Refusal(.invalid, "strides", "strides is NULL") }
    let p = plan.problem
    guard let i = p.entry.tensorIndex(name), p.isPresent(i) else {
      throw Refusal(.notFound, name, "\(p.op.id) \(p.entry.name): the plan has no tensor \(name)")
    }
    let dims = p.shape(i)
    var step: Int64 = 1
    for (d, x) in dims.enumerated().reversed() {
      shape[d] = x
      strides[d] = step
      step = step &* max(x, 1)
    }
    out.pointee = attune_tensor(
      data: nil, device: attune_device(device_type: Int32(ATTUNE_DEVICE_CPU), device_id: 0), ndim: Int32(dims.count),
      dtype: p.dtype(i).dlpack, shape: shape, strides: strides, byte_offset: 0)
  }
}

@c @implementation
public func attune_plan_query(
  _ plan: OpaquePointer?, _ out: UnsafeMutablePointer<attune_plan_info>?, _ error: UnsafeMutablePointer<attune_error>?
) -> attune_status {
  guarded(error) { () throws(Refusal) in
    let plan = try planOrRefusal(plan)
    let out = try CallerMemory.output(out, "out")
    let size = out.pointee.struct_size
    let best = plan.choice.order[0]
    out.pointee = attune_plan_info(
      struct_size: size, source: UInt32(plan.choice.source), rigor: UInt32(plan.choice.rigor), workers: best.workers,
      workspace_bytes: plan.record.pointee.workspaceBytes, plugin: plan.pluginName, kernel: plan.kernelName,
      knobs: plan.knobsText, kernel_revision: plan.problem.entry.kernels[best.kernel].spec.revision, reserved: 0,
      expected_ns: plan.choice.expectedNs)
  }
}

@c @implementation
public func attune_plan_execute(
  _ plan: OpaquePointer?, _ bindings: UnsafePointer<attune_bindings>?, _ error: UnsafeMutablePointer<attune_error>?
) -> attune_status {
  guard let plan, let record = PlanRecord.find(plan), let bindings, CallerMemory.verdict(bindings) == .good,
    let tensors = bindings.pointee.tensors, bindings.pointee.n_tensors == UInt32(record.pointee.bindingCount)
  else { return executeRefusal(plan, bindings, error) }
  var call = Call(
    plan: UnsafePointer(record), tensors: UnsafePointer(tensors), references: nil, referenceStride: 0,
    problemParams: attune_span(), params: bindings.pointee.params, workspace: bindings.pointee.workspace,
    workspaceBytes: bindings.pointee.workspace_bytes, cancel: bindings.pointee.cancel, stream: bindings.pointee.stream,
    error: error)
  return Execute.run(&call)
}

/// What was wrong with the arguments of execute themselves. Cold path.
private func executeRefusal(
  _ plan: OpaquePointer?, _ bindings: UnsafePointer<attune_bindings>?, _ error: UnsafeMutablePointer<attune_error>?
) -> attune_status {
  guarded(error) { () throws(Refusal) in
    let plan = try planOrRefusal(plan)
    let b = try CallerMemory.view(bindings, "bindings").pointee
    let want = plan.problem.order.count
    guard b.n_tensors == UInt32(want) else {
      throw Refusal(
        .invalid, "bindings.n_tensors", "bindings.n_tensors is \(b.n_tensors), the plan was made for \(want)",
        detail: (Int64(want), Int64(b.n_tensors)))
    }
    throw Refusal(.invalid, "bindings.tensors", "bindings.tensors is NULL, expected \(want) pointers")
  }
}

extension PlanRecord {
  /// The record behind a handle; nil for something that is no plan.
  @inline(__always)
  static func find(_ handle: OpaquePointer) -> UnsafeMutablePointer<PlanRecord>? {
    guard UInt(bitPattern: handle) & 7 == 0 else { return nil }
    let r = UnsafeMutablePointer<PlanRecord>(handle)
    return r.pointee.magic == alive ? r : nil
  }
}

private func planOrRefusal(_ handle: OpaquePointer?) throws(Refusal) -> Plan {
  guard let handle else { throw Refusal(.invalid, "plan", "plan is NULL") }
  guard let r = PlanRecord.find(handle) else { throw Refusal(.invalid, "plan", "plan is no plan, or was released") }
  return r.pointee.owner.takeUnretainedValue()
}
