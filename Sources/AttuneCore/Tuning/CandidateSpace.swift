import CAttune

/// All the ways a problem can be computed: usable kernels, settings of their knobs, numbers of workers.
package struct CandidateSpace {
  package let planner: Planner
  package let request: Problem
  private let workers: UInt32
  /// Usable kernels by their place in the entry.
  package let kernels: [Int]

  /// Settings of one kernel beyond this are not looked at; a kernel with that many needs a better `knob_when`.
  private static let mostSettings = 1024

  /// - barred: kernels that have proved to be wrong or dangerous in this build; REFERENCE is always left.
  package init(_ planner: Planner, _ request: Problem, workers: UInt32, barred: Set<String> = []) {
    self.planner = planner
    self.request = request
    self.workers = workers
    kernels = planner.problem.entry.kernels.indices.filter { i in
      let k = planner.problem.entry.kernels[i]
      return planner.reason(k, request) == nil && (k.spec.isReference || !barred.contains(k.spec.name))
    }
  }

  /// Every usable kernel with its default knobs, in the author's order.
  package var defaults: [Candidate] {
    kernels.compactMap { i in try? planner.candidate(i, planner.knobs(planner.problem.entry.kernels[i]), workers) }
  }

  /// Numbers of workers worth comparing: one, powers of two, all.
  package func workerCounts(_ candidate: Candidate) -> [UInt32] {
    let ownsThreads = planner.problem.entry.kernels[candidate.kernel].spec.ownsThreads
    guard workers > 1, ownsThreads || candidate.tasks ?? 1 > 1, !request.isDeterministic else {
      return [candidate.workers]
    }
    if planner.resources.areLent { return [1, planner.resources.workers] }
    var counts: [UInt32] = []
    var n: UInt32 = 1
    while n < workers {
      counts.append(n)
      n &*= 2
    }
    return counts + [workers]
  }

  /// The same kernel and knobs with another number of workers; nil when the costs have no value there.
  package func candidate(_ c: Candidate, workers: UInt32) -> Candidate? {
    try? planner.candidate(c.kernel, c.knobs, workers, exactly: true)
  }

  /// `c` with one knob at another of its values, nearest values first.
  package func neighbours(_ c: Candidate) -> [Candidate] {
    let k = planner.problem.entry.kernels[c.kernel]
    var found: [(distance: Int, candidate: Candidate)] = []
    for (j, knob) in k.spec.knobs.enumerated() where c.knobs.indices.contains(j) {
      let here = knob.values.firstIndex(of: c.knobs[j]) ?? 0
      for (at, value) in knob.values.enumerated() where value != c.knobs[j] {
        var knobs = c.knobs
        knobs[j] = value
        guard planner.isWorthTrying(k, knobs),
          let other = try? planner.candidate(c.kernel, knobs, c.workers, exactly: true)
        else { continue }
        found.append((abs(at - here), other))
      }
    }
    return found.sorted { $0.distance < $1.distance }.map(\.candidate)
  }

  /// `c` with every other setting of its knobs; empty when there are more than `most`.
  package func settings(_ c: Candidate, most: Int) -> [Candidate] {
    let all = settings(planner.problem.entry.kernels[c.kernel])
    guard all.count <= most else { return [] }
    return all.filter { $0 != c.knobs }.compactMap { try? planner.candidate(c.kernel, $0, c.workers, exactly: true) }
  }

  /// Everything, for exhaustive tuning.
  package var all: [Candidate] {
    var out: [Candidate] = []
    for i in kernels {
      let k = planner.problem.entry.kernels[i]
      for knobs in settings(k) {
        guard let first = try? planner.candidate(i, knobs, workers, exactly: true) else { continue }
        for n in workerCounts(first) {
          if let c = candidate(first, workers: n), !out.contains(where: { $0.isSame(c) }) { out.append(c) }
        }
      }
    }
    return out
  }

  private func settings(_ k: Kernel) -> [[Int64]] {
    var out: [[Int64]] = [[]]
    for knob in k.spec.knobs {
      out = out.flatMap { start in knob.values.map { start + [$0] } }
      if out.count > CandidateSpace.mostSettings { out.removeLast(out.count - CandidateSpace.mostSettings) }
    }
    return out.filter { planner.isWorthTrying(k, $0) }
  }
}

extension Candidate {
  package func isSame(_ other: Candidate) -> Bool {
    kernel == other.kernel && knobs == other.knobs && workers == other.workers
  }
}
