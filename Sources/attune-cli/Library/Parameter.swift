import AttuneCore
import CAttune

/// A parameter with its value, typed by the operator's description.
struct Parameter {
  var name: String
  var value: ParamValue

  /// `k=v` of the command line. A name that the operator does not know is passed on as a word: the library refuses it
  /// with a sentence of its own.
  static func parse(_ assignment: String, for op: Description.Operator) throws -> Parameter {
    let (name, text) = try split(assignment: assignment, option: "--param")
    guard let spec = op.param(name) else { return Parameter(name: name, value: .word(text)) }
    func bad(_ want: String) -> Failure { Failure("--param \(name)=\(text): \(op.id) wants \(want) for \(name)") }
    switch spec.kind {
    case "bool":
      guard let on = ["true": true, "1": true, "false": false, "0": false][text] else { throw bad("true or false") }
      return Parameter(name: name, value: .flag(on))
    case "i64":
      guard let i = Int64(text) else { throw bad("an integer") }
      return Parameter(name: name, value: .integer(i))
    case "f64":
      guard let d = Double(text) else { throw bad("a number") }
      return Parameter(name: name, value: .real(d))
    default: return Parameter(name: name, value: .word(text))
    }
  }

  /// A value of a JSON file.
  init(name: String, json: Scalar, for op: Description.Operator) throws {
    self.name = name
    switch (op.param(name)?.kind, json) {
    case ("f64", .integer(let i)): value = .real(Double(i))
    case ("i64", .real(let d)):
      guard let i = Int64(exactly: d) else { throw Failure("\(name) is \(d), \(op.id) wants an integer") }
      value = .integer(i)
    case (_, .bool(let b)): value = .flag(b)
    case (_, .integer(let i)): value = .integer(i)
    case (_, .real(let d)): value = .real(d)
    case (_, .word(let s)): value = .word(s)
    case (_, .null): throw Failure("\(name) is null: leave it out to get the default")
    }
  }

  init(name: String, value: ParamValue) {
    self.name = name
    self.value = value
  }

  /// As a shape file has it.
  var scalar: Scalar {
    switch value {
    case .flag(let b): .bool(b)
    case .integer(let i): .integer(i)
    case .real(let d): .real(d)
    case .word(let s): .word(s)
    }
  }

  var json: JSON {
    switch value {
    case .flag(let b): .bool(b)
    case .integer(let i): .integer(i)
    case .real(let d): .number(d)
    case .word(let s): .string(s)
    }
  }

  func record(_ strings: CStrings) -> attune_param {
    var p = attune_param()
    p.struct_size = UInt32(MemoryLayout<attune_param>.size)
    p.name = strings.copy(name)
    switch value {
    case .flag(let b):
      p.kind = UInt32(ATTUNE_PARAM_BOOL)
      p.value.i = b ? 1 : 0
    case .integer(let i):
      p.kind = UInt32(ATTUNE_PARAM_I64)
      p.value.i = i
    case .real(let d):
      p.kind = UInt32(ATTUNE_PARAM_F64)
      p.value.f = d
    case .word(let s):
      p.kind = UInt32(ATTUNE_PARAM_ENUM)
      p.word = strings.copy(s)
    }
    return p
  }
}

/// "k=v" -> (k, v)
func split(assignment: String, option: String) throws -> (name: String, value: String) {
  guard let mark = assignment.firstIndex(of: "="), mark != assignment.startIndex else {
    throw Failure("\(option) \(assignment): write NAME=VALUE")
  }
  return (String(assignment[..<mark]), String(assignment[assignment.index(after: mark)...]))
}

extension ParamValue {
  /// As it is typed on the command line.
  var text: String {
    switch self {
    case .flag(let b): String(b)
    case .integer(let i): String(i)
    case .real(let d): String(d)
    case .word(let s): s
    }
  }
}
