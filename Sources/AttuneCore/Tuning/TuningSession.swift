import CAttune
import CRuntime
import Glibc

/// What a session tells while it works, so that whoever watches knows which candidate ran last if the process dies.
package enum TuningEvent: Sendable {
  case begins(TunedCandidate)
  case measured(Trial)
  case barred(TunedCandidate, Trial.Status, String)
}

/// One measured choice: correctness, then contests, first between kernels, then between settings of the best one.
struct TuningSession {
  struct Limits {
    /// Nanoseconds for everything; nil: as much as it takes.
    var budget: Double?
    /// The budget may shrink to so many calls of the default candidate, but not below `least`.
    var calls = 0.0, least = 0.0
    /// Kernels in the first contest, and what it and the search for settings leave for the last one.
    var kernels = 8, finalists = 4
    var rules = Contest.Rules()
    /// Large problems may be timed on a share of their tasks.
    var shares = true
    /// Every setting of every kernel at once.
    var isExhaustive = false
    /// How often settings are looked for around the best one.
    var improvements = 3
  }

  struct Finding {
    var winner: TunedCandidate
    var trials: [Trial]
    /// How far the yardstick's times were apart.
    var drift: Double
    /// The machine had other work.
    var isLoaded: Bool
  }

  let target: TuningTarget
  let space: CandidateSpace
  let limits: Limits
  let makePlan: TrialRunner.MakePlan
  let watch: (TuningEvent) -> Void
  /// Earlier measurements of this very target.
  let known: [Trial]

  private let runner: TrialRunner
  private let judge: TrialJudge?
  private var verdicts: [TunedCandidate: Bool] = [:]
  /// The first candidate that proved to be right.
  private var peer: Candidate?
  private var trials: [TunedCandidate: Trial] = [:]
  private(set) var barred: [(candidate: TunedCandidate, status: Trial.Status, reason: String)] = []
  private var deadline = Int64.max
  private var longest = 0.0
  /// Why `run` found nothing.
  private(set) var obstacle = "no candidate could be compared with REFERENCE"
  private var drift = 0.0

  /// E_NOMEM and what REFERENCE refuses.
  init(
    _ target: TuningTarget, _ space: CandidateSpace, _ limits: Limits, known: [Trial],
    makePlan: @escaping TrialRunner.MakePlan, watch: @escaping (TuningEvent) -> Void
  ) throws(Refusal) {
    self.target = target
    self.space = space
    self.limits = limits
    self.known = known
    self.makePlan = makePlan
    self.watch = watch
    runner = try TrialRunner(target.largest, seed: 0, makePlan: makePlan)
    judge = try TuningSession.judge(target, space, makePlan)
  }

  /// A problem like the target's, small enough for REFERENCE.
  private static func judge(
    _ target: TuningTarget, _ space: CandidateSpace, _ makePlan: @escaping TrialRunner.MakePlan
  ) throws(Refusal) -> TrialJudge? {
    let problem = target.largest
    guard let reference = problem.entry.kernels.firstIndex(where: \.spec.isReference) else { return nil }
    var small = problem
    var shrink: Int64 = 2
    while small.flops > TrialJudge.flops, shrink < 1 << 40 {
      defer { shrink *= 2 }
      let tensors = problem.resized(target.tensors) { symbol, size in
        let isClassed = problem.entry.buckets.contains { $0.symbol == symbol && $0.rule != .exact }
        return isClassed ? max(size / shrink, min(size, 1)) : size
      }
      guard let tensors else { continue }
      // Rules may refuse single sizes; another shrink will do.
      if let next = try? Binder.bind(
        op: problem.op, entry: problem.entry.name, tensors: tensors, params: space.request.params),
        next.flops < small.flops
      {
        small = next
      }
    }
    guard small.flops <= 50 * TrialJudge.flops else {
      throw Refusal(.unsupported, "", "\(space.planner.at): no problem is small enough for REFERENCE")
    }
    let candidate = Candidate(kernel: reference, knobs: [], workers: 1, tasks: nil, workspace: 0, estimate: 0)
    return try TrialJudge(small, reference: candidate, seed: 1, makePlan: makePlan)
  }

  // MARK: the course of a session

  /// After so many rounds of the last few more of them say little.
  private static let decisiveRounds = 60

  /// Winner and all trials; nil when nothing could be measured in time.
  mutating func run(defaultCandidate: Candidate, incumbent: Candidate?, fresh: [Candidate]?) -> Finding? {
    // The yardstick must be right before anything is compared with it. One that does not take the small problem can only
    // be compared with another that is right, so the first of those has to be known before.
    let defaults = space.defaults.sorted { $0.estimate < $1.estimate }
    let yardsticks = [defaultCandidate] + defaults
    guard yardsticks.contains(where: { isRight($0) }), let sentinel = yardsticks.first(where: { isRight($0) }) else {
      return nil
    }
    guard case .took(let first) = runner.time(sentinel, longest: 0) else {
      obstacle = "\(name(sentinel).kernel) failed"
      return nil
    }
    if let budget = limits.budget {
      let wanted = max(limits.least, limits.calls * first)
      let granted = min(budget, wanted)
      deadline = crt_now_ns() &+ Int64(min(granted, 1e15))
      // A sample longer than this would leave too few of them.
      if limits.shares { longest = max(2e6, granted / 64) }
    }
    var best = sentinel
    if limits.isExhaustive {
      var lanes = [sentinel]
      for c in space.all where !c.isSame(sentinel) && isRight(c) { lanes.append(c) }
      best = contest(lanes, sentinel, limits.rules)?.winner.map { lanes[$0] } ?? sentinel
    } else {
      let usable = fresh.map { fresh in defaults.filter { c in fresh.contains { $0.kernel == c.kernel } } } ?? defaults
      var list = [sentinel] + (incumbent.map { [$0] } ?? [])
      for c in usable where list.count < limits.kernels + 1 && isPromising(c, sentinel) { list.append(c) }
      list += workerVariants(of: sentinel)
      // Some of the time is for settings: the default ones need not be the best of any kernel.
      best = spending(0.4) { $0.leader(list, sentinel, $0.explorationRules(nil, lanes: list.count)) } ?? sentinel
      // With an incumbent only a new kernel is worth improving.
      if fresh == nil || fresh?.contains(where: { $0.kernel == best.kernel }) == true {
        best = spending(0.75) { $0.explored(best, sentinel) }
      }
      best = decided(best, incumbent, sentinel)
    }
    if !best.isSame(sentinel), longest > 0, first > longest { best = confirmed(best, sentinel) }
    guard let yardstick = trials[name(sentinel)], yardstick.status == .ok || yardstick.status == .slow else {
      obstacle = "the default candidate could not be timed"
      return nil
    }
    noteOthers()
    return finding(best)
  }

  /// Kernels that the model holds for hopeless are left out, unless their costs are nearly nothing anyway.
  private func isPromising(_ c: Candidate, _ sentinel: Candidate) -> Bool {
    let isReference = space.planner.problem.entry.kernels[c.kernel].spec.isReference
    return c.estimate < 4 * sentinel.estimate || (c.estimate < 1e6 && !isReference)
  }

  private func workerVariants(of c: Candidate) -> [Candidate] {
    space.workerCounts(c).filter { $0 != c.workers }.compactMap { space.candidate(c, workers: $0) }
      .filter { $0.workers != c.workers }
  }

  /// Better settings of the knobs near `best`, and at first of the kernels that come close: their defaults may be the
  /// wrong ones here. The fastest by a few rounds; that many candidates are not told apart by more than that.
  private mutating func explored(_ best: Candidate, _ sentinel: Candidate) -> Candidate {
    var best = best
    for round in 0..<limits.improvements {
      // Knobs work together, so all settings where there is time for them, else a step in each direction.
      let most = min(64, affordable(best, rounds: 2))
      let whole = round == 0 ? space.settings(best, most: most) : []
      var list = (whole.isEmpty ? space.neighbours(best) : whole) + workerVariants(of: best)
      if round == 0 {
        let isAmple = affordable(best, rounds: 20) > list.count
        let others = rivals(of: best, within: isAmple ? .infinity : 2.5).flatMap { space.neighbours($0) }
        if list.count + others.count <= most { list += others }
      }
      list = list.filter { trials[name($0)] == nil }
      guard !list.isEmpty, crt_now_ns() < deadline else { break }
      let lanes = [sentinel, best] + list
      guard
        let next = spending(0.7, { $0.leader(lanes, sentinel, $0.explorationRules(best, lanes: lanes.count)) }),
        !next.isSame(best)
      else { break }
      best = next
    }
    return best
  }

  /// Few rounds that only say who comes close.
  /// - best: what ran before with much of the same code; nil: everything is cold.
  private func explorationRules(_ best: Candidate?, lanes: Int) -> Contest.Rules {
    var rules = limits.rules
    (rules.leastRounds, rules.mostRounds, rules.precision) = (3, 7, .infinity)
    guard let best else { return rules }
    // A first call pays for its memory, and some samples may meet nothing but disturbed moments. Nobody is judged by one
    // alone, unless a single sample of each is all that there is time for.
    let rounds = affordable(best, rounds: Double(lanes))
    if rounds >= 5 {
      rules.leastRounds = min(15, max(3, rounds / 3))
      (rules.mostRounds, rules.grace) = (2 * rules.leastRounds + 1, max(3, rules.leastRounds / 2))
    } else {
      (rules.hopeless, rules.cold, rules.warmups) = rounds < 2 ? (1.25, 1.1, 1) : (1.5, 3, 2)
      rules.farAtFirst = rules.far
    }
    return rules
  }

  /// The choice among the best few and the default, which race until they are known well or the time is up.
  private mutating func decided(_ best: Candidate, _ incumbent: Candidate?, _ sentinel: Candidate) -> Candidate {
    let ratio = trials[name(best)]?.ratio ?? 1
    let close = trials.values.filter { $0.ratio > 0 && $0.ratio < ratio * (1 + 2 * limits.rules.band) }
      .sorted { TuningSession.order($0) < TuningSession.order($1) }
    // Rather two that are told apart than many that are not.
    let most = max(0, min(limits.finalists, affordable(best, rounds: 3) - 2))
    let others = close.prefix(most).compactMap { space.planner.candidate($0.candidate, space.request) }
    var lanes: [Candidate] = []
    for c in [sentinel, best] + (incumbent.map { [$0] } ?? []) + others where !lanes.contains(where: { $0.isSame(c) }) {
      lanes.append(c)
    }
    if lanes.count == 1 { return best }
    // Disturbances last longer than a few samples, so what time there is goes into rounds.
    var rules = limits.rules
    let rounds = affordable(best, rounds: Double(lanes.count))
    rules.leastRounds = max(rules.leastRounds, min(TuningSession.decisiveRounds, rounds))
    rules.grace = max(rules.grace, min(TuningSession.decisiveRounds, rounds) / 2)
    return contest(lanes, sentinel, rules, leastRounds: 1)?.winner.map { lanes[$0] } ?? best
  }

  /// Runs `body` with a share of the time that is left. What it does not use stays.
  private mutating func spending<R>(_ share: Double, _ body: (inout TuningSession) -> R) -> R {
    guard deadline < .max else { return body(&self) }
    let end = deadline
    let now = crt_now_ns()
    let limit = now &+ Int64(Double(max(0, end &- now)) * share)
    deadline = limit
    let result = body(&self)
    // What `isRight` granted on the way counts for the whole, too.
    deadline = end &+ (deadline &- limit)
    return result
  }

  /// How many candidates like this one the rest of the time is enough for.
  private func affordable(_ c: Candidate, rounds: Double) -> Int {
    guard deadline < .max else { return .max }
    return Int(min(1000, max(0, Double(deadline &- crt_now_ns()) / (rounds * sample(c)))))
  }

  /// What one sample of a candidate takes, in nanoseconds.
  private func sample(_ c: Candidate) -> Double {
    let ns = trials[name(c)].map(\.medianNs) ?? 0
    return max(longest > 0 ? min(ns, longest) : ns, TrialRunner.sampleNs)
  }

  /// Other kernels as they were measured, if not slower than the best by more than settings may change.
  private func rivals(of best: Candidate, within factor: Double) -> [Candidate] {
    let limit = factor * (trials[name(best)]?.medianNs ?? 0)
    return space.defaults.filter { c in
      guard c.kernel != best.kernel, let trial = trials[name(c)], trial.medianNs > 0 else { return false }
      return trial.medianNs < limit
    }
  }

  /// Shares of a large problem can mislead: the winner and the default run once more, whole and in turn.
  private mutating func confirmed(_ best: Candidate, _ sentinel: Candidate) -> Candidate {
    var ratios: [Double] = []
    for _ in 0..<3 {
      guard case .took(let a) = runner.time(sentinel, longest: 0), case .took(let b) = runner.time(best, longest: 0)
      else { return sentinel }
      ratios.append(b / a)
      if crt_now_ns() > deadline, ratios.count > 1 { break }
    }
    return (ratios.min() ?? 1) < 1 ? best : sentinel
  }

  // MARK: one contest

  /// The fastest of `list`, ties or not; nil when the sentinel failed.
  private mutating func leader(_ list: [Candidate], _ sentinel: Candidate, _ rules: Contest.Rules) -> Candidate? {
    var lanes: [Candidate] = []
    for c in list where !lanes.contains(where: { $0.isSame(c) }) && isRight(c) { lanes.append(c) }
    return contest(lanes, sentinel, rules)?.leader.map { lanes[$0] }
  }

  /// Lets candidates that are right race; their trials are kept. nil: the sentinel is not among them.
  /// - leastRounds: even when the time is up.
  private mutating func contest(
    _ lanes: [Candidate], _ sentinel: Candidate, _ rules: Contest.Rules, leastRounds: Int = 0
  ) -> Contest? {
    guard let first = lanes.firstIndex(where: { $0.isSame(sentinel) }) else { return nil }
    var warm: [Int: Double] = [:]
    for (i, c) in lanes.enumerated() {
      if let trial = trials[name(c)], trial.rounds > 0 { warm[i] = trial.medianNs }
    }
    var contest = Contest(
      lanes: lanes.count, sentinel: first, preference: preference(lanes), warm: warm,
      seed: SeededNumbers.hash(target.key.family), rules: rules)
    var yardsticks: [Double] = []
    while case .run(let i) = contest.next() {
      if crt_now_ns() >= deadline, contest.rounds >= leastRounds {
        contest.stop()
        break
      }
      watch(.begins(name(lanes[i])))
      switch runner.time(lanes[i], longest: longest) {
      case .took(let ns):
        contest.took(ns)
        if i == first { yardsticks.append(ns) }
      case .failed(let status, let reason):
        contest.failed()
        bar(lanes[i], status, reason)
      }
    }
    if let least = yardsticks.min(), let most = yardsticks.max(), least > 0 { drift = max(drift, most / least - 1) }
    for (i, c) in lanes.enumerated() { keep(c, contest.standing(i)) }
    return contest
  }

  /// Among equals: little memory, few workers, the author's order, the first values of knobs.
  private func preference(_ lanes: [Candidate]) -> [Int] {
    func less(_ a: Candidate, _ b: Candidate) -> Bool {
      if a.workspace != b.workspace { return a.workspace < b.workspace }
      if a.workers != b.workers { return a.workers < b.workers }
      if a.kernel != b.kernel { return a.kernel < b.kernel }
      return a.knobs.lexicographicallyPrecedes(b.knobs)
    }
    let order = lanes.indices.sorted { less(lanes[$0], lanes[$1]) }
    var ranks = [Int](repeating: 0, count: lanes.count)
    for (rank, i) in order.enumerated() { ranks[i] = rank }
    return ranks
  }

  private mutating func keep(_ c: Candidate, _ s: Contest.Standing) {
    let status: Trial.Status =
      switch s.status {
      case .warming, .racing: .ok
      case .slow: .slow
      case .failed: trials[name(c)]?.status ?? .failed
      }
    // One that left early has few times; the least of them is what its settings are judged by.
    let ns = s.status == .slow ? [s.level, s.warm].compactMap { $0 }.min() : s.level ?? s.warm
    // What the deadline left untimed is as good as left out, and less does not replace more.
    if let old = trials[name(c)], ns == nil || s.status != .failed && old.rounds > s.rounds { return }
    if ns == nil, status == .failed { return }
    let trial = Trial(
      candidate: name(c), status: ns == nil ? .slow : status, medianNs: ns ?? 0, ratio: s.ratio ?? 0, spread: s.spread,
      rounds: s.rounds, date: crt_wall_seconds())
    trials[name(c)] = trial
    watch(.measured(trial))
  }

  /// Kernels that were not worth a run are noted: only one that is not noted is new to a later session.
  private mutating func noteOthers() {
    let noted = Set((trials.keys + known.map(\.candidate)).map(\.kernel))
    for c in space.defaults where !noted.contains(name(c).kernel) {
      trials[name(c)] = Trial(candidate: name(c), status: .slow, date: crt_wall_seconds())
    }
  }

  // MARK: correctness

  /// Compared with REFERENCE, once per kernel and setting. REFERENCE itself is right by definition.
  private mutating func isRight(_ c: Candidate) -> Bool {
    let k = space.planner.problem.entry.kernels[c.kernel]
    if k.spec.isReference { return true }
    var id = name(c)
    id.workers = 0
    if let known = verdicts[id] { return known }
    // Measured well before by the same revision, so compared before.
    if known.contains(where: { $0.candidate.isSameCode(as: id) && ($0.status == .ok || $0.status == .slow) }) {
      verdicts[id] = true
      return true
    }
    watch(.begins(name(c)))
    // The budget is for timing; being right has to be known in any case.
    let begin = crt_now_ns()
    defer { if deadline < .max { deadline &+= crt_now_ns() &- begin } }
    switch judge?.verdict(c) ?? .unknown {
    case .right: verdicts[id] = true
    case .bad(let status, let reason):
      verdicts[id] = false
      bar(c, status, reason)
    case .unknown:
      // The small problem is not for it: what is right already is the measure, on the large one.
      guard let peer else { return false }
      if let (status, reason) = runner.difference(c, from: peer) {
        verdicts[id] = false
        bar(c, status, reason)
      } else {
        verdicts[id] = true
      }
    }
    if verdicts[id] == true, peer == nil { peer = c }
    return verdicts[id] ?? false
  }

  /// Takes a candidate out. One that answers an error may be right about this problem: it only drops out here, while one
  /// that misbehaved is barred for its build.
  private mutating func bar(_ c: Candidate, _ status: Trial.Status, _ reason: String) {
    let trial = Trial(candidate: name(c), status: status, date: crt_wall_seconds())
    trials[name(c)] = trial
    guard status != .failed else { return watch(.measured(trial)) }
    barred.append((name(c), status, reason))
    watch(.barred(name(c), status, reason))
  }

  // MARK: results

  private func name(_ c: Candidate) -> TunedCandidate { space.planner.name(c) }

  /// What was compared first, then what was only timed, then the rest.
  private static func order(_ t: Trial) -> (Double, Double, String) {
    (t.ratio > 0 ? t.ratio : .infinity, t.medianNs > 0 ? t.medianNs : .infinity, t.candidate.kernel + t.candidate.knobs)
  }

  private func finding(_ best: Candidate) -> Finding {
    var load = [Double](repeating: 0, count: 1)
    let isLoaded = getloadavg(&load, 1) == 1 && load[0] > Double(crt_usable_cpus()) + 0.5
    // Trials of other kernels that were not repeated stay true.
    let kept = known.filter { trials[$0.candidate] == nil }
    return Finding(
      winner: name(best), trials: (trials.values + kept).sorted { TuningSession.order($0) < TuningSession.order($1) },
      drift: drift, isLoaded: isLoaded)
  }
}
