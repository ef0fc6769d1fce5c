extension Generator {
  /// Compiles a `gen`: a word, or a word with arguments that are numbers or expressions. Throws E_LOAD.
  package init(parsing text: String, in scope: Scope) throws(Refusal) {
    func refusal(_ why: String) -> Refusal { Refusal(.load, "", "gen \"\(text)\": \(why)") }
    guard text.utf8.count <= Limits.expression else { throw refusal("longer than \(Limits.expression) characters") }
    let word = String(text.prefix { $0 != "(" })
    guard let kind = Kind(rawValue: word) else { throw refusal("no generator \(word)") }

    var rest = text.dropFirst(word.count)
    if !rest.isEmpty {
      guard rest.last == ")" else { throw refusal(") expected at the end") }
      rest = rest.dropFirst().dropLast()
    }
    var arguments: [Argument] = []
    for item in rest.isEmpty ? [] : Words.split(String(rest), at: ",") {
      if let number = Generator.number(item) {
        arguments.append(.number(number))
      } else {
        arguments.append(.expression(try at("gen") { () throws(Refusal) in try Expression(parsing: item, in: scope) }))
      }
    }
    guard kind.counts.contains(arguments.count) else {
      throw refusal("\(kind.counts.map { String($0) }.joined(separator: " or ")) arguments expected")
    }
    self.init(kind: kind, arguments: arguments)
  }

  /// A decimal number; what merely begins like one is left to the expression parser.
  private static func number(_ text: String) -> Double? {
    let body = text.hasPrefix("-") ? text.dropFirst() : text[...]
    let digits = body.prefix { $0.isASCII && $0.isNumber }
    let tail = body.dropFirst(digits.count)
    guard !digits.isEmpty, tail.isEmpty || tail.first == "." else { return nil }
    guard tail.dropFirst().utf8.allSatisfy(Lexer.isDigit), let x = Double(text), x.isFinite else { return nil }
    return x
  }
}

extension Generator.Kind {
  /// Allowed numbers of arguments.
  fileprivate var counts: [Int] {
    switch self {
    case .normal: [0, 2]
    case .uniform, .ints, .lengths: [2]
    case .weight, .bernoulli, .cuts, .pages, .distinct: [1]
    case .zeros, .ones, .slopes, .sin, .cos: [0]
    }
  }
}
