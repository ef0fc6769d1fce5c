import CAttune

/// A caller's `attune_problem` as Swift values, checked for form but not yet for meaning. Cold path.
package struct Problem {
  package struct Tensor {
    package var name: String
    /// Normal form without an owner of its shape: only `given` is used after reading.
    package var given: GivenTensor
    package var isAligned: Int  // largest power of two (up to 64) that divides the address; 64 without data
    package var lastStride: Int64 = 1  // of a dim with more than one entry
    package var overlap: (dim: Int, stride: Int64)?  // how it overlaps itself
  }
  package var op = "", entry = "forward", kernel: String?
  package var tensors: [Tensor] = []
  package var params: [(name: String, value: ParamValue)] = []
  package var flags: UInt32 = 0
  package var workers: Int32 = 0, tuneMode: Int32 = 0
  package var budget: UInt64 = 0

  package var isDeterministic: Bool { flags & UInt32(ATTUNE_DETERMINISTIC) != 0 }
  package var allowsReduced: Bool { flags & UInt32(ATTUNE_ALLOW_REDUCED) != 0 }

  package init(reading p: UnsafePointer<attune_problem>?) throws(Refusal) {
    let c = try CallerMemory.view(p, "problem").pointee
    op = try CallerMemory.string(c.op, "problem.op")
    if let e = c.entry { entry = try CallerMemory.string(e, "problem.entry") }
    if let k = c.kernel { kernel = try CallerMemory.string(k, "problem.kernel") }
    let known = UInt32(ATTUNE_DETERMINISTIC | ATTUNE_ALLOW_REDUCED | ATTUNE_ALLOW_COPY)
    guard c.flags & ~known == 0 else {
      throw Refusal(.unsupported, "problem.flags", "problem.flags has unknown bits: \(c.flags & ~known)")
    }
    guard c.device_type == 0 || c.device_type == Int32(ATTUNE_DEVICE_CPU), c.device_id == 0 else {
      throw Refusal(
        .unsupported, "problem.device_type",
        "problem.device_type is \(c.device_type):\(c.device_id), expected 0 or 1 (CPU) and device 0",
        detail: (Int64(ATTUNE_DEVICE_CPU), Int64(c.device_type)))
    }
    guard c.workers >= 0 else {
      throw Refusal(
        .invalid, "problem.workers", "problem.workers is \(c.workers), expected 0 or more",
        detail: (0, Int64(c.workers)))
    }
    guard (0...Int32(ATTUNE_TUNE_EXHAUSTIVE)).contains(c.tune_mode) else {
      throw Refusal(.invalid, "problem.tune_mode", "problem.tune_mode is \(c.tune_mode), expected 0 to 6")
    }
    (flags, workers, tuneMode, budget) = (c.flags, c.workers, c.tune_mode, c.tune_budget_us)
    for ref in try CallerMemory.elements(
      c.tensors, attune_tensor_ref.self, limit: BindFrame.capacity, "problem.tensors")
    {
      try readTensor(ref.pointee)
    }
    for x in try CallerMemory.elements(c.params, attune_param.self, limit: BindFrame.capacity, "problem.params") {
      params.append(try Problem.param(x.pointee, "problem.params"))
    }
  }

  private mutating func readTensor(_ ref: attune_tensor_ref) throws(Refusal) {
    let name = try CallerMemory.string(ref.name, limit: 63, "problem.tensors.name")
    guard ref.reserved == 0 else {
      throw Refusal(
        .unsupported, name, "problem.tensors: reserved of \(name) is \(ref.reserved), expected 0",
        detail: (0, Int64(ref.reserved)))
    }
    guard let t = ref.tensor else {
      tensors.append(Tensor(name: name, given: GivenTensor(name), isAligned: 64))
      return
    }
    var fault = TensorFault()
    var record = attune_tensor()
    var range = ByteRange()
    var dims: [Int64] = []
    var lastStride: Int64 = 1
    var overlap: (dim: Int, stride: Int64)?
    withUnsafeTemporaryAllocation(of: Int64.self, capacity: 16) { memory in
      guard let m = memory.baseAddress else { return }
      // Strides of the last dim and of outputs are judged when the entry is known (checkLayouts).
      fault = Layout.normalize(
        t, isOutput: false, stridedLast: true, needsData: false, into: &record, shape: m, strides: m + 8, range: &range)
      guard fault.kind == .none else { return }
      dims = (0..<Int(record.ndim)).map { m[$0] }
      if let last = dims.last, last > 1, !dims.contains(0) { lastStride = m[8 + dims.count - 1] }
      if !dims.contains(0), let d = Layout.selfOverlap(dims.count, m, m + 8) { overlap = (d, m[8 + d]) }
    }
    guard fault.kind == .none, let type = DType(record.dtype) else {
      throw Layout.refusal(fault, name, "\(op) \(entry)", UInt(bitPattern: t) & 7 == 0 ? t.pointee : nil)
    }
    let address = UInt(bitPattern: record.data)
    let aligned = address == 0 ? 64 : min(64, 1 << address.trailingZeroBitCount)
    tensors.append(
      Tensor(
        name: name, given: GivenTensor(name, type, dims), isAligned: aligned, lastStride: lastStride,
        overlap: overlap))
  }

  /// Step 10 of ABI.md "Binding", as far as it needs the entry.
  func checkLayouts(_ problem: BoundProblem) throws(Refusal) {
    let at = "\(problem.op.id) \(problem.entry.name)"
    for (t, i) in zip(tensors, problem.order) {
      let model = problem.entry.tensors[i]
      var fault = TensorFault()
      if t.lastStride != 1, !model.spec.stridedLast {
        fault = TensorFault(kind: .lastStride, dim: Int32((t.given.shape?.count ?? 1) - 1), value: t.lastStride)
      } else if model.isOutput, let overlap = t.overlap {
        fault = TensorFault(kind: .selfOverlap, dim: Int32(overlap.dim), value: overlap.stride)
      }
      if fault.kind != .none { throw Layout.refusal(fault, t.name, at, nil) }
    }
  }

  /// One parameter with its kind checked.
  package static func param(_ p: attune_param, _ at: String) throws(Refusal) -> (name: String, value: ParamValue) {
    let name = try CallerMemory.string(p.name, limit: 63, at + ".name")
    switch Int(p.kind) {
    case ATTUNE_PARAM_BOOL:
      guard p.value.i == 0 || p.value.i == 1 else {
        throw Refusal(.param, name, "\(name) is \(p.value.i), expected 0 or 1", detail: (1, p.value.i))
      }
      return (name, .flag(p.value.i == 1))
    case ATTUNE_PARAM_I64: return (name, .integer(p.value.i))
    case ATTUNE_PARAM_F64: return (name, .real(p.value.f))
    case ATTUNE_PARAM_ENUM: return (name, .word(try CallerMemory.string(p.word, limit: 63, name + ".word")))
    default:
      throw Refusal(
        .param, name, "\(name) has kind \(p.kind), expected 1 to 4 (use ATTUNE_SET_*)", detail: (4, Int64(p.kind)))
    }
  }
}
