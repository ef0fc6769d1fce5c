import CAttune
import CRuntime
import Synchronization

/// Registry, threads and remembered plans: what an `attune_context` stands for. Safe from any thread.
package final class Context: @unchecked Sendable {
  package let configuration: Configuration
  package var cpu: CPUFeatures { registry.cpu }
  package let registry: Registry
  package let resources: Resources
  /// What was measured on this machine, now and earlier.
  package let wisdom: WisdomStore
  package let tuner: Tuner
  private let shapes: ShapeLog?
  let cache = RunCache()
  private let callerParallelFor:
    (
      @convention(c) (
        UnsafeMutableRawPointer?, Int64, Int64, attune_task_fn?, UnsafeMutableRawPointer?
      ) -> attune_status
    )?
  private let callerUser: UnsafeMutableRawPointer?
  private let pool: Mutex<PoolHandle>

  private struct PoolHandle: @unchecked Sendable { var pool: OpaquePointer? }

  /// Polls of an idle worker before it sleeps, roughly 0.2 ms: waking one costs 20 to 50 us.
  private static let spin: UInt32 = 5000

  package init(options: UnsafePointer<attune_context_options>?) throws(Refusal) {
    let configuration = try Configuration(options: options)
    self.configuration = configuration
    callerParallelFor = options?.pointee.parallel_for
    callerUser = options?.pointee.user
    pool = Mutex(PoolHandle())
    registry = Registry(configuration)
    let wisdom = configuration.makeWisdom(cpu: registry.cpu)
    self.wisdom = wisdom
    var resources = Resources(
      arch: registry.cpu.arch, isa: registry.cpu.isa, workers: max(configuration.workers, 1),
      areLent: callerParallelFor != nil)
    if let machine = wisdom.machine { resources.rates = MachineRates(machine) }
    self.resources = resources
    tuner = Tuner(configuration, wisdom)
    shapes = configuration.recordShapes.map { ShapeLog(path: $0, log: configuration.log) }
  }

  deinit { pool.withLock { crt_pool_release($0.pool) } }

  package func makePlan(_ request: Problem, held: Bool) throws(Refusal) -> Plan {
    let registration = try registry.find(request.op)
    let problem = try bind(registration.op, request)
    return try makePlan(request, registration, problem, held: held)
  }

  func bind(_ op: Operator, _ request: Problem) throws(Refusal) -> BoundProblem {
    let problem = try Binder.bind(
      op: op, entry: request.entry, tensors: request.tensors.map(\.given), params: request.params)
    try request.checkLayouts(problem)
    return problem
  }

  func makePlan(
    _ request: Problem, _ registration: Registration, _ problem: BoundProblem, held: Bool
  ) throws(Refusal) -> Plan {
    let workers = request.workers > 0 ? min(UInt32(request.workers), resources.workers) : resources.workers
    shapes?.record(request, problem, workers: workers)
    let choice: Choice
    if request.kernel != nil {
      let forced = try Planner(problem, resources).forced(request, workers: workers)
      choice = Choice(
        order: [forced], source: Int32(ATTUNE_FORCED), rigor: Int32(ATTUNE_TUNE_OFF), expectedNs: forced.estimate)
    } else {
      choice = try tuner.choose(
        Tuner.Request(
          problem: request, registration: registration, bound: problem, resources: resources, workers: workers,
          mode: Configuration.TuneMode(rawValue: request.tuneMode) ?? configuration.tuneMode,
          machine: {
            MachineRates.measure(isa: self.resources.isa.0, level: self.cpu.name, region: self.region(workers: workers))
          })
      ) { bound, candidate, isChecked throws(Refusal) in
        try self.trialPlan(request, registration, bound, candidate, isChecked: isChecked)
      }
    }
    return try plan(request, registration, problem, choice, isChecked: configuration.isChecked, held: held)
  }

  private func plan(
    _ request: Problem, _ registration: Registration, _ problem: BoundProblem, _ choice: Choice, isChecked: Bool,
    held: Bool
  ) throws(Refusal) -> Plan {
    let most = choice.order.map(\.workers).max() ?? 1
    return try Plan(
      problem: problem, registration: registration, choice: choice, request: request, region: region(workers: most),
      host: registration.plugin.host, checked: isChecked, keepAlive: held ? self : nil)
  }

  /// A plan that computes with this candidate or not at all. The candidate may come from another size of the problem.
  func trialPlan(
    _ request: Problem, _ registration: Registration, _ problem: BoundProblem, _ candidate: Candidate, isChecked: Bool
  ) throws(Refusal) -> Plan {
    let planner = Planner(problem, resources)
    let kernel = problem.entry.kernels[candidate.kernel]
    if let why = planner.reason(kernel, request) {
      throw Refusal(.unsupported, "", "\(planner.at): kernel \(kernel.spec.name) \(why)")
    }
    let here = try planner.candidate(candidate.kernel, candidate.knobs, candidate.workers, exactly: true)
    let choice = Choice(order: [here], source: Int32(ATTUNE_FORCED), rigor: Int32(ATTUNE_TUNE_OFF), expectedNs: 0)
    return try plan(request, registration, problem, choice, isChecked: isChecked, held: false)
  }

  /// Threads start with the first plan that wants them.
  private func region(workers: UInt32) -> crt_region {
    var r = crt_region(
      pool: nil, parallel_for: callerParallelFor, user: callerUser, cancel: nil, workers: workers, reserved: 0)
    if workers > 1, callerParallelFor == nil {
      r.pool = pool.withLock { handle in
        if handle.pool == nil { handle.pool = crt_pool_create(resources.workers, Context.spin) }
        return handle.pool
      }
    }
    return r
  }
}

/// What an opaque handle points at.
struct ContextRecord {
  static let alive: UInt64 = 0x5854_4e4f_4354_5441
  var magic: UInt64
  var owner: Unmanaged<Context>

  /// The context behind a handle; nil for NULL or something that is no context.
  static func find(_ handle: OpaquePointer?) -> Context? {
    guard let handle, UInt(bitPattern: handle) & 7 == 0 else { return nil }
    let r = UnsafePointer<ContextRecord>(handle)
    return r.pointee.magic == alive ? r.pointee.owner.takeUnretainedValue() : nil
  }
}
