import ArgumentParser
import CAttune

struct Doctor: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Show machine, library, plugins and environment, and what is wrong with them.")
  @OptionGroup var output: JSONOption

  func run() throws {
    let context = try Context()
    let cpu = try context.cpu()
    let registry = try context.registry()
    let diagnostics = try context.description(Description.Diagnostics.self, of: "diagnostics")
    let wisdom = try context.description(Description.Tuning.self, of: "tuning").wisdom
    let problems = Doctor.problems(cpu, registry, diagnostics) + Doctor.problems(wisdom)
    if output.json {
      say(json(cpu, registry, diagnostics, wisdom, problems).text)
    } else {
      show(cpu, registry, diagnostics, wisdom, problems)
    }
    if registry.operators.isEmpty { throw ExitCode(1) }
  }

  private func show(
    _ cpu: Description.CPU, _ registry: Description.Registry, _ diagnostics: Description.Diagnostics,
    _ wisdom: Description.Tuning.Wisdom, _ problems: [String]
  ) {
    func fact(_ name: String, _ value: String) {
      say(name.padding(to: 14) + wrap(value, width: 85, indent: 14))
    }
    fact("library", "\(libraryVersion()), ABI \(ATTUNE_ABI_MAJOR).\(ATTUNE_ABI_MINOR)")
    fact("cpu", cpu.name)
    let cap = cpu.cappedBy.map { ", capped by ATTUNE_MAX_ISA=\($0)" } ?? ""
    fact("isa", "\(cpu.isaLevel)\(cap) (\(cpu.isa.joined(separator: " ")))")
    let caches = [("L1d", cpu.l1d), ("L2", cpu.l2), ("L3", cpu.l3)]
    fact("caches", caches.map { "\($0) \(Doctor.bytes($1))" }.joined(separator: ", "))
    fact("threads", cpu.threads.map(String.init) ?? "unknown")
    if let blas = diagnostics.blas {
      let found = "found, for core \(blas.core ?? "unknown")"
      fact("blas", blas.found ? found : "not found: \(blas.reason ?? "no reason given")")
    }
    fact("wisdom", wisdom.path.map { "\($0), \(wisdom.records) records" } ?? "none: \(wisdom.memoryOnly ?? "")")
    let environment = Doctor.environment(diagnostics)
    fact("environment", environment.isEmpty ? "nothing set" : environment.map { "\($0)=\($1)" }.joined(separator: " "))
    fact("operators", registry.operators.map(\.id).joined(separator: " "))

    var path = Table("SEARCHED", "STATUS", "WHY")
    for folder in registry.searchPath { path.add(folder.path, folder.status ?? "", folder.reason ?? "") }
    if !path.rows.isEmpty { say("\n" + path.text) }
    if !registry.plugins.isEmpty { say("\n" + List.table(registry.plugins).text) }

    say(problems.isEmpty ? "\nno problems found" : "\nproblems")
    for problem in problems { say("  - " + wrap(problem, width: 94, indent: 4)) }
  }

  /// What is wrong, each with what to do about it.
  private static func problems(
    _ cpu: Description.CPU, _ registry: Description.Registry, _ diagnostics: Description.Diagnostics
  ) -> [String] {
    var problems: [String] = []
    if registry.operators.isEmpty {
      problems.append(
        "no operator was found: build the plugins (make), or set ATTUNE_PLUGIN_PATH to the folder with attune_*.so")
    }
    for plugin in registry.plugins where plugin.status == "refused" {
      problems.append("\(plugin.path) is refused (\(plugin.why)): repair it or remove it from the search path")
    }
    for plugin in registry.plugins {
      for op in plugin.operators ?? [] where op.status == "refused" {
        problems.append("\(plugin.path): operator \(op.id) is refused (\(op.reason ?? "no reason given"))")
      }
      for warning in plugin.warnings ?? [] { problems.append("\(plugin.path): \(warning)") }
    }
    for op in registry.operators {
      if op.usable == false { problems.append("operator \(op.id) is not usable: \(op.reason ?? "no reason given")") }
      for entry in op.entries where entry.kernels.allSatisfy({ !$0.usable }) {
        problems.append("\(op.id) \(entry.name) has no usable kernel: attune list --why tells the reasons")
      }
    }
    if let cap = cpu.cappedBy {
      problems.append("faster kernels are switched off by ATTUNE_MAX_ISA=\(cap): unset it to use what the CPU has")
    }
    if let blas = diagnostics.blas, !blas.found {
      problems.append("no BLAS was found, kernels that need one are left out: install libopenblas0-pthread")
    }
    return problems
  }

  private static func problems(_ wisdom: Description.Tuning.Wisdom) -> [String] {
    guard let path = wisdom.path else { return [] }
    var problems: [String] = []
    if let reason = wisdom.memoryOnly {
      problems.append("\(reason), so what is measured is forgotten: repair it, or name a file by ATTUNE_WISDOM")
    }
    if wisdom.damaged > 0 {
      problems.append("\(path) has damaged lines (\(wisdom.damaged)): attune wisdom verify tells which")
    }
    return problems
  }

  private static func environment(_ d: Description.Diagnostics) -> [(String, String)] {
    (d.environment ?? [:]).sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
  }

  private static func bytes(_ count: Int64?) -> String {
    switch count ?? 0 {
    case ..<1: "unknown"
    case let n where n >= 1 << 20 && n % (1 << 20) == 0: "\(n >> 20) MiB"
    case let n: "\(n >> 10) KiB"
    }
  }

  private func json(
    _ cpu: Description.CPU, _ registry: Description.Registry, _ d: Description.Diagnostics,
    _ wisdom: Description.Tuning.Wisdom, _ problems: [String]
  ) -> JSON {
    [
      "version": .string(libraryVersion()), "abi": .string("\(ATTUNE_ABI_MAJOR).\(ATTUNE_ABI_MINOR)"),
      "cpu": cpu.json,
      "blas": ["found": .bool(d.blas?.found ?? false), "core": JSON(d.blas?.core), "reason": JSON(d.blas?.reason)],
      "wisdom": [
        "path": JSON(wisdom.path), "records": JSON(wisdom.records), "quarantined": JSON(wisdom.quarantined),
        "damaged": JSON(wisdom.damaged), "memory_only": JSON(wisdom.memoryOnly),
      ],
      "environment": .object(Doctor.environment(d).map { ($0, .string($1)) }),
      "operators": JSON(registry.operators.map(\.id)),
      "search_path": .array(
        registry.searchPath.map { ["path": .string($0.path), "status": JSON($0.status), "reason": JSON($0.reason)] }),
      "plugins": .array(
        registry.plugins.map {
          [
            "path": .string($0.path), "id": JSON($0.id), "status": .string($0.status), "code": JSON($0.code),
            "reason": JSON($0.reason),
          ]
        }),
      "problems": JSON(problems),
    ]
  }
}

extension Description.CPU {
  var json: JSON {
    [
      "name": .string(name), "isa_level": .string(isaLevel), "capped_by": JSON(cappedBy), "isa": JSON(isa),
      "l1d": JSON(l1d ?? 0), "l2": JSON(l2 ?? 0), "l3": JSON(l3 ?? 0), "threads": JSON(threads ?? 0),
    ]
  }
}

extension String {
  func padding(to width: Int) -> String { self + String(repeating: " ", count: max(width - count, 1)) }
}
