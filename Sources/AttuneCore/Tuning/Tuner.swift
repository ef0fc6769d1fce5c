import CAttune
import CRuntime
import Glibc
import Synchronization

/// Decides among the usable candidates of a problem: by what is remembered, by measuring, or by a model. One per
/// context, any thread.
package final class Tuner: Sendable {
  package let wisdom: WisdomStore
  private let log: Log
  /// Directories whose plugins are measured in this process. Others are measured by `attune tune`, in a process of its
  /// own, because a bad kernel takes the process with it.
  private let trusted: Set<String>
  /// The time for measuring: this context's own, or what all contexts share that name none.
  private let budget: Budget, isOwnBudget: Bool
  private static let shared = Budget(ns: 5e9)
  private let watcher = Mutex<Watcher?>(nil)

  /// For programs that tune on purpose, in a process that may die.
  package struct Watcher: Sendable {
    package var event: @Sendable (TuningEvent) -> Void
    package init(event: @escaping @Sendable (TuningEvent) -> Void) { self.event = event }
  }

  /// One measurement at a time in a process: two would only measure each other. Whoever waits for the same problem finds it
  /// remembered.
  private static let turn = RecursiveLock()
  private static let patienceNs: Int64 = 3_000_000_000

  package init(_ configuration: Configuration, _ wisdom: WisdomStore) {
    self.wisdom = wisdom
    log = configuration.log
    let directories = SearchPath(configuration).directories
    trusted = Set(
      directories.filter { $0.origin == .library || $0.origin == .system }.compactMap { Path.resolved($0.path) })
    isOwnBudget = configuration.tuneBudgetMicroseconds != nil
    budget = configuration.tuneBudgetMicroseconds.map { Budget(ns: Double($0) * 1000) } ?? Tuner.shared
  }

  /// From now on nothing holds this context back: every plugin is measured here, and `watch` hears of every candidate before
  /// it runs.
  package func setWatcher(_ w: Watcher?) { watcher.withLock { $0 = w } }

  /// What this context was told of the machine, measured now if nobody did before. For `measure` and `attune tune`.
  private func learnMachine(_ r: Request) {
    guard wisdom.machine == nil else { return }
    wisdom.machine = r.machine()
  }

  package struct Request {
    package let problem: Problem, registration: Registration, bound: BoundProblem
    package let resources: Resources, workers: UInt32
    package let mode: Configuration.TuneMode
    /// Measures the machine.
    package let machine: () -> MachineRecord
  }

  /// - makePlan: a plan of one candidate that computes on given memory.
  package func choose(_ r: Request, makePlan: @escaping (BoundProblem, Candidate, Bool) throws(Refusal) -> Plan)
    throws(Refusal) -> Choice
  {
    let space = space(r, r.bound)
    let defaults = try space.defaultsOrRefusal()
    if r.mode == .off { return Choice.defaulted(defaults) }
    let target = TuningTarget(r.bound, r.problem, r.resources, workers: r.workers)
    let needed: Configuration.TuneMode = r.mode == .frozen || r.mode == .estimate ? .off : r.mode
    if let known = recall(target, space, defaults, rigor: needed) { return known }
    if r.mode == .frozen {
      throw Refusal(
        .notTuned, "", "\(space.planner.at): tune mode is frozen and nothing is remembered for this problem")
    }
    if r.mode != .estimate, let measured = measure(r, target, space, defaults, makePlan) { return measured }
    return borrowed(target, space, defaults) ?? Choice.estimated(defaults)
  }

  private func space(_ r: Request, _ problem: BoundProblem) -> CandidateSpace {
    CandidateSpace(
      Planner(problem, r.resources), r.problem, workers: r.workers,
      barred: Set(barred(r.registration, r.bound.entry).keys))
  }

  /// Kernels of an entry that this build of the plugin must not use. One bad setting is enough.
  func barred(_ registration: Registration, _ entry: Entry) -> [String: QuarantineRecord] {
    let records = wisdom.quarantined(op: registration.op.id, entry: entry.name, build: registration.plugin.build)
    return Dictionary(records.map { ($0.candidate.kernel, $0) }, uniquingKeysWith: { first, _ in first })
  }

  /// Puts a candidate under quarantine: for who saw it crash.
  package func bar(
    _ c: TunedCandidate, _ registration: Registration, entry: String, status: Trial.Status, problem: String
  ) {
    wisdom.quarantine(
      QuarantineRecord(
        op: registration.op.id, entry: entry, plugin: registration.plugin.id, build: registration.plugin.build,
        candidate: c,
        reason: status, key: problem, date: crt_wall_seconds()))
  }

  // MARK: remembering

  /// The remembered choice for this very class of problem, as far as it holds here.
  private func recall(
    _ target: TuningTarget, _ space: CandidateSpace, _ defaults: [Candidate], rigor: Configuration.TuneMode
  ) -> Choice? {
    guard let record = wisdom.find(target.key), record.rigor >= rigor.rawValue else { return nil }
    if rigor != .off, !space.unmeasured(record).isEmpty { return nil }
    return choice(record, space, defaults, source: Int32(target.isExact ? ATTUNE_EXACT : ATTUNE_BUCKET))
  }

  /// The remembered choice of the nearest class.
  private func borrowed(_ target: TuningTarget, _ space: CandidateSpace, _ defaults: [Candidate]) -> Choice? {
    let near = wisdom.family(target.key.family, op: target.key.op).compactMap { record in
      target.key.distance(to: record.key).map { (distance: $0, record: record) }
    }
    let order = near.sorted { ($0.distance, $1.record.date) < ($1.distance, $0.record.date) }
    for (_, record) in order {
      if let found = choice(record, space, defaults, source: Int32(ATTUNE_NEIGHBOUR)) { return found }
    }
    return nil
  }

  /// The winner first, then what came next to it, then everything else: execute takes the first that fits the call.
  private func choice(
    _ record: WisdomRecord, _ space: CandidateSpace, _ defaults: [Candidate], source: Int32
  ) -> Choice? {
    let good = record.trials.filter { $0.status == .ok && $0.ratio > 0 }.sorted { $0.ratio < $1.ratio }
    var order: [Candidate] = []
    for name in [record.winner] + good.map(\.candidate) {
      guard let c = space.planner.candidate(name, space.request), space.kernels.contains(c.kernel),
        !order.contains(where: { $0.kernel == c.kernel })
      else { continue }
      order.append(c)
    }
    guard let best = order.first else { return nil }
    let others = defaults.sorted { $0.estimate < $1.estimate }
    order += others.filter { other in !order.contains { $0.kernel == other.kernel } }
    let isWinner = space.planner.name(best).isSameCode(as: record.winner)
    let time = isWinner ? record.trials.first { $0.candidate == record.winner }?.medianNs : nil
    return Choice(order: order, source: source, rigor: record.rigor, expectedNs: time ?? best.estimate)
  }

  // MARK: measuring

  /// nil: this problem is not measured here and now.
  private func measure(
    _ r: Request, _ target: TuningTarget, _ space: CandidateSpace, _ defaults: [Candidate],
    _ makePlan: @escaping (BoundProblem, Candidate, Bool) throws(Refusal) -> Plan
  ) -> Choice? {
    let watcher = watcher.withLock { $0 }
    let file = r.registration.plugin.image.file.resolved
    guard watcher != nil || trusted.contains(Path.directory(of: file)) else {
      return notMeasured(space, "\(file) is not in the library's own plugin folder; attune tune measures it")
    }
    guard let limits = limits(r, isWatched: watcher != nil) else {
      return notMeasured(space, "the time for it is used up")
    }
    guard fits(target.largest, defaults) else { return notMeasured(space, "that would take too much memory") }
    return Tuner.turn.withLock(patienceNs: Tuner.patienceNs) { () -> Choice? in
      if let known = recall(target, space, defaults, rigor: r.mode) { return known }
      let begin = crt_now_ns()
      defer { if isCounted(r) { budget.spend(Double(crt_now_ns() &- begin)) } }
      let large = self.space(r, target.largest)
      learnMachine(r)
      let old = wisdom.find(target.key)
      guard let candidates = try? large.defaultsOrRefusal(),
        let first = candidates.min(by: { $0.estimate < $1.estimate })
      else { return nil }
      // Only what a record of this rigor does not know yet, next to its winner.
      let isUpdate = (old?.rigor ?? 0) >= r.mode.rawValue
      let fresh = old.flatMap { record in
        isUpdate ? candidates.filter { large.unmeasured(record).contains($0.kernel) } : nil
      }
      let incumbent = old.flatMap { large.planner.candidate($0.winner, r.problem) }
      do throws(Refusal) {
        var session = try TuningSession(
          target, large, limits, known: old?.trials ?? [], makePlan: makePlan, watch: { watcher?.event($0) })
        let result = session.run(defaultCandidate: first, incumbent: incumbent, fresh: incumbent == nil ? nil : fresh)
        remember(r, target, session.barred)
        guard let result else { return notMeasured(space, session.obstacle) }
        let plugin = r.registration.plugin
        let record = WisdomRecord(
          key: target.key, winner: result.winner, rigor: r.mode.rawValue, trials: result.trials, plugin: plugin.id,
          build: plugin.build, library: Library.text, date: crt_wall_seconds(), drift: result.drift,
          isLoaded: result.isLoaded)
        wisdom.keep(record)
        return choice(record, space, defaults, source: Int32(target.isExact ? ATTUNE_EXACT : ATTUNE_BUCKET))
      } catch {
        log(.info, "\(space.planner.at): not measured: \(error.message)")
        return nil
      }
    } ?? nil
  }

  private func notMeasured(_ space: CandidateSpace, _ reason: String) -> Choice? {
    log(.debug, "\(space.planner.at): not measured: \(reason)")
    return nil
  }

  private func remember(
    _ r: Request, _ target: TuningTarget, _ barred: [(candidate: TunedCandidate, status: Trial.Status, reason: String)]
  ) {
    for (candidate, status, reason) in barred {
      log(
        .warning, "\(r.bound.op.id) \(r.bound.entry.name): kernel \(candidate.kernel) is not used any more: \(reason)")
      bar(candidate, r.registration, entry: r.bound.entry.name, status: status, problem: target.key.family)
    }
  }

  /// nil: the time of this context or process is used up.
  private func limits(_ r: Request, isWatched: Bool) -> TuningSession.Limits? {
    var limits = TuningSession.Limits()
    let asked = r.problem.budget > 0 ? Double(r.problem.budget) * 1000 : nil
    switch r.mode {
    case .patient:
      limits.budget = asked ?? 30e9
      (limits.calls, limits.least, limits.kernels, limits.improvements) = (200, 2e9, 32, 8)
      (limits.rules.mostRounds, limits.finalists) = (100, 8)
      limits.shares = false
    case .exhaustive:
      limits.budget = asked
      limits.isExhaustive = true
      limits.shares = false
    default:
      limits.budget = asked ?? 2e9
      (limits.calls, limits.least) = (10, 200e6)
      limits.rules.mostRounds = 120
    }
    if asked != nil { (limits.calls, limits.least) = (0, .infinity) }
    guard !isWatched else { return limits }
    let rest = budget.left
    guard rest > 0 else { return nil }
    if isCounted(r) { limits.budget = min(limits.budget ?? rest, rest) }
    return limits
  }

  /// Whoever asks for patience pays for it, unless the context has a budget.
  private func isCounted(_ r: Request) -> Bool { r.mode == .measure || isOwnBudget }

  /// A trial needs tensors of its own: not more than a quarter of the memory.
  private func fits(_ problem: BoundProblem, _ defaults: [Candidate]) -> Bool {
    guard let bytes = TrialMemory.bytes(problem) else { return false }
    let workspace = defaults.map(\.workspace).max() ?? 0
    let pages = sysconf(Int32(_SC_AVPHYS_PAGES))
    let size = sysconf(Int32(_SC_PAGESIZE))
    guard pages > 0, size > 0 else { return bytes < 1 << 30 }
    return bytes &+ workspace < UInt64(pages) / 4 &* UInt64(size)
  }
}

/// Nanoseconds that may still be spent on measuring.
private final class Budget: Sendable {
  private let ns: Mutex<Double>
  init(ns: Double) { self.ns = Mutex(ns) }
  var left: Double { ns.withLock { $0 } }
  func spend(_ some: Double) { ns.withLock { $0 -= some } }
}

extension CandidateSpace {
  /// Kernels that a record says nothing about, REFERENCE aside.
  func unmeasured(_ record: WisdomRecord) -> [Int] {
    kernels.filter { i in
      let k = planner.problem.entry.kernels[i].spec
      return !k.isReference
        && !record.trials.contains { $0.candidate.kernel == k.name && $0.candidate.revision == k.revision }
    }
  }

  /// E_UNSUPPORTED when no kernel is left.
  func defaultsOrRefusal() throws(Refusal) -> [Candidate] {
    let all = defaults
    guard !all.isEmpty else { throw Refusal(.unsupported, "", "\(planner.at): no kernel can take this problem") }
    return all
  }
}
