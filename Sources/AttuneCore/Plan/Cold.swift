import CAttune

/// Refusals of the execute path. Here sentences are made, so here is where it may allocate; every function fills the caller's
/// record and returns the code, and none is inlined there.
enum Cold {
  static func plan(_ c: UnsafeMutablePointer<Call>) -> Plan { c.pointee.plan.pointee.owner.takeUnretainedValue() }
  static func at(_ p: Plan) -> String { "\(p.problem.op.id) \(p.problem.entry.name)" }
  private static func name(_ p: Plan, _ tensor: Int) -> String {
    tensor >= 0 && tensor < p.problem.entry.tensors.count ? p.problem.entry.tensors[tensor].spec.name : "?"
  }
  static func fill(_ c: UnsafeMutablePointer<Call>, _ r: Refusal) -> attune_status {
    ErrorRecord.fill(c.pointee.error, r)
  }

  @inline(never)
  static func tensor(
    _ c: UnsafeMutablePointer<Call>, _ e: Int, _ fault: TensorFault, _ t: UnsafePointer<attune_tensor>?
  ) -> attune_status {
    let p = plan(c)
    return fill(c, Layout.refusal(fault, name(p, e), at(p), fault.kind == .misaligned ? nil : t?.pointee))
  }

  @inline(never)
  static func rank(_ c: UnsafeMutablePointer<Call>, _ e: Int, _ t: UnsafePointer<attune_tensor>) -> attune_status {
    let p = plan(c)
    let want = c.pointee.plan.pointee.tensors[e].rank
    return fill(
      c,
      Refusal(
        .shape, name(p, e), "\(at(p)): \(name(p, e)) has rank \(t.pointee.ndim), the plan was made for \(want)",
        detail: (Int64(want), Int64(t.pointee.ndim))))
  }

  @inline(never)
  static func type(_ c: UnsafeMutablePointer<Call>, _ e: Int, _ t: UnsafePointer<attune_tensor>) -> attune_status {
    let p = plan(c)
    let want = c.pointee.plan.pointee.tensors[e].dtype
    let got = DType(t.pointee.dtype)
    return fill(
      c,
      Refusal(
        .dtype, name(p, e), "\(at(p)): \(name(p, e)) is \(got?.name ?? "?"), the plan was made for \(want.name)",
        detail: (Int64(want.rawValue), Int64(got?.rawValue ?? -1))))
  }

  @inline(never)
  static func larger(_ c: UnsafeMutablePointer<Call>, _ e: Int, _ d: Int, _ x: Int64) -> attune_status {
    let p = plan(c)
    let want = c.pointee.plan.pointee.tensors[e].shape[d]
    return fill(
      c,
      Refusal(
        .shape, name(p, e), "\(at(p)): \(name(p, e)) dim \(d) is \(x), the plan was made for at most \(want)",
        detail: (want, x)))
  }

  @inline(never)
  static func overlap(_ c: UnsafeMutablePointer<Call>, _ out: Int, _ other: Int) -> attune_status {
    let p = plan(c)
    return fill(
      c,
      Refusal(
        .layout, name(p, out), "\(at(p)): output \(name(p, out)) overlaps \(name(p, other)) in memory, expected none"))
  }

  @inline(never)
  static func binding(_ c: UnsafeMutablePointer<Call>, _ o: BindProgram.Outcome, _ frame: BindFrame) -> attune_status {
    let p = plan(c)
    return fill(c, p.problem.program.refusal(o, frame, p.problem.op))
  }

  @inline(never)
  static func noCandidate(_ c: UnsafeMutablePointer<Call>) -> attune_status {
    let p = plan(c)
    let first = p.choice.order.first.map { p.problem.entry.kernels[$0.kernel].spec.name } ?? "?"
    return fill(
      c,
      Refusal(
        .unsupported, "kernel",
        "\(at(p)): kernel \(first) does not take these sizes or addresses, and no other one does"))
  }

  @inline(never)
  static func workspace(_ c: UnsafeMutablePointer<Call>, _ needed: UInt64) -> attune_status {
    let p = plan(c)
    let have = c.pointee.workspaceBytes
    let want = Int64(clamping: min(needed, UInt64(Int64.max) - 63) + 63)
    return fill(
      c,
      Refusal(
        .workspace, "workspace", "\(at(p)): workspace has \(have) bytes, expected \(want)",
        detail: (want, Int64(clamping: have))))
  }

  @inline(never)
  static func noMemory(_ c: UnsafeMutablePointer<Call>, _ needed: UInt64) -> attune_status {
    let p = plan(c)
    return fill(
      c,
      Refusal(
        .noMemory, "workspace", "\(at(p)): no memory for a workspace of \(needed) bytes",
        detail: (Int64(clamping: needed), 0)))
  }

  /// A kernel failed: its own sentence behind the names of plugin and kernel.
  @inline(never)
  static func kernel(
    _ c: UnsafeMutablePointer<Call>, _ candidate: UnsafePointer<PlanCandidate>, _ status: attune_status,
    _ record: UnsafeMutablePointer<attune_error>
  ) {
    let p = plan(c)
    let i = candidate - c.pointee.plan.pointee.candidates
    let kernel = i >= 0 && i < p.choice.order.count ? p.problem.entry.kernels[p.choice.order[i].kernel].spec.name : "?"
    let said = ErrorRecord.message(of: record.pointee)
    let code = Status(rawValue: status)
    let text = said.isEmpty ? (code == .cancelled ? "was cancelled" : "failed with \(code.name)") : said
    _ = fill(
      c,
      Refusal(
        code, ErrorRecord.argument(of: record.pointee), "\(at(p)): \(p.registration.plugin.id)/\(kernel): \(text)",
        detail: record.pointee.detail, source: .kernel))
  }

  @inline(never)
  static func check(
    _ c: UnsafeMutablePointer<Call>, _ status: attune_status, _ record: UnsafeMutablePointer<attune_error>
  ) -> attune_status {
    let p = plan(c)
    let said = ErrorRecord.message(of: record.pointee)
    return fill(
      c,
      Refusal(
        Status(rawValue: status), ErrorRecord.argument(of: record.pointee),
        "\(at(p)): \(said.isEmpty ? "index data is wrong" : said)", detail: record.pointee.detail, source: .plugin))
  }

  @inline(never)
  static func region(_ c: UnsafeMutablePointer<Call>, _ status: attune_status) -> attune_status {
    let p = plan(c)
    let code = Status(rawValue: status)
    let text =
      switch code {
      case .cancelled: "cancelled"
      case .invalid: "the caller's parallel_for left pieces out, or used a worker or range it was not given"
      default: "parallel_for failed with \(code.name)"
      }
    return fill(c, Refusal(code, code == .cancelled ? "cancel" : "parallel_for", "\(at(p)): \(text)"))
  }
}
