import ArgumentParser
import AttuneCore
import CAttune

struct Tune: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Measure which kernel and settings are fastest here, and remember it.",
    discussion: """
      Without --shape and --shapes: the bench presets of the operators that are named, or of all. Candidates run in a \
      process of their own: one that crashes, hangs, computes something else than REFERENCE or writes outside of its \
      memory is never chosen again in this build of its plugin. What was measured is saved at once, so a run that was \
      interrupted goes on where it stopped.
      """)
  @Argument(help: "Operators, or operator@plugin.") var ops: [String] = []
  @Option(help: "What to compute.") var entry = "forward"
  @Option(parsing: .upToNextOption, help: "Sizes, as B=1,Hq=8,Hkv=8,Nq=2048,Nk=2048,D=64,Dv=64; more than once.")
  var shape: [String] = []
  @Option(help: "File of problems, one JSON object per line, as ATTUNE_RECORD_SHAPES records them.")
  var shapes: String?
  @Option(name: .customLong("param"), parsing: .upToNextOption, help: "Parameters, each NAME=VALUE.")
  var params: [String] = []
  @Option(help: "Optional tensors to add, as a preset has them.") var tensors = ""
  @Option(help: "Storage types, as f32,bf16.") var dtype = "f32"
  @Option(help: "Numbers of threads, as 1,2; without it the context's.") var threads: String?
  @Option(help: "measure, patient or exhaustive.") var mode = "patient"
  @Option(help: "Time for one problem: 500ms, 30s, 10m.") var budget: String?
  @Option(help: "A candidate whose single run takes longer hangs.") var patience = "60s"
  @Option(help: "Wisdom file to write; without it the user's own.") var out: String?
  @Flag(help: "Try candidates again that were put under quarantine.") var forgive = false
  @OptionGroup var output: JSONOption

  func run() throws {
    let modes = ["measure": ATTUNE_TUNE_MEASURE, "patient": ATTUNE_TUNE_PATIENT, "exhaustive": ATTUNE_TUNE_EXHAUSTIVE]
    guard let mode = modes[mode] else { throw Failure("--mode \(mode): choose measure, patient or exhaustive") }
    let budget = try self.budget.map { try microseconds($0, "--budget") } ?? 0
    let patience = Int32(clamping: max(1, try microseconds(self.patience, "--patience") / 1000))
    let context = try Context(ContextOptions(wisdom: out))
    let lines = try problems(context)
    let tuner = try context.core.tuner
    if forgive {
      for op in ops.isEmpty ? [nil] : ops.map(Optional.some) { tuner.wisdom.forgive(op: op) }
      tuner.wisdom.flush()
    }
    var supervisor = Supervisor(context, wisdom: out, mode: Int32(mode), budget: budget, patience: patience)
    let progress = Progress(total: lines.count)
    var results: [(line: ShapeLine, verdict: Supervisor.Verdict)] = []
    for (i, line) in lines.enumerated() {
      progress.show(done: i, line.label)
      supervisor.progress = { progress.show(done: i, "\(line.label): \($0.kernel) \($0.knobs)") }
      results.append((line, try supervisor.tune(line)))
    }
    progress.clear()
    if output.json { say(json(results, supervisor.barred).text) } else { show(results, supervisor.barred) }
    let isWhole = results.allSatisfy { if case .tuned = $0.verdict { true } else { false } }
    if !isWhole || !supervisor.barred.isEmpty { throw ExitCode(1) }
  }

  /// "500ms", "30s", "10m".
  private func microseconds(_ text: String, _ option: String) throws -> UInt64 {
    let units: [(String, Double)] = [("ms", 1e3), ("us", 1), ("s", 1e6), ("m", 60e6), ("h", 3600e6)]
    for (unit, factor) in units where text.hasSuffix(unit) {
      guard let x = Double(text.dropLast(unit.count)) else { break }
      guard x > 0, x * factor >= 1, x * factor < 1e15 else {
        throw Failure("\(option) \(text): expected more than nothing")
      }
      return UInt64(x * factor)
    }
    throw Failure("\(option) \(text): write a time with its unit, as 500ms, 30s or 10m")
  }

  private func problems(_ context: Context) throws -> [ShapeLine] {
    var lines: [ShapeLine] = []
    for n in try threadCounts() {
      for type in dtype.split(separator: ",").map(String.init) {
        guard let type = DType(name: type) else { throw Failure("--dtype \(type): choose of f32, bf16, f16") }
        lines += try problems(context, type.name, n)
      }
    }
    if let shapes {
      let (read, complaints) = try ShapeLine.read(shapes)
      for complaint in complaints { warn("\(complaint): left out") }
      if read.isEmpty { throw Failure("\(shapes) has no problem to tune") }
      lines += read.filter { ops.isEmpty || ops.contains($0.op) }
    }
    var seen: Set<ShapeLine> = []
    lines = lines.filter { seen.insert($0).inserted }
    guard !lines.isEmpty else { throw Failure("nothing to tune: give --shape, or --shapes FILE") }
    return lines
  }

  private func threadCounts() throws -> [Int?] {
    guard let threads else { return [nil] }
    return try threads.split(separator: ",").map { word in
      guard let n = Int(word), (1...1024).contains(n) else {
        throw Failure("--threads \(threads): expected numbers from 1 to 1024")
      }
      return n
    }
  }

  private func problems(_ context: Context, _ dtype: String, _ threads: Int?) throws -> [ShapeLine] {
    if !shape.isEmpty {
      guard !ops.isEmpty else { throw Failure("--shape needs an operator before it") }
      return try ops.flatMap { op in
        let description = try context.op(op)
        var values: [String: Scalar] = [:]
        for text in params {
          let p = try Parameter.parse(text, for: description)
          values[p.name] = p.scalar
        }
        return shape.map {
          ShapeLine(op: op, entry: entry, shape: $0, extras: tensors, dtype: dtype, params: values, threads: threads)
        }
      }
    }
    guard shapes == nil else { return [] }
    let names = ops.isEmpty ? try context.registry().operators.map(\.id) : ops
    return try names.flatMap { name in
      let op = try context.model(name)
      return try op.descriptor.presets.filter(\.isBench).map { preset in
        let values = try checkedRefusal { () throws(Refusal) in try ProblemText.params(preset.params, op) }
        let params = Dictionary(values.map { ($0.name, Parameter(name: $0.name, value: $0.value).scalar) }) { $1 }
        return ShapeLine(
          op: name, entry: preset.entry, shape: preset.shape, extras: preset.tensors, dtype: dtype, params: params,
          threads: threads)
      }
    }
  }

  private typealias Barred = (candidate: TunedCandidate, status: Trial.Status, reason: String)

  private func show(_ results: [(line: ShapeLine, verdict: Supervisor.Verdict)], _ barred: [Barred]) {
    var table = Table("PROBLEM", "KERNEL", "TIME", "DEFAULT", "GAIN", "KNOBS", right: [2, 3, 4])
    for (line, verdict) in results {
      switch verdict {
      case .tuned(let o):
        let gain = o.defaultNs > 0 && o.ns > 0 ? fixed(o.defaultNs / o.ns, 2) + "x" : "-"
        table.add(
          line.label, o.winner.kernel, duration(o.ns), o.defaultNs > 0 ? duration(o.defaultNs) : "-", gain,
          [o.winner.knobs, "\(o.winner.workers) thread(s)"].filter { !$0.isEmpty }.joined(separator: ", "))
      case .refused(let why): table.add(line.label, "-", "-", "-", "-", why)
      }
    }
    say(table.text)
    for b in barred { say("\(b.candidate.kernel):\(b.candidate.knobs) \(b.status.rawValue): \(b.reason)") }
  }

  private func json(_ results: [(line: ShapeLine, verdict: Supervisor.Verdict)], _ barred: [Barred]) -> JSON {
    [
      "problems": .array(
        results.map { line, verdict in
          var members: [(String, JSON)] = [("problem", .string(line.label))]
          switch verdict {
          case .tuned(let o):
            members += [
              ("kernel", .string(o.winner.kernel)), ("knobs", .string(o.winner.knobs)),
              ("workers", JSON(Int(o.winner.workers))), ("median_ns", .number(o.ns)),
              ("default_ns", .number(o.defaultNs)), ("rigor", JSON(Int(o.rigor))), ("error", .null),
            ]
          case .refused(let why): members.append(("error", .string(why)))
          }
          return .object(members)
        }),
      "quarantined": .array(
        barred.map {
          [
            "kernel": .string($0.candidate.kernel), "knobs": .string($0.candidate.knobs),
            "status": .string($0.status.rawValue), "reason": .string($0.reason),
          ]
        }),
    ]
  }
}

/// A refusal of the library's own types as the command line reports it.
func checkedRefusal<R>(_ body: () throws(Refusal) -> R) throws -> R {
  do throws(Refusal) {
    return try body()
  } catch {
    throw Failure("\(error.code.name): \(error.message)")
  }
}
