/// A JSON document to print; members keep the order in which they were given.
enum JSON: ExpressibleByStringLiteral, ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral {
  case null
  case bool(Bool)
  case integer(Int64)
  /// A number that is not finite has no JSON form and becomes null.
  case number(Double)
  case string(String)
  case array([JSON])
  case object([(String, JSON)])

  init(stringLiteral value: String) { self = .string(value) }
  init(arrayLiteral elements: JSON...) { self = .array(elements) }
  init(dictionaryLiteral elements: (String, JSON)...) { self = .object(elements) }
  init(_ value: String?) { self = value.map(JSON.string) ?? .null }
  init(_ value: Double?) { self = value.map(JSON.number) ?? .null }
  init(_ value: Int) { self = .integer(Int64(value)) }
  init(_ value: Int64) { self = .integer(value) }
  init(_ values: [String]) { self = .array(values.map(JSON.string)) }

  /// Indented text; arrays of scalars stay on one line.
  var text: String {
    var out = ""
    write(to: &out, indent: 0)
    return out
  }

  private var isScalar: Bool {
    switch self {
    case .array, .object: false
    default: true
    }
  }

  private func write(to out: inout String, indent: Int) {
    switch self {
    case .null: out += "null"
    case .bool(let b): out += b ? "true" : "false"
    case .integer(let i): out += String(i)
    case .number(let d): out += d.isFinite ? String(d) : "null"
    case .string(let s): JSON.quote(s, to: &out)
    case .array(let items) where items.allSatisfy(\.isScalar):
      out += "["
      for (i, item) in items.enumerated() {
        if i > 0 { out += ", " }
        item.write(to: &out, indent: indent)
      }
      out += "]"
    case .array(let items):
      JSON.lines(items, "[", "]", &out, indent) { $0.write(to: &$1, indent: indent + 2) }
    case .object(let members) where members.isEmpty: out += "{}"
    case .object(let members):
      JSON.lines(members, "{", "}", &out, indent) {
        JSON.quote($0.0, to: &$1)
        $1 += ": "
        $0.1.write(to: &$1, indent: indent + 2)
      }
    }
  }

  private static func lines<T>(
    _ items: [T], _ open: String, _ close: String, _ out: inout String, _ indent: Int, _ body: (T, inout String) -> Void
  ) {
    out += open
    for (i, item) in items.enumerated() {
      out += (i > 0 ? ",\n" : "\n") + String(repeating: " ", count: indent + 2)
      body(item, &out)
    }
    out += "\n" + String(repeating: " ", count: indent) + close
  }

  private static func quote(_ s: String, to out: inout String) {
    let hex = Array("0123456789abcdef")
    out += "\""
    for c in s.unicodeScalars {
      switch c {
      case "\"": out += "\\\""
      case "\\": out += "\\\\"
      case "\n": out += "\\n"
      case "\t": out += "\\t"
      case _ where c.value < 0x20 || c.value == 0x7f:
        out += "\\u00"
        out.append(hex[Int(c.value >> 4)])
        out.append(hex[Int(c.value & 15)])
      default: out.unicodeScalars.append(c)
      }
    }
    out += "\""
  }
}

/// A JSON scalar that was read: the value of a parameter, or its default.
enum Scalar: Codable, Hashable, CustomStringConvertible {
  case null
  case bool(Bool)
  case integer(Int64)
  case real(Double)
  case word(String)

  init(from decoder: any Decoder) throws {
    let box = try decoder.singleValueContainer()
    if box.decodeNil() {
      self = .null
    } else if let b = try? box.decode(Bool.self) {
      self = .bool(b)
    } else if let i = try? box.decode(Int64.self) {
      self = .integer(i)
    } else if let d = try? box.decode(Double.self) {
      self = .real(d)
    } else {
      self = .word(try box.decode(String.self))
    }
  }

  func encode(to encoder: any Encoder) throws {
    var box = encoder.singleValueContainer()
    switch self {
    case .null: try box.encodeNil()
    case .bool(let b): try box.encode(b)
    case .integer(let i): try box.encode(i)
    case .real(let d): try box.encode(d)
    case .word(let s): try box.encode(s)
    }
  }

  var description: String {
    switch self {
    case .null: "-"
    case .bool(let b): String(b)
    case .integer(let i): i == .min ? "INT64_MIN" : i == .max ? "INT64_MAX" : String(i)
    case .real(let d): String(d)
    case .word(let s): s
    }
  }
}
