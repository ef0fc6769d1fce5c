/// Registration checks of one entry (ABI.md section 12), and its compiled form.
struct EntryCompiler {
  let op: Descriptor.Operator
  let spec: Descriptor.Entry
  private let symbols: [String]
  private let scope: Scope

  init(op: Descriptor.Operator, spec: Descriptor.Entry) {
    self.op = op
    self.spec = spec
    // "" has no symbols; "A,,B" has an empty one, which is no name.
    symbols = Words.trim(spec.symbols).isEmpty ? [] : Words.split(spec.symbols, at: ",")
    scope = Scope(params: op.params, symbols: symbols, tensors: spec.tensors.map(\.name))
  }

  func compile() throws(Refusal) -> Entry {
    try checkHead()
    try checkNames()
    var tensors: [TensorModel] = []
    for tensor in spec.tensors {
      tensors.append(try at("tensor \(tensor.name)") { () throws(Refusal) in try compile(tensor) })
    }
    try checkLikes(tensors)

    let parser = ShapeParser(scope: scope)
    let lets = try parser.lets(spec.let)
    let buckets = try parser.buckets(spec.buckets)
    try checkBound(tensors, lets)
    var rules: [Expression] = []
    for (i, rule) in spec.rules.enumerated() {
      rules.append(try at("rule \(i)") { () throws(Refusal) in try compile(rule) })
    }
    let flops = try at("flops") { () throws(Refusal) in try Expression(parsing: spec.flops, in: scope) }
    let bytes = try optional("bytes", spec.bytes, scope)
    let (kernels, dropped) = try KernelCompiler(scope: scope, tensors: tensors).compile(spec.kernels)
    return Entry(
      descriptor: spec, symbols: symbols, tensors: tensors, lets: lets, rules: rules, buckets: buckets, flops: flops,
      bytes: bytes, kernels: kernels, droppedKernels: dropped)
  }

  private func optional(_ field: String, _ text: String?, _ scope: Scope) throws(Refusal) -> Expression? {
    guard let text else { return nil }
    return try at(field) { () throws(Refusal) in try Expression(parsing: text, in: scope) }
  }

  private func checkHead() throws(Refusal) {
    try require(Words.isName(spec.name), "\"\(spec.name)\" is no name of an entry")
    try require((spec.name == "forward") == (spec.kind == .forward), "forward and the kind FORWARD go together")
    if let of = spec.of {
      try require(
        of != spec.name && op.entries.contains { $0.name == of }, "it differentiates \(of), which is no other entry")
    }
    try require(
      spec.kind != .backward || spec.of != nil && spec.name.hasPrefix("backward"),
      "the kind BACKWARD needs `of` and a name that begins with backward")
  }

  private func checkNames() throws(Refusal) {
    try require(
      spec.tensors.count <= Limits.tensors, "\(spec.tensors.count) tensors, at most \(Limits.tensors) are allowed")
    try require(symbols.count <= Limits.symbols, "\(symbols.count) symbols, at most \(Limits.symbols) are allowed")
    try require(spec.rules.count <= Limits.rules, "\(spec.rules.count) rules, at most \(Limits.rules) are allowed")
    for names in [spec.tensors.map(\.name), symbols] {
      if let name = Words.firstRepeated(names) { throw Refusal(.load, name, "\(name) is there twice") }
    }
    let words = Set(["min", "max", "cdiv"] + DType.allCases.map(\.name))
    for symbol in symbols {
      try require(Words.isName(symbol), "\"\(symbol)\" is no name of a symbol")
      try require(!words.contains(symbol), "symbol \(symbol) hides a word of the grammar")
    }
    for tensor in spec.tensors {
      let isFree = !Words.reserved.contains(tensor.name) && !op.params.contains { $0.name == tensor.name }
      try require(Words.isName(tensor.name) && isFree, "\"\(tensor.name)\" may not be the name of a tensor")
    }
  }

  private func compile(_ tensor: Descriptor.Tensor) throws(Refusal) -> TensorModel {
    let known = DType.allCases.reduce(0) { $0 | $1.bit }
    try require(tensor.dtypes != 0 && tensor.dtypes & ~known == 0, "dtypes is no set of element types")
    try require(!tensor.orF32 || tensor.dtypeVar != 0, "OR_F32 needs a dtype_var")
    let isOutput =
      tensor.role == .out || tensor.role == .stateOut || tensor.role == .saved && spec.of == nil
    return TensorModel(
      spec: tensor, isOutput: isOutput,
      needed: try optional("needed", tensor.needed, scope.withoutSymbols()),
      allowed: try optional("allowed", tensor.allowed, scope.withoutSymbols()),
      shape: try ShapeParser(scope: scope).shape(tensor.shape),
      state: try state(tensor),
      gen: try Generator(parsing: tensor.gen, in: scope))
  }

  /// Checks `pair`: a STATE_OUT names its STATE; in an entry that differentiates another, a tensor names what it is the
  /// gradient of there. Returns the index of the state.
  private func state(_ tensor: Descriptor.Tensor) throws(Refusal) -> Int? {
    guard let of = spec.of else {
      try require((tensor.role == .stateOut) == (tensor.pair != nil), "STATE_OUT and nothing else has a pair here")
      guard let pair = tensor.pair else { return nil }
      guard let index = scope.tensors[pair], spec.tensors[index].role == .state else {
        throw Refusal(.load, "", "its pair \(pair) is no STATE of this entry")
      }
      return index
    }
    try require(tensor.role != .stateOut, "an entry that differentiates another has no STATE_OUT")
    guard let pair = tensor.pair else { return nil }
    let home = op.entries.first { $0.name == of }
    try require(home?.tensors.contains { $0.name == pair } ?? false, "its pair \(pair) is no tensor of \(of)")
    return nil
  }

  /// `like` ends at a shape: one step is enough for everything that is meant by it, and excludes circles.
  private func checkLikes(_ tensors: [TensorModel]) throws(Refusal) {
    for tensor in tensors {
      guard case .like(let other) = tensor.shape, case .like = tensors[other].shape else { continue }
      throw Refusal(
        .load, tensor.spec.name, "tensor \(tensor.spec.name): \(tensor.spec.shape), which has no shape of its own")
    }
  }

  private func checkBound(_ tensors: [TensorModel], _ lets: [Let]) throws(Refusal) {
    var bound = Set(lets.map(\.symbol))
    for tensor in tensors where !tensor.isOutput {
      guard case .alternatives(let list) = tensor.shape else { continue }
      for dim in list.flatMap(\.dims) { if let bare = dim.bare { bound.insert(bare.symbol) } }
    }
    for (i, symbol) in symbols.enumerated() where !bound.contains(i) {
      throw Refusal(.load, "", "no input and no let gives symbol \(symbol) a value")
    }
  }

  private func compile(_ rule: Descriptor.Rule) throws(Refusal) -> Expression {
    let codes: [Status] = [.invalid, .unsupported, .notFound, .shape, .dtype, .layout, .param]
    try require(codes.contains(rule.code), "a rule does not answer \(rule.code.name)")
    try require(!rule.text.isEmpty, "a rule needs a sentence")
    return try Expression(parsing: rule.expr, in: scope.withEveryParameter())
  }
}
