import ArgumentParser
import AttuneCore
import CAttune

struct Demo: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Run every operator on real data and compare with its REFERENCE.",
    discussion: """
      q, k and v are those of two layers of a small language model; other tensors are generated with seed 0. Errors \
      are the largest difference as a share of the largest value. VS MODEL: against what the model itself computed, \
      for operators whose REFERENCE computes the same.
      """)
  @Option(help: "Folder with layer*_{q,k,v,out}.npy.") var data: String?
  @OptionGroup var thread: ThreadOption
  @OptionGroup var output: JSONOption

  private struct Row {
    var op: String
    var info: Plan.Info
    var isa: String
    var timing: Timing
    var flops: Double
    /// Largest over layers and outputs, as a share of the largest value of REFERENCE.
    var error = 0.0
    var modelError: Double?
    var failure: String?
  }

  func run() throws {
    let context = try Context(ContextOptions(workers: thread.threads))
    let data = try DemoData(folder: data)
    let layers = try data.names.map(data.layer)
    let registry = try context.registry()
    guard !registry.operators.isEmpty else {
      throw Failure("no operators found; attune doctor says where was looked", code: 1)
    }
    var rows: [Row] = []
    var failures: [String] = []
    for op in registry.operators {
      do {
        guard let row = try measure(op.id, layers, context) else { continue }
        rows.append(row)
        if let failure = row.failure { failures.append("\(op.id): \(failure)") }
      } catch let error as LibraryError {
        failures.append("\(op.id): \(error.name): \(error.message)")
      } catch let failure as Failure {
        failures.append("\(op.id): \(failure.message)")
      }
    }
    if rows.isEmpty && failures.isEmpty { failures.append("no operator has a demo preset") }
    if output.json { say(json(rows, layers, failures).text) } else { show(rows, layers, failures) }
    if !failures.isEmpty { throw ExitCode(1) }
  }

  /// nil when the operator has no demo preset.
  private func measure(_ id: String, _ layers: [DemoData.Layer], _ context: Context) throws -> Row? {
    let description = try context.op(id)
    let model = try context.model(id)
    guard let preset = model.descriptor.presets.first(where: \.isDemo), let entry = model.entry(named: preset.entry),
      let reference = description.entry(entry.name)?.reference
    else { return nil }
    var made: Row?
    var error = 0.0
    var modelError: Double?
    var failure: String?
    for layer in layers {
      let problem = try GeneratedProblem(model, entry, preset, layer)
      let plan = try Plan(context, problem.problem(workers: thread.threads))
      try plan.execute()
      let exact = try Plan(
        context, problem.problem(kernel: reference, workers: thread.threads, tune: Int32(ATTUNE_TUNE_OFF)))
      try exact.execute()
      let info = try plan.info()
      if made == nil {
        let kernel = description.entry(entry.name)?.kernels?.first { $0.name == info.kernel }
        let timing = try Stopwatch.measure([{ try plan.executeOrThrow() }]).first ?? Timing()
        made = Row(op: id, info: info, isa: isaLevel(kernel?.isa ?? []), timing: timing, flops: problem.flops)
      }
      for name in problem.outputs {
        guard let got = plan.tensor(name), let want = exact.tensor(name) else { continue }
        let difference = Difference(got: got, want: want)
        error = max(error, difference.relative)
        guard let limit = description.tolerance.first(where: { $0.dtype == "f32" }) else {
          throw Failure("\(id) states no tolerance for f32")
        }
        if let violation = difference.violation(rtol: limit.rtol, atol: limit.atol) {
          failure = "\(layer.name) \(name)\(violation) (kernel \(info.kernel) against \(reference))"
        }
        if want.shape == layer.modelOutput.shape, Difference(got: want, want: layer.modelOutput).relative <= 1e-3 {
          modelError = max(modelError ?? 0, Difference(got: got, want: layer.modelOutput).relative)
        }
      }
    }
    made?.error = error
    made?.modelError = modelError
    made?.failure = failure
    return made
  }

  private func show(_ rows: [Row], _ layers: [DemoData.Layer], _ failures: [String]) {
    let shape = layers.first?.inputs.values.first?.shape.map(String.init).joined(separator: "x") ?? ""
    say("q, k, v of \(layers.map(\.name).joined(separator: ", ")), \(shape) f32\n")
    var table = Table(
      "OPERATOR", "KERNEL", "ISA", "THREADS", "TIME", "GFLOP/S", "ERROR", "VS MODEL", right: [3, 4, 5, 6, 7])
    for row in rows {
      table.add(
        row.op, row.info.kernel, row.isa, String(row.info.workers), duration(row.timing.median),
        fixed(row.flops / row.timing.median, 1), scientific(row.error), row.modelError.map(scientific) ?? "-")
    }
    if !rows.isEmpty { say(table.text + "\n") }
    if failures.isEmpty {
      say("all is well: \(rows.count) operators agree with their REFERENCE")
    } else {
      for failure in failures { say("failed: " + wrap(failure, width: 92, indent: 8)) }
    }
  }

  private func json(_ rows: [Row], _ layers: [DemoData.Layer], _ failures: [String]) -> JSON {
    [
      "ok": .bool(failures.isEmpty), "layers": JSON(layers.map(\.name)), "failures": JSON(failures),
      "operators": .array(
        rows.map {
          [
            "op": .string($0.op), "kernel": .string($0.info.kernel), "knobs": .string($0.info.knobs),
            "isa": .string($0.isa), "threads": JSON($0.info.workers), "median_ns": .number($0.timing.median),
            "gflops": .number($0.flops / $0.timing.median), "error": .number($0.error),
            "model_error": JSON($0.modelError), "failure": JSON($0.failure),
          ]
        }),
    ]
  }
}
