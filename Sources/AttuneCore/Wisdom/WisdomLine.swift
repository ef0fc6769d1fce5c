/// One line of a file of wisdom: `<crc32c> {"schema": 1, "kind": ...}`, eight lower-case hex digits of the bytes
/// between the blank and the end of the line. Every line stands for itself, so damage costs no more than the lines it
/// hits.
package enum WisdomLine {
  case header
  case tuned(cpu: String, WisdomRecord)
  case quarantine(cpu: String, QuarantineRecord)
  case machine(cpu: String, MachineRecord)
  /// Whole, of this schema, and of a kind this version does not know: the JSON as it stands.
  case unknown(String)

  /// What a line is worth.
  enum Verdict {
    case good(WisdomLine)
    case newer(schema: Int64)
    case bad(WisdomFault)
  }

  private static let about = "Attune: the fastest kernels measured on this machine; may be deleted"

  // MARK: writing

  /// Without the line's end.
  package var bytes: [UInt8] {
    let json = Array(self.json.utf8)
    return Array((CRC32C.text(CRC32C.of(json)) + " ").utf8) + json
  }

  private var json: String {
    switch self {
    case .header: return WisdomLine.text("header", [("about", .string(WisdomLine.about))])
    case .tuned(let cpu, let r): return WisdomLine.text("tuned", [("cpu", .string(cpu))] + r.members)
    case .quarantine(let cpu, let q): return WisdomLine.text("quarantine", [("cpu", .string(cpu))] + q.members)
    case .machine(let cpu, let m): return WisdomLine.text("machine", [("cpu", .string(cpu))] + m.members)
    case .unknown(let text): return text
    }
  }

  private static func text(_ kind: String, _ members: [(String, JSON)]) -> String {
    JSON.object([("schema", .integer(WisdomLimits.schema)), ("kind", .string(kind))] + members).text
  }

  // MARK: reading

  /// Walks the lines of a file. Ends of lines are where checksums come true and only then where line feeds are, so that
  /// one that was damaged does not cost the line behind it.
  static func forEach(in bytes: UnsafeBufferPointer<UInt8>, _ body: (_ number: Int, Verdict) -> Void) {
    var at = 0
    var number = 1
    while at < bytes.count {
      let feed = bytes[at...].firstIndex(of: 0x0a) ?? bytes.count
      if feed > at {
        let limit = min(feed, at &+ WisdomLimits.lineBytes)
        if let end = endOfChecked(bytes, at, limit) {
          body(number, decode(bytes[(at &+ 9)..<end]))
          if end < feed { body(number, .bad(WisdomFault("something else follows the record"))) }
          if end < feed {
            at = end &+ 1
            continue
          }
        } else {
          let isLong = feed &- at > WisdomLimits.lineBytes
          let fault = isLong ? "it has more than \(WisdomLimits.lineBytes) bytes" : "its checksum does not fit"
          body(number, .bad(WisdomFault(fault)))
        }
      }
      at = feed &+ 1
      number &+= 1
    }
  }

  /// Where the object ends whose bytes have the checksum that the line begins with; nil: nowhere.
  private static func endOfChecked(_ bytes: UnsafeBufferPointer<UInt8>, _ begin: Int, _ limit: Int) -> Int? {
    guard limit &- begin > 9, bytes[begin &+ 8] == 0x20, let stated = hex(bytes[begin..<(begin &+ 8)]) else {
      return nil
    }
    var crc = CRC32C()
    for i in (begin &+ 9)..<limit {
      crc.add(bytes[i])
      if bytes[i] == UInt8(ascii: "}"), crc.value == stated { return i &+ 1 }
    }
    return nil
  }

  /// Capitals are refused: a bit flip that makes one must not go unnoticed.
  private static func hex(_ digits: Slice<UnsafeBufferPointer<UInt8>>) -> UInt32? {
    var value: UInt32 = 0
    for c in digits {
      switch c {
      case UInt8(ascii: "0")...UInt8(ascii: "9"): value = value << 4 | UInt32(c &- UInt8(ascii: "0"))
      case UInt8(ascii: "a")...UInt8(ascii: "f"): value = value << 4 | UInt32(c &- UInt8(ascii: "a") &+ 10)
      default: return nil
      }
    }
    return value
  }

  private static func decode(_ text: Slice<UnsafeBufferPointer<UInt8>>) -> Verdict {
    guard case .object(let members) = JSON(parsing: text) else { return .bad(WisdomFault("it is no JSON object")) }
    do throws(WisdomFault) {
      let f = Fields(members)
      let schema: Int64 = try f.number("schema")
      guard schema >= 1 else { return .bad(WisdomFault("its schema is \(schema)")) }
      guard schema <= WisdomLimits.schema else { return .newer(schema: schema) }
      return .good(try line(f, text))
    } catch { return .bad(error) }
  }

  private static func line(
    _ f: Fields, _ text: Slice<UnsafeBufferPointer<UInt8>>
  ) throws(WisdomFault) -> WisdomLine {
    func cpu() throws(WisdomFault) -> String {
      let cpu = try f.text("cpu")
      try WisdomCheck.check(cpu: cpu)
      return cpu
    }
    switch try f.text("kind") {
    case "header": return .header
    case "tuned":
      let record = try WisdomRecord(f)
      try WisdomCheck.check(record)
      return .tuned(cpu: try cpu(), record.canonical)
    case "quarantine":
      let record = try QuarantineRecord(f)
      try WisdomCheck.check(record)
      return .quarantine(cpu: try cpu(), record)
    case "machine":
      let record = try MachineRecord(f)
      try WisdomCheck.check(record)
      return .machine(cpu: try cpu(), record)
    default: return .unknown(String(decoding: text, as: UTF8.self))
    }
  }
}
