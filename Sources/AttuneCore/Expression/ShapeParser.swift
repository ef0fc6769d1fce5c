/// Shapes, lets and buckets of ABI.md section 5: lists of expressions with a little grammar around them.
struct ShapeParser {
  let scope: Scope

  /// `{guard}dim,dim; dim,dim` or `like TENSOR`.
  func shape(_ text: String) throws(Refusal) -> ShapeModel {
    try require(text.utf8.count <= Limits.shape, "shape longer than \(Limits.shape) characters: \(text)")
    if text.hasPrefix("like ") {
      let name = Words.trim(text.dropFirst(5))
      guard let other = scope.tensors[name] else { throw Refusal(.load, "", "like \(name): no such tensor") }
      return .like(other)
    }
    var alternatives: [Alternative] = []
    for piece in Words.split(text, at: ";") { alternatives.append(try alternative(piece)) }
    return .alternatives(alternatives)
  }

  private func alternative(_ text: String) throws(Refusal) -> Alternative {
    var condition: Expression?
    var rest = text
    if text.hasPrefix("{") {
      guard let (inner, outer) = Words.halves(String(text.dropFirst()), at: "}") else {
        throw Refusal(.load, "", "guard without } in \"\(text)\"")
      }
      condition = try Expression(parsing: inner, in: scope.withoutSymbols())
      rest = outer
    }
    let pieces = Words.split(rest, at: ",")
    try require(pieces.count <= Limits.rank, "rank over \(Limits.rank) in \"\(text)\"")
    var dims: [Dim] = []
    for piece in pieces {
      var forms: [Expression] = []
      for form in ShapeParser.forms(piece) { forms.append(try Expression(parsing: form, in: scope)) }
      dims.append(Dim(text: piece, bare: bare(piece), forms: forms))
    }
    return Alternative(condition: condition, dims: dims)
  }

  /// `a|b` cut at single bars; `||` belongs to an expression.
  private static func forms(_ text: String) -> [String] {
    let c = Array(text.utf8)
    let bar = UInt8(ascii: "|")
    var pieces: [String] = []
    var start = 0
    for i in c.indices where c[i] == bar {
      let beside = (i > 0 && c[i - 1] == bar) || (i + 1 < c.count && c[i + 1] == bar)
      if beside { continue }
      pieces.append(Words.trim(String(decoding: c[start..<i], as: UTF8.self)))
      start = i + 1
    }
    return pieces + [Words.trim(String(decoding: c[start...], as: UTF8.self))]
  }

  /// `SYM`, `SYM+INT` or `SYM-INT` without blanks; nil for everything else.
  private func bare(_ text: String) -> (symbol: Int, offset: Int64)? {
    let sign = text.firstIndex { $0 == "+" || $0 == "-" }
    let name = sign.map { String(text[..<$0]) } ?? text
    guard Words.isName(name), let symbol = scope.symbols[name] else { return nil }
    guard let sign else { return (symbol, 0) }
    let digits = text[text.index(after: sign)...]
    guard digits.utf8.allSatisfy(Lexer.isDigit), let offset = Int64(digits) else { return nil }
    return (symbol, text[sign] == "-" ? -offset : offset)
  }

  /// `S=e; T=?e` in the order of their use.
  func lets(_ text: String) throws(Refusal) -> [Let] {
    try require(text.utf8.count <= Limits.lets, "let longer than \(Limits.lets) characters")
    var lets: [Let] = []
    for item in Words.items(text, at: ";") {
      guard let (left, right) = Words.halves(item, at: "=") else {
        throw Refusal(.load, "", "let \"\(item)\" has no =")
      }
      let name = Words.trim(left)
      let isDefault = right.hasPrefix("?")
      guard let symbol = scope.symbols[name] else { throw Refusal(.load, "", "let: \(name) is no symbol") }
      let value = try Expression(parsing: isDefault ? String(right.dropFirst()) : right, in: scope)
      lets.append(Let(symbol: symbol, isDefault: isDefault, value: value))
    }
    return lets
  }

  /// `S:pow2; T:half2`.
  func buckets(_ text: String) throws(Refusal) -> [(symbol: Int, rule: BucketRule)] {
    var buckets: [(symbol: Int, rule: BucketRule)] = []
    for item in Words.items(text, at: ";") {
      guard let (left, right) = Words.halves(item, at: ":") else {
        throw Refusal(.load, "", "buckets: \"\(item)\" has no :")
      }
      let name = Words.trim(left)
      guard let symbol = scope.symbols[name] else { throw Refusal(.load, "", "buckets: \(name) is no symbol") }
      guard let rule = BucketRule(rawValue: right) else {
        throw Refusal(.load, "", "buckets: \(name) has the rule \"\(right)\", expected pow2, half2 or exact")
      }
      try require(!buckets.contains { $0.symbol == symbol }, "buckets: \(name) has two rules")
      buckets.append((symbol, rule))
    }
    return buckets
  }
}
