import ArgumentParser
import AttuneCore
import CAttune

struct Bench: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Time kernels on generated data.",
    discussion: """
      Without --shape: the operator's own bench presets. Without --kernel: what the library chooses. The share of peak \
      is measured against multiply-adds of this machine in the same run. With --candidate only these are timed, turn by \
      turn in random order, which tells a few percent apart.
      """)
  @Argument(help: "Operator, or operator@plugin.") var op: String?
  @Option(help: "What to compute.") var entry = "forward"
  @Option(help: "Sizes, as B=1,Hq=8,Hkv=8,Nq=2048,Nk=2048,D=64,Dv=64.") var shape: String?
  @Option(name: .customLong("param"), parsing: .upToNextOption, help: "Parameters, each NAME=VALUE.")
  var params: [String] = []
  @Option(help: "Optional tensors to add, as a preset has them: NAME or NAME=GENERATOR, ';' between.")
  var tensors = ""
  @Option(help: "Storage type: f32, bf16 or f16.") var dtype = "f32"
  @Option(help: "NAME, NAME:knob=value,... or all.") var kernel: String?
  @Option(
    name: .customLong("candidate"),
    help: "Instead: time these against the first of them: NAME:knob=value,...@THREADS, knobs and threads optional.")
  var candidates: [String] = []
  @Option(help: "How often each --candidate is timed.") var rounds = 100
  @OptionGroup var thread: ThreadOption
  @Flag(help: "Instead: what a call costs beyond its kernel.") var overhead = false
  @OptionGroup var output: JSONOption

  private struct Result {
    var info: Plan.Info
    var timing: Timing
  }
  private struct Report {
    var preset: String?
    var problem: GeneratedProblem
    var results: [Result] = []
    /// Kernels that do not take the problem, and why.
    var declined: [(kernel: String, reason: String)] = []
  }

  func validate() throws {
    if op == nil && !overhead { throw ValidationError("say which operator; attune list shows them") }
    if shape == nil && !(params.isEmpty && tensors.isEmpty) {
      throw ValidationError("--param and --tensors need --shape; presets have their own")
    }
    if !candidates.isEmpty && (shape == nil || kernel != nil) {
      throw ValidationError("--candidate needs --shape, and excludes --kernel")
    }
    if !(3...10000).contains(rounds) { throw ValidationError("--rounds must be 3 to 10000") }
  }

  func run() throws {
    let context = try Context(ContextOptions(workers: thread.threads))
    if overhead {
      let costs = try Overhead.measure(context, op: op)
      return say(output.json ? costs.json.text : costs.text)
    }
    guard let op else { return }
    if let shape, !candidates.isEmpty {
      let description = try context.op(op)
      let values = try params.map { try Parameter.parse($0, for: description) }.map { ($0.name, $0.scalar) }
      let line = ShapeLine(
        op: op, entry: entry, shape: shape, extras: tensors, dtype: dtype,
        params: Dictionary(values) { $1 }, threads: thread.threads)
      let race = try CandidateRace(line, candidates, rounds: rounds, context)
      return say(output.json ? race.json.text : race.text)
    }
    guard let type = DType(name: dtype) else { throw Failure("--dtype \(dtype): choose f32, bf16 or f16") }
    let description = try context.op(op)
    let model = try context.model(op)
    let problems = try self.problems(model, type)
    let machine = try Machine(context)
    var reports: [Report] = []
    for (preset, shapes) in problems {
      reports.append(try measure(shapes, preset, description, context))
      if !output.json, let report = reports.last {
        if reports.count == 1 { say(heading(machine)) }
        say("\n" + text(report, machine))
      }
    }
    guard output.json else { return }
    let documents = reports.map { json($0, machine) }
    if shape != nil, let only = documents.first {
      say(only.text)
    } else {
      let all: JSON = ["op": .string(op), "benchmarks": .array(documents)]
      say(all.text)
    }
  }

  /// Presets of the entry that was asked for; all of them when none was.
  private func problems(_ op: Operator, _ type: DType) throws -> [(preset: String?, shapes: ProblemShapes)] {
    do {
      guard let shape else {
        let presets = op.descriptor.presets.filter { $0.isBench && (entry == "forward" || $0.entry == entry) }
        guard !presets.isEmpty else {
          throw Failure("\(op.id) has no bench preset for \(entry): give the sizes with --shape")
        }
        return try presets.map { ($0.name, try ProblemShapes(op: op, preset: $0, dtype: type)) }
      }
      guard let entry = op.entry(named: self.entry) else {
        throw Failure("\(op.id) has no entry \(self.entry); it has \(op.entries.map(\.name).joined(separator: ", "))")
      }
      let extras = try ProblemText.tensors(tensors, op, entry).merging(op.gradients(of: entry)) { asked, _ in asked }
      let shapes = try ProblemShapes(
        op: op, entry: entry, params: try ProblemText.params(params.joined(separator: ";"), op),
        symbols: try ProblemText.symbols(shape, entry), extras: extras, dtype: type)
      return [(nil, shapes)]
    } catch let refusal as Refusal {
      throw Failure("\(refusal.code.name): \(refusal.message)")
    }
  }

  private func measure(
    _ shapes: ProblemShapes, _ preset: String?, _ op: Description.Operator, _ context: Context
  ) throws -> Report {
    var report = Report(preset: preset, problem: try GeneratedProblem(shapes))
    let names: [String?]
    if kernel == "all" {
      names = op.entry(shapes.entry.name)?.kernels?.filter(\.usable).map(\.name) ?? []
    } else {
      names = [kernel]
    }
    var plans: [Plan] = []
    for name in names {
      do {
        let plan = try Plan(context, report.problem.problem(kernel: name, workers: thread.threads))
        try plan.execute()
        plans.append(plan)
      } catch let error as LibraryError where error.isDecline && kernel == "all" {
        report.declined.append((name ?? "", error.message))
      }
    }
    let timings = try Stopwatch.measure(plans.map { plan in { try plan.executeOrThrow() } })
    report.results = try zip(plans, timings).map { Result(info: try $0.info(), timing: $1) }
    return report
  }

  private func heading(_ machine: Machine) -> String {
    "\(machine.cpu.name), \(machine.cpu.isaLevel): \(fixed(machine.peakGflops, 1)) GFLOP/s peak of one thread, "
      + "\(fixed(machine.readBytesPerSecond / 1e9, 1)) GB/s read, both measured now"
  }

  private func text(_ report: Report, _ machine: Machine) -> String {
    let problem = report.problem
    let sizes = problem.sizes.map { "\($0.symbol)=\($0.size)" }.joined(separator: ",")
    let params = problem.params.map { "\($0.name)=\($0.value.text)" }.joined(separator: ",")
    var head = "\(problem.op) \(problem.entry)"
    if let preset = report.preset { head += " [\(preset)]" }
    head += " \(sizes) \(params) \(dtype)"
    var table = Table(
      "KERNEL", "THREADS", "MEDIAN", "MIN", "GFLOP/S", "PEAK %", "GB/S", "ROUNDS", "KNOBS",
      right: [1, 2, 3, 4, 5, 6, 7])
    for r in report.results {
      let gflops = problem.flops / r.timing.median
      table.add(
        r.info.kernel, String(r.info.workers), duration(r.timing.median), duration(r.timing.min), fixed(gflops, 2),
        share(gflops, r.info, machine).map { fixed($0 * 100, 1) } ?? "-", fixed(problem.bytes / r.timing.median, 2),
        String(r.timing.samples.count), r.info.knobs)
    }
    let refused = report.declined.map { "\n  \($0.kernel): " + wrap($0.reason, width: 90, indent: 4) }
    return wrap(head, width: 100, indent: 2) + "\n" + table.text + refused.joined()
  }

  private func share(_ gflops: Double, _ info: Plan.Info, _ machine: Machine) -> Double? {
    let peak = machine.peakGflops * Double(max(info.workers, 1))
    return peak > 0 ? gflops / peak : nil
  }

  private func json(_ report: Report, _ machine: Machine) -> JSON {
    let problem = report.problem
    var members: [(String, JSON)] = [
      ("op", .string(problem.op)), ("entry", .string(problem.entry)),
      ("shape", .object(problem.sizes.map { ($0.symbol, JSON($0.size)) })),
      ("params", .object(problem.params.map { ($0.name, $0.json) })), ("dtype", .string(dtype)),
      ("threads", JSON(thread.threads ?? report.results.map(\.info.workers).max() ?? 0)),
      ("flops", .number(problem.flops)), ("bytes", .number(problem.bytes)),
      (
        "results",
        .array(
          report.results.map { r in
            let gflops = problem.flops / r.timing.median
            return [
              "kernel": .string(r.info.kernel), "knobs": .string(r.info.knobs), "workers": JSON(r.info.workers),
              "median_ns": .number(r.timing.median), "min_ns": .number(r.timing.min),
              "rounds": JSON(r.timing.samples.count), "gflops": .number(gflops),
              "bytes_per_s": .number(problem.bytes / r.timing.median * 1e9),
              "peak_share": JSON(share(gflops, r.info, machine)),
            ]
          })
      ),
      ("declined", .array(report.declined.map { ["kernel": .string($0.kernel), "reason": .string($0.reason)] })),
      ("peak_gflops", .number(machine.peakGflops)), ("read_bytes_per_s", .number(machine.readBytesPerSecond)),
      ("cpu", machine.cpu.json),
    ]
    if let preset = report.preset { members.insert(("preset", .string(preset)), at: 0) }
    return .object(members)
  }
}

extension Operator {
  /// Optional tensors without which a differentiating entry computes nothing: the upstream gradients of outputs that
  /// are always there, and the gradients of inputs that are always there. Empty for other entries.
  func gradients(of entry: Entry) -> [Int: Generator?] {
    guard let of = entry.descriptor.of.flatMap({ self.entry(named: $0) }) else { return [:] }
    var found: [Int: Generator?] = [:]
    for (t, model) in entry.tensors.enumerated() {
      guard let pair = model.spec.pair else { continue }
      let home = model.isOutput ? entry : of
      if let i = home.tensorIndex(pair), home.tensors[i].needed == nil { found.updateValue(nil, forKey: t) }
    }
    return found
  }
}
