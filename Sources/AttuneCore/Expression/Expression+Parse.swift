extension Expression {
  /// Compiles `text` (grammar: ABI.md section 5). Everything it mentions must be visible in `scope`. Any thread.
  ///
  /// Throws E_LOAD with a sentence that quotes the text. Text from plugins may say anything: its length and its
  /// number of nodes are checked while parsing, which also bounds the recursion.
  package init(parsing text: String, in scope: Scope) throws(Refusal) {
    do throws(Refusal) {
      guard text.utf8.count <= Limits.expression else {
        throw Refusal(.load, "", "longer than \(Limits.expression) characters")
      }
      var parser = try ExpressionParser(text, scope)
      try parser.whole()
      self.init(text: text, nodes: parser.nodes)
    } catch {
      throw Refusal(.load, "", "\(error.message) in \"\(text)\"")
    }
  }
}

/// Precedence climbing. Appends children before their parents, so that the root ends up last.
private struct ExpressionParser {
  /// What was read: a number, or a parameter that may only stand left of a comparison.
  private enum Operand {
    case number(Int32)
    case word(Int, Descriptor.Param)
    case real(Int, Descriptor.Param)
  }

  private(set) var nodes: [Expression.Node] = []
  private var lexer: Lexer
  private let scope: Scope
  /// Counted as ABI.md counts: operators, atoms and parentheses; the right side of an enum or f64 comparison is free.
  private var size = 0

  init(_ text: String, _ scope: Scope) throws(Refusal) {
    lexer = try Lexer(text)
    self.scope = scope
  }

  mutating func whole() throws(Refusal) {
    _ = try number()
    guard lexer.peek == .end else { throw Refusal(.load, "", "nothing more expected before \(lexer.peek)") }
  }

  /// A complete expression.
  private mutating func number() throws(Refusal) -> Int32 { try number(operand(above: 0)) }

  private func number(_ operand: Operand) throws(Refusal) -> Int32 {
    switch operand {
    case .number(let node): return node
    case .word(_, let param), .real(_, let param):
      throw Refusal(.load, "", "p.\(param.name) stands only left of a comparison")
    }
  }

  private mutating func operand(above level: Int) throws(Refusal) -> Operand {
    var left = try unary()
    while case .op(let op) = lexer.peek, let strength = op.level, strength >= level {
      _ = try lexer.next()
      try grow()
      switch left {
      case .word(let index, let param): left = .number(try compareWord(index, param, op))
      case .real(let index, let param): left = .number(try compareReal(index, param, op))
      case .number(let node):
        let right = try number(operand(above: strength + 1))
        left = .number(add(op.kind, node, right))
      }
      // A comparison ends here: it does not chain, and a word or literal on its right is no part of a larger number.
      if strength == 2, case .op(let again) = lexer.peek, let level = again.level, level >= 2 {
        throw Refusal(.load, "", "nothing but && and || may follow a comparison")
      }
    }
    return left
  }

  /// `p.layout==thd`: the word is looked up in that parameter.
  private mutating func compareWord(_ index: Int, _ p: Descriptor.Param, _ op: Lexer.Operator) throws(Refusal) -> Int32
  {
    guard op == .equal || op == .notEqual else { throw Refusal(.load, "", "p.\(p.name) takes only == and !=") }
    guard case .word(let word) = try lexer.next(), let value = p.words.firstIndex(of: word) else {
      throw Refusal(.load, "", "p.\(p.name) is one of \(p.words.joined(separator: ", "))")
    }
    let left = add(.parameter, Int32(truncatingIfNeeded: index), 0)
    return add(op.kind, left, add(integer: Int64(value)))
  }

  /// `p.softcap>0`, `p.norm_eps==-1`: only against a number.
  private mutating func compareReal(_ index: Int, _ p: Descriptor.Param, _ op: Lexer.Operator) throws(Refusal) -> Int32
  {
    guard let kind = op.realKind else { throw Refusal(.load, "", "p.\(p.name) stands only left of a comparison") }
    var sign = 1.0
    if lexer.peek == .op(.subtract) {
      _ = try lexer.next()
      sign = -1
    }
    var node = Expression.Node(kind: kind, a: Int32(truncatingIfNeeded: index))
    switch try lexer.next() {
    case .integer(let x): node.real = sign * Double(x)
    case .real(let x): node.real = sign * x
    default: throw Refusal(.load, "", "p.\(p.name) is compared only with a number")
    }
    return add(node)
  }

  private mutating func unary() throws(Refusal) -> Operand {
    switch lexer.peek {
    case .op(.subtract), .op(.not):
      let token = try lexer.next()
      try grow()
      let child = try number(unary())
      return .number(add(token == .op(.not) ? .not : .negate, child, 0))
    default:
      return try atom()
    }
  }

  private mutating func atom() throws(Refusal) -> Operand {
    let token = try lexer.next()
    try grow()
    switch token {
    case .open:
      let inner = try number()
      try expect(.close)
      return .number(inner)
    case .integer(let x):
      return .number(add(integer: x))
    case .parameter(let name):
      let (index, param) = try parameter(name)
      switch param.kind {
      case .enum: return .word(index, param)
      case .f64: return .real(index, param)
      case .bool, .i64: return .number(add(.parameter, Int32(truncatingIfNeeded: index), 0))
      }
    case .knob(let name):
      guard let index = scope.knobs?.firstIndex(of: name) else {
        throw Refusal(.load, "", "k.\(name) is not visible here")
      }
      return .number(add(.knob, Int32(truncatingIfNeeded: index), 0))
    case .workers:
      guard scope.knobs != nil else { throw Refusal(.load, "", "$workers is not visible here") }
      return .number(add(.workers, 0, 0))
    case .word(let word):
      return .number(lexer.peek == .open ? try call(word) : try bare(word))
    case .real, .op, .close, .comma, .end:
      throw Refusal(.load, "", "a number, name or parenthesis expected instead of \(token)")
    }
  }

  private mutating func bare(_ word: String) throws(Refusal) -> Int32 {
    if let dtype = DType(name: word) { return add(integer: Int64(dtype.rawValue)) }
    guard let index = scope.symbols[word] else { throw Refusal(.load, "", "unknown word \(word)") }
    guard scope.seesSymbols else { throw Refusal(.load, "", "symbol \(word) is not visible here") }
    return add(.symbol, Int32(truncatingIfNeeded: index), 0)
  }

  private mutating func call(_ function: String) throws(Refusal) -> Int32 {
    try expect(.open)
    let node: Int32
    switch function {
    case "min": node = try pair(.min)
    case "max": node = try pair(.max)
    case "cdiv": node = try pair(.cdiv)
    case "has": node = add(.has, try tensor(), 0)
    case "dt": node = add(.dtype, try tensor(), 0)
    case "rank": node = add(.rank, try tensor(), 0)
    case "bytes": node = add(.bytes, try tensor(), 0)
    case "dim":
      let index = try tensor()
      try expect(.comma)
      node = add(.dim, index, try number())
    case "ftrunc":
      guard case .parameter(let name) = try lexer.next(), case (let index, let param) = try parameter(name),
        param.kind == .f64
      else { throw Refusal(.load, "", "ftrunc takes an f64 parameter") }
      try expect(.comma)
      node = add(.ftrunc, Int32(truncatingIfNeeded: index), try number())
    default:
      throw Refusal(.load, "", "no function \(function)")
    }
    try expect(.close)
    return node
  }

  private mutating func pair(_ kind: Expression.Node.Kind) throws(Refusal) -> Int32 {
    let a = try number()
    try expect(.comma)
    return add(kind, a, try number())
  }

  private mutating func tensor() throws(Refusal) -> Int32 {
    let token = try lexer.next()
    guard case .word(let name) = token else { throw Refusal(.load, "", "a tensor expected instead of \(token)") }
    guard let index = scope.tensors[name] else { throw Refusal(.load, "", "no tensor \(name)") }
    return Int32(truncatingIfNeeded: index)
  }

  private func parameter(_ name: String) throws(Refusal) -> (index: Int, spec: Descriptor.Param) {
    guard let found = scope.param(name) else { throw Refusal(.load, "", "no parameter \(name)") }
    guard found.spec.isStructural || scope.seesEveryParameter else {
      throw Refusal(.load, "", "p.\(name) is not structural and may appear in rules only")
    }
    return found
  }

  private mutating func expect(_ token: Lexer.Token) throws(Refusal) {
    let got = try lexer.next()
    guard got == token else { throw Refusal(.load, "", "\(token) expected instead of \(got)") }
  }

  private mutating func grow() throws(Refusal) {
    size += 1
    guard size <= Limits.nodes else { throw Refusal(.load, "", "more than \(Limits.nodes) nodes") }
  }

  private mutating func add(_ node: Expression.Node) -> Int32 {
    nodes.append(node)
    return Int32(truncatingIfNeeded: nodes.count - 1)
  }
  private mutating func add(_ kind: Expression.Node.Kind, _ a: Int32, _ b: Int32) -> Int32 {
    add(Expression.Node(kind: kind, a: a, b: b))
  }
  private mutating func add(integer: Int64) -> Int32 { add(Expression.Node(kind: .integer, integer: integer)) }
}

extension Lexer.Operator {
  fileprivate var kind: Expression.Node.Kind {
    switch self {
    case .or: .or
    case .and: .and
    case .equal: .equal
    case .notEqual: .notEqual
    case .lessEqual: .lessEqual
    case .greaterEqual: .greaterEqual
    case .less: .less
    case .greater: .greater
    case .add: .add
    case .subtract: .subtract
    case .multiply: .multiply
    case .divide: .divide
    case .modulo: .modulo
    case .not: .not
    }
  }

  /// The same comparison for an f64 parameter.
  fileprivate var realKind: Expression.Node.Kind? {
    switch self {
    case .equal: .realEqual
    case .notEqual: .realNotEqual
    case .lessEqual: .realLessEqual
    case .greaterEqual: .realGreaterEqual
    case .less: .realLess
    case .greater: .realGreater
    default: nil
    }
  }
}
