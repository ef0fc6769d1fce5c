import CAttune
import CRuntime

/// ATTUNE_CHECKED: outputs filled with NaN (or 0xAB) before the call, red zones around the workspace, floating-point modes
/// compared. Slow, allocates, for tests and bug reports.
enum CheckedCall {
  private static let zone = 4096, pattern: UInt8 = 0xA5

  static func run(_ c: inout TaskCall, _ f: CallFrame, _ tasks: Int64, _ grain: Int64) -> attune_status {
    let plan = c.call.pointee.plan
    for e in 0..<Int(plan.pointee.tensorCount) where plan.pointee.outputs >> UInt64(e) & 1 == 1 {
      let state = Int(plan.pointee.tensors[e].state)
      if state >= 0, state < Int(plan.pointee.tensorCount), f.pointers[state] != nil,
        f.tensors[e].data == f.tensors[state].data
      {
        continue  // in place: what is there is the input
      }
      poison(f.tensors[e])
    }
    let bytes = Int(c.exec.workspace_bytes)
    let block = UnsafeMutableRawPointer.allocate(byteCount: bytes + 2 * zone, alignment: 64)
    defer { block.deallocate() }
    block.initializeMemory(as: UInt8.self, repeating: pattern, count: bytes + 2 * zone)
    if bytes > 0 { c.exec.workspace = block.advanced(by: zone) }
    let modes = crt_fpcw()
    let status = TaskCall.runAll(&c, tasks, grain)
    let after = crt_fpcw()
    crt_set_fpcw(modes)
    let name = plan.pointee.owner.takeUnretainedValue()
    let at = "\(name.problem.op.id) \(name.problem.entry.name)"
    if after != modes {
      return ErrorRecord.fill(
        c.call.pointee.error, Refusal(.internal, "", "\(at): the kernel changed floating-point modes", source: .kernel))
    }
    for i in 0..<zone {
      let low = block.load(fromByteOffset: i, as: UInt8.self)
      let high = block.load(fromByteOffset: zone + bytes + i, as: UInt8.self)
      if low != pattern || high != pattern {
        return ErrorRecord.fill(
          c.call.pointee.error,
          Refusal(
            .internal, "workspace", "\(at): the kernel wrote outside its workspace of \(bytes) bytes", source: .kernel))
      }
    }
    return status
  }

  private static func poison(_ t: attune_tensor) {
    guard let type = DType(t.dtype), let data = t.data, let shape = t.shape, let strides = t.strides else { return }
    var total = 1
    for d in 0..<Int(t.ndim) { total = total &* Int(shape[d]) }
    for linear in 0..<max(total, 0) {
      var rest = linear
      var offset = 0
      var d = Int(t.ndim)
      while d > 0 {
        d -= 1
        let extent = max(Int(shape[d]), 1)
        offset = offset &+ (rest % extent) &* Int(strides[d])
        rest /= extent
      }
      let p = data.advanced(by: offset &* type.size)
      switch type {
      case .f32: p.storeBytes(of: Float.nan.bitPattern, as: UInt32.self)
      case .f64: p.storeBytes(of: Double.nan.bitPattern, as: UInt64.self)
      case .bf16, .f16: p.storeBytes(of: 0x7fff, as: UInt16.self)
      default: for b in 0..<type.size { p.storeBytes(of: 0xAB, toByteOffset: b, as: UInt8.self) }
      }
    }
  }
}
