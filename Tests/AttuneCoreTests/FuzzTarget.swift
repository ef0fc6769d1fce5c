import CAttune

#if !ATTUNE_FUZZ  // Tests/Fuzz/run compiles this file into the host's own module
  @testable import AttuneCore
#endif

/// Feeds arbitrary bytes to everything that reads text of plugins and callers. What matters is that nothing traps,
/// reads out of bounds or hangs; `precondition` turns a broken promise into a crash that a fuzzer sees.
final class FuzzTarget {
  private let op: Operator, entry: Entry
  private let scope: Scope
  private let storage = BindStorage()
  private var environment: Environment
  private let buffer = UnsafeMutableRawPointer.allocate(byteCount: 15 * 8, alignment: 8)

  init() throws(Refusal) {
    op = try OperatorCompiler.compile(FuzzTarget.descriptor())
    guard let entry = op.entry(named: "forward") else { throw Refusal(.internal, "", "no forward") }
    self.entry = entry
    scope = Scope(params: op.params, symbols: entry.symbols, tensors: entry.tensors.map(\.spec.name)).withKnobs(["bq"])
    // Values that overflow, divide by zero and lie outside of everything.
    for (i, x) in [Int64.max, 0, -1, 3, .min].enumerated() { storage.symbols[i] = x }
    for (i, v) in [attune_value(i: 1, f: 0), attune_value(i: .min, f: 0), attune_value(i: 0, f: 1e300)].enumerated() {
      storage.params[i] = v
    }
    storage.setShape(0, [.max, 2, 0])
    storage.dtypes[0] = 0
    storage.knobs[0] = .max
    environment = storage.frame.environment
    environment.bound = 0b11011
    environment.present = 0b1
  }

  deinit { buffer.deallocate() }

  /// Number of parsers that `parse` knows.
  static let parsers: UInt8 = 6

  /// One parser of single texts, and evaluation of what it accepts.
  func parse(_ bytes: some Collection<UInt8>, with parser: UInt8) {
    let text = String(decoding: bytes, as: UTF8.self)
    let shapes = ShapeParser(scope: scope)
    switch parser % FuzzTarget.parsers {
    case 0:
      if let e = try? Expression(parsing: text, in: scope) { use(e) }
    case 1:
      guard case .alternatives(let list)? = try? shapes.shape(text) else { return }
      for dim in list.flatMap(\.dims) { dim.forms.forEach(use) }
    case 2:
      for item in (try? shapes.lets(text)) ?? [] { use(item.value) }
      _ = try? shapes.buckets(text)
    case 3:
      guard let generator = try? Generator(parsing: text, in: scope) else { return }
      let dtype = DType.allCases[text.utf8.count % DType.allCases.count]
      try? generator.fill(buffer, dtype, shape: [3, 5], environment: environment, seed: 1, name: text)
    case 4: remember(Array(bytes))
    default:
      _ = try? ProblemText.params(text, op)
      _ = try? ProblemText.tensors(text, op, entry)
      guard let symbols = try? ProblemText.symbols(text, entry) else { return }
      _ = try? ProblemShapes(op: op, entry: entry, params: [], symbols: symbols)
    }
  }

  /// A file of wisdom; and its text as one line with the right checksum, which no mutation would find.
  private func remember(_ bytes: [UInt8]) {
    for file in [bytes, Array((CRC32C.text(CRC32C.of(bytes)) + " ").utf8) + bytes] {
      var book = WisdomBook()
      var again = WisdomBook()
      file.withUnsafeBufferPointer {
        WisdomLine.forEach(in: $0) { _, verdict in if case .good(let line) = verdict { book.add(line) } }
      }
      var damaged = 0
      book.file.withUnsafeBufferPointer {
        WisdomLine.forEach(in: $0) { _, verdict in
          if case .good(let line) = verdict { again.add(line) } else { damaged += 1 }
        }
      }
      precondition(damaged == 0 && again == book)
    }
  }

  /// A whole descriptor whose texts are the lines of the input.
  func compile(_ bytes: some Collection<UInt8>) {
    let text = String(decoding: bytes, as: UTF8.self)
    let lines = text.split(separator: "\n", maxSplits: 20, omittingEmptySubsequences: false).map(String.init)
    var spec = FuzzTarget.descriptor()
    func take(_ i: Int, _ field: WritableKeyPath<Descriptor.Operator, String>) {
      if i < lines.count, lines[i] != "=" { spec[keyPath: field] = lines[i] }
    }
    take(0, \.entries[0].symbols)
    take(1, \.entries[0].let)
    take(2, \.entries[0].flops)
    take(3, \.entries[0].tensors[0].shape)
    take(4, \.entries[0].tensors[1].shape)
    take(5, \.entries[0].rules[0].expr)
    take(6, \.entries[0].tensors[0].gen)
    take(7, \.presets[0].shape)
    take(8, \.presets[0].params)
    take(9, \.presets[0].tensors)
    take(10, \.entries[0].buckets)
    take(11, \.entries[0].name)
    take(12, \.entries[0].tensors[1].name)
    take(13, \.id)
    if lines.count > 14 { spec.entries[0].tensors[1].needed = lines[14] }
    if lines.count > 15 { spec.entries[0].kernels[0].workspace = lines[15] }
    guard let op = try? OperatorCompiler.compile(spec), let entry = op.entries.first else { return }
    _ = try? RandomProblem.draw(op, entry, seed: 1)
  }

  private func use(_ e: Expression) {
    for (i, node) in e.nodes.enumerated() {
      switch node.kind {
      case .integer, .symbol, .parameter, .real, .knob, .workers, .has, .dtype, .rank, .bytes: continue
      case .dim, .ftrunc: precondition(Int(node.b) < i)
      case .negate, .not: precondition(Int(node.a) < i)
      case .realLess, .realLessEqual, .realGreater, .realGreaterEqual, .realEqual, .realNotEqual: continue
      default: precondition(Int(node.a) < i && Int(node.b) < i)
      }
    }
    precondition(!e.nodes.isEmpty && e.text.utf8.count <= Limits.expression)
    _ = e.value(&environment)
  }

  /// A small operator that uses most of the grammar.
  static func descriptor() -> Descriptor.Operator {
    var op = Descriptor.Operator()
    op.id = "fuzz"
    var flag = Descriptor.Param()
    var count = Descriptor.Param()
    var ratio = Descriptor.Param()
    var mode = Descriptor.Param()
    (flag.name, flag.kind, flag.isStructural) = ("flag", .bool, true)
    (count.name, count.kind, count.isStructural) = ("count", .i64, true)
    (count.min.i, count.max.i) = (.min, .max)
    (ratio.name, ratio.kind, ratio.isStructural) = ("ratio", .f64, true)
    (ratio.min.f, ratio.max.f) = (-.infinity, .infinity)
    (mode.name, mode.kind, mode.isStructural, mode.words) = ("mode", .enum, true, ["a", "b"])
    op.params = [flag, count, ratio, mode]

    var q = Descriptor.Tensor()
    var mask = Descriptor.Tensor()
    var o = Descriptor.Tensor()
    (q.name, q.shape, q.gen, q.dtypes, q.dtypeVar) = ("q", "{p.mode==a}B,N,D; N,D", "normal", 0b111, 1)
    (mask.name, mask.shape, mask.gen, mask.dtypes) = ("mask", "1|B,1|N", "bernoulli(0.5)", DType.u8.bit)
    mask.needed = "0"
    (o.name, o.shape, o.gen, o.dtypes, o.dtypeVar, o.role) = ("o", "like q", "zeros", 0b111, 1, .out)

    var reference = Descriptor.Kernel()
    (reference.name, reference.isReference, reference.run) = ("reference", true, { _ in 0 })
    var forward = Descriptor.Entry()
    (forward.name, forward.symbols, forward.let) = ("forward", "B,N,D,M,U", "B=?1; M=cdiv(N,2); U=?N*2")
    (forward.flops, forward.buckets) = ("2*B*N*D", "N:half2")
    forward.tensors = [q, mask, o]
    forward.rules = [Descriptor.Rule(code: .shape, expr: "N>=1&&D>=1", text: "sizes")]
    forward.kernels = [reference]
    op.entries = [forward]

    var demo = Descriptor.Preset()
    var bench = Descriptor.Preset()
    (demo.name, demo.entry, demo.shape, demo.isDemo) = ("demo", "forward", "B=2,N=8,D=4", true)
    (bench.name, bench.entry, bench.shape, bench.isBench) = ("bench", "forward", "B=2,N=8,D=4", true)
    op.presets = [demo, bench]
    return op
  }
}
