// Candidates outlive a process by their names and revisions only: indices change with every edit of a plugin.

extension Planner {
  /// A candidate by names, as wisdom keeps it.
  package func name(_ c: Candidate) -> TunedCandidate {
    let k = problem.entry.kernels[c.kernel].spec
    return TunedCandidate(
      kernel: k.name, revision: k.revision,
      knobs: zip(k.knobs, c.knobs).map { "\($0.name)=\($1)" }.joined(separator: ","),
      workers: c.workers)
  }

  /// The candidate behind such names; nil when this kernel is not there, has another revision, or cannot take the problem.
  package func candidate(_ t: TunedCandidate, _ request: Problem) -> Candidate? {
    guard let i = problem.entry.kernels.firstIndex(where: { $0.spec.name == t.kernel }) else { return nil }
    let k = problem.entry.kernels[i]
    guard k.spec.revision == t.revision, reason(k, request) == nil else { return nil }
    var values: [Substring: Int64] = [:]
    for item in t.knobs.split(separator: ",") {
      let pair = item.split(separator: "=", maxSplits: 1)
      guard pair.count == 2, let v = Int64(pair[1]) else { return nil }
      values[pair[0]] = v
    }
    var knobs: [Int64] = []
    for knob in k.spec.knobs {
      guard let v = values[knob.name[...]], knob.values.contains(v) else { return nil }
      knobs.append(v)
    }
    guard values.count == knobs.count else { return nil }
    return try? candidate(i, knobs, min(max(t.workers, 1), resources.workers), exactly: true)
  }
}

extension TunedCandidate {
  /// The same kernel, revision and knobs, whatever the workers.
  func isSameCode(as other: TunedCandidate) -> Bool {
    kernel == other.kernel && revision == other.revision && knobs == other.knobs
  }
}
