import ArgumentParser
import AttuneCore
import CAttune

struct Run: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Compute an operator on .npy files.",
    discussion: "Without --out: `o` and every output that a call must have; prints shapes and a digest.")
  @Argument(help: "Operator, or operator@plugin.") var op: String
  @Option(help: "What to compute.") var entry = "forward"
  @Option(name: .customLong("in"), parsing: .upToNextOption, help: "Input tensors, each NAME=FILE.npy.")
  var inputs: [String] = []
  @Option(name: .customLong("param"), parsing: .upToNextOption, help: "Parameters, each NAME=VALUE.")
  var params: [String] = []
  @Option(name: .customLong("out"), parsing: .upToNextOption, help: "Outputs to write, each NAME=FILE.npy.")
  var outputs: [String] = []
  @Option(help: "Force a kernel: NAME or NAME:knob=value,...") var kernel: String?
  @OptionGroup var thread: ThreadOption
  @Option(help: "off, frozen, estimate, measure, patient or exhaustive.") var tune: String?
  @OptionGroup var output: JSONOption

  func run() throws {
    let context = try Context(ContextOptions(workers: thread.threads))
    let description = try context.op(op)
    guard let entryDescription = description.entry(entry) else {
      throw Failure(
        "\(op) has no entry \(entry); it has \(description.entries.map(\.name).joined(separator: ", "))")
    }
    var problem = Problem(op: op, entry: entry, kernel: kernel, workers: thread.threads)
    problem.tune = try tuneMode(tune)
    problem.params = try params.map { try Parameter.parse($0, for: description) }
    var names: Set<String> = []
    for assignment in inputs {
      let (name, path) = try split(assignment: assignment, option: "--in")
      guard names.insert(name).inserted else { throw Failure("--in \(name) is given twice") }
      problem.tensors.append((name, try Npy.read(path)))
    }
    let inputNames = names
    var files: [(name: String, path: String)] = []
    for assignment in outputs {
      let (name, path) = try split(assignment: assignment, option: "--out")
      guard names.insert(name).inserted else { throw Failure("--out \(name) is given twice, or also as input") }
      files.append((name, path))
      problem.tensors.append((name, nil))
    }
    if outputs.isEmpty, let o = entryDescription.tensor("o"), entryDescription.isOutput(o), !names.contains("o") {
      problem.tensors.append(("o", nil))
    }
    let plan = try Plan.completing(problem, of: entryDescription, in: context)
    guard plan.tensors.contains(where: { !inputNames.contains($0.name) }) else {
      let offered = entryDescription.tensors.filter(entryDescription.isOutput).map(\.name)
      throw Failure(
        "\(op) \(entry) computes only what is asked for: name outputs with --out, of \(offered.joined(separator: ", "))"
      )
    }
    try plan.execute()
    for (name, path) in files {
      guard let tensor = plan.tensor(name) else { continue }
      try Npy.write(tensor, to: path)
    }
    let info = try plan.info()
    let made = plan.tensors.filter { !inputNames.contains($0.name) }
    if output.json { say(json(info, made, files).text) } else { show(info, made, files) }
  }

  private func show(
    _ info: Plan.Info, _ made: [(name: String, tensor: HostTensor)], _ files: [(name: String, path: String)]
  ) {
    let knobs = info.knobs.isEmpty ? "" : ":\(info.knobs)"
    say("\(op) \(entry): kernel \(info.kernel)\(knobs), \(info.workers) thread(s), plugin \(info.plugin)")
    var table = Table("OUTPUT", "TYPE", "SHAPE", "MIN", "MAX", "MEAN", "NOT FINITE", "FILE", right: [3, 4, 5, 6])
    for (name, tensor) in made {
      let d = Digest(tensor)
      table.add(
        name, tensor.dtype.name, tensor.shape.map(String.init).joined(separator: "x"), number(d.min), number(d.max),
        number(d.mean), String(d.notFinite), files.first { $0.name == name }?.path ?? "-")
    }
    say(table.text)
  }

  private func number(_ value: Double?) -> String { value.map { fixed($0, 6) } ?? "-" }

  private func json(
    _ info: Plan.Info, _ made: [(name: String, tensor: HostTensor)], _ files: [(name: String, path: String)]
  ) -> JSON {
    [
      "op": .string(op), "entry": .string(entry), "plugin": .string(info.plugin), "kernel": .string(info.kernel),
      "knobs": .string(info.knobs), "threads": JSON(info.workers),
      "outputs": .array(
        made.map { name, tensor in
          let d = Digest(tensor)
          return [
            "name": .string(name), "dtype": .string(tensor.dtype.name), "shape": .array(tensor.shape.map { JSON($0) }),
            "min": JSON(d.min), "max": JSON(d.max), "mean": JSON(d.mean), "not_finite": JSON(d.notFinite),
            "file": JSON(files.first { $0.name == name }?.path),
          ]
        }),
    ]
  }
}

/// A few numbers by which two people can tell whether they have the same result. nil: no finite element.
struct Digest {
  var min: Double?
  var max: Double?
  var mean: Double?
  var notFinite = 0

  init(_ tensor: HostTensor) {
    var low = Double.infinity
    var high = -Double.infinity
    var sum = 0.0
    for i in 0..<tensor.count {
      let x = tensor.value(at: i)
      guard x.isFinite else {
        notFinite += 1
        continue
      }
      low = Swift.min(low, x)
      high = Swift.max(high, x)
      sum += x
    }
    let finite = tensor.count - notFinite
    guard finite > 0 else { return }
    (min, max, mean) = (low, high, sum / Double(finite))
  }
}

/// ATTUNE_TUNE_* of a word; nil = the context's.
func tuneMode(_ word: String?) throws -> Int32 {
  let modes: [(word: String, mode: Int)] = [
    ("off", ATTUNE_TUNE_OFF), ("frozen", ATTUNE_TUNE_FROZEN), ("estimate", ATTUNE_TUNE_ESTIMATE),
    ("measure", ATTUNE_TUNE_MEASURE), ("patient", ATTUNE_TUNE_PATIENT), ("exhaustive", ATTUNE_TUNE_EXHAUSTIVE),
  ]
  guard let word else { return Int32(ATTUNE_TUNE_DEFAULT) }
  guard let found = modes.first(where: { $0.word == word }) else {
    throw Failure("--tune \(word): choose one of \(modes.map(\.word).joined(separator: " "))")
  }
  return Int32(found.mode)
}
