/// Cuts the text of an expression into tokens. ASCII only: names and operators have no other characters.
struct Lexer {
  enum Token: Equatable {
    case integer(Int64)
    case real(Double)  // written with a point or an exponent
    case word(String)  // symbol, tensor, dtype, function or enum word
    case parameter(String)
    case knob(String)  // without `p.` and `k.`
    case workers
    case op(Operator)
    case open, close, comma
    case end
  }

  enum Operator: UInt8 {
    case or, and, equal, notEqual, lessEqual, greaterEqual, less, greater, add, subtract, multiply, divide, modulo, not

    /// Binding strength; comparisons (2) do not chain. nil: no binary operator.
    var level: Int? {
      switch self {
      case .or: 0
      case .and: 1
      case .equal, .notEqual, .lessEqual, .greaterEqual, .less, .greater: 2
      case .add, .subtract: 3
      case .multiply, .divide, .modulo: 4
      case .not: nil
      }
    }
  }

  private let bytes: [UInt8]
  private var at = 0
  /// The token that comes next.
  private(set) var peek = Token.end

  init(_ text: String) throws(Refusal) {
    bytes = Array(text.utf8)
    peek = try scan()
  }

  /// Takes the next token.
  mutating func next() throws(Refusal) -> Token {
    let token = peek
    peek = try scan()
    return token
  }

  private func byte(_ i: Int) -> UInt8 { i < bytes.count ? bytes[i] : 0 }

  private mutating func scan() throws(Refusal) -> Token {
    while Lexer.isSpace(byte(at)) { at += 1 }
    guard at < bytes.count else { return .end }
    let c = byte(at)
    if Lexer.isDigit(c) { return try number() }
    if c == UInt8(ascii: "$"), takes("$workers") { return .workers }
    if c == UInt8(ascii: "p") || c == UInt8(ascii: "k"), byte(at + 1) == UInt8(ascii: "."), Lexer.isWord(byte(at + 2)) {
      at += 2
      let name = takeWord()
      return c == UInt8(ascii: "p") ? .parameter(name) : .knob(name)
    }
    if Lexer.isWord(c) { return .word(takeWord()) }
    for (text, token) in Lexer.symbols where takes(text) { return token }
    throw Refusal(.load, "", "cannot read \"\(String(decoding: bytes[at...], as: UTF8.self))\"")
  }

  /// Longer spellings before their prefixes.
  private static let symbols: [(StaticString, Token)] = [
    ("||", .op(.or)), ("&&", .op(.and)), ("==", .op(.equal)), ("!=", .op(.notEqual)), ("<=", .op(.lessEqual)),
    (">=", .op(.greaterEqual)), ("<", .op(.less)), (">", .op(.greater)), ("+", .op(.add)), ("-", .op(.subtract)),
    ("*", .op(.multiply)), ("/", .op(.divide)), ("%", .op(.modulo)), ("!", .op(.not)), ("(", .open), (")", .close),
    (",", .comma),
  ]

  private mutating func takes(_ text: StaticString) -> Bool {
    let count = text.utf8CodeUnitCount
    guard count <= bytes.count - at else { return false }
    for i in 0..<count where text.utf8Start[i] != bytes[at + i] { return false }
    at += count
    return true
  }

  private mutating func takeWord() -> String {
    let start = at
    while Lexer.isWord(byte(at)) { at += 1 }
    return String(decoding: bytes[start..<at], as: UTF8.self)
  }

  private mutating func number() throws(Refusal) -> Token {
    let start = at
    var isReal = false
    while Lexer.isDigit(byte(at)) { at += 1 }
    if byte(at) == UInt8(ascii: ".") {
      isReal = true
      at += 1
      while Lexer.isDigit(byte(at)) { at += 1 }
    }
    if byte(at) | 0x20 == UInt8(ascii: "e") {
      let signed = byte(at + 1) == UInt8(ascii: "-") || byte(at + 1) == UInt8(ascii: "+")
      let digits = at + (signed ? 2 : 1)
      if Lexer.isDigit(byte(digits)) {
        isReal = true
        at = digits
        while Lexer.isDigit(byte(at)) { at += 1 }
      }
    }
    let text = String(decoding: bytes[start..<at], as: UTF8.self)
    if isReal {
      guard let x = Double(text), x.isFinite else { throw Refusal(.load, "", "\(text) is too large") }
      return .real(x)
    }
    guard let x = Int64(text) else { throw Refusal(.load, "", "\(text) does not fit into 64 bits") }
    return .integer(x)
  }

  static func isSpace(_ c: UInt8) -> Bool { c == 0x20 || (0x09...0x0d).contains(c) }
  static func isDigit(_ c: UInt8) -> Bool { (0x30...0x39).contains(c) }
  static func isWord(_ c: UInt8) -> Bool { isDigit(c) || (0x61...0x7a).contains(c | 0x20) || c == UInt8(ascii: "_") }
}
