import CAttune
import CRuntime

/// The tasks of one call, shared by the threads that run them. Plain memory on the caller's stack.
struct TaskCall {
  var call: UnsafeMutablePointer<Call>
  var candidate: UnsafePointer<PlanCandidate>
  var env: UnsafePointer<Environment>
  var exec: attune_exec
  /// The first piece that fails claims this and writes `status` and the caller's record.
  var failed: Int32
  var status: attune_status

  static func runAll(_ c: inout TaskCall, _ tasks: Int64, _ grain: Int64) -> attune_status {
    if tasks == 0 { return 0 }
    let ownsThreads = c.candidate.pointee.ownsThreads
    guard let region = UnsafeRawPointer(c.exec.reserved)?.assumingMemoryBound(to: crt_region.self) else {
      return attune_status(ATTUNE_E_INTERNAL)
    }
    return withUnsafeMutablePointer(to: &c) { c in
      var status: attune_status = 0
      if let cancel = region.pointee.cancel, crt_load_i32(cancel) != 0 {
        status = attune_status(ATTUNE_E_CANCELLED)
      } else if ownsThreads || (region.pointee.workers < 2 && region.pointee.cancel == nil) {
        TaskCall.piece(c, 0, tasks, 0)  // it opens regions itself, or there is nobody to share with
      } else {
        status = crt_parallel(
          region, tasks, grain,
          { context, begin, end, worker in
            guard let context else { return }
            TaskCall.piece(context.assumingMemoryBound(to: TaskCall.self), begin, end, worker)
          }, c)
      }
      if crt_load_i32(&c.pointee.failed) != 0 { return c.pointee.status }
      return status == 0 ? 0 : Cold.region(c.pointee.call, status)
    }
  }

  /// One call of the kernel.
  @inline(__always)
  static func piece(_ c: UnsafeMutablePointer<TaskCall>, _ begin: Int64, _ end: Int64, _ worker: UInt32) {
    if crt_load_i32(&c.pointee.failed) != 0 { return }
    var exec = c.pointee.exec
    (exec.task_begin, exec.task_end, exec.worker) = (begin, end, worker)
    withUnsafeTemporaryAllocation(of: attune_error.self, capacity: 1) { memory in
      guard let error = memory.baseAddress else { return }
      // Only the fields a reader trusts; a full clear of 512 bytes would be a tenth of a small call.
      error.pointee.struct_size = UInt32(MemoryLayout<attune_error>.size)
      error.pointee.code = 0
      error.pointee.detail = (0, 0)
      error.pointee.argument.0 = 0
      error.pointee.message.0 = 0
      exec.error = error
      var status: attune_status
      if let run = c.pointee.candidate.pointee.run {
        status = run(&exec)
      } else {
        status = Native.call(c.pointee.candidate, &exec, c.pointee.env)
      }
      if status != 0 {
        if status > 0 { status = attune_status(ATTUNE_E_INTERNAL) }
        if crt_claim(&c.pointee.failed) != 0 {
          c.pointee.status = status
          Cold.kernel(c.pointee.call, c.pointee.candidate, status, error)
        }
      }
    }
  }

  /// The entry's look at small index data, before any task.
  static func checked(_ c: inout TaskCall, _ check: @convention(c) (UnsafePointer<attune_exec>?) -> attune_status)
    -> attune_status
  {
    withUnsafeTemporaryAllocation(of: attune_error.self, capacity: 1) { memory in
      guard let error = memory.baseAddress else { return attune_status(ATTUNE_E_INTERNAL) }
      error.pointee.struct_size = UInt32(MemoryLayout<attune_error>.size)
      error.pointee.code = 0
      error.pointee.detail = (0, 0)
      error.pointee.argument.0 = 0
      error.pointee.message.0 = 0
      var exec = c.exec
      exec.error = error
      let status = check(&exec)
      return status == 0 ? 0 : Cold.check(c.call, min(status, -status), error)
    }
  }
}

/// Kernels bound as an argument list.
enum Native {
  static func call(
    _ candidate: UnsafePointer<PlanCandidate>, _ exec: UnsafeMutablePointer<attune_exec>,
    _ env: UnsafePointer<Environment>
  ) -> attune_status {
    guard let fn = candidate.pointee.native, let cif = candidate.pointee.cif, let tensors = exec.pointee.tensors else {
      return attune_status(ATTUNE_E_INTERNAL)
    }
    return withUnsafeTemporaryAllocation(of: UInt64.self, capacity: 64) { slots in
      guard let base = slots.baseAddress else { return attune_status(ATTUNE_E_INTERNAL) }
      for i in 0..<min(Int(candidate.pointee.argumentCount), 64) {
        let a = candidate.pointee.arguments + i
        let t = Int(a.pointee.index)
        let slot = base + i
        slot.pointee = 0
        switch a.pointee.kind {
        case .data: slot.pointee = UInt64(UInt(bitPattern: tensors[t]?.pointee.data))
        case .tensor: slot.pointee = UInt64(UInt(bitPattern: tensors[t]))
        case .stride:
          let d = Int(a.pointee.dim)
          var stride: Int64 = 0
          if let x = tensors[t], d >= 0, d < Int(x.pointee.ndim), let shape = x.pointee.shape, shape[d] > 1 {
            stride = x.pointee.strides?[d] ?? 0
          }
          store(stride, a.pointee.ctype, slot)
        case .expr:
          var fault = Fault()
          guard let code = a.pointee.code else { continue }
          let v = code.value(env, &fault)
          if fault.reason != .none {
            return attune_fail(
              exec.pointee.error, attune_status(ATTUNE_E_SHAPE), "", "an argument expression has no value")
          }
          store(v, a.pointee.ctype, slot)
        case .param:
          guard let params = exec.pointee.params else { continue }
          if a.pointee.isReal {
            store(params[t].f, a.pointee.ctype, slot)
          } else {
            store(params[t].i, a.pointee.ctype, slot)
          }
        case .workspace: slot.pointee = UInt64(UInt(bitPattern: exec.pointee.workspace))
        case .taskBegin: store(exec.pointee.task_begin, a.pointee.ctype, slot)
        case .taskEnd: store(exec.pointee.task_end, a.pointee.ctype, slot)
        case .worker: store(Int64(exec.pointee.worker), a.pointee.ctype, slot)
        case .exec: slot.pointee = UInt64(UInt(bitPattern: exec))
        }
      }
      return crt_native_call(cif, fn, base)
    }
  }

  private static func store(_ v: Int64, _ type: Descriptor.Argument.CType, _ slot: UnsafeMutablePointer<UInt64>) {
    let raw = UnsafeMutableRawPointer(slot)
    switch type {
    case .i32: raw.storeBytes(of: Int32(clamping: v), as: Int32.self)
    case .i64, .ptr: raw.storeBytes(of: v, as: Int64.self)
    case .f32: raw.storeBytes(of: Float(v), as: Float.self)
    case .f64: raw.storeBytes(of: Double(v), as: Double.self)
    }
  }
  private static func store(_ v: Double, _ type: Descriptor.Argument.CType, _ slot: UnsafeMutablePointer<UInt64>) {
    let raw = UnsafeMutableRawPointer(slot)
    switch type {
    case .f32: raw.storeBytes(of: Float(v), as: Float.self)
    case .f64: raw.storeBytes(of: v, as: Double.self)
    case .i32, .i64, .ptr: store(Int64(exactly: v.rounded(.towardZero)) ?? 0, type, slot)
    }
  }
}
