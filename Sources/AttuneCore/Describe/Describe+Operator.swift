import CAttune

/// An operator in the form of its descriptor file: an object is a struct, an array a span, with the same field names.
extension Describe {
  func json(_ r: Registration) -> JSON {
    let d = r.op.descriptor
    return .object([
      ("schema", .string("attune.descriptor/1")), ("id", .string(d.id)), ("version", .string("\(d.version)")),
      ("title", .string(d.title)), ("doc", .string(d.doc)), ("reference", .string(d.reference)),
      (
        "plugin",
        .object([
          ("id", .string(r.plugin.id)), ("version", .string("\(r.plugin.version)")),
          ("path", .string(r.plugin.image.file.path)),
        ])
      ),
      ("params", .array(d.params.map(param))),
      (
        "tolerance",
        .array(
          d.tolerances.map {
            .object([("dtype", .string($0.dtype.name)), ("rtol", .real($0.rtol)), ("atol", .real($0.atol))])
          })
      ),
      ("presets", .array(d.presets.map(preset))),
      ("entries", .array(r.op.entries.map { entry($0, r) })),
    ])
  }

  private func param(_ p: Descriptor.Param) -> JSON {
    func value(_ v: attune_value) -> JSON {
      switch p.kind {
      case .bool: .bool(v.i != 0)
      case .i64: .integer(v.i)
      case .f64: .real(v.f)
      case .enum: .string(Parameters.text(v, p))
      }
    }
    // An open end is null; an enum has no bounds. A bool's are 0 and 1.
    func bound(_ v: attune_value, _ open: Int64) -> JSON {
      switch p.kind {
      case .enum: .null
      case .f64: v.f.isFinite ? .real(v.f) : .null
      case .i64: v.i == open ? .null : .integer(v.i)
      case .bool: .integer(v.i)
      }
    }
    var flags: [String] = []
    if p.isRequired { flags.append("required") }
    if p.isStructural { flags.append("structural") }
    if p.minOpen { flags.append("min_open") }
    if p.maxOpen { flags.append("max_open") }
    return .object([
      ("name", .string(p.name)), ("kind", .string(p.kind == .enum ? "enum" : "\(p.kind)")),
      ("default", p.isRequired ? .null : value(p.def)), ("min", bound(p.min, .min)), ("max", bound(p.max, .max)),
      ("names", p.kind == .enum ? .strings(p.words) : .null), ("flags", .strings(flags)), ("doc", .string(p.doc)),
    ])
  }

  private func preset(_ p: Descriptor.Preset) -> JSON {
    .object([
      ("name", .string(p.name)), ("flags", .strings((p.isDemo ? ["demo"] : []) + (p.isBench ? ["bench"] : []))),
      ("entry", .string(p.entry)), ("params", .string(p.params)), ("shape", .string(p.shape)),
      ("tensors", .string(p.tensors)), ("doc", .string(p.doc)),
    ])
  }

  private func entry(_ e: Entry, _ r: Registration) -> JSON {
    let d = e.descriptor, barred = context.tuner.barred(r, e)
    return .object([
      ("name", .string(d.name)), ("kind", .string("\(d.kind)")), ("of", .text(d.of)), ("symbols", .string(d.symbols)),
      ("let", .string(d.let)), ("buckets", .string(d.buckets)), ("flops", .string(d.flops)), ("bytes", .text(d.bytes)),
      ("check", d.check == nil ? .null : .string("index data is checked before any task")), ("doc", .string(d.doc)),
      (
        "rules",
        .array(
          d.rules.map {
            .object([("code", .string($0.code.name)), ("expr", .string($0.expr)), ("text", .string($0.text))])
          })
      ),
      ("tensors", .array(e.tensors.map { tensor($0.spec) })),
      ("kernels", .array(kernels(e, barred))),
    ])
  }

  private func tensor(_ t: Descriptor.Tensor) -> JSON {
    let role: String =
      switch t.role {
      case .in: "in"
      case .out: "out"
      case .weight: "weight"
      case .state: "state"
      case .stateOut: "state_out"
      case .saved: "saved"
      }
    return .object([
      ("name", .string(t.name)), ("role", .string(role)), ("shape", .string(t.shape)),
      ("dtype_var", .count(t.dtypeVar)),
      ("dtypes", .strings(DType.set(t.dtypes).map(\.name))),
      ("flags", .strings((t.orF32 ? ["or_f32"] : []) + (t.stridedLast ? ["strided_last"] : []))),
      ("needed", .text(t.needed)), ("allowed", .text(t.allowed)), ("pair", .text(t.pair)), ("gen", .string(t.gen)),
      ("doc", .string(t.doc)),
    ])
  }

  /// All kernels of an entry, those that were dropped with their reason.
  func kernels(_ e: Entry, _ barred: [String: QuarantineRecord]) -> [JSON] {
    e.kernels.map { kernel($0, barred) }
      + e.droppedKernels.map {
        .object([("name", .string($0.name)), ("usable", .bool(false)), ("reason", .string($0.reason))])
      }
  }

  /// - barred: kernels of the entry that this build must not use.
  private func kernel(_ k: Kernel, _ barred: [String: QuarantineRecord]) -> JSON {
    let s = k.spec
    let obstacle =
      Planner.obstacle(k, context.resources)
      ?? (k.spec.isReference
        ? nil : barred[s.name].map { "proved \($0.reason.rawValue) in this build (attune tune --forgive)" })
    var flags: [String] = []
    if s.isReference { flags.append("reference") }
    if s.isInvariant { flags.append("invariant") }
    if s.isReduced { flags.append("reduced") }
    if s.ownsThreads { flags.append("owns_threads") }
    return .object([
      ("name", .string(s.name)), ("flags", .strings(flags)), ("call", .string(s.run == nil ? "native" : "exec")),
      ("isa", .strings(ISA.names(s.isa.0, arch: s.arch == 0 ? context.resources.arch : s.arch))),
      ("usable", .bool(obstacle == nil)), ("reason", .text(obstacle)), ("revision", .count(s.revision)),
      ("when", .text(s.when)), ("tasks", .text(s.tasks)), ("workspace", .text(s.workspace)),
      ("min_align", .count(s.minAlign)), ("efficiency", .real(s.efficiency)),
      (
        "knobs",
        .array(
          s.knobs.map {
            .object([
              ("name", .string($0.name)), ("values", .array($0.values.map { .integer($0) })),
              ("default", $0.def < $0.values.count ? .integer($0.values[$0.def]) : .null), ("doc", .string($0.doc)),
            ])
          })
      ), ("doc", .string(s.doc)),
    ])
  }
}
