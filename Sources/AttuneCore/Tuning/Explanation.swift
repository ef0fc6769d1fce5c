import CAttune

/// Why a problem is computed the way it is: what `attune explain` shows.
package struct Explanation {
  package struct Line {
    package var candidate: TunedCandidate
    package var estimate: Double  // nanoseconds by the model; 0 unknown
    package var trial: Trial?
  }
  package var choice: Choice
  package var chosen: TunedCandidate
  /// What the choice was made for; `isExact`: these are the problem's own sizes.
  package var key: WisdomKey, isExact: Bool
  package var record: WisdomRecord?
  /// Everything that was measured, best first, then every usable kernel that was not, by the model.
  package var lines: [Line]
  package var declined: [(kernel: String, reason: String)]
}

extension Context {
  /// Plans the problem as `attune_plan_create` does and tells what spoke for the choice. Throws the same.
  package func explain(_ record: UnsafePointer<attune_problem>) throws(Refusal) -> Explanation {
    let request = try Problem(reading: record)
    let registration = try registry.find(request.op)
    let bound = try bind(registration.op, request)
    let plan = try makePlan(request, registration, bound, held: false)
    let workers = request.workers > 0 ? min(UInt32(request.workers), resources.workers) : resources.workers
    let planner = Planner(bound, resources)
    let target = TuningTarget(bound, request, resources, workers: workers)
    let barred = tuner.barred(registration, bound.entry)
    var declined: [(kernel: String, reason: String)] = bound.entry.droppedKernels.map { ($0.name, $0.reason) }
    for k in bound.entry.kernels {
      if let why = planner.reason(k, request) {
        declined.append((k.spec.name, why))
      } else if let q = barred[k.spec.name], !k.spec.isReference {
        declined.append((k.spec.name, "proved \(q.reason.rawValue) in this build"))
      }
    }
    let remembered = tuner.wisdom.find(target.key)
    var lines = (remembered?.trials ?? []).map { trial in
      Explanation.Line(
        candidate: trial.candidate, estimate: planner.candidate(trial.candidate, request)?.estimate ?? 0, trial: trial)
    }
    let space = CandidateSpace(planner, request, workers: workers, barred: Set(barred.keys))
    for c in space.defaults.sorted(by: { $0.estimate < $1.estimate }) {
      let name = planner.name(c)
      if !lines.contains(where: { $0.candidate == name }) {
        lines.append(Explanation.Line(candidate: name, estimate: c.estimate, trial: nil))
      }
    }
    return Explanation(
      choice: plan.choice, chosen: planner.name(plan.choice.order[0]), key: target.key, isExact: target.isExact,
      record: remembered, lines: lines, declined: declined)
  }
}
