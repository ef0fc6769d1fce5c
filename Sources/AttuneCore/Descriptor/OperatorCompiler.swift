import CAttune

/// Turns a descriptor that a plugin brought into an operator that can be trusted: every name resolved, every expression
/// compiled, every check of ABI.md section 12 made.
package enum OperatorCompiler {
  /// Any thread. Throws E_LOAD with a sentence that says where: `op.entry: tensor q: ...`. A kernel with a fault is
  /// left out of its entry and listed in `Entry.droppedKernels`.
  package static func compile(_ spec: Descriptor.Operator) throws(Refusal) -> Operator {
    try require(isIdentifier(spec.id), "\"\(spec.id)\" is no operator id")
    try at(spec.id) { () throws(Refusal) in
      try checkParams(spec.params)
      try checkTolerances(spec.tolerances)
      try checkEntryNames(spec.entries)
      try checkPresets(spec)
    }
    var entries: [Entry] = []
    for entry in spec.entries {
      let compiler = EntryCompiler(op: spec, spec: entry)
      entries.append(try at("\(spec.id).\(entry.name)") { () throws(Refusal) in try compiler.compile() })
    }
    let op = Operator(descriptor: spec, entries: entries)
    let faulty = try DryRun.check(op)
    if faulty.values.allSatisfy(\.isEmpty) { return op }
    return Operator(
      descriptor: spec, entries: try entries.map { (e) throws(Refusal) in try e.without(faulty[e.name] ?? [], spec.id) }
    )
  }

  /// `nsa`, or reverse-DNS outside the project. `@` separates operator and plugin in callers' requests.
  private static func isIdentifier(_ id: String) -> Bool {
    guard id.utf8.count <= Limits.name else { return false }
    return id.split(separator: ".", omittingEmptySubsequences: false).allSatisfy { part in
      guard let first = part.utf8.first, !Lexer.isDigit(first) else { return false }
      return part.utf8.allSatisfy { Lexer.isWord($0) || $0 == UInt8(ascii: "-") }
    }
  }

  private static func checkParams(_ params: [Descriptor.Param]) throws(Refusal) {
    try require(params.count <= Limits.params, "\(params.count) parameters, at most \(Limits.params) are allowed")
    if let name = Words.firstRepeated(params.map(\.name)) { throw Refusal(.load, name, "two parameters \(name)") }
    for p in params {
      try require(
        Words.isName(p.name) && !Words.reserved.contains(p.name), "\"\(p.name)\" may not be the name of a parameter")
      try at("parameter \(p.name)") { () throws(Refusal) in
        if p.kind == .enum {
          try require(!p.words.isEmpty && Words.firstRepeated(p.words) == nil, "an enum has different words")
          try require(p.words.allSatisfy(Words.isName), "the words of an enum are names")
        }
        if p.kind == .f64 { try require(!p.min.f.isNaN && !p.max.f.isNaN, "a bound is not a number") }
        if !p.isRequired { try checkDefault(p) }
      }
    }
  }

  private static func checkDefault(_ p: Descriptor.Param) throws(Refusal) {
    switch p.kind {
    case .bool: try require(p.def.i == 0 || p.def.i == 1, "the default of a bool is 0 or 1")
    case .enum:
      try require(p.def.i >= 0 && p.def.i < Int64(p.words.count), "the default \(p.def.i) is no index of its words")
    case .i64: try checkDefault(p, .integer(p.def.i))
    case .f64: try checkDefault(p, .real(p.def.f))
    }
  }

  private static func checkDefault(_ p: Descriptor.Param, _ value: ParamValue) throws(Refusal) {
    do throws(Refusal) { _ = try Parameters.legal(value, p, "default") } catch {
      throw Refusal(.load, "", error.message)
    }
  }

  private static func checkTolerances(_ tolerances: [Descriptor.Tolerance]) throws(Refusal) {
    if let name = Words.firstRepeated(tolerances.map(\.dtype.name)) {
      throw Refusal(.load, "", "two tolerances of \(name)")
    }
    for t in tolerances {
      try require(
        t.rtol >= 0 && t.atol >= 0 && t.rtol.isFinite && t.atol.isFinite,
        "tolerance of \(t.dtype.name) is no number >= 0")
    }
  }

  private static func checkEntryNames(_ entries: [Descriptor.Entry]) throws(Refusal) {
    try require(entries.count <= Limits.entries, "\(entries.count) entries, at most \(Limits.entries) are allowed")
    if let name = Words.firstRepeated(entries.map(\.name)) { throw Refusal(.load, "", "two entries \(name)") }
    try require(entries.contains { $0.name == "forward" }, "no entry forward")
  }

  private static func checkPresets(_ spec: Descriptor.Operator) throws(Refusal) {
    try require(
      spec.presets.count <= Limits.presets, "\(spec.presets.count) presets, at most \(Limits.presets) are allowed")
    if let name = Words.firstRepeated(spec.presets.map(\.name)) { throw Refusal(.load, "", "two presets \(name)") }
    for preset in spec.presets {
      try require(Words.isName(preset.name), "\"\(preset.name)\" is no name of a preset")
      try require(
        spec.entries.contains { $0.name == preset.entry }, "preset \(preset.name): no entry \(preset.entry)")
    }
    try require(spec.presets.count(where: \.isDemo) == 1, "exactly one DEMO preset expected")
    try require(spec.presets.contains(where: \.isBench), "at least one BENCH preset expected")
  }
}

extension Entry {
  /// The same entry when some kernels turned out to be unusable. Throws E_LOAD when REFERENCE is among them.
  fileprivate func without(_ faulty: [DroppedKernel], _ op: String) throws(Refusal) -> Entry {
    let names = Set(faulty.map(\.name))
    if let reference = kernels.first(where: \.spec.isReference)?.spec.name,
      let why = faulty.first(where: { $0.name == reference })
    {
      throw Refusal(.load, "", "\(op).\(name): the REFERENCE kernel \(reference) cannot be used: \(why.reason)")
    }
    return Entry(
      descriptor: descriptor, symbols: symbols, tensors: tensors, lets: lets, rules: rules, buckets: buckets,
      flops: flops, bytes: bytes, kernels: kernels.filter { !names.contains($0.spec.name) },
      droppedKernels: droppedKernels + faulty)
  }
}
