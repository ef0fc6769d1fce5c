import CAttune
import Foundation
import Testing

@testable import AttuneCore

/// Tables of a good plugin in writable memory, for one thing at a time to be made wrong. Lives as long as the process.
final class Tables: @unchecked Sendable {
  let plugin = UnsafeMutablePointer<attune_plugin>.allocate(capacity: 1)
  let op = UnsafeMutablePointer<attune_op>.allocate(capacity: 1)
  let entry = UnsafeMutablePointer<attune_entry>.allocate(capacity: 1)
  let tensor = UnsafeMutablePointer<attune_tensor_spec>.allocate(capacity: 2)
  let kernel = UnsafeMutablePointer<attune_kernel>.allocate(capacity: 2)
  let param = UnsafeMutablePointer<attune_param_spec>.allocate(capacity: 2)
  let rule = UnsafeMutablePointer<attune_rule>.allocate(capacity: 1)
  let preset = UnsafeMutablePointer<attune_preset>.allocate(capacity: 1)
  let tolerance = UnsafeMutablePointer<attune_tolerance>.allocate(capacity: 1)
  let arg = UnsafeMutablePointer<attune_arg>.allocate(capacity: 1)
  let knob = UnsafeMutablePointer<attune_knob>.allocate(capacity: 1)

  static func size<T>(_: T.Type) -> UInt32 { UInt32(MemoryLayout<T>.size) }
  static func text(_ s: String) -> UnsafePointer<CChar> { UnsafePointer(strdup(s)) }
  static func span<T>(_ p: UnsafeMutablePointer<T>, _ count: UInt32 = 1) -> attune_span {
    attune_span(data: p, count: count, stride: size(T.self))
  }

  init() {
    var p = attune_plugin()
    var o = attune_op()
    var e = attune_entry()
    var t = attune_tensor_spec()
    var k = attune_kernel()
    (p.struct_size, p.id, p.version.major) = (Tables.size(attune_plugin.self), Tables.text("org.example.t"), 1)
    p.ops = Tables.span(op)
    (o.struct_size, o.id, o.version.major) = (Tables.size(attune_op.self), Tables.text("t"), 1)
    (o.entries, o.params, o.presets) = (Tables.span(entry), Tables.span(param, 2), Tables.span(preset))
    o.tolerances = Tables.span(tolerance)
    (e.struct_size, e.kind, e.name) = (Tables.size(attune_entry.self), 1, Tables.text("forward"))
    (e.symbols, e.flops) = (Tables.text("N"), Tables.text("N"))
    (e.tensors, e.kernels, e.rules) = (Tables.span(tensor, 2), Tables.span(kernel, 2), Tables.span(rule))
    (t.struct_size, t.role, t.dtypes) = (Tables.size(attune_tensor_spec.self), 1, 1)
    (t.name, t.shape) = (Tables.text("q"), Tables.text("N"))
    (k.struct_size, k.flags, k.name) = (Tables.size(attune_kernel.self), 1, Tables.text("reference"))
    var second = k
    (second.flags, second.name, second.args, second.knobs) = (
      2, Tables.text("fast"), Tables.span(arg), Tables.span(knob)
    )
    var real = attune_param_spec()
    var word = attune_param_spec()
    (real.struct_size, real.kind, real.name) = (Tables.size(attune_param_spec.self), 3, Tables.text("scale"))
    (real.min.f, real.max.f) = (-.infinity, .infinity)
    (word.struct_size, word.kind, word.name, word.n_words) = (real.struct_size, 4, Tables.text("mode"), 2)
    let words = UnsafeMutablePointer<UnsafePointer<CChar>?>.allocate(capacity: 2)
    (words[0], words[1]) = (Tables.text("slow"), Tables.text("fast"))
    word.words = UnsafePointer(words)
    let values = UnsafeMutablePointer<Int64>.allocate(capacity: 2)
    (values[0], values[1]) = (32, 64)
    plugin.initialize(to: p)
    op.initialize(to: o)
    entry.initialize(to: e)
    tensor.initialize(repeating: t, count: 2)
    kernel.initialize(to: k)
    (kernel + 1).initialize(to: second)
    param.initialize(to: real)
    (param + 1).initialize(to: word)
    rule.initialize(
      to: attune_rule(
        struct_size: Tables.size(attune_rule.self), code: -4, expr: Tables.text("N>0"), text: Tables.text("no")))
    preset.initialize(to: attune_preset())
    (preset.pointee.struct_size, preset.pointee.flags) = (Tables.size(attune_preset.self), 1)
    (preset.pointee.name, preset.pointee.entry) = (Tables.text("demo"), Tables.text("forward"))
    tolerance.initialize(
      to: attune_tolerance(struct_size: Tables.size(attune_tolerance.self), dtype: 1, rtol: 1e-3, atol: 1e-4))
    arg.initialize(
      to: attune_arg(struct_size: Tables.size(attune_arg.self), kind: 1, ctype: 5, dim: 0, name: Tables.text("q")))
    knob.initialize(to: attune_knob())
    (knob.pointee.struct_size, knob.pointee.n_values, knob.pointee.def) = (Tables.size(attune_knob.self), 2, 1)
    (knob.pointee.name, knob.pointee.values) = (Tables.text("bq"), UnsafePointer(values))
  }

  func read() throws(Refusal) -> PluginTable { try DescriptorReader.read(plugin: plugin) }
  func readOperator() throws -> Descriptor.Operator { try #require(try read().operators.first).descriptor.get() }
}

/// Reading of descriptor tables: what is copied, what is refused, and how far a fault reaches.
@Suite struct ReaderTests {
  struct Change: CustomTestStringConvertible, Sendable {
    let sentence: String, apply: @Sendable (Tables) -> Void
    init(_ sentence: String, _ apply: @escaping @Sendable (Tables) -> Void) {
      (self.sentence, self.apply) = (sentence, apply)
    }
    var testDescription: String { sentence }
  }

  @Test func goodTables() throws {
    let table = try Tables().read()
    #expect(table.id == "org.example.t" && table.version.description == "1.0.0" && table.start == nil)
    let op = try #require(table.operators.first).descriptor.get()
    #expect(op.id == "t" && op.params.map(\.name) == ["scale", "mode"] && op.params[1].words == ["slow", "fast"])
    let entry = try #require(op.entries.first)
    #expect(entry.tensors.map(\.name) == ["q", "q"] && entry.rules[0].code == .shape && entry.bytes == nil)
    #expect(entry.kernels.map(\.name) == ["reference", "fast"] && entry.kernels.allSatisfy { $0.refused == nil })
    #expect(entry.kernels[1].knobs[0].values == [32, 64] && entry.kernels[1].knobs[0].def == 1)
    #expect(entry.kernels[1].args[0].kind == .data && entry.kernels[1].args[0].ctype == .ptr)
    #expect(op.presets[0].isDemo && op.tolerances[0].dtype == .bf16 && op.tolerances[0].rtol == 1e-3)
  }

  @Test(arguments: [
    Change("id is NULL, expected a string") { $0.plugin.pointee.id = nil },
    Change("id is empty") { $0.plugin.pointee.id = Tables.text("") },
    Change("id is not UTF-8") { $0.plugin.pointee.id = Tables.text("\u{e9}") + 1 },
    Change("id \"a@b\" has other characters") { $0.plugin.pointee.id = Tables.text("a@b") },
    Change("id is longer than 63 bytes") { $0.plugin.pointee.id = Tables.text(String(repeating: "i", count: 64)) },
    Change("vendor is longer than 4096 bytes") {
      $0.plugin.pointee.vendor = Tables.text(String(repeating: "v", count: 4097))
    },
    Change("reserved is 1, expected 0") { $0.plugin.pointee.reserved = 1 },
    Change("version.reserved is 1, expected 0") { $0.plugin.pointee.version.reserved = 1 },
    Change("struct_size of attune_plugin is 80, expected at least 88") { $0.plugin.pointee.struct_size = 80 },
    Change("struct_size of attune_plugin is 4294967295, expected at most 16384") {
      $0.plugin.pointee.struct_size = .max
    },
    Change("ops has 65 elements, expected at most 64") { $0.plugin.pointee.ops.count = 65 },
    Change("ops has stride 4294967288") { $0.plugin.pointee.ops.stride = .max - 7 },
    Change("ops has stride 124, expected a multiple of 8") { $0.plugin.pointee.ops.stride = 124 },
    Change("ops is NULL, expected 1 elements") { $0.plugin.pointee.ops.data = nil },
  ]) func refusesThePlugin(_ change: Change) {
    let tables = Tables()
    change.apply(tables)
    let refusal = #expect(throws: Refusal.self) { try tables.read() }
    #expect(refusal?.code == .load)
    #expect(refusal?.message.hasPrefix(change.sentence) == true, "\(refusal?.message ?? "")")
  }

  @Test(arguments: [
    Change("#0: id is NULL") { $0.op.pointee.id = nil },
    Change("t: reserved is 2, expected 0") { $0.op.pointee.reserved = 2 },
    Change("#0: struct_size of attune_op is 128, expected at most 120") { $0.op.pointee.struct_size = 128 },
    Change("t: title is not UTF-8") { $0.op.pointee.title = Tables.text("\u{e9}") + 1 },
    Change("t: params[0]: scale: kind is 9, which is not known") { $0.param.pointee.kind = 9 },
    Change("t: params[0]: scale: flags is 0x10, known are 0xf") { $0.param.pointee.flags = 16 },
    Change("t: params[0]: scale: default is nan, expected a finite number") { $0.param.pointee.def.f = .nan },
    Change("t: params[0]: scale: default is inf, expected a finite number") { $0.param.pointee.def.f = .infinity },
    Change("t: params[0]: scale: min is nan") { $0.param.pointee.min.f = .nan },
    Change("t: params[0]: scale: min is inf") { $0.param.pointee.min.f = .infinity },
    Change("t: params[0]: scale: max is -inf") { $0.param.pointee.max.f = -.infinity },
    Change("t: params[0]: scale: max sets the field of another kind") { $0.param.pointee.max.i = 1 },
    Change("t: params[0]: scale: n_words is 1 in a parameter that is no enum") { $0.param.pointee.n_words = 1 },
    Change("t: params[1]: mode: n_words is 4294967295, expected 1 to 64") { $0.param[1].n_words = .max },
    Change("t: params[1]: mode: words is NULL, expected 2 strings") { $0.param[1].words = nil },
    Change("t: params has 65 elements") { $0.op.pointee.params.count = 65 },
    Change("t: entries has 17 elements") { $0.op.pointee.entries.count = 17 },
    Change("t: presets has 33 elements") { $0.op.pointee.presets.count = 33 },
    Change("t: tolerances has 17 elements") { $0.op.pointee.tolerances.count = 17 },
    Change("t: entries[0]: forward: kind is 0, which is not known") { $0.entry.pointee.kind = 0 },
    Change("t: entries[0]: forward: flops is NULL") { $0.entry.pointee.flops = nil },
    Change("t: entries[0]: forward: let is longer than 512 bytes") {
      $0.entry.pointee.let = Tables.text(String(repeating: "l", count: 513))
    },
    Change("t: entries[0]: forward: tensors has 65 elements") { $0.entry.pointee.tensors.count = 65 },
    Change("t: entries[0]: forward: rules has 33 elements") { $0.entry.pointee.rules.count = 33 },
    Change("t: entries[0]: forward: kernels has 65 elements") { $0.entry.pointee.kernels.count = 65 },
    Change("t: entries[0]: forward: tensors[1]: q: role is 7, which is not known") { $0.tensor[1].role = 7 },
    Change("t: entries[0]: forward: tensors[1]: q: flags is 0x4, known are 0x3") { $0.tensor[1].flags = 4 },
    Change("t: entries[0]: forward: tensors[1]: q: dtypes is 0x200, expected some of 0x1ff") {
      $0.tensor[1].dtypes = 0x200
    },
    Change("t: entries[0]: forward: tensors[1]: q: dtypes is 0x0") { $0.tensor[1].dtypes = 0 },
    Change("t: entries[0]: forward: tensors[1]: q: shape is longer than 256 bytes") {
      $0.tensor[1].shape = Tables.text(String(repeating: "s", count: 257))
    },
    Change("t: entries[0]: forward: rules[0]: code is 0, expected an error code") { $0.rule.pointee.code = 0 },
    Change("t: entries[0]: forward: rules[0]: text is NULL") { $0.rule.pointee.text = nil },
    Change("t: presets[0]: demo: flags is 0x8, known are 0x3") { $0.preset.pointee.flags = 8 },
    Change("t: tolerances[0]: dtype is 4294967295, which is not known") { $0.tolerance.pointee.dtype = .max },
  ]) func dropsTheOperator(_ change: Change) throws {
    let tables = Tables()
    change.apply(tables)
    let refusal = #expect(throws: Refusal.self) { _ = try tables.readOperator() }
    #expect(refusal?.message.hasPrefix(change.sentence) == true, "\(refusal?.message ?? "")")
  }

  @Test(arguments: [
    Change("flags is 0x12, known are 0xf") { $0.kernel[1].flags = 18 },
    Change("struct_size of attune_kernel is 160, expected at least 168") { $0.kernel[1].struct_size = 160 },
    Change("name is NULL") { $0.kernel[1].name = nil },
    Change("when is longer than 256 bytes") { $0.kernel[1].when = Tables.text(String(repeating: "w", count: 257)) },
    Change("args has 65 elements") { $0.kernel[1].args.count = 65 },
    Change("args[0]: kind is 11, which is not known") { $0.arg.pointee.kind = 11 },
    Change("args[0]: ctype is 0, which is not known") { $0.arg.pointee.ctype = 0 },
    Change("knobs has 9 elements") { $0.kernel[1].knobs.count = 9 },
    Change("knobs[0]: n_values is 17, expected 1 to 16") { $0.knob.pointee.n_values = 17 },
    Change("knobs[0]: n_values is 0, expected 1 to 16") { $0.knob.pointee.n_values = 0 },
    Change("knobs[0]: def is 2, expected less than 2") { $0.knob.pointee.def = 2 },
    Change("knobs[0]: values is NULL, expected 2 numbers") { $0.knob.pointee.values = nil },
    Change("knobs[0]: reserved is 3, expected 0") { $0.knob.pointee.reserved = 3 },
  ]) func dropsTheKernel(_ change: Change) throws {
    let tables = Tables()
    change.apply(tables)
    let kernels = try #require(try tables.readOperator().entries.first).kernels
    #expect(kernels.count == 2 && kernels[0].refused == nil)
    #expect(kernels[1].refused?.hasPrefix(change.sentence) == true, "\(kernels[1].refused ?? "")")
    #expect(kernels[1].name == (change.sentence.hasPrefix("name") || change.sentence.contains("160") ? "#1" : "fast"))
  }

  /// Elements of a later, larger kind: read by stride, accepted while their new bytes are zero.
  @Test func largerElements() throws {
    let tables = Tables()
    let step = MemoryLayout<attune_tensor_spec>.size + 16
    let memory = UnsafeMutableRawPointer.allocate(byteCount: 2 * step, alignment: 8)
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: 2 * step)
    for i in 0..<2 {
      tables.tensor[i].struct_size = UInt32(step)
      memcpy(memory + i * step, tables.tensor + i, MemoryLayout<attune_tensor_spec>.size)
    }
    tables.entry.pointee.tensors = attune_span(data: memory, count: 2, stride: UInt32(step))
    #expect(try tables.readOperator().entries.first?.tensors.count == 2)
    memory.storeBytes(of: 1, toByteOffset: 2 * step - 1, as: UInt8.self)
    let refusal = #expect(throws: Refusal.self) { try tables.readOperator() }
    #expect(refusal?.code == .unsupported)
    #expect(
      refusal?.message
        == "t: entries[0]: forward: tensors[1]: attune_tensor_spec uses byte 95, "
        + "which this version of the library (80 bytes) does not know"
    )
  }

  @Test func misalignedTables() throws {
    let tables = Tables()
    let size = MemoryLayout<attune_plugin>.size
    let memory = UnsafeMutableRawPointer.allocate(byteCount: size + 8, alignment: 8)
    memcpy(memory + 3, tables.plugin, size)
    #expect(try Untrusted.structure(memory + 3, as: attune_plugin.self).ops.count == 1)
  }
}
