import ArgumentParser

struct List: ParsableCommand {
  static let configuration = CommandConfiguration(abstract: "Show operators and their kernels.")
  @Flag(help: "Also say why a kernel or plugin is not usable.") var why = false
  @OptionGroup var output: JSONOption

  func run() throws {
    let context = try Context()
    if output.json { return say(try context.text("registry")) }
    let registry = try context.registry()
    if registry.operators.isEmpty {
      say("no operators found; `attune doctor` says where was looked")
    } else {
      say(why ? kernels(registry).text : summary(registry).text)
    }
    let refused = registry.plugins.filter { plugin in
      plugin.status != "loaded" || plugin.operators?.contains { $0.status != "active" } == true
    }
    guard !refused.isEmpty else { return }
    guard why else { return say("\n\(refused.count) plugin file(s) not fully in use; --why tells the reasons") }
    say("")
    say(List.table(refused).text)
  }

  /// One line per entry; kernels that cannot run here in parentheses.
  private func summary(_ registry: Description.Registry) -> Table {
    var table = Table("OPERATOR", "VERSION", "ENTRY", "KERNELS (not usable here)")
    for op in registry.operators {
      for (i, entry) in op.entries.enumerated() {
        let kernels = entry.kernels.map { $0.usable ? $0.name : "(\($0.name))" }.joined(separator: " ")
        table.add(i == 0 ? op.id : "", i == 0 ? op.version : "", entry.name, kernels)
      }
      if let reason = op.reason, op.usable == false { table.add(op.id, op.version, "", "not usable: \(reason)") }
    }
    return table
  }

  private func kernels(_ registry: Description.Registry) -> Table {
    var table = Table("OPERATOR", "ENTRY", "KERNEL", "ISA", "USABLE")
    for op in registry.operators {
      if let reason = op.reason, op.usable == false { table.add(op.id, "", "", "", "no: \(reason)") }
      for entry in op.entries {
        for kernel in entry.kernels {
          let usable = kernel.usable ? "yes" : "no: \(kernel.reason ?? "no reason given")"
          table.add(op.id, entry.name, kernel.name, isaLevel(kernel.isa ?? []), usable)
        }
      }
    }
    return table
  }

  static func table(_ plugins: [Description.Registry.Plugin]) -> Table {
    var table = Table("PLUGIN FILE", "STATUS", "WHY")
    for plugin in plugins {
      table.add(plugin.path, plugin.status, plugin.why)
      for op in plugin.operators ?? [] where op.status != "active" {
        table.add("  operator \(op.id)", op.status, op.reason ?? "")
      }
      for warning in plugin.warnings ?? [] { table.add("", "warning", warning) }
    }
    return table
  }
}
