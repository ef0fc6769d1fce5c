import CAttune
import CRuntime

/// Candidates that somebody names, timed against each other: no model, nothing left out, nobody dropped.
package struct Comparison {
  package struct Line {
    package var candidate: TunedCandidate
    package var standing: Contest.Standing
  }
  /// In the order in which they were named; ratios are to the first.
  package var lines: [Line]
}

extension Context {
  /// Times candidates of a problem on whole calls with generated data, in rounds of random order.
  ///
  /// - names: "kernel" or "kernel:knob=value,...", each with its number of threads; nil: as many as a plan would use.
  /// - rounds: at most, fewer when `longestNs` is over before.
  ///
  /// Throws what planning them throws; E_INTERNAL when one fails.
  package func compare(
    _ record: UnsafePointer<attune_problem>, _ names: [(kernel: String, workers: UInt32?)], rounds: Int,
    longestNs: Double
  ) throws(Refusal) -> Comparison {
    let request = try Problem(reading: record)
    let registration = try registry.find(request.op)
    let bound = try bind(registration.op, request)
    let planner = Planner(bound, resources)
    var lanes: [Candidate] = []
    for (kernel, workers) in names {
      if let workers, workers > resources.workers {
        throw Refusal(
          .invalid, "workers", "\(kernel): \(workers) threads, the context has \(resources.workers)",
          detail: (Int64(resources.workers), Int64(workers)))
      }
      let planned = try planner.forced(kernel, request, workers: workers ?? resources.workers)
      guard let workers else {
        lanes.append(planned)
        continue
      }
      lanes.append(try planner.candidate(planned.kernel, planned.knobs, workers, exactly: true))
    }
    let runner = try TrialRunner(bound, seed: 0) { problem, candidate, isChecked throws(Refusal) in
      try self.trialPlan(request, registration, problem, candidate, isChecked: isChecked)
    }
    var rules = Contest.Rules()
    (rules.leastRounds, rules.mostRounds) = (rounds, rounds)
    (rules.band, rules.hopeless, rules.far) = (.infinity, .infinity, .infinity)
    var contest = Contest(lanes: lanes.count, sentinel: 0, preference: [], seed: 0, rules: rules)
    let begin = crt_now_ns()
    while case .run(let i) = contest.next() {
      switch runner.time(lanes[i], longest: 0) {
      case .took(let ns): contest.took(ns)
      case .failed(_, let reason):
        let kernel = planner.name(lanes[i]).kernel
        throw Refusal(.internal, "", "\(planner.at): \(kernel) failed: \(reason)", source: .kernel)
      }
      if Double(crt_now_ns() &- begin) > longestNs, contest.rounds > 0 { contest.stop() }
    }
    return Comparison(
      lines: lanes.enumerated().map { Comparison.Line(candidate: planner.name($1), standing: contest.standing($0)) })
  }
}
