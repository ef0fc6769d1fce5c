import CAttune

/// Parameters that change per call, read without a Swift string unless something is wrong.
enum CallParameters {
  /// Writes what a span says over `out`. Structural parameters of a problem are passed over, elsewhere they are refused.
  static func read(
    _ c: UnsafeMutablePointer<Call>, _ span: attune_span, ofProblem: Bool, into out: UnsafeMutablePointer<attune_value>
  ) -> attune_status {
    let record = c.pointee.plan
    if span.count == 0 { return 0 }
    guard let base = span.data, span.count <= UInt32(BindFrame.capacity), span.stride % 8 == 0,
      Int(span.stride) >= MemoryLayout<attune_param>.size, span.stride <= 4096
    else { return badParams(c, span) }
    for i in 0..<Int(span.count) {
      let p = base.advanced(by: i &* Int(span.stride)).assumingMemoryBound(to: attune_param.self)
      guard CallerMemory.verdict(p) == .good, let name = p.pointee.name else { return badParams(c, span) }
      var index = -1
      for j in 0..<Int(record.pointee.paramCount) where equal(record.pointee.paramSpecs[j].name, name) { index = j }
      if index < 0 { return badParam(c, p, nil) }
      if record.pointee.paramSpecs[index].isStructural {
        if ofProblem { continue }
        return structural(c, index)
      }
      let legal = plainly(p, record, index, out)
      if !legal { return badParam(c, p, index) }
    }
    return 0
  }

  private static func equal(_ a: UnsafePointer<CChar>, _ b: UnsafePointer<CChar>) -> Bool {
    var i = 0
    while i < 64, a[i] == b[i] {
      if a[i] == 0 { return true }
      i &+= 1
    }
    return false
  }

  /// Stores a value that is plainly legal; false sends the caller to the slow judgement.
  private static func plainly(
    _ p: UnsafePointer<attune_param>, _ record: UnsafePointer<PlanRecord>, _ i: Int,
    _ out: UnsafeMutablePointer<attune_value>
  ) -> Bool {
    let spec = record.pointee.paramSpecs[i]
    let v = p.pointee.value
    switch (spec.kind, Int(p.pointee.kind)) {
    case (.bool, ATTUNE_PARAM_BOOL):
      guard v.i == 0 || v.i == 1, v.i >= spec.min.i, v.i <= spec.max.i else { return false }
      out[i] = attune_value(i: v.i, f: 0)
    case (.i64, ATTUNE_PARAM_I64):
      guard v.i >= spec.min.i, v.i <= spec.max.i, !(spec.minOpen && v.i == spec.min.i),
        !(spec.maxOpen && v.i == spec.max.i)
      else { return false }
      out[i] = attune_value(i: v.i, f: 0)
    case (.f64, ATTUNE_PARAM_F64):
      guard v.f.isFinite, v.f >= spec.min.f, v.f <= spec.max.f, !(spec.minOpen && v.f == spec.min.f),
        !(spec.maxOpen && v.f == spec.max.f)
      else { return false }
      out[i] = attune_value(i: 0, f: v.f)
    case (.enum, ATTUNE_PARAM_ENUM):
      guard let word = p.pointee.word else { return false }
      for w in 0..<Int(spec.wordCount) where equal(spec.words[w], word) {
        out[i] = attune_value(i: Int64(w), f: 0)
        return true
      }
      return false
    default: return false
    }
    return true
  }

  @inline(never)
  private static func badParams(_ c: UnsafeMutablePointer<Call>, _ span: attune_span) -> attune_status {
    do {
      for p in try CallerMemory.elements(span, attune_param.self, limit: BindFrame.capacity, "bindings.params") {
        _ = try CallerMemory.string(p.pointee.name, limit: 63, "bindings.params.name")
      }
      return Cold.fill(c, Refusal(.invalid, "bindings.params", "bindings.params cannot be read"))
    } catch { return Cold.fill(c, error) }
  }

  @inline(never)
  private static func badParam(_ c: UnsafeMutablePointer<Call>, _ p: UnsafePointer<attune_param>, _ index: Int?)
    -> attune_status
  {
    let holder = Cold.plan(c)
    let op = holder.problem.op
    do throws(Refusal) {
      let (name, value) = try Problem.param(p.pointee, "bindings.params")
      guard let index, index < op.params.count else {
        let hint = nearest(name, op.params.map(\.name)).map { "; did you mean \($0)?" } ?? ""
        throw Refusal(.param, name, "\(op.id) has no parameter \(name)\(hint)")
      }
      _ = try Parameters.legal(value, op.params[index], Cold.at(holder))
      throw Refusal(.internal, name, "\(Cold.at(holder)): \(name) is refused without a reason")
    } catch { return Cold.fill(c, error) }
  }

  @inline(never)
  private static func structural(_ c: UnsafeMutablePointer<Call>, _ index: Int) -> attune_status {
    let p = Cold.plan(c)
    let n = p.problem.op.params[index].name
    return Cold.fill(
      c, Refusal(.invalid, n, "\(Cold.at(p)): \(n) is structural: it belongs to the plan and cannot change in a call"))
  }
}
