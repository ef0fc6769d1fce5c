import CAttune

/// A problem made from sizes instead of tensors: which tensors take part, with types, shapes and generators. For
/// presets, benchmarks and tests. Immutable.
package struct ProblemShapes: Sendable {
  package struct Slot: Sendable {
    package let index: Int  // in entry.tensors
    package let name: String
    package let dtype: DType
    package let shape: [Int64]
    package let isOutput: Bool
    package let gen: Generator
  }

  package let op: Operator, entry: Entry
  package let params: [(name: String, value: ParamValue)]
  package let slots: [Slot]  // in the order of the entry
  /// The same problem bound forwards: symbols, cost, and an environment for generators.
  package let bound: BoundProblem

  /// Sizes of the q, k and v that the project ships as real data; a preset without `shape` means these.
  package static let demoTensors = ["q", "k", "v"], demoShape: [Int64] = [1, 12, 512, 32]

  /// - params: as a problem gives them; defaults for the rest.
  /// - symbols: sizes by index of entry.symbols; lets fill in what they can.
  /// - given: shapes of tensors that exist already, by index of entry.tensors.
  /// - extras: optional tensors to add, with a generator of their own or nil.
  /// - dtype: storage type of every tensor of a dtype_var that allows it.
  ///
  /// Throws what binding throws, and E_SHAPE for a size that is missing or contradicts the others. Any thread.
  package init(
    op: Operator, entry: Entry, params: [(name: String, value: ParamValue)], symbols: [Int: Int64],
    given: [Int: [Int64]] = [:], extras: [Int: Generator?] = [:], dtype: DType = .f32
  ) throws(Refusal) {
    let place = "\(op.id) \(entry.name)"
    let solver = ShapeSolver(op, entry, dtype: dtype)
    try Parameters.store(params, of: op, entry: place, into: solver.storage.params)
    for (symbol, size) in symbols where entry.symbols.indices.contains(symbol) { solver.bind(symbol, size) }
    for t in entry.tensors.indices where given[t] != nil || extras.keys.contains(t) { solver.add(tensor: t) }
    try ProblemShapes.addNeeded(solver, place)
    try ProblemShapes.bind(given, solver, place)
    solver.supplyLets()

    for t in entry.tensors.indices where solver.isPresent(t) && !entry.tensors[t].isOutput && given[t] == nil {
      do throws(ShapeSolver.Gap) {
        // Of "1|Nk" a generated input is the full one.
        try solver.makeShape(t) { $0 - 1 }
      } catch {
        throw ProblemShapes.refusal(error, entry.tensors[t].spec, entry, place)
      }
    }
    try self.init(solver, params, extras)
    for (symbol, size) in symbols where entry.symbols.indices.contains(symbol) {
      if let got = bound.symbol(symbol), got != size {
        throw Refusal(
          .shape, "", "\(place): \(entry.symbols[symbol]) is \(size), expected \(got) from the other sizes",
          detail: (got, size))
      }
    }
  }

  /// A preset of the operator.
  package init(op: Operator, preset: Descriptor.Preset, dtype: DType = .f32) throws(Refusal) {
    guard let entry = op.entry(named: preset.entry) else {
      throw Refusal(.notFound, "", "\(op.id) has no entry \(preset.entry)")
    }
    var given: [Int: [Int64]] = [:]
    if preset.shape.isEmpty {
      for name in ProblemShapes.demoTensors {
        if let t = entry.tensorIndex(name) { given[t] = ProblemShapes.demoShape }
      }
    }
    try self.init(
      op: op, entry: entry, params: try ProblemText.params(preset.params, op),
      symbols: try ProblemText.symbols(preset.shape, entry), given: given,
      extras: try ProblemText.tensors(preset.tensors, op, entry), dtype: dtype)
  }

  /// From a solver whose inputs have their shapes.
  init(
    _ solver: ShapeSolver, _ params: [(name: String, value: ParamValue)], _ extras: [Int: Generator?]
  ) throws(Refusal) {
    let entry = solver.entry
    var tensors: [GivenTensor] = []
    for (t, model) in entry.tensors.enumerated() where solver.isPresent(t) {
      let shape = model.isOutput ? nil : solver.storage.shape(t)
      tensors.append(GivenTensor(model.spec.name, DType(rawValue: solver.storage.dtypes[t]), shape))
    }
    let bound = try Binder.bind(op: solver.op, entry: entry.name, tensors: tensors, params: params)
    self.op = solver.op
    self.entry = entry
    self.params = params
    self.bound = bound
    self.slots = bound.order.map { t in
      let model = entry.tensors[t]
      return Slot(
        index: t, name: model.spec.name, dtype: bound.dtype(t), shape: bound.shape(t), isOutput: model.isOutput,
        gen: (extras[t] ?? nil) ?? model.gen)
    }
  }

  /// Fills `data` (compact row-major, the slot's type and shape) with the slot's test data. Any thread.
  package func fill(_ slot: Slot, _ data: UnsafeMutableRawPointer, seed: UInt64) throws(Refusal) {
    try slot.gen.fill(
      data, slot.dtype, shape: slot.shape, environment: bound.environment, seed: seed, name: slot.name)
  }

  private static func addNeeded(_ solver: ShapeSolver, _ place: String) throws(Refusal) {
    for (t, model) in solver.entry.tensors.enumerated() where !solver.isPresent(t) {
      guard let needed = model.needed else {
        solver.add(tensor: t)
        continue
      }
      if try needed.cold(&solver.env.pointee, place) != 0 { solver.add(tensor: t) }
    }
  }

  private static func bind(_ given: [Int: [Int64]], _ solver: ShapeSolver, _ place: String) throws(Refusal) {
    for (t, model) in solver.entry.tensors.enumerated() {
      guard let shape = given[t] else { continue }
      guard let alternative = solver.alternative(t, rank: shape.count) else {
        throw Refusal(
          .shape, model.spec.name, "\(place): \(model.spec.name) has rank \(shape.count) (\(model.spec.shape))")
      }
      for (i, extent) in zip(solver.dims(alternative), shape) {
        let dim = solver.tables.dims[i]
        guard dim.symbol >= 0, !solver.isBound(Int(dim.symbol)) else { continue }
        let (size, overflow) = extent.subtractingReportingOverflow(dim.offset)
        if !overflow, size >= 0 { solver.bind(Int(dim.symbol), size) }
      }
      solver.storage.setShape(t, shape)
    }
  }

  private static func refusal(
    _ gap: ShapeSolver.Gap, _ spec: Descriptor.Tensor, _ entry: Entry, _ place: String
  ) -> Refusal {
    switch gap {
    case .noShape: Refusal(.shape, spec.name, "\(place): \(spec.name) has no shape in this mode (\(spec.shape))")
    case .negative(let dim, let x):
      Refusal(
        .shape, spec.name, "\(place): \(spec.name) dim \(dim) would be \(x), expected 0 or more (\(spec.shape))",
        detail: (0, x))
    case .noValue(let dim, let fault):
      if fault.reason == .unbound, entry.symbols.indices.contains(Int(fault.symbol)) {
        Refusal(
          .shape, spec.name,
          "\(place): a size for \(entry.symbols[Int(fault.symbol)]) is missing (\(spec.name): \(spec.shape))")
      } else {
        Refusal(.shape, spec.name, "\(place): \(spec.name) dim \(dim) has no value: \(fault.words) (\(spec.shape))")
      }
    }
  }
}
