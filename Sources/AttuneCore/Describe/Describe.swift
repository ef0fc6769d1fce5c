import CAttune
import CRuntime

/// What `attune_describe` answers: JSON about the registry, operators, plugins, the CPU, tuning and diagnostics.
struct Describe {
  let context: Context
  private static let schema = ("schema", JSON.string("attune.describe/1"))

  init(_ context: Context) { self.context = context }

  func text(_ what: String, _ name: String?) throws(Refusal) -> String {
    switch what {
    case "registry": return registry.text
    case "op": return try operators(name).text
    case "plugin": return try plugins(name).text
    case "cpu": return cpu.text
    case "tuning": return tuning.text
    case "diagnostics": return diagnostics.text
    default:
      throw Refusal(
        .notFound, "what", "what is \"\(what)\", expected registry, op, plugin, cpu, tuning or diagnostics")
    }
  }

  private func operators(_ name: String?) throws(Refusal) -> JSON {
    if let name { return json(try context.registry.find(name)) }
    return .array(context.registry.registrations.map(json))
  }

  private func plugins(_ name: String?) throws(Refusal) -> JSON {
    let all = context.registry.records
    guard let name else { return .array(all.map(record)) }
    guard let found = all.first(where: { $0.id == name || $0.path == name }) else {
      throw Refusal(.notFound, name, "no plugin \(name); known are \(all.compactMap(\.id).joined(separator: ", "))")
    }
    return record(found)
  }

  private func record(_ r: PluginRecord) -> JSON {
    let (status, code, reason): (String, String?, String?) =
      switch r.status {
      case .loaded: ("loaded", nil, nil)
      case .shadowed(let why): ("shadowed", nil, why)
      case .refused(let refusal): ("refused", refusal.code.name, refusal.message)
      }
    return .object([
      ("path", .string(r.path)), ("id", .text(r.id)), ("version", .text(r.version)),
      ("build", .text(r.plugin?.build)), ("status", .string(status)),
      ("code", .text(code)), ("reason", .text(reason)), ("rank", .count(r.rank)),
      ("operators", .array(r.operators.map(record))), ("warnings", .strings(r.warnings)),
    ])
  }

  private func record(_ r: OperatorRecord) -> JSON {
    let (status, reason): (String, String?) =
      switch r.status {
      case .active: ("active", nil)
      case .shadowed(_, let why): ("shadowed", why)
      case .refused(let refusal): ("refused", refusal.message)
      }
    return .object([("id", .string(r.id)), ("status", .string(status)), ("reason", .text(reason))])
  }

  private var registry: JSON {
    .object([
      Describe.schema,
      (
        "operators",
        .array(
          context.registry.registrations.map { r in
            .object([
              ("id", .string(r.op.id)), ("version", .string("\(r.op.descriptor.version)")),
              ("title", .string(r.op.descriptor.title)), ("plugin", .string(r.plugin.id)), ("usable", .bool(true)),
              (
                "entries",
                .array(
                  r.op.entries.map { e in
                    .object([
                      ("name", .string(e.name)), ("kind", .string("\(e.descriptor.kind)")),
                      ("kernels", .array(kernels(e, context.tuner.barred(r, e)))),
                    ])
                  })
              ),
            ])
          })
      ), ("plugins", .array(context.registry.records.map(record))),
      (
        "search_path",
        .array(
          context.registry.search.directories.map { d in
            let files = SearchPath.candidates(in: d.path)
            return .object([
              ("path", .string(d.path)), ("status", .string(files == nil ? "unreadable" : "searched")),
              ("reason", .string(files.map { "\($0.count) plugin files" } ?? "cannot be opened")),
            ])
          })
      ),
    ])
  }

  private var cpu: JSON {
    var name = [CChar](repeating: 0, count: 64)
    crt_cpu_name(&name, name.count)
    let own = CPUFeatures(cap: nil)
    return .object([
      Describe.schema,
      ("name", .string(String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self))),
      ("isa", .strings(ISA.names(context.cpu.isa.0, arch: context.cpu.arch))), ("isa_level", .string(context.cpu.name)),
      ("capped_by", own.isa.0 == context.cpu.isa.0 ? .null : .text(context.configuration.maxISA?.rawValue)),
      ("l1d", .count(crt_cache_bytes(1))), ("l2", .count(crt_cache_bytes(2))), ("l3", .count(crt_cache_bytes(3))),
      ("cpus", .count(crt_usable_cpus())), ("threads", .count(context.resources.workers)),
    ])
  }

  private var tuning: JSON {
    .object([
      Describe.schema, ("mode", .string(context.configuration.tuneMode.name)),
      ("remembered", .count(context.wisdom.status.records)), ("wisdom", wisdom),
    ])
  }

  private var wisdom: JSON {
    let s = context.wisdom.status
    return .object([
      ("path", .text(s.path)), ("cpu", .string(s.cpu)), ("records", .count(s.records)),
      ("quarantined", .count(s.quarantined)), ("foreign", .count(s.foreign)), ("damaged", .count(s.damaged)),
      ("unsaved", .count(s.unsaved)), ("memory_only", .text(s.reason)),
      (
        "read_only",
        .array(
          s.readOnly.map {
            .object([("path", .string($0.path)), ("records", .count($0.records)), ("reason", .text($0.reason))])
          })
      ),
    ])
  }

  private var diagnostics: JSON {
    let blas = Blas.lend(cpu: context.cpu, core: context.configuration.blasCore)
    let blasJSON: JSON =
      switch blas {
      case .success(let b): .object([("found", .bool(true)), ("core", .string(b.core)), ("reason", .null)])
      case .failure(let r): .object([("found", .bool(false)), ("core", .null), ("reason", .string(r.message))])
      }
    return .object([
      Describe.schema, ("version", .string(Library.text)),
      ("abi", .string("\(ATTUNE_ABI_MAJOR).\(ATTUNE_ABI_MINOR)")),
      ("library", .text(crt_own_path().map { String(cString: $0) })), ("blas", blasJSON),
      ("environment", .object(context.configuration.environment.map { ($0.name, .string($0.value)) })),
      ("secure", .bool(context.configuration.isSecure)), ("checked", .bool(context.configuration.isChecked)),
    ])
  }
}
