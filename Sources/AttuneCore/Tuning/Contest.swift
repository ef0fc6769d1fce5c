/// Which of several candidates to time next, and which one wins. It has no clock: whoever runs the candidates tells it
/// what they took, so that every rule below is tested with made-up numbers.
///
/// Timing on a machine that others use drifts, so candidates are run in turn, in rounds of random order. Others only ever
/// make a run longer, some for half of all runs where a thread of the candidate has to share its core. So the level of a
/// candidate is the time that an eighth of its times are below (the least of up to eight), and its ratio is to the level
/// of one of them, the sentinel. The sentinel is the candidate that would run without any tuning, and wins every tie.
package struct Contest: Sendable {
  package struct Rules: Sendable {
    package var warmups = 3
    package var leastRounds = 5, mostRounds = 15
    /// Candidates within this share of the best are as good as it; the order of preference decides among them.
    package var band = 0.03
    /// Beyond the least rounds a contest goes on until the levels of all that are left are known this well.
    package var precision = 0.01
    /// Slower than the fastest by this factor after its warm-up: not worth a round.
    package var hopeless = 3.0
    /// The first call of a candidate may be slower by this factor on top: it pays for pages and caches that nobody
    /// touched before.
    package var cold = 3.0
    /// Before so many rounds only who is much slower leaves: the others may have met nothing but disturbed moments.
    package var grace = 3
    /// Whose least time is this much longer than the fastest's does not come closer: until then, and from then on.
    package var farAtFirst = 2.2, far = 1.25
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
    var times: [Double] = []
  }

  package let sentinel: Int
  private let rules: Rules
  private let preference: [Int]
  private var lanes: [Lane]
  private var numbers: SeededNumbers
  private var round: [Int] = [], position = 0
  private var taken: [Int: Double] = [:]
  private var sinceLastLoss = 0
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
    }
    return .run(round[position])
  }

  /// The candidate of the last step took `ns` per call.
  package mutating func took(_ ns: Double) {
    guard case .run(let i) = next() else { return }
    let ns = ns.isFinite && ns > 0 ? ns : 1
    if lanes[i].status == .warming { return warmed(i, ns) }
    taken[i] = ns
    position += 1
  }

  /// The candidate of the last step cannot be used.
  package mutating func failed() {
    guard case .run(let i) = next() else { return }
    lanes[i].status = .failed
    taken[i] = nil
    if position < round.count, round[position] == i { round.remove(at: position) }
  }

  /// No time left: what is known now decides. Before the first round has ended, warm-ups stand in for what it lacks:
  /// without them nobody could win.
  package mutating func stop() {
    if rounds == 0 {
      for i in lanes.indices where taken[i] == nil && lanes[i].status != .failed { taken[i] = lanes[i].warm.min() }
      round = []
    }
    closeRound()
    isStopped = true
  }

  // MARK: results

  package struct Standing: Sendable {
    package var status: Status
    /// Level and its ratio to the sentinel's; nil when it never finished a round.
    package var level: Double?, ratio: Double?
    /// How far the median time lies above the least, as a share of the level.
    package var spread: Double
    package var rounds: Int
    /// The fastest warm-up: all that is known of one that left before the first round.
    package var warm: Double?
  }

  package func standing(_ i: Int) -> Standing {
    let lane = lanes[i]
    return Standing(
      status: lane.status, level: Contest.level(lane.times), ratio: ratio(i), spread: spread(i),
      rounds: lane.times.count, warm: lane.warm.min())
  }

  /// The winner; the sentinel unless something is better beyond the noise. nil: the sentinel failed before anything
  /// was compared with it.
  package var winner: Int? {
    guard let leader, let best = ratio(leader) else { return lanes[sentinel].status == .failed ? nil : sentinel }
    if lanes[sentinel].status != .failed, !isBeaten(sentinel, by: best) { return sentinel }
    return compared.filter { ratio($0) ?? .infinity <= best * (1 + rules.band) }.min { rank($0) < rank($1) }
  }

  /// The one with the least ratio, ties or not; nil before anything was compared.
  package var leader: Int? {
    compared.sorted { rank($0) < rank($1) }.min { ratio($0) ?? .infinity < ratio($1) ?? .infinity }
  }

  /// Who left the race has lost, whatever its few times say.
  private var compared: [Int] {
    lanes.indices.filter { ratio($0) != nil && (lanes[$0].status == .racing || $0 == sentinel) }
      .filter { lanes[$0].status != .failed }
  }

  // MARK: rules

  private mutating func warmed(_ i: Int, _ ns: Double) {
    lanes[i].warm.append(ns)
    let warm = lanes[i].warm
    let fastest = lanes.compactMap { $0.warm.min() }.min() ?? ns
    let own = warm.min() ?? ns
    if i != sentinel, own > rules.hopeless * fastest * (warm.count == 1 ? rules.cold : 1) {
      lanes[i].status = .slow
      return
    }
    let settled = warm.count >= 2 && abs(warm[warm.count - 1] - warm[warm.count - 2]) <= 0.1 * own
    if settled || warm.count >= rules.warmups { lanes[i].status = .racing }
  }

  private mutating func closeRound() {
    guard !taken.isEmpty, position >= round.count, taken[sentinel] != nil else { return }
    defer { taken = [:] }
    for (i, ns) in taken { lanes[i].times.append(ns) }
    rounds += 1
    sinceLastLoss += 1
    dropFar()
    if rounds >= rules.grace, rounds % 2 == 1 { dropBeaten() }
  }

  private mutating func dropFar() {
    let racing = lanes.indices.filter { lanes[$0].status == .racing }
    guard let fastest = racing.compactMap({ least($0) }).min() else { return }
    let factor = rounds < rules.grace ? max(rules.farAtFirst, rules.far) : rules.far
    for i in racing where least(i) ?? 0 > factor * fastest { lanes[i].status = .slow }
  }

  private mutating func dropBeaten() {
    let racing = lanes.indices.filter { lanes[$0].status == .racing }
    guard let best = racing.compactMap({ ratio($0) }).min() else { return }
    for i in racing where isBeaten(i, by: best) {
      lanes[i].status = .slow
      sinceLastLoss = 0
    }
  }

  /// Slower than `best` beyond the band and beyond doubt. A disturbance only adds, so what may really be faster than it
  /// looks is this candidate.
  private func isBeaten(_ i: Int, by best: Double) -> Bool {
    guard let own = ratio(i), let (below, _) = around(i) else { return false }
    if lanes[i].times.count == 1 { return lanes[i].status == .slow }
    return own * (1 - 2 * below) > best * (1 + rules.band)
  }

  private var isDecided: Bool {
    let racing = lanes.indices.filter { lanes[$0].status == .racing }
    // The sentinel alone, or nobody: nothing left to compare. One other is compared until it is sure.
    if racing.isEmpty || racing == [sentinel] { return true }
    // The sentinel is beaten and one is left.
    if racing.count == 1, lanes[sentinel].status == .slow { return true }
    if rounds < rules.leastRounds { return false }
    return rounds >= rules.mostRounds || sinceLastLoss >= 3 && racing.allSatisfy { 2 * doubt($0) <= rules.precision }
  }

  private mutating func finish() -> Step {
    isStopped = true
    return .over
  }

  private func rank(_ i: Int) -> (Int, Int) { (preference.indices.contains(i) ? preference[i] : .max, i) }

  private func least(_ i: Int) -> Double? { (lanes[i].warm + lanes[i].times).min() }

  /// To the sentinel's level over all rounds: in the first ones alone it may have been disturbed. nil before the first.
  private func ratio(_ i: Int) -> Double? {
    guard let own = Contest.level(lanes[i].times) else { return nil }
    return Contest.level(lanes[sentinel].times).map { own / $0 }
  }

  /// How far the level may be off, as a share of it.
  private func doubt(_ i: Int) -> Double {
    guard let (below, above) = around(i), lanes[i].times.count > 1 else { return .infinity }
    return (below + above) / 2
  }

  /// How far the times one standard deviation of the level's rank below and above it lie from it, as shares. That holds
  /// for times of any distribution, two separate heaps of them, too.
  private func around(_ i: Int) -> (below: Double, above: Double)? {
    let times = lanes[i].times.sorted()
    guard let level = Contest.level(times) else { return nil }
    let rank = Double(Contest.rank(times.count))
    let step = max(1, (Double(times.count) * 7 / 64).squareRoot())
    let above = times[min(times.count - 1, Int((rank + step).rounded(.up)))]
    let below = times[max(0, Int((rank - step).rounded(.down)))]
    // Nothing was below the least: how far the next one is says how far another might be.
    let unseen = rank < step ? times[min(1, times.count - 1)] / level - 1 : 0
    return (max(1 - below / level, unseen), above / level - 1)
  }

  private func spread(_ i: Int) -> Double {
    let sorted = lanes[i].times.sorted()
    guard let least = sorted.first, let level = Contest.level(sorted) else { return 0 }
    return (sorted[sorted.count / 2] - least) / level
  }

  /// The time that an eighth of all are below; nil without times.
  private static func level(_ times: [Double]) -> Double? {
    times.isEmpty ? nil : times.sorted()[rank(times.count)]
  }

  private static func rank(_ count: Int) -> Int { (count - 1) / 8 }
}
