import CAttune

/// The last registration check: presets bind, and every expression has a value on random problems. What parses may
/// still divide by a size of zero or need a symbol that nothing binds in some mode.
enum DryRun {
  private static let problems = 50

  /// Throws E_LOAD. Kernels whose own expressions fail are returned by entry name, with the reason.
  static func check(_ op: Operator) throws(Refusal) -> [String: [DroppedKernel]] {
    for preset in op.descriptor.presets {
      do throws(Refusal) {
        _ = try ProblemShapes(op: op, preset: preset)
      } catch {
        throw Refusal(.load, error.argument, "\(op.id): preset \(preset.name): \(error.message)")
      }
    }
    var dropped: [String: [DroppedKernel]] = [:]
    for entry in op.entries { dropped[entry.name] = try check(op, entry) }
    return dropped
  }

  private static func check(_ op: Operator, _ entry: Entry) throws(Refusal) -> [DroppedKernel] {
    let solver = ShapeSolver(op, entry)
    var numbers = SeededNumbers(seed: 0, name: entry.name)
    var dropped: [DroppedKernel] = []
    var good = 0
    var fault: (rule: Int, Fault)?
    for _ in 0..<RandomProblem.attempts where good < problems {
      switch solver.draw(&numbers) {
      case .refused: continue
      case .noValue(let rule, let why): fault = (rule, why)
      case .drawn:
        good += 1
        try at("\(op.id).\(entry.name)") { () throws(Refusal) in try evaluateAll(solver) }
        for kernel in entry.kernels where !dropped.contains(where: { $0.name == kernel.spec.name }) {
          do throws(Refusal) {
            try evaluateAll(kernel, solver)
          } catch {
            dropped.append(DroppedKernel(name: kernel.spec.name, reason: error.message))
          }
        }
      }
    }
    // Rules that refuse everything random are the author's right; a rule that never has a value is a mistake.
    if good == 0, let (rule, why) = fault {
      let text = entry.rules[rule].text
      throw Refusal(.load, "", "\(op.id).\(entry.name): rule \(rule) \"\(text)\" has no value: \(why.words)")
    }
    return dropped
  }

  private static func evaluateAll(_ solver: ShapeSolver) throws(Refusal) {
    let entry = solver.entry
    let tables = solver.tables
    for item in entry.lets where !item.isDefault { _ = try value(item.value, solver) }
    try size(entry.flops, "flops", solver)
    if let bytes = entry.bytes { try size(bytes, "bytes", solver) }
    for t in tables.tensors.indices where solver.isPresent(t) {
      for i in solver.alternative(t).map(solver.dims) ?? 0..<0 {
        for form in tables.dims[i].firstForm..<(tables.dims[i].firstForm + tables.dims[i].forms) {
          var fault = Fault()
          guard tables.value(form, solver.env, &fault) == nil else { continue }
          let spec = entry.tensors[t].spec
          throw Refusal(.load, spec.name, "tensor \(spec.name): shape \"\(spec.shape)\" has no value: \(fault.words)")
        }
      }
      if tables.tensors[t].isOutput { continue }
      for case .expression(let e) in entry.tensors[t].gen.arguments {
        try at("gen of \(entry.tensors[t].spec.name)") { () throws(Refusal) in _ = try value(e, solver) }
      }
    }
  }

  private static func evaluateAll(_ kernel: Kernel, _ solver: ShapeSolver) throws(Refusal) {
    for (i, knob) in kernel.spec.knobs.enumerated() where i < Limits.knobs {
      solver.storage.knobs[i] = knob.values.indices.contains(knob.def) ? knob.values[knob.def] : 0
    }
    if let when = kernel.when, try value(when, solver) == 0 { return }
    if let knobWhen = kernel.knobWhen, try value(knobWhen, solver) == 0 { return }
    try size(kernel.tasks, "tasks", solver)
    try size(kernel.workspace, "workspace", solver)
    try size(kernel.flops, "flops", solver)
    try size(kernel.bytes, "bytes", solver)
    for case .expr(let e, _) in kernel.args { _ = try value(e, solver) }
  }

  private static func size(_ e: Expression?, _ what: String, _ solver: ShapeSolver) throws(Refusal) {
    guard let e else { return }
    let x = try value(e, solver)
    try require(x >= 0, "\(what) \"\(e.text)\" is \(x) on a small problem, expected 0 or more")
  }

  private static func value(_ e: Expression, _ solver: ShapeSolver) throws(Refusal) -> Int64 {
    switch e.value(solver.env) {
    case .success(let x): return x
    case .failure(let fault): throw Refusal(.load, "", "\"\(e.text)\" has no value: \(fault.words)")
    }
  }
}
