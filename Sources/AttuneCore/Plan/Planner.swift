import CAttune
import CRuntime

/// What the machine and the context allow.
package struct Resources: Sendable {
  package var arch: UInt32
  package var isa: (UInt64, UInt64)
  package var workers: UInt32  // threads of the context's pool or of the caller's
  /// The threads are the caller's, who knows no number of workers but the context's: a plan uses one or all of them.
  package var areLent = false
  package var rates = MachineRates()
}

/// From a bound problem to the ordered candidates of its plan.
package struct Planner {
  package let problem: BoundProblem
  package let resources: Resources
  package let at: String

  package init(_ problem: BoundProblem, _ resources: Resources) {
    self.problem = problem
    self.resources = resources
    at = "\(problem.op.id) \(problem.entry.name)"
  }

  /// Why a kernel cannot run on this machine whatever the problem; nil: it can.
  package static func obstacle(_ k: Kernel, _ r: Resources) -> String? {
    let s = k.spec
    if s.deviceType > UInt32(ATTUNE_DEVICE_CPU) { return "needs device type \(s.deviceType), this host runs CPU only" }
    if s.arch != UInt32(ATTUNE_ARCH_ANY), s.arch != r.arch { return "made for another architecture" }
    let missing = (s.isa.0 & ~r.isa.0, s.isa.1 & ~r.isa.1)
    if missing.0 | missing.1 != 0 {
      return "needs " + ISA.names(missing.0, arch: s.arch == 0 ? r.arch : s.arch).joined(separator: ", ")
    }
    return nil
  }

  /// The kernel that the caller insists on.
  package func forced(_ request: Problem, workers: UInt32) throws(Refusal) -> Candidate {
    try forced(request.kernel ?? "", request, workers: workers)
  }

  /// Why a kernel may not take this problem; nil: it may.
  func reason(_ k: Kernel, _ request: Problem) -> String? {
    if let o = Planner.obstacle(k, resources) { return o }
    let s = k.spec
    if request.isDeterministic, !s.isInvariant, !s.isReference { return "is not deterministic" }
    if s.isReduced, !request.allowsReduced { return "is less accurate than f32 accumulation" }
    if s.minAlign > 1 {
      let least = request.tensors.map(\.isAligned).min() ?? 64
      if Int(s.minAlign) > least { return "needs tensors aligned to \(s.minAlign) bytes" }
    }
    if let when = k.when {
      var env = problem.environment
      var fault = Fault()
      let holds = when.evaluate(&env, &fault)
      if fault.reason != .none { return "its condition \(when.text) has no value: \(fault.words)" }
      if holds == 0 { return "does not take this problem (\(when.text))" }
    }
    return nil
  }

  /// The default knobs, or of the combinations that are worth a try here the one nearest to them.
  func knobs(_ k: Kernel) -> [Int64] {
    let knobs = k.spec.knobs
    let wanted = knobs.map { min($0.def, max($0.values.count - 1, 0)) }
    func values(_ at: [Int]) -> [Int64] { zip(knobs, at).map { $0.values.indices.contains($1) ? $0.values[$1] : 0 } }
    guard k.knobWhen != nil, !knobs.isEmpty else { return values(wanted) }
    var best: (distance: Int, at: [Int])?
    var at = [Int](repeating: 0, count: knobs.count)
    combinations: while true {
      let distance = zip(at, wanted).reduce(0) { $0 + abs($1.0 - $1.1) }
      if distance < best?.distance ?? .max, isWorthTrying(k, values(at)) { best = (distance, at) }
      var j = 0
      while true {
        at[j] += 1
        if at[j] < knobs[j].values.count { break }
        at[j] = 0
        j += 1
        if j == at.count { break combinations }
      }
    }
    return values(best?.at ?? wanted)
  }

  /// The kernel holds such a setting of its knobs for sensible here.
  func isWorthTrying(_ k: Kernel, _ knobs: [Int64]) -> Bool {
    guard let worth = k.knobWhen else { return true }
    for (j, v) in knobs.enumerated() where j < 8 { problem.storage.knobs[j] = v }
    var env = problem.environment
    var fault = Fault()
    return worth.evaluate(&env, &fault) != 0 && fault.reason == .none
  }

  /// - exactly: with this many workers (or as many as there are tasks), even if the job looks too small for them.
  func candidate(_ i: Int, _ knobs: [Int64], _ workers: UInt32, exactly: Bool = false) throws(Refusal) -> Candidate {
    let k = problem.entry.kernels[i]
    var env = problem.environment
    for (j, v) in knobs.enumerated() where j < 8 { problem.storage.knobs[j] = v }
    env.workers = Int64(workers)
    let flops = try k.flops?.cold(&env, at) ?? problem.flops
    let bytes = try k.bytes?.cold(&env, at) ?? problem.bytes
    let tasks = try k.tasks?.cold(&env, at)
    guard tasks ?? 0 >= 0, tasks ?? 0 < Int64.max / 4 else {
      throw Refusal(.shape, "", "\(at): kernel \(k.spec.name) has \(tasks ?? 0) tasks here")
    }
    // Small jobs stay on the calling thread: waking another costs more than they take.
    var used = tasks == nil && !k.spec.ownsThreads ? 1 : workers
    let serial = CostModel.nanoseconds(k, flops: flops, bytes: bytes, workers: 1, tasks: tasks, resources.rates)
    if serial < 20_000, !exactly { used = 1 }
    if let tasks, tasks < Int64(used) { used = UInt32(max(tasks, 1)) }
    if used > 1, resources.areLent { used = resources.workers }
    env.workers = Int64(used)
    let workspace = try k.workspace?.cold(&env, at) ?? 0
    guard workspace >= 0 else { throw Refusal(.shape, "", "\(at): kernel \(k.spec.name) asks for \(workspace) bytes") }
    return Candidate(
      kernel: i, knobs: knobs, workers: used, tasks: tasks, workspace: UInt64(workspace),
      estimate: CostModel.nanoseconds(k, flops: flops, bytes: bytes, workers: used, tasks: tasks, resources.rates))
  }

  /// "name" or "name:bq=64,bk=128".
  func forced(_ text: String, _ request: Problem, workers: UInt32) throws(Refusal) -> Candidate {
    let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
    let name = String(parts.first ?? "")
    guard let i = problem.entry.kernels.firstIndex(where: { $0.spec.name == name }) else {
      let known = problem.entry.kernels.map(\.spec.name)
      let dropped = problem.entry.droppedKernels.first { $0.name == name }
      if let dropped { throw Refusal(.notFound, "kernel", "\(at): kernel \(name) was dropped: \(dropped.reason)") }
      throw Refusal(.notFound, "kernel", "\(at) has no kernel \(name); it has \(known.joined(separator: ", "))")
    }
    let k = problem.entry.kernels[i]
    if let why = reason(k, request) { throw Refusal(.unsupported, "kernel", "\(at): kernel \(name) \(why)") }
    var knobs = self.knobs(k)
    if parts.count == 2 {
      for item in parts[1].split(separator: ",") {
        let pair = item.split(separator: "=", maxSplits: 1)
        guard pair.count == 2, let v = Int64(pair[1]), let j = k.spec.knobs.firstIndex(where: { $0.name == pair[0] })
        else {
          let known = k.spec.knobs.map(\.name).joined(separator: ", ")
          throw Refusal(
            .param, "kernel",
            "\(at): kernel \(name) has no knob \(item); its knobs are \(known.isEmpty ? "none" : known)")
        }
        guard k.spec.knobs[j].values.contains(v) else {
          let known = k.spec.knobs[j].values.map { String($0) }.joined(separator: " ")
          throw Refusal(.param, "kernel", "\(at): knob \(pair[0]) of \(name) is \(v), expected one of \(known)")
        }
        knobs[j] = v
      }
    }
    return try candidate(i, knobs, workers)
  }
}
