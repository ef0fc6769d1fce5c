import ArgumentParser
import AttuneCore
import CAttune

struct Explain: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Say which kernel computes a problem, and why.",
    discussion: """
      Shows what is remembered about problems of this class: every candidate with its time, or the model's estimate where \
      nothing was measured, and the kernels that do not take the problem.
      """)
  @Argument(help: "Operator, or operator@plugin.") var op: String
  @Option(help: "What to compute.") var entry = "forward"
  @Option(help: "Sizes, as B=1,Hq=8,Hkv=8,Nq=2048,Nk=2048,D=64,Dv=64.") var shape: String
  @Option(name: .customLong("param"), parsing: .upToNextOption, help: "Parameters, each NAME=VALUE.")
  var params: [String] = []
  @Option(help: "Optional tensors to add, as a preset has them.") var tensors = ""
  @Option(help: "Storage type: f32, bf16 or f16.") var dtype = "f32"
  @OptionGroup var thread: ThreadOption
  @Option(help: "off, frozen, estimate, measure, patient or exhaustive; without it the context's.") var tune: String?
  @Option(help: "Wisdom file; without it the user's own.") var wisdom: String?
  @Option(help: "Also draw the candidates' times into this SVG file.") var svg: String?
  @OptionGroup var output: JSONOption

  func run() throws {
    let context = try Context(ContextOptions(workers: thread.threads, tune: try tuneMode(tune), wisdom: wisdom))
    let description = try context.op(op)
    var values: [String: Scalar] = [:]
    for text in params {
      let p = try Parameter.parse(text, for: description)
      values[p.name] = p.scalar
    }
    let line = ShapeLine(
      op: op, entry: entry, shape: shape, extras: tensors, dtype: dtype, params: values, threads: thread.threads)
    let problem = try line.problem(context)
    let e = try problem.withRecord { try context.explain($0) }
    if let svg {
      try File.write(CandidateChart(title: line.label, explanation: e).svg, to: svg)
    }
    if output.json { say(json(e).text) } else { show(e, line) }
  }

  private func show(_ e: Explanation, _ line: ShapeLine) {
    let knobs = e.chosen.knobs.isEmpty ? "" : ":\(e.chosen.knobs)"
    say("\(line.label)\nruns \(e.chosen.kernel)\(knobs) on \(e.chosen.workers) thread(s): \(e.reason)")
    let sizes = e.key.sizes.map { "\($0.name)=\($0.value)" }.joined(separator: ",")
    if !e.isExact { say("measured for the largest problem of its class: \(sizes)") }
    var table = Table(
      "", "KERNEL", "THREADS", "TIME", "RATIO", "MODEL", "ROUNDS", "STATUS", "KNOBS", right: [2, 3, 4, 5, 6])
    for l in e.lines {
      let t = l.trial
      table.add(
        l.candidate == e.chosen ? ">" : "", l.candidate.kernel, "\(l.candidate.workers)",
        t.map { $0.medianNs > 0 ? duration($0.medianNs) : "-" } ?? "-",
        t.map { $0.ratio > 0 ? fixed($0.ratio, 3) : "-" } ?? "-", l.estimate > 0 ? duration(l.estimate) : "-",
        t.map { "\($0.rounds)" } ?? "-", word(t), l.candidate.knobs)
    }
    say("\n" + table.text)
    for d in e.declined { say("  \(d.kernel): " + wrap(d.reason, width: 90, indent: 4)) }
  }

  private func word(_ trial: Trial?) -> String {
    guard let trial else { return "not measured" }
    return trial.status == .slow && trial.medianNs == 0 ? "not worth timing" : trial.status.rawValue
  }

  private func json(_ e: Explanation) -> JSON {
    [
      "op": .string(op), "entry": .string(entry), "kernel": .string(e.chosen.kernel), "knobs": .string(e.chosen.knobs),
      "workers": JSON(Int(e.chosen.workers)), "source": .string(e.source), "reason": .string(e.reason),
      "expected_ns": .number(e.choice.expectedNs), "class": .string(e.key.family),
      "sizes": .object(e.key.sizes.map { ($0.name, JSON($0.value)) }),
      "candidates": .array(
        e.lines.map { l in
          [
            "kernel": .string(l.candidate.kernel), "revision": JSON(Int(l.candidate.revision)),
            "knobs": .string(l.candidate.knobs), "workers": JSON(Int(l.candidate.workers)),
            "median_ns": JSON(l.trial.map(\.medianNs)), "ratio": JSON(l.trial.map(\.ratio)),
            "spread": JSON(l.trial.map(\.spread)), "rounds": JSON(l.trial?.rounds ?? 0),
            "status": JSON(l.trial?.status.rawValue), "estimate_ns": .number(l.estimate),
          ]
        }),
      "declined": .array(e.declined.map { ["kernel": .string($0.kernel), "reason": .string($0.reason)] }),
    ]
  }
}

extension Explanation {
  var source: String {
    switch Int(choice.source) {
    case ATTUNE_EXACT: "exact"
    case ATTUNE_BUCKET: "bucket"
    case ATTUNE_NEIGHBOUR: "neighbour"
    case ATTUNE_ESTIMATED: "estimate"
    case ATTUNE_FORCED: "forced"
    default: "default"
    }
  }

  var reason: String {
    switch Int(choice.source) {
    case ATTUNE_EXACT: "the fastest when this very problem was measured"
    case ATTUNE_BUCKET: "the fastest when its class of sizes was measured"
    case ATTUNE_NEIGHBOUR: "the fastest of a neighbouring class; this one was not measured"
    case ATTUNE_ESTIMATED: "the fastest by the model; nothing was measured"
    case ATTUNE_FORCED: "the caller insists"
    default: "the first that takes the problem; tuning is off"
    }
  }
}
