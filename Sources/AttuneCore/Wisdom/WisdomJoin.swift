/// Joining what several processes, files or machines know about one key. Every join is commutative, associative and
/// idempotent: files may be merged in any order and any number of times. Each is the maximum in a total order, taken
/// field group by field group, which is what makes it so.
extension WisdomRecord {
  /// Of two records with the same key: the better founded verdict, and the trials of both.
  package func joined(_ other: WisdomRecord) -> WisdomRecord {
    WisdomRecord(
      key: key, verdict: verdict.isBetterFounded(than: other.verdict) ? verdict : other.verdict,
      trials: Trial.canonical(trials + other.trials))
  }

  /// The same in its one form: a trial per candidate, in order, no more than fit a line.
  var canonical: WisdomRecord { WisdomRecord(key: key, verdict: verdict, trials: Trial.canonical(trials)) }

  /// A new record of a tuner that knew `old`: its verdict rests on the earlier trials too, and is later than the
  /// earlier verdict. Without this a verdict over few trials, or of the same second, would lose against the one it
  /// replaces.
  func knowing(_ old: WisdomRecord) -> WisdomRecord {
    var out = WisdomRecord(key: key, verdict: verdict, trials: Trial.canonical(trials + old.trials))
    out.verdict.weighed = max(verdict.weighed, old.verdict.weighed, out.trials.count)
    if out.verdict != old.verdict, out.verdict.date <= old.verdict.date { out.verdict.date = old.verdict.date &+ 1 }
    return out
  }
}

extension WisdomRecord.Verdict {
  /// More rigor, then more trials, then later, then by its text.
  func isBetterFounded(than other: Self) -> Bool {
    if rigor != other.rigor { return rigor > other.rigor }
    if weighed != other.weighed { return weighed > other.weighed }
    if date != other.date { return date > other.date }
    return self != other && JSON.object(members).text > JSON.object(other.members).text
  }
}

extension Trial {
  /// Later, then usable, then faster, then by its text.
  func outranks(_ other: Trial) -> Bool {
    if date != other.date { return date > other.date }
    if (status == .ok) != (other.status == .ok) { return status == .ok }
    if ratio != other.ratio { return ratio < other.ratio }
    return self != other && json.text > other.json.text
  }

  /// The best ranked trial of each candidate, best first. The bound keeps a prefix of the same order in which trials of
  /// one candidate compete, so cutting early or late comes to the same.
  static func canonical(_ trials: [Trial]) -> [Trial] {
    var best: [TunedCandidate: Trial] = [:]
    for trial in trials {
      if let known = best[trial.candidate], !trial.outranks(known) { continue }
      best[trial.candidate] = trial
    }
    return Array(best.values.sorted { $0.outranks($1) }.prefix(WisdomLimits.trials))
  }
}

extension MachineRecord {
  /// The later measurement.
  package func joined(_ other: MachineRecord) -> MachineRecord {
    if date != other.date { return date > other.date ? self : other }
    return JSON.object(members).text >= JSON.object(other.members).text ? self : other
  }
}
