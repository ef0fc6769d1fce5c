import CAttune

/// Registration checks of the kernels of one entry. A fault drops that kernel and no other.
struct KernelCompiler {
  let scope: Scope  // of the entry
  let tensors: [TensorModel]

  /// The usable kernels in their order, and the others with their reasons.
  ///
  /// Throws when the entry as a whole is broken: not exactly one REFERENCE, or too many kernels.
  func compile(_ specs: [Descriptor.Kernel]) throws(Refusal) -> (kernels: [Kernel], dropped: [DroppedKernel]) {
    try require(specs.count <= Limits.kernels, "\(specs.count) kernels, at most \(Limits.kernels) are allowed")
    var kernels: [Kernel] = []
    var dropped: [DroppedKernel] = []
    var names: Set<String> = []
    var candidates = 0
    for spec in specs {
      do throws(Refusal) {
        try require(names.insert(spec.name).inserted, "a kernel before it has the same name")
        let kernel = try compile(spec)
        // At most 16^8 = 2^32 combinations: no overflow.
        let combinations = spec.knobs.reduce(1) { $0 * $1.values.count }
        try require(
          candidates + combinations <= Limits.candidates,
          "\(combinations) combinations of knobs, at most \(Limits.candidates) are allowed in one entry")
        candidates += combinations
        kernels.append(kernel)
      } catch {
        dropped.append(DroppedKernel(name: spec.name, reason: error.message))
      }
    }
    let references = specs.filter(\.isReference)
    guard references.count == 1 else { throw Refusal(.load, "", "\(references.count) REFERENCE kernels, expected 1") }
    if !kernels.contains(where: \.spec.isReference), let name = references.first?.name {
      let reason = dropped.first { $0.name == name }?.reason ?? "dropped"
      throw Refusal(.load, "", "the REFERENCE kernel \(name) cannot be used: \(reason)")
    }
    return (kernels, dropped)
  }

  private func compile(_ spec: Descriptor.Kernel) throws(Refusal) -> Kernel {
    if let reason = spec.refused { throw Refusal(.load, "", reason) }
    try checkFields(spec)
    if spec.isReference { try checkReference(spec) }
    try checkKnobs(spec.knobs)

    let knobbed = scope.withKnobs(spec.knobs.map(\.name))
    let args = try arguments(spec, knobbed)
    return Kernel(
      spec: spec,
      when: try expression("when", spec.when, scope),
      knobWhen: try expression("knob_when", spec.knobWhen, knobbed),
      tasks: try expression("tasks", spec.tasks, knobbed),
      workspace: try expression("workspace", spec.workspace, knobbed),
      flops: try expression("flops", spec.flops, scope),
      bytes: try expression("bytes", spec.bytes, scope),
      args: args)
  }

  private func expression(_ field: String, _ text: String?, _ scope: Scope) throws(Refusal) -> Expression? {
    guard let text else { return nil }
    return try at(field) { () throws(Refusal) in try Expression(parsing: text, in: scope) }
  }

  private func checkFields(_ spec: Descriptor.Kernel) throws(Refusal) {
    let isLower = { (c: UInt8) in Lexer.isDigit(c) || (0x61...0x7a).contains(c) || c == UInt8(ascii: "_") }
    try require(
      !spec.name.isEmpty && spec.name.utf8.count <= Limits.name && spec.name.utf8.allSatisfy(isLower),
      "a kernel's name is 1 to \(Limits.name) of a-z, 0-9 and _")
    // 1.0 runs on the CPU only; 0 and 1 both mean it.
    try require(spec.deviceType <= 1, "runs on device type \(spec.deviceType), which this host does not have")
    try require((spec.run != nil) != (spec.native != nil), "exactly one of run and native must be set")
    try require(spec.native != nil || spec.args.isEmpty, "arguments without a native function")
    try require(spec.minAlign & (spec.minAlign &- 1) == 0, "min_align is \(spec.minAlign), expected a power of two")
    try require(
      spec.efficiency >= 0 && spec.efficiency <= 1, "efficiency is \(spec.efficiency), expected 0 to 1")
    try require(!spec.ownsThreads || spec.tasks == nil, "OWNS_THREADS is called once and has no tasks")
  }

  private func checkReference(_ spec: Descriptor.Kernel) throws(Refusal) {
    try require(spec.run != nil, "a REFERENCE kernel sets run")
    try require(spec.when == nil, "a REFERENCE kernel takes every problem and has no when")
    try require(spec.isa == (0, 0) && spec.arch == 0, "a REFERENCE kernel runs on every CPU and names no arch and isa")
    try require(spec.minAlign <= 1, "a REFERENCE kernel takes every alignment")
    try require(!spec.isReduced, "a REFERENCE kernel is not REDUCED")
  }

  private func checkKnobs(_ knobs: [Descriptor.Knob]) throws(Refusal) {
    try require(knobs.count <= Limits.knobs, "\(knobs.count) knobs, at most \(Limits.knobs) are allowed")
    if let name = Words.firstRepeated(knobs.map(\.name)) { throw Refusal(.load, "", "two knobs \(name)") }
    for knob in knobs {
      try require(Words.isName(knob.name), "\"\(knob.name)\" is no name of a knob")
      try require(
        (1...Limits.knobValues).contains(knob.values.count),
        "knob \(knob.name) has \(knob.values.count) values, expected 1 to \(Limits.knobValues)")
      try require(
        knob.values.indices.contains(knob.def), "knob \(knob.name): default \(knob.def) is no index of its values")
    }
  }

  private func arguments(_ spec: Descriptor.Kernel, _ knobbed: Scope) throws(Refusal) -> [KernelArgument] {
    try require(
      spec.args.count <= Limits.arguments, "\(spec.args.count) arguments, at most \(Limits.arguments) are allowed")
    var arguments: [KernelArgument] = []
    for (i, row) in spec.args.enumerated() {
      arguments.append(try at("argument \(i)") { () throws(Refusal) in try argument(row, knobbed) })
    }
    guard spec.native != nil else { return arguments }
    let begins = spec.args.count { $0.kind == .taskBegin }
    let ends = spec.args.count { $0.kind == .taskEnd }
    try require(begins == ends && begins <= 1, "TASK_BEGIN and TASK_END come together or not at all")
    try require(begins == 1 || spec.tasks == nil, "a native kernel with tasks needs TASK_BEGIN and TASK_END")
    return arguments
  }

  private func argument(_ row: Descriptor.Argument, _ knobbed: Scope) throws(Refusal) -> KernelArgument {
    func check(_ allowed: [Descriptor.Argument.CType]) throws(Refusal) {
      try require(allowed.contains(row.ctype), "\(row.kind) \(row.name) has the C type \(row.ctype)")
    }
    func tensor() throws(Refusal) -> Int {
      guard let index = scope.tensors[row.name] else { throw Refusal(.load, "", "no tensor \(row.name)") }
      return index
    }
    switch row.kind {
    case .data:
      try check([.ptr])
      return .data(tensor: try tensor())
    case .tensor:
      try check([.ptr])
      return .tensor(try tensor())
    case .stride:
      try check([.i32, .i64])
      let index = try tensor()
      let rank = largestRank(index)
      try require(row.dim >= 0 && Int(row.dim) < rank, "\(row.name) has no dim \(row.dim)")
      return .stride(tensor: index, dim: Int(row.dim), row.ctype)
    case .expr:
      try check([.i32, .i64])
      return .expr(try Expression(parsing: row.name, in: knobbed), row.ctype)
    case .param:
      // A native kernel sees parameters as they are at each call, so these need not be structural.
      guard let (index, spec) = scope.param(row.name) else { throw Refusal(.load, "", "no parameter \(row.name)") }
      try check(spec.kind == .f64 ? [.f32, .f64] : [.i32, .i64])
      return .param(index, row.ctype)
    case .workspace:
      try check([.ptr])
      return .workspace
    case .exec:
      try check([.ptr])
      return .exec
    case .taskBegin:
      try check([.i32, .i64])
      return .taskBegin(row.ctype)
    case .taskEnd:
      try check([.i32, .i64])
      return .taskEnd(row.ctype)
    case .worker:
      try check([.i32, .i64])
      return .worker(row.ctype)
    }
  }

  private func largestRank(_ tensor: Int) -> Int {
    guard tensor < tensors.count else { return 0 }
    switch tensors[tensor].shape {
    case .alternatives(let list): return list.map(\.dims.count).max() ?? 0
    case .like(let other):
      guard other < tensors.count, case .alternatives(let list) = tensors[other].shape else { return 0 }
      return list.map(\.dims.count).max() ?? 0
    }
  }
}
