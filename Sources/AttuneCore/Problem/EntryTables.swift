/// An entry as flat tables of plain data. Binding backwards draws thousands of problems at registration; with the
/// compiled model itself, reference counting would take most of that time. Immutable.
final class EntryTables {
  struct Tensor: BitwiseCopyable {
    var isOutput: Bool
    var isOptional: Bool  // has a `needed` expression
    var needed: Int32, allowed: Int32  // codes, -1: always
    var firstAlternative: Int32 = 0, alternatives: Int32 = 0  // of `like`: those of the other tensor
  }
  struct Alternative: BitwiseCopyable {
    var condition: Int32  // code, -1: none
    var firstDim: Int32, dims: Int32
  }
  struct Dim: BitwiseCopyable {
    var symbol: Int32  // bare, -1: none
    var offset: Int64
    var firstForm: Int32, forms: Int32  // codes
  }
  struct Let: BitwiseCopyable {
    var symbol: Int32
    var isDefault: Bool
    var code: Int32
  }
  struct Rule: BitwiseCopyable {
    /// What must be known before the rule can be asked.
    enum Stage: UInt8, BitwiseCopyable { case presence, symbols, shapes }
    var code: Int32
    var stage: Stage
  }

  let tensors: UnsafeMutableBufferPointer<Tensor>, alternatives: UnsafeMutableBufferPointer<Alternative>
  let dims: UnsafeMutableBufferPointer<Dim>
  let lets: UnsafeMutableBufferPointer<Let>, rules: UnsafeMutableBufferPointer<Rule>
  private let codes: UnsafeMutableBufferPointer<BindProgram.Code>, nodes: UnsafeMutableBufferPointer<Expression.Node>

  init(_ entry: Entry) {
    var builder = CodeBuilder()
    func add(_ e: Expression?) -> Int32 { e.map { builder.add(CollectionOfOne($0)).0 } ?? -1 }
    var tensors: [Tensor] = []
    var alternatives: [Alternative] = []
    var dims: [Dim] = []
    for model in entry.tensors {
      var tensor = Tensor(
        isOutput: model.isOutput, isOptional: model.needed != nil, needed: add(model.needed),
        allowed: add(model.allowed))
      tensor.firstAlternative = Int32(alternatives.count)
      if case .alternatives(let list) = model.shape {
        for a in list {
          alternatives.append(
            Alternative(condition: add(a.condition), firstDim: Int32(dims.count), dims: Int32(a.dims.count)))
          for dim in a.dims {
            let (first, count) = builder.add(dim.forms)
            dims.append(
              Dim(symbol: Int32(dim.bare?.symbol ?? -1), offset: dim.bare?.offset ?? 0, firstForm: first, forms: count))
          }
        }
        tensor.alternatives = Int32(list.count)
      }
      tensors.append(tensor)
    }
    for (t, model) in entry.tensors.enumerated() {
      guard case .like(let other) = model.shape, tensors.indices.contains(other) else { continue }
      tensors[t].firstAlternative = tensors[other].firstAlternative
      tensors[t].alternatives = tensors[other].alternatives
    }
    self.tensors = .copy(tensors)
    self.alternatives = .copy(alternatives)
    self.dims = .copy(dims)
    lets = .copy(entry.lets.map { Let(symbol: Int32($0.symbol), isDefault: $0.isDefault, code: add($0.value)) })
    rules = .copy(entry.rules.map { Rule(code: add($0), stage: EntryTables.stage($0)) })
    codes = .copy(builder.codes)
    nodes = .copy(builder.nodes)
  }

  deinit {
    tensors.deallocate()
    alternatives.deallocate()
    dims.deallocate()
    lets.deallocate()
    rules.deallocate()
    codes.deallocate()
    nodes.deallocate()
  }

  /// Value of a code; nil on any fault.
  func value(_ code: Int32, _ env: UnsafePointer<Environment>, _ fault: inout Fault) -> Int64? {
    guard codes.indices.contains(Int(code)), let nodes = nodes.baseAddress else { return nil }
    let c = codes[Int(code)]
    let x = AttuneCore.evaluate(nodes + Int(c.first), c.root, env, &fault)
    return fault.reason == .none ? x : nil
  }

  private static func stage(_ rule: Expression) -> Rule.Stage {
    var stage = Rule.Stage.presence
    for node in rule.nodes {
      switch node.kind {
      case .dim, .rank, .bytes: return .shapes
      case .symbol: stage = .symbols
      default: continue
      }
    }
    return stage
  }
}

extension UnsafeMutableBufferPointer where Element: BitwiseCopyable {
  /// A heap copy; the owner deallocates it.
  fileprivate static func copy(_ array: [Element]) -> Self {
    let p = Self.allocate(capacity: array.count)
    _ = p.initialize(from: array)
    return p
  }
}
