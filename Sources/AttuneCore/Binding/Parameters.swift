import CAttune

/// Parameter values: legality and storage, the same at registration, plan time and execute time.
package enum Parameters {
  /// Defaults, then what the problem says.
  static func store(
    _ given: [(name: String, value: ParamValue)], of op: Operator, entry at: String,
    into out: UnsafeMutablePointer<attune_value>
  ) throws(Refusal) {
    var seen: UInt64 = 0
    for (i, p) in op.params.enumerated() where i < BindFrame.capacity { out[i] = p.def }
    for (name, value) in given {
      guard let i = op.paramIndex(name), i < BindFrame.capacity else {
        let hint = nearest(name, op.params.map(\.name)).map { "; did you mean \($0)?" } ?? ""
        throw Refusal(.param, name, "\(op.id) has no parameter \(name)\(hint)")
      }
      guard seen >> UInt64(i) & 1 == 0 else { throw Refusal(.param, name, "\(at): parameter \(name) is given twice") }
      seen |= 1 << UInt64(i)
      out[i] = try legal(value, op.params[i], at)
    }
    for (i, p) in op.params.enumerated() where p.isRequired && seen >> UInt64(i) & 1 == 0 {
      throw Refusal(.param, p.name, "\(at): parameter \(p.name) is required")
    }
  }

  /// The stored form of a value, or why it is refused.
  package static func legal(_ value: ParamValue, _ p: Descriptor.Param, _ at: String) throws(Refusal) -> attune_value {
    switch (p.kind, value) {
    case (.bool, .flag(let b)):
      let i: Int64 = b ? 1 : 0
      guard i >= p.min.i, i <= p.max.i else {  // some operators are defined for one value only
        throw Refusal(.param, p.name, "\(at): \(p.name) is \(b), expected \(!b)", detail: (1 - i, i))
      }
      return attune_value(i: i, f: 0)
    case (.enum, .word(let w)):
      guard let i = p.words.firstIndex(of: w) else {
        throw Refusal(.param, p.name, "\(at): \(p.name) is \"\(w)\", expected \(p.words.joined(separator: " or "))")
      }
      return attune_value(i: Int64(i), f: 0)
    case (.i64, .integer(let i)):
      if i < p.min.i || (i == p.min.i && p.minOpen) || i > p.max.i || (i == p.max.i && p.maxOpen) {
        let bound = i < p.min.i || (i == p.min.i && p.minOpen) ? p.min.i : p.max.i
        throw Refusal(.param, p.name, "\(at): \(p.name) is \(i), expected \(range(p))", detail: (bound, i))
      }
      return attune_value(i: i, f: 0)
    case (.f64, .real(let f)):
      guard f.isFinite else {
        throw Refusal(.param, p.name, "\(at): \(p.name) is \(f), expected a finite number\(rangeTail(p))")
      }
      if f < p.min.f || (f == p.min.f && p.minOpen) || f > p.max.f || (f == p.max.f && p.maxOpen) {
        throw Refusal(.param, p.name, "\(at): \(p.name) is \(f), expected \(range(p))")
      }
      return attune_value(i: 0, f: f)
    default:
      throw Refusal(.param, p.name, "\(at): \(p.name) is given as \(value.kindWord), expected \(p.kind.word)")
    }
  }

  static func text(_ v: attune_value, _ p: Descriptor.Param) -> String {
    switch p.kind {
    case .bool: v.i != 0 ? "true" : "false"
    case .i64: "\(v.i)"
    case .f64: "\(v.f)"
    case .enum: v.i >= 0 && Int(v.i) < p.words.count ? p.words[Int(v.i)] : "\(v.i)"
    }
  }

  private static func rangeTail(_ p: Descriptor.Param) -> String {
    let r = range(p)
    return r == "any" ? "" : ", " + r
  }
  private static func range(_ p: Descriptor.Param) -> String {
    let (low, high): (String?, String?) =
      p.kind == .f64
      ? (p.min.f == -.infinity ? nil : "\(p.min.f)", p.max.f == .infinity ? nil : "\(p.max.f)")
      : (p.min.i == .min ? nil : "\(p.min.i)", p.max.i == .max ? nil : "\(p.max.i)")
    let a = low.map { (p.minOpen ? "> " : ">= ") + $0 }, b = high.map { (p.maxOpen ? "< " : "<= ") + $0 }
    switch (a, b) {
    case (let a?, let b?): return a + " and " + b
    case (let a?, nil): return a
    case (nil, let b?): return b
    default: return "any"
    }
  }
}

extension ParamValue {
  var kindWord: String {
    switch self {
    case .flag: "a flag"
    case .integer: "an integer"
    case .real: "a real number"
    case .word: "a word"
    }
  }
}
extension Descriptor.Param.Kind {
  var word: String {
    switch self {
    case .bool: "a flag"
    case .i64: "an integer"
    case .f64: "a real number"
    case .enum: "a word"
    }
  }
}
