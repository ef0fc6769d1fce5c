import CAttune

/// The binding of sizes for one entry with a fixed set of tensors, ranks, types and structural parameters: steps 5 to 9 of
/// ABI.md "Binding" as a flat list. Made once per plan, run whenever sizes or parameters may have changed. Guards hold no
/// symbols, so the alternatives of every shape are already decided here.
package final class BindProgram: @unchecked Sendable {  // immutable after init
  /// An expression inside `nodes`.
  package struct Code: BitwiseCopyable {
    package var first: Int32, root: Int32
  }

  struct Step {
    enum Kind: UInt8 {
      case bind  // symbol = extent - offset
      case define, supply  // let S=e, let S=?e
      case rule
      case compare  // extent equals one of the forms
      case compareMade  // the same for an output that had no shape when the plan was made: the first form only
      case like, likeMade  // extent equals that of tensor `symbol`
    }
    var kind: Kind
    var tensor: Int32 = -1, dim: Int32 = -1
    var symbol: Int32 = -1
    var offset: Int64 = 0
    var forms: Int32 = 0, formCount: Int32 = 0
    var index: Int32 = 0  // of the rule or let
  }

  package let entry: Entry
  private let steps: UnsafeMutableBufferPointer<Step>
  private let codes: UnsafeMutableBufferPointer<Code>
  private let nodes: UnsafeMutableBufferPointer<Expression.Node>
  private let symbolCount: Int
  /// First step that looks at outputs without a shape: a plan stops before it, then makes those shapes.
  private let firstMade: Int
  /// A rule mentions a parameter that may change per call.
  package let rulesUseLooseParams: Bool
  /// Per tensor: the alternative its shape follows (nil: `like`, or absent).
  let dims: [[Dim]?]

  /// `storage` holds presence, types, ranks and parameters; ranks of -1 are outputs to be made.
  package init(entry: Entry, op: Operator, present: UInt64, storage: BindStorage) throws(Refusal) {
    self.entry = entry
    var frame = storage.frame
    frame.present = present
    var env = frame.environment
    var steps: [Step] = [], made: [Step] = [], late: [Step] = []
    var builder = CodeBuilder()
    var dims = [[Dim]?](repeating: nil, count: entry.tensors.count)
    var boundHere: UInt64 = 0

    for (t, model) in entry.tensors.enumerated() where present >> UInt64(t) & 1 == 1 {
      let known = storage.ranks[t] >= 0
      switch model.shape {
      case .like(let other):
        // Of an output that has no shape yet the other's expression speaks, exactly as if it were its own.
        let otherKnown = present >> UInt64(other) & 1 == 1
        if otherKnown {
          if known {
            late.append(Step(kind: .like, tensor: Int32(t), symbol: Int32(other)))
          } else {
            made.append(Step(kind: .likeMade, tensor: Int32(t), symbol: Int32(other)))
          }
          continue
        }
        let picked = try BindProgram.pick(entry.tensors[other], known ? storage.ranks[t] : nil, &env, model, entry, op)
        dims[t] = picked
        for (d, dim) in picked.enumerated() {
          let forms = builder.add(dim.forms.prefix(1))
          made.append(
            Step(
              kind: .compareMade, tensor: Int32(t), dim: Int32(d), forms: forms.0, formCount: forms.1))
        }
      case .alternatives:
        let picked = try BindProgram.pick(model, known ? storage.ranks[t] : nil, &env, model, entry, op)
        dims[t] = picked
        for (d, dim) in picked.enumerated() {
          if let bare = dim.bare, known, !model.isOutput, entry.derived >> UInt64(bare.symbol) & 1 == 0,
            boundHere >> UInt64(bare.symbol) & 1 == 0
          {
            boundHere |= 1 << UInt64(bare.symbol)
            steps.append(
              Step(
                kind: .bind, tensor: Int32(t), dim: Int32(d), symbol: Int32(bare.symbol), offset: bare.offset))
          } else {
            let forms = builder.add(known ? dim.forms[...] : dim.forms.prefix(1))
            let step = Step(
              kind: known ? .compare : .compareMade, tensor: Int32(t), dim: Int32(d), forms: forms.0,
              formCount: forms.1)
            if known { late.append(step) } else { made.append(step) }
          }
        }
      }
    }
    for (i, item) in entry.lets.enumerated() {
      let code = builder.add([item.value])
      steps.append(
        Step(
          kind: item.isDefault ? .supply : .define, symbol: Int32(item.symbol), forms: code.0, formCount: 1,
          index: Int32(i)))
    }
    var loose = false
    for (i, rule) in entry.rules.enumerated() {
      let code = builder.add([rule])
      steps.append(Step(kind: .rule, forms: code.0, formCount: 1, index: Int32(i)))
      for node in rule.nodes where node.usesParameter && Int(node.a) < op.params.count {
        loose = loose || !op.params[Int(node.a)].isStructural
      }
    }
    // Step 8 compares expressions, step 9 `like`; a comparison never changes what a later one sees.
    steps += late.filter { $0.kind == .compare } + late.filter { $0.kind == .like }
    firstMade = steps.count
    symbolCount = min(entry.symbols.count, BindFrame.capacity)
    steps += made
    self.dims = dims
    self.rulesUseLooseParams = loose
    self.steps = .copy(of: steps)
    self.codes = UnsafeMutableBufferPointer.copy(of: builder.codes)
    self.nodes = UnsafeMutableBufferPointer.copy(of: builder.nodes)
  }

  deinit {
    steps.deallocate()
    codes.deallocate()
    nodes.deallocate()
  }

  func step(_ i: Int) -> Step? { i >= 0 && i < steps.count ? steps[i] : nil }
  var stepCount: Int { steps.count }

  private static func pick(
    _ model: TensorModel, _ rank: Int32?, _ env: inout Environment, _ of: TensorModel, _ entry: Entry, _ op: Operator
  ) throws(Refusal) -> [Dim] {
    guard case .alternatives(let list) = model.shape else {
      throw Refusal(.internal, of.spec.name, "\(op.id) \(entry.name): \(of.spec.name) has no shape of its own")
    }
    for a in list where rank == nil || a.dims.count == Int(rank ?? 0) {
      guard let condition = a.condition else { return a.dims }
      var fault = Fault()
      if condition.evaluate(&env, &fault) != 0, fault.reason == .none { return a.dims }
    }
    guard let rank else {
      throw Refusal(.shape, of.spec.name, "\(op.id) \(entry.name): \(of.spec.name) has no shape in this mode")
    }
    var ranks: [Int] = []
    for a in list where !ranks.contains(a.dims.count) { ranks.append(a.dims.count) }
    let wanted = ranks.map { String($0) }.joined(separator: " or ")
    throw Refusal(
      .shape, of.spec.name,
      "\(op.id) \(entry.name): \(of.spec.name) has rank \(rank), expected \(wanted) (\(of.spec.shape))",
      detail: (Int64(ranks.first ?? 0), Int64(rank)))
  }

  /// Why sizes do not bind. Plain data: the sentence is made later, off the execute path.
  package struct Outcome {
    enum Problem: UInt8 { case none, negative, differs, rule, noValue }
    var problem = Problem.none
    var step = 0
    var expected: Int64 = 0, actual: Int64 = 0
    var fault = Fault()
    package var isGood: Bool { problem == .none }
  }

  /// Binds all symbols of `frame`. `complete`: every tensor has a shape (execute); otherwise outputs to be made are left out.
  package func run(_ frame: inout BindFrame, complete: Bool) -> Outcome {
    frame.bound = 0
    for i in 0..<symbolCount { frame.symbols[i] = -1 }
    var outcome = Outcome()  // plain data only from here on: this runs on the execute path
    let end = complete ? steps.count : firstMade
    let steps = steps.baseAddress, codes = codes.baseAddress, nodes = nodes.baseAddress
    guard let steps else { return outcome }
    var env = frame.environment
    for i in 0..<end {
      let s = steps[i]
      var fault = Fault()
      switch s.kind {
      case .bind:
        let extent = frame.given[Int(s.tensor)]?[Int(s.dim)] ?? 0
        let value = extent &- s.offset
        if value < 0 {
          outcome.problem = .negative
          (outcome.step, outcome.expected, outcome.actual) = (i, s.offset, extent)
          return outcome
        }
        frame.symbols[Int(s.symbol)] = value
        env.bound |= 1 << UInt64(s.symbol)
      case .define, .supply:
        if s.kind == .supply, env.bound >> UInt64(s.symbol) & 1 == 1 { continue }
        guard let codes, let nodes else { continue }
        let c = codes[Int(s.forms)]
        let value = AttuneCore.evaluate(nodes + Int(c.first), c.root, &env, &fault)
        if fault.reason != .none {
          if s.kind == .supply { continue }
          (outcome.problem, outcome.step, outcome.fault) = (.noValue, i, fault)
          return outcome
        }
        frame.symbols[Int(s.symbol)] = value
        env.bound |= 1 << UInt64(s.symbol)
      case .rule:
        guard let codes, let nodes else { continue }
        let c = codes[Int(s.forms)]
        let holds = AttuneCore.evaluate(nodes + Int(c.first), c.root, &env, &fault)
        if fault.reason != .none {
          (outcome.problem, outcome.step, outcome.fault) = (.noValue, i, fault)
          return outcome
        }
        if holds == 0 {
          (outcome.problem, outcome.step) = (.rule, i)
          return outcome
        }
      case .compare, .compareMade:
        guard let codes, let nodes else { continue }
        let extent = frame.given[Int(s.tensor)]?[Int(s.dim)] ?? 0
        var equal = false
        for f in 0..<Int(s.formCount) {
          let c = codes[Int(s.forms) + f]
          let want = AttuneCore.evaluate(nodes + Int(c.first), c.root, &env, &fault)
          if fault.reason != .none {
            (outcome.problem, outcome.step, outcome.fault) = (.noValue, i, fault)
            return outcome
          }
          outcome.expected = want
          if want == extent {
            equal = true
            break
          }
        }
        if !equal {
          (outcome.problem, outcome.step, outcome.actual) = (.differs, i, extent)
          return outcome
        }
      case .like, .likeMade:
        let t = Int(s.tensor), other = Int(s.symbol)
        guard let a = frame.given[t], let b = frame.given[other] else { continue }
        let rank = frame.givenRanks[t], otherRank = frame.givenRanks[other]
        if rank != otherRank {
          (outcome.problem, outcome.step) = (.differs, i)
          (outcome.expected, outcome.actual) = (Int64(otherRank), Int64(rank))
          return outcome
        }
        for d in 0..<Int(max(rank, 0)) where a[d] != b[d] {
          (outcome.problem, outcome.step) = (.differs, i)
          (outcome.expected, outcome.actual) = (b[d], a[d])
          return outcome
        }
      }
    }
    frame.bound = env.bound
    return outcome
  }
}

/// Collects expressions into one node array; indices inside an expression stay relative to its first node.
struct CodeBuilder {
  var codes: [BindProgram.Code] = []
  var nodes: [Expression.Node] = []
  mutating func add(_ expressions: some Collection<Expression>) -> (Int32, Int32) {
    let first = Int32(codes.count)
    for e in expressions {
      codes.append(.init(first: Int32(nodes.count), root: Int32(e.nodes.count - 1)))
      nodes += e.nodes
    }
    return (first, Int32(expressions.count))
  }
}

extension UnsafeMutableBufferPointer {
  /// A heap copy; the owner deallocates it. Trivial types only.
  static func copy(of array: [Element]) -> UnsafeMutableBufferPointer where Element: BitwiseCopyable {
    let p = UnsafeMutableBufferPointer.allocate(capacity: Swift.max(array.count, 1))
    _ = p.initialize(from: array)
    return p
  }
}
