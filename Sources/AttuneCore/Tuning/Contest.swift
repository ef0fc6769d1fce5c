/// Which of several candidates to time next, and which one wins. It has no clock: whoever runs the candidates tells it
/// what they took, so that every rule below is tested with made-up numbers.
///
/// Timing on a machine that others use drifts, so candidates are run in turn, in rounds of random order, and compared by
/// the median of their ratios to one of them, the sentinel, of the same round: what slows a whole round cancels.
/// The sentinel is the candidate that would run without any tuning, and wins every tie.
package struct Contest: Sendable {
  package struct Rules: Sendable {
    package var warmups = 3
    package var leastRounds = 5, mostRounds = 15
    /// Candidates within this share of the best are as good as it; the order of preference decides among them.
    package var band = 0.03
    /// Slower than the fastest by this factor after its warm-up: not worth a round.
    package var hopeless = 3.0
    /// A round in which the sentinel is this far from its own median says nothing.
    package var disturbance = 0.15
    package init() {}
  }

  package enum Step: Equatable, Sendable {
    case run(Int)
    case over
  }

  package enum Status: Sendable, Equatable {
    case warming, racing
    /// Left the race: much slower, or beaten beyond doubt.
    case slow
    /// Must not be run again.
    case failed
  }

  private struct Lane {
    var status = Status.warming
    var warm: [Double] = []
    var times: [Double] = [], ratios: [Double] = []
  }

  package let sentinel: Int
  private let rules: Rules
  private let preference: [Int]
  private var lanes: [Lane]
  private var numbers: SeededNumbers
  private var round: [Int] = [], position = 0
  private var taken: [Int: Double] = [:]
  private var isRoundDisturbed = false
  private var discarded = 0, sinceLastLoss = 0
  private(set) package var rounds = 0
  private var isStopped = false

  /// - lanes: how many candidates, at least one.
  /// - preference: rank of each, lower is preferred among equally fast ones; a total order makes choices repeatable.
  /// - warm: times of those that were run a moment ago and need no warm-up.
  /// - seed: of the order within rounds.
  package init(
    lanes: Int, sentinel: Int, preference: [Int], warm: [Int: Double] = [:], seed: UInt64, rules: Rules = Rules()
  ) {
    self.lanes = Array(repeating: Lane(), count: max(lanes, 1))
    self.sentinel = min(max(sentinel, 0), max(lanes, 1) - 1)
    self.preference = preference
    self.rules = rules
    numbers = SeededNumbers(seed: seed)
    for (i, ns) in warm where self.lanes.indices.contains(i) && ns > 0 && ns.isFinite {
      self.lanes[i].warm = [ns]
      self.lanes[i].status = .racing
    }
  }

  /// What to run now. Answer with `took`, `failed` or `stop` before asking again.
  package mutating func next() -> Step {
    if isStopped { return .over }
    if lanes[sentinel].status == .failed { return finish() }
    // Warm-ups come one candidate after the other, the yardstick first.
    if lanes[sentinel].status == .warming { return .run(sentinel) }
    if let cold = lanes.indices.first(where: { lanes[$0].status == .warming }) { return .run(cold) }
    if position >= round.count {
      closeRound()
      if isDecided { return finish() }
      round = lanes.indices.filter { lanes[$0].status == .racing || $0 == sentinel }
      round.shuffle(using: &numbers)
      position = 0
      taken = [:]
      isRoundDisturbed = false
    }
    return .run(round[position])
  }

  /// The candidate of the last step took `ns` per call. `isDisturbed`: the system took the processor away meanwhile.
  package mutating func took(_ ns: Double, isDisturbed: Bool = false) {
    guard case .run(let i) = next() else { return }
    let ns = ns.isFinite && ns > 0 ? ns : 1
    if lanes[i].status == .warming { return warmed(i, ns) }
    taken[i] = ns
    if isDisturbed { isRoundDisturbed = true }
    position += 1
  }

  /// The candidate of the last step cannot be used.
  package mutating func failed() {
    guard case .run(let i) = next() else { return }
    lanes[i].status = .failed
    taken[i] = nil
    if position < round.count, round[position] == i { round.remove(at: position) }
  }

  /// No time left: what is known now decides. A first round that was cut short still counts:
  /// without it nobody could win.
  package mutating func stop() {
    if position < round.count, rounds == 0, !taken.isEmpty {
      round.removeAll { taken[$0] == nil }
      position = round.count
      if taken[sentinel] == nil { taken[sentinel] = lanes[sentinel].warm.min() }
    }
    closeRound()
    isStopped = true
  }

  // MARK: results

  package struct Standing: Sendable {
    package var status: Status
    /// Median time and its ratio to the sentinel's; nil when it never finished a round.
    package var median: Double?, ratio: Double?
    /// Median distance of the ratios from their median.
    package var spread: Double
    package var rounds: Int
    /// The fastest warm-up: all that is known of one that left before the first round.
    package var warm: Double?
  }

  package func standing(_ i: Int) -> Standing {
    let lane = lanes[i]
    return Standing(
      status: lane.status, median: median(lane.times), ratio: median(lane.ratios), spread: spread(lane.ratios),
      rounds: lane.ratios.count, warm: lane.warm.min())
  }

  /// The winner; the sentinel unless something is better beyond the noise. nil: the sentinel failed before anything
  /// was compared with it.
  package var winner: Int? {
    let finished = lanes.indices.filter { lanes[$0].status != .failed && !lanes[$0].ratios.isEmpty }
    guard let best = finished.compactMap({ median(lanes[$0].ratios) }).min() else {
      return lanes[sentinel].status == .failed ? nil : sentinel
    }
    let first = finished.filter { median(lanes[$0].ratios) == best }.min { rank($0) < rank($1) } ?? sentinel
    let room = best * (1 + max(rules.band, 2 * doubt(first)))
    if lanes[sentinel].status != .failed, let own = median(lanes[sentinel].ratios), own <= room { return sentinel }
    let tied = finished.filter { i in (median(lanes[i].ratios) ?? .infinity) <= best * (1 + rules.band) }
    return tied.min { rank($0) < rank($1) }
  }

  // MARK: rules

  private mutating func warmed(_ i: Int, _ ns: Double) {
    lanes[i].warm.append(ns)
    let warm = lanes[i].warm
    let fastest = lanes.compactMap { $0.warm.min() }.min() ?? ns
    let own = warm.min() ?? ns
    // A first call also pays for pages and caches that nobody touched before.
    if i != sentinel, own > rules.hopeless * fastest * (warm.count == 1 ? 3 : 1) {
      lanes[i].status = .slow
      return
    }
    let settled = warm.count >= 2 && abs(warm[warm.count - 1] - warm[warm.count - 2]) <= 0.1 * own
    if settled || warm.count >= rules.warmups { lanes[i].status = .racing }
  }

  private mutating func closeRound() {
    guard !taken.isEmpty, position >= round.count, let yardstick = taken[sentinel] else { return }
    defer { taken = [:] }
    if lanes[sentinel].times.count >= 3, let usual = median(lanes[sentinel].times),
      isRoundDisturbed || abs(yardstick - usual) > rules.disturbance * usual, discarded < rules.mostRounds
    {
      discarded += 1
      return
    }
    for (i, ns) in taken {
      lanes[i].times.append(ns)
      lanes[i].ratios.append(ns / yardstick)
    }
    rounds += 1
    sinceLastLoss += 1
    if rounds >= 3, rounds % 2 == 1 { dropBeaten() }
  }

  private mutating func dropBeaten() {
    let racing = lanes.indices.filter { lanes[$0].status == .racing }
    guard let best = racing.compactMap({ median(lanes[$0].ratios) }).min() else { return }
    for i in racing {
      guard let m = median(lanes[i].ratios), m - 2 * doubt(i) > best * (1 + rules.band) else { continue }
      lanes[i].status = .slow
      sinceLastLoss = 0
    }
  }

  private var isDecided: Bool {
    let racing = lanes.indices.filter { lanes[$0].status == .racing }
    // The sentinel alone, or nobody: nothing left to compare. One other is compared until it is sure.
    if racing.isEmpty || racing == [sentinel] { return true }
    return rounds >= rules.mostRounds || rounds >= rules.leastRounds && sinceLastLoss >= 3
  }

  private mutating func finish() -> Step {
    isStopped = true
    return .over
  }

  private func rank(_ i: Int) -> (Int, Int) { (preference.indices.contains(i) ? preference[i] : .max, i) }

  /// How far the median of the ratios may be off.
  private func doubt(_ i: Int) -> Double {
    let n = lanes[i].ratios.count
    return n == 0 ? .infinity : spread(lanes[i].ratios) / Double(n).squareRoot()
  }

  private func median(_ values: [Double]) -> Double? {
    guard !values.isEmpty else { return nil }
    let sorted = values.sorted()
    let middle = sorted.count / 2
    return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
  }

  private func spread(_ values: [Double]) -> Double {
    guard let m = median(values) else { return 0 }
    return median(values.map { abs($0 - m) }) ?? 0
  }
}
