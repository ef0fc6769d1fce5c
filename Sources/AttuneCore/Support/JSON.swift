/// A JSON value; keys stay in the order they are given.
package indirect enum JSON {
  case null
  case bool(Bool)
  case integer(Int64)
  case real(Double)
  case string(String)
  case array([JSON])
  case object([(String, JSON)])

  package static func text(_ s: String?) -> JSON { s.map { .string($0) } ?? .null }
  package static func strings(_ s: [String]) -> JSON { .array(s.map { .string($0) }) }
  package static func count(_ n: some BinaryInteger) -> JSON { .integer(Int64(clamping: n)) }

  package var text: String {
    var out: [UInt8] = []
    write(&out)
    return String(decoding: out, as: UTF8.self)
  }

  private func write(_ out: inout [UInt8]) {
    switch self {
    case .null: out += "null".utf8
    case .bool(let b): out += (b ? "true" : "false").utf8
    case .integer(let i): out += "\(i)".utf8
    case .real(let d): out += (d.isFinite ? "\(d)" : "null").utf8
    case .string(let s): JSON.write(s, &out)
    case .array(let list):
      out.append(UInt8(ascii: "["))
      for (i, x) in list.enumerated() {
        if i > 0 { out += ", ".utf8 }
        x.write(&out)
      }
      out.append(UInt8(ascii: "]"))
    case .object(let fields):
      out.append(UInt8(ascii: "{"))
      for (i, (name, x)) in fields.enumerated() {
        if i > 0 { out += ", ".utf8 }
        JSON.write(name, &out)
        out += ": ".utf8
        x.write(&out)
      }
      out.append(UInt8(ascii: "}"))
    }
  }

  private static func write(_ s: String, _ out: inout [UInt8]) {
    let hex = Array("0123456789abcdef".utf8)
    out.append(UInt8(ascii: "\""))
    for b in s.utf8 {
      switch b {
      case UInt8(ascii: "\""), UInt8(ascii: "\\"): out += [UInt8(ascii: "\\"), b]
      case 0..<0x20: out += "\\u00".utf8 + [hex[Int(b >> 4)], hex[Int(b & 15)]]
      default: out.append(b)
      }
    }
    out.append(UInt8(ascii: "\""))
  }
}
