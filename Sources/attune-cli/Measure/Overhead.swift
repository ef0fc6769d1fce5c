import AttuneCore
import CAttune
import CRuntime
import Glibc

/// What a call costs beyond its kernel: `attune_plan_execute` and `attune_run` against a bare call of the kernel's own
/// function with the same arguments, on one thread and a shape so small that little else is left.
struct Overhead {
  let op: String
  let kernel: String
  let kernelNs: Double
  let executeNs: Double
  let runNs: Double
  /// Finding the plan of a problem that is known.
  let hitNs: Double

  /// `op` nil: the first operator that has a demo preset which fits the shape.
  static func measure(_ context: Context, op: String?) throws -> Overhead {
    let names = try op.map { [$0] } ?? context.registry().operators.map(\.id)
    var last = Failure("no operator is loaded; attune doctor says where was looked")
    for name in names {
      do {
        return try measure(try context.model(name), name, context)
      } catch let failure as Failure {
        last = failure
      } catch let error as LibraryError {
        last = Failure("\(error.name): \(error.message)")
      } catch let refusal as Refusal {
        last = Failure("\(refusal.code.name): \(refusal.message)")
      }
    }
    throw last
  }

  private static func measure(_ op: Operator, _ name: String, _ context: Context) throws -> Overhead {
    guard let preset = op.descriptor.presets.first(where: \.isDemo), let entry = op.entry(named: preset.entry) else {
      throw Failure("\(name) has no demo preset to make a tiny problem from")
    }
    var given: [Int: [Int64]] = [:]
    for tensor in ProblemShapes.demoTensors {
      if let t = entry.tensorIndex(tensor) { given[t] = [1, 1, 1, 8] }
    }
    let shapes = try ProblemShapes(
      op: op, entry: entry, params: try ProblemText.params(preset.params, op),
      symbols: try ProblemText.symbols(preset.shape, entry), given: given,
      extras: try ProblemText.tensors(preset.tensors, op, entry))
    let generated = try GeneratedProblem(shapes)
    // The first kernel that is one plain function: it can be called by itself, too.
    var found: (kernel: Kernel, plan: Plan)?
    for kernel in entry.kernels where found == nil && kernel.spec.run != nil && !kernel.spec.ownsThreads {
      let forced = generated.problem(kernel: kernel.spec.name, workers: 1, tune: Int32(ATTUNE_TUNE_OFF))
      if let plan = try? Plan(context, forced) { found = (kernel, plan) }
    }
    guard let (kernel, first) = found else { throw Failure("\(name) has no kernel that is one plain function") }
    let chosen = kernel.spec.name
    // Outputs included, so that attune_run finds all data in the problem and makes the same plan.
    var problem = generated.problem(kernel: chosen, workers: 1, tune: Int32(ATTUNE_TUNE_OFF))
    problem.tensors = first.tensors.map { ($0.name, $0.tensor) }
    let plan = try Plan(context, problem)
    let bare = try BareKernel(kernel, plan, shapes, context.registration(name))

    return try problem.withRecord { record in
      let timings = try Stopwatch.measure([
        { try bare.call() },
        { try plan.executeOrThrow() },
        { try checked { attune_run(context.handle, record, nil, $0) } },
      ])
      guard timings.count == 3 else { throw Failure("nothing was measured") }
      return Overhead(
        op: name, kernel: chosen, kernelNs: timings[0].median, executeNs: timings[1].beyond(timings[0]),
        runNs: timings[2].beyond(timings[0]), hitNs: timings[2].beyond(timings[1]))
    }
  }

  var text: String {
    "\(op), kernel \(kernel), 1 thread: the kernel's function alone takes \(fixed(kernelNs, 0)) ns\n"
      + "attune_plan_execute adds \(fixed(executeNs, 0)) ns, attune_run adds \(fixed(runNs, 0)) ns (medians)\n"
      + "a plan-cache hit costs \(fixed(hitNs, 0)) ns: what attune_run adds to attune_plan_execute"
  }

  var json: JSON {
    [
      "op": .string(op), "kernel": .string(kernel), "kernel_ns": .number(kernelNs), "execute_ns": .number(executeNs),
      "run_ns": .number(runNs), "hit_ns": .number(hitNs),
    ]
  }
}

/// A kernel's function with the arguments that the host would give it for one thread.
private final class BareKernel {
  private let run: attune_kernel_fn
  private var exec = attune_exec()
  private let plan: Plan
  private let shapes: ProblemShapes
  private let registration: Registration
  private let views: UnsafeMutablePointer<attune_tensor>
  private let pointers: UnsafeMutablePointer<UnsafePointer<attune_tensor>?>
  private let strides: UnsafeMutablePointer<Int64>
  private let knobs: UnsafeMutablePointer<Int64>
  private let error: UnsafeMutablePointer<attune_error>
  private let workspace: UnsafeMutableRawPointer

  init(_ kernel: Kernel, _ plan: Plan, _ shapes: ProblemShapes, _ registration: Registration) throws {
    guard let run = kernel.spec.run else { throw Failure("\(kernel.spec.name) has no function") }
    let count = shapes.entry.tensors.count
    let info = try plan.info()
    var memory: UnsafeMutableRawPointer?
    guard let bytes = Int(exactly: info.workspaceBytes), posix_memalign(&memory, 64, max(bytes, 64)) == 0, let memory
    else { throw Failure("no memory for a workspace of \(info.workspaceBytes) bytes") }
    self.run = run
    self.plan = plan
    self.shapes = shapes
    self.registration = registration
    workspace = memory
    views = .allocate(capacity: max(count, 1))
    pointers = .allocate(capacity: max(count, 1))
    pointers.initialize(repeating: nil, count: max(count, 1))
    strides = .allocate(capacity: max(count * 8, 1))
    knobs = .allocate(capacity: max(kernel.spec.knobs.count, 1))
    error = .allocate(capacity: 1)
    error.initialize(to: attune_error())
    error.pointee.struct_size = UInt32(MemoryLayout<attune_error>.size)
    // The plan's knobs, which sized the workspace; not the defaults.
    var chosen: [Substring: Int64] = [:]
    for item in info.knobs.split(separator: ",") {
      let pair = item.split(separator: "=")
      if pair.count == 2 { chosen[pair[0]] = Int64(pair[1]) }
    }
    for (i, knob) in kernel.spec.knobs.enumerated() {
      guard let value = chosen[knob.name[...]] else { throw Failure("the plan does not tell knob \(knob.name)") }
      knobs[i] = value
    }
    for (name, tensor) in plan.tensors {
      guard let t = shapes.entry.tensorIndex(name) else { continue }
      var step: Int64 = 1
      for d in tensor.shape.indices.reversed() {
        strides[t * 8 + d] = step
        step &*= max(tensor.shape[d], 1)
      }
      (views + t).initialize(to: tensor.descriptor.pointee)
      views[t].strides = strides + t * 8
      pointers[t] = UnsafePointer(views + t)
    }
    var environment = shapes.bound.environment
    environment.knobs = UnsafePointer(knobs)
    environment.workers = 1
    var tasks: Int64 = 1
    if let expression = kernel.tasks, case .success(let n) = expression.value(&environment) { tasks = n }
    exec.struct_size = UInt32(MemoryLayout<attune_exec>.size)
    exec.n_tensors = UInt32(clamping: count)
    exec.host = registration.plugin.host
    exec.tensors = UnsafePointer(pointers)
    exec.symbols = environment.symbols
    exec.params = environment.params
    exec.knobs = UnsafePointer(knobs)
    exec.workspace = workspace
    exec.workspace_bytes = info.workspaceBytes
    exec.task_end = tasks
    exec.n_workers = 1
    exec.device_type = Int32(ATTUNE_DEVICE_CPU)
    exec.instance = registration.plugin.instance
    exec.user = kernel.spec.user
    exec.error = error
  }

  deinit {
    views.deallocate()
    pointers.deallocate()
    strides.deallocate()
    knobs.deallocate()
    error.deallocate()
    free(workspace)
  }

  func call() throws {
    let status = run(&exec)
    guard status == 0 else { throw LibraryError(status: status, record: error.pointee) }
  }
}
