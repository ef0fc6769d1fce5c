import CAttune
import Foundation

@testable import AttuneCore

/// The operators' descriptors in their JSON form (ABI.md section 4), as test data. JSON has no kernels: every entry
/// gets a REFERENCE that does nothing.
enum TestDescriptors {
  static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("Descriptors")

  static let names: [String] = {
    let files = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
    return files.filter { $0.hasSuffix(".json") }.map { String($0.dropLast(5)) }.sorted()
  }()

  static func load(_ name: String) throws -> Descriptor.Operator {
    let data = try Data(contentsOf: folder.appendingPathComponent(name + ".json"))
    let o = try JSON(JSONSerialization.jsonObject(with: data))
    var op = Descriptor.Operator()
    op.id = o["id"].string
    op.title = o["title"].string
    op.doc = o["doc"].string
    op.params = o["params"].array.map(param)
    op.entries = o["entries"].array.map(entry)
    op.presets = o["presets"].array.map(preset)
    op.tolerances = o["tolerance"].array.map {
      Descriptor.Tolerance(dtype: DType(name: $0["dtype"].string)!, rtol: $0["rtol"].real, atol: $0["atol"].real)
    }
    return op
  }

  static func compile(_ name: String) throws -> Operator { try OperatorCompiler.compile(load(name)) }

  static func reference(_ name: String = "reference") -> Descriptor.Kernel {
    var kernel = Descriptor.Kernel()
    kernel.name = name
    kernel.isReference = true
    kernel.run = { _ in 0 }
    return kernel
  }

  private static func param(_ o: JSON) -> Descriptor.Param {
    var p = Descriptor.Param()
    p.name = o["name"].string
    p.kind = ["bool": .bool, "i64": .i64, "f64": .f64, "enum": .enum][o["kind"].string]!
    p.words = o["names"].array.map(\.string)
    let flags = o["flags"].array.map(\.string)
    p.isRequired = flags.contains("required")
    p.isStructural = flags.contains("structural")
    p.minOpen = flags.contains("min_open")
    p.maxOpen = flags.contains("max_open")
    p.min = attune_value(i: .min, f: -.infinity)
    p.max = attune_value(i: .max, f: .infinity)
    switch p.kind {
    case .f64:
      p.def.f = o["default"].real
      if !o["min"].isNull { p.min.f = o["min"].real }
      if !o["max"].isNull { p.max.f = o["max"].real }
    case .enum: p.def.i = Int64(p.words.firstIndex(of: o["default"].string) ?? -1)
    case .bool, .i64:
      p.def.i = o["default"].integer
      if !o["min"].isNull { p.min.i = o["min"].integer }
      if !o["max"].isNull { p.max.i = o["max"].integer }
    }
    return p
  }

  private static func entry(_ o: JSON) -> Descriptor.Entry {
    var e = Descriptor.Entry()
    e.name = o["name"].string
    e.kind = ["forward": .forward, "backward": .backward, "step": .step, "special": .special][o["kind"].string]!
    e.of = o["of"].optional
    e.symbols = o["symbols"].string
    e.let = o["let"].optional ?? ""
    e.buckets = o["buckets"].optional ?? ""
    e.flops = o["flops"].string
    e.bytes = o["bytes"].optional
    e.tensors = o["tensors"].array.map(tensor)
    let codes: [String: Status] = Dictionary(uniqueKeysWithValues: Status.names.map { ($0.code.name, $0.code) })
    e.rules = o["rules"].array.map {
      Descriptor.Rule(code: codes[$0["code"].string]!, expr: $0["expr"].string, text: $0["text"].string)
    }
    e.kernels = [reference()]
    return e
  }

  private static func tensor(_ o: JSON) -> Descriptor.Tensor {
    var t = Descriptor.Tensor()
    t.name = o["name"].string
    let roles: [String: Descriptor.Tensor.Role] = [
      "in": .in, "out": .out, "weight": .weight, "state": .state, "state_out": .stateOut, "saved": .saved,
    ]
    t.role = roles[o["role"].string]!
    t.shape = o["shape"].string
    t.dtypeVar = UInt32(o["dtype_var"].integer)
    t.dtypes = o["dtypes"].array.reduce(0) { $0 | DType(name: $1.string)!.bit }
    let flags = o["flags"].array.map(\.string)
    t.orF32 = flags.contains("or_f32")
    t.stridedLast = flags.contains("strided_last")
    t.needed = o["needed"].optional
    t.allowed = o["allowed"].optional
    t.pair = o["pair"].optional
    t.gen = o["gen"].string
    return t
  }

  private static func preset(_ o: JSON) -> Descriptor.Preset {
    var p = Descriptor.Preset()
    p.name = o["name"].string
    p.entry = o["entry"].string
    p.params = o["params"].string
    p.shape = o["shape"].string
    p.tensors = o["tensors"].string
    p.isDemo = o["flags"].array.contains { $0.string == "demo" }
    p.isBench = o["flags"].array.contains { $0.string == "bench" }
    return p
  }
}

/// A JSON value that answers with empty values where something is missing.
struct JSON {
  private let value: Any?
  init(_ value: Any?) { self.value = value is NSNull ? nil : value }
  subscript(_ key: String) -> JSON { JSON((value as? [String: Any])?[key]) }
  var keys: [String] { (value as? [String: Any]).map { Array($0.keys) } ?? [] }
  var isNull: Bool { value == nil }
  var optional: String? { value as? String }
  var string: String { optional ?? "" }
  var integer: Int64 { (value as? NSNumber)?.int64Value ?? 0 }
  var real: Double { (value as? NSNumber)?.doubleValue ?? 0 }
  var array: [JSON] { (value as? [Any])?.map { JSON($0) } ?? [] }
}
