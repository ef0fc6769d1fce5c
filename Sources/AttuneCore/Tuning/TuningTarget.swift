import CAttune

/// What a measured choice is good for: everything of a problem that the kernels can observe, with the sizes that the
/// entry tunes by class rounded up to the end of their class.
package struct TuningTarget {
  package let key: WisdomKey
  /// The problem at the upper end of its class; the caller's own when a rule refuses that.
  package let largest: BoundProblem
  /// The caller's problem is the largest of its class.
  package let isExact: Bool
  /// Tensors and parameters of `largest`, to bind smaller ones like it.
  package let tensors: [GivenTensor]

  package init(_ problem: BoundProblem, _ request: Problem, _ resources: Resources, workers: UInt32) {
    let own = problem.givenTensors
    var largest = problem
    var tensors = own
    if let classed = problem.tensorsOfBucket(own),
      let bound = try? Binder.bind(op: problem.op, entry: problem.entry.name, tensors: classed, params: request.params)
    {
      (largest, tensors) = (bound, bound.givenTensors)
    }
    self.largest = largest
    self.tensors = tensors
    isExact = zip(own, tensors).allSatisfy { $0.shape == $1.shape }
    key = TuningTarget.key(largest, request, resources, workers)
  }

  private static func key(
    _ problem: BoundProblem, _ request: Problem, _ resources: Resources, _ workers: UInt32
  ) -> WisdomKey {
    let entry = problem.entry
    let op = problem.op
    var words: [String] = ["\(op.id) \(op.descriptor.version.major).\(op.descriptor.version.minor)", entry.name]
    if request.isDeterministic { words.append("deterministic") }
    if request.allowsReduced { words.append("reduced") }
    words.append("workers=\(workers)\(resources.areLent ? " lent" : "")")
    words.append("isa=\(String(resources.isa.0, radix: 16)).\(String(resources.isa.1, radix: 16))")
    // Alignment is only observed by kernels that ask for it.
    let wanted = entry.kernels.map(\.spec.minAlign).max() ?? 1
    if wanted > 1 { words.append("align=\(request.tensors.map(\.isAligned).min() ?? 64)") }
    for (i, p) in op.params.enumerated() where p.isStructural && i < BindFrame.capacity {
      let v = problem.storage.params[i]
      words.append("\(p.name)=\(p.kind == .f64 ? "\(v.f)" : "\(v.i)")")
    }
    var exact: [String] = []
    var sizes: [WisdomKey.Size] = []
    for (i, name) in entry.symbols.enumerated() {
      guard let size = problem.symbol(i), entry.derived >> UInt64(i) & 1 == 0 else { continue }
      if entry.buckets.contains(where: { $0.symbol == i && $0.rule != .exact }) {
        sizes.append(WisdomKey.Size(name: name, value: size))
      } else if problem.bindsByTensors(i) {
        exact.append("\(name)=\(size)")
      }
    }
    words += exact
    for (t, model) in entry.tensors.enumerated() where problem.isPresent(t) {
      var word = "\(model.spec.name):\(problem.dtype(t).name)"
      // Of `1|Nk` it matters which of the two it is.
      for (d, dim) in (problem.program.dims[t] ?? []).enumerated() where dim.forms.count > 1 && !model.isOutput {
        word += problem.storage.extents[8 * t + d] == 1 ? "/1" : "/n"
      }
      words.append(word)
    }
    return WisdomKey(op: op.id, family: words.joined(separator: " "), sizes: sizes)
  }
}

extension BoundProblem {
  /// The tensors of this problem as a problem names them, in its order.
  package var givenTensors: [GivenTensor] {
    order.map { t in GivenTensor(entry.tensors[t].spec.name, dtype(t), entry.tensors[t].isOutput ? nil : shape(t)) }
  }

  /// A present input shows this symbol as one of its dims.
  func bindsByTensors(_ symbol: Int) -> Bool {
    entry.tensors.indices.contains { t in
      isPresent(t) && !entry.tensors[t].isOutput
        && (program.dims[t] ?? []).contains { $0.bare?.symbol == symbol }
    }
  }
}

extension WisdomKey {
  /// How far another key of the same family is, in classes summed over the sizes; nil when one size is more than one
  /// class (a factor of two) away.
  func distance(to other: WisdomKey) -> Double? {
    guard sizes.count == other.sizes.count else { return nil }
    var sum = 0.0
    for (a, b) in zip(sizes, other.sizes) {
      guard a.name == b.name else { return nil }
      if a.value == b.value { continue }
      guard a.value > 0, b.value > 0 else { return nil }
      let ratio = Double(max(a.value, b.value)) / Double(min(a.value, b.value))
      if ratio > 2 { return nil }
      sum += ratio - 1
    }
    return sum
  }
}
