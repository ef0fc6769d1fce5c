import CAttune

/// Parameters, entries, tensors, rules, presets and tolerances.
extension DescriptorReader {
  static func parameter(_ raw: attune_param_spec) throws(Refusal) -> Descriptor.Param {
    var out = Descriptor.Param()
    out.name = try name(raw.name)
    return try Untrusted.located(out.name) { () throws(Refusal) in
      out.doc = try text(raw.doc, "doc")
      out.kind = try choice(raw.kind, as: Descriptor.Param.Kind.self, "kind")
      try Untrusted.flags(
        raw.flags, known: ATTUNE_REQUIRED | ATTUNE_STRUCTURAL | ATTUNE_MIN_OPEN | ATTUNE_MAX_OPEN, "flags")
      out.isRequired = has(raw.flags, ATTUNE_REQUIRED)
      out.isStructural = has(raw.flags, ATTUNE_STRUCTURAL)
      out.minOpen = has(raw.flags, ATTUNE_MIN_OPEN)
      out.maxOpen = has(raw.flags, ATTUNE_MAX_OPEN)
      out.words = try words(raw, kind: out.kind)
      (out.def, out.min, out.max) = (raw.def, raw.min, raw.max)
      try checkValues(out)
      return out
    }
  }

  private static func words(_ raw: attune_param_spec, kind: Descriptor.Param.Kind) throws(Refusal) -> [String] {
    let count = Int(raw.n_words)
    guard kind == .enum ? (1...maxWords).contains(count) : count == 0 else {
      throw Refusal(
        .load, "n_words",
        kind == .enum
          ? "n_words is \(count), expected 1 to \(maxWords)" : "n_words is \(count) in a parameter that is no enum",
        detail: (kind == .enum ? 1 : 0, Int64(count)))
    }
    guard count > 0 else { return [] }
    guard let rows = UnsafeRawPointer(raw.words) else {
      throw Refusal(.load, "words", "words is NULL, expected \(count) strings")
    }
    var out: [String] = []
    for i in 0..<count {
      let address = rows.loadUnaligned(fromByteOffset: i &* MemoryLayout<UInt>.size, as: UInt.self)
      out.append(try name(UnsafePointer(bitPattern: address), "words[\(i)]"))
    }
    return out
  }

  /// Only the field of the kind is used, f64 defaults are finite and bounds may be infinite to their own side only.
  private static func checkValues(_ p: Descriptor.Param) throws(Refusal) {
    for (field, value) in [("default", p.def), ("min", p.min), ("max", p.max)] {
      guard p.kind == .f64 ? value.i == 0 : value.f == 0 else {
        throw Refusal(.load, field, "\(field) sets the field of another kind")
      }
    }
    guard p.kind == .f64 else { return }
    guard p.def.f.isFinite else { throw Refusal(.load, "default", "default is \(p.def.f), expected a finite number") }
    guard !p.min.f.isNaN, p.min.f < .infinity else { throw Refusal(.load, "min", "min is \(p.min.f)") }
    guard !p.max.f.isNaN, p.max.f > -.infinity else { throw Refusal(.load, "max", "max is \(p.max.f)") }
  }

  static func entry(_ raw: attune_entry) throws(Refusal) -> Descriptor.Entry {
    var out = Descriptor.Entry()
    out.name = try name(raw.name)
    return try Untrusted.located(out.name) { () throws(Refusal) in
      out.kind = try choice(raw.kind, as: Descriptor.Entry.Kind.self, "kind")
      out.of = try optional(raw.of, "of", limit: Limits.name)
      out.symbols = try text(raw.symbols, "symbols", limit: Limits.lets)
      out.let = try text(raw.let, "let", limit: Limits.lets)
      out.buckets = try text(raw.buckets, "buckets", limit: Limits.lets)
      out.flops = try Untrusted.string(raw.flops, "flops", limit: Limits.expression)
      out.bytes = try optional(raw.bytes, "bytes")
      out.doc = try text(raw.doc, "doc")
      out.check = raw.check
      out.tensors = try all(raw.tensors, "tensors", Limits.tensors, tensor)
      out.rules = try all(raw.rules, "rules", Limits.rules, rule)
      out.kernels = try kernels(raw.kernels)
      return out
    }
  }

  private static func tensor(_ raw: attune_tensor_spec) throws(Refusal) -> Descriptor.Tensor {
    var out = Descriptor.Tensor()
    out.name = try name(raw.name)
    return try Untrusted.located(out.name) { () throws(Refusal) in
      out.role = try choice(raw.role, as: Descriptor.Tensor.Role.self, "role")
      try Untrusted.flags(raw.flags, known: ATTUNE_OR_F32 | ATTUNE_STRIDED_LAST, "flags")
      out.orF32 = has(raw.flags, ATTUNE_OR_F32)
      out.stridedLast = has(raw.flags, ATTUNE_STRIDED_LAST)
      let known = DType.allCases.reduce(0) { $0 | $1.bit }
      guard raw.dtypes != 0, raw.dtypes & ~known == 0 else {
        throw Refusal(
          .unsupported, "dtypes",
          "dtypes is 0x\(String(raw.dtypes, radix: 16)), expected some of 0x\(String(known, radix: 16))",
          detail: (Int64(truncatingIfNeeded: known), Int64(truncatingIfNeeded: raw.dtypes)))
      }
      out.dtypes = raw.dtypes
      out.dtypeVar = raw.dtype_var
      out.shape = try Untrusted.string(raw.shape, "shape", limit: Limits.shape)
      out.needed = try optional(raw.needed, "needed")
      out.allowed = try optional(raw.allowed, "allowed")
      out.pair = try optional(raw.pair, "pair", limit: Limits.name)
      out.gen = try text(raw.gen, "gen", limit: Limits.expression)
      out.doc = try text(raw.doc, "doc")
      return out
    }
  }

  private static func rule(_ raw: attune_rule) throws(Refusal) -> Descriptor.Rule {
    guard raw.code < 0 else {
      throw Refusal(.load, "code", "code is \(raw.code), expected an error code", detail: (-1, Int64(raw.code)))
    }
    return Descriptor.Rule(
      code: Status(rawValue: raw.code), expr: try Untrusted.string(raw.expr, "expr", limit: Limits.expression),
      text: try Untrusted.string(raw.text, "text", limit: maxText))
  }

  static func preset(_ raw: attune_preset) throws(Refusal) -> Descriptor.Preset {
    var out = Descriptor.Preset()
    out.name = try name(raw.name)
    return try Untrusted.located(out.name) { () throws(Refusal) in
      try Untrusted.flags(raw.flags, known: ATTUNE_DEMO | ATTUNE_BENCH, "flags")
      out.isDemo = has(raw.flags, ATTUNE_DEMO)
      out.isBench = has(raw.flags, ATTUNE_BENCH)
      out.entry = try name(raw.entry, "entry")
      out.params = try text(raw.params, "params")
      out.shape = try text(raw.shape, "shape")
      out.tensors = try text(raw.tensors, "tensors")
      out.doc = try text(raw.doc, "doc")
      return out
    }
  }

  static func tolerance(_ raw: attune_tolerance) throws(Refusal) -> Descriptor.Tolerance {
    guard let index = Int32(exactly: raw.dtype), let dtype = DType(rawValue: index) else {
      throw Refusal(.unsupported, "dtype", "dtype is \(raw.dtype), which is not known", detail: (0, Int64(raw.dtype)))
    }
    return Descriptor.Tolerance(dtype: dtype, rtol: raw.rtol, atol: raw.atol)
  }

  static func has(_ flags: UInt32, _ flag: Int) -> Bool { flags & UInt32(truncatingIfNeeded: flag) != 0 }
}
