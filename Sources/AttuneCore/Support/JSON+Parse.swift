extension JSON {
  /// The value of a JSON text (RFC 8259). nil: it is none, is nested deeper than 16 levels, or holds a number that no
  /// Int64 and no finite Double can say.
  package init?(parsing text: some Sequence<UInt8>) {
    self.init(Array(text))
  }

  private init?(_ bytes: [UInt8]) {
    let value: JSON? = bytes.withUnsafeBufferPointer { bytes in
      var reader = JSONReader(bytes: bytes)
      guard let value = reader.value(depth: 16), reader.isAtEnd else { return nil }
      return value
    }
    guard let value else { return nil }
    self = value
  }
}

/// Recursive descent with bounded depth. Text that is no JSON gives nil; nothing is skipped or guessed.
private struct JSONReader {
  let bytes: UnsafeBufferPointer<UInt8>
  private var at = 0

  init(bytes: UnsafeBufferPointer<UInt8>) { self.bytes = bytes }

  /// The byte to come; 0, which no JSON text has between its tokens, at the end.
  private var next: UInt8 { at < bytes.count ? bytes[at] : 0 }

  private mutating func skipBlanks() {
    while next == 0x20 || next == 0x09 || next == 0x0a || next == 0x0d { at &+= 1 }
  }

  private mutating func eat(_ c: Unicode.Scalar) -> Bool {
    guard at < bytes.count, next == UInt8(ascii: c) else { return false }
    at &+= 1
    return true
  }

  var isAtEnd: Bool {
    mutating get {
      skipBlanks()
      return at == bytes.count
    }
  }

  mutating func value(depth: Int) -> JSON? {
    skipBlanks()
    switch next {
    case UInt8(ascii: "{"): return depth > 0 ? object(depth: depth &- 1) : nil
    case UInt8(ascii: "["): return depth > 0 ? array(depth: depth &- 1) : nil
    case UInt8(ascii: "\""): return string().map(JSON.string)
    case UInt8(ascii: "t"): return word("true") ? .bool(true) : nil
    case UInt8(ascii: "f"): return word("false") ? .bool(false) : nil
    case UInt8(ascii: "n"): return word("null") ? .null : nil
    default: return number()
    }
  }

  private mutating func word(_ text: StaticString) -> Bool {
    let count = text.utf8CodeUnitCount
    guard bytes.count &- at >= count, bytes[at..<(at &+ count)].elementsEqual("\(text)".utf8) else { return false }
    at &+= count
    return true
  }

  private mutating func object(depth: Int) -> JSON? {
    at &+= 1
    var members: [(String, JSON)] = []
    skipBlanks()
    if eat("}") { return .object(members) }
    repeat {
      skipBlanks()
      guard next == UInt8(ascii: "\""), let name = string() else { return nil }
      skipBlanks()
      guard eat(":"), let value = value(depth: depth) else { return nil }
      members.append((name, value))
      skipBlanks()
    } while eat(",")
    return eat("}") ? .object(members) : nil
  }

  private mutating func array(depth: Int) -> JSON? {
    at &+= 1
    var items: [JSON] = []
    skipBlanks()
    if eat("]") { return .array(items) }
    repeat {
      guard let value = value(depth: depth) else { return nil }
      items.append(value)
      skipBlanks()
    } while eat(",")
    return eat("]") ? .array(items) : nil
  }

  private mutating func number() -> JSON? {
    let begin = at
    _ = eat("-")
    let whole = digits()
    guard whole > 0, whole == 1 || bytes[at &- whole] != UInt8(ascii: "0") else { return nil }
    var isWhole = true
    if eat(".") {
      isWhole = false
      guard digits() > 0 else { return nil }
    }
    if eat("e") || eat("E") {
      isWhole = false
      if !eat("+") { _ = eat("-") }
      guard digits() > 0 else { return nil }
    }
    let text = String(decoding: bytes[begin..<at], as: UTF8.self)
    if isWhole, let i = Int64(text) { return .integer(i) }
    guard let d = Double(text), d.isFinite else { return nil }
    return .real(d)
  }

  private mutating func digits() -> Int {
    let begin = at
    while Lexer.isDigit(next) { at &+= 1 }
    return at &- begin
  }

  private mutating func string() -> String? {
    at &+= 1
    let begin = at
    while at < bytes.count, next >= 0x20, next != UInt8(ascii: "\""), next != UInt8(ascii: "\\") { at &+= 1 }
    if next == UInt8(ascii: "\"") {  // nearly always: nothing is escaped
      defer { at &+= 1 }
      return String(validating: bytes[begin..<at], as: UTF8.self)
    }
    var out = Array(bytes[begin..<at])
    while at < bytes.count, next >= 0x20 {
      if eat("\"") { return String(validating: out, as: UTF8.self) }
      guard eat("\\") else {
        out.append(next)
        at &+= 1
        continue
      }
      guard escape(&out) else { return nil }
    }
    return nil
  }

  private mutating func escape(_ out: inout [UInt8]) -> Bool {
    let c = next
    at &+= 1
    switch c {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): out.append(c)
    case UInt8(ascii: "b"): out.append(0x08)
    case UInt8(ascii: "f"): out.append(0x0c)
    case UInt8(ascii: "n"): out.append(0x0a)
    case UInt8(ascii: "r"): out.append(0x0d)
    case UInt8(ascii: "t"): out.append(0x09)
    case UInt8(ascii: "u"):
      guard let scalar = scalar(), let encoded = UTF8.encode(scalar) else { return false }
      out += encoded
    default: return false
    }
    return true
  }

  /// Behind `\u`: four digits, or a surrogate pair.
  private mutating func scalar() -> Unicode.Scalar? {
    guard let first = hex4() else { return nil }
    guard (0xd800...0xdbff).contains(first) else { return Unicode.Scalar(first) }
    guard eat("\\"), eat("u"), let second = hex4(), (0xdc00...0xdfff).contains(second) else { return nil }
    return Unicode.Scalar(0x10000 &+ (first &- 0xd800) << 10 &+ (second &- 0xdc00))
  }

  private mutating func hex4() -> UInt32? {
    guard bytes.count &- at >= 4 else { return nil }
    var value: UInt32 = 0
    for _ in 0..<4 {
      let c = next | 0x20  // letters in lower case, digits as they are
      switch next {
      case UInt8(ascii: "0")...UInt8(ascii: "9"): value = value << 4 | UInt32(next &- UInt8(ascii: "0"))
      case UInt8(ascii: "a")...UInt8(ascii: "f"), UInt8(ascii: "A")...UInt8(ascii: "F"):
        value = value << 4 | UInt32(c &- UInt8(ascii: "a") &+ 10)
      default: return nil
      }
      at &+= 1
    }
    return value
  }
}
