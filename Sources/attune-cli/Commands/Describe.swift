import ArgumentParser

struct Describe: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Show an operator's tensors, parameters, kernels and references.")
  @Argument(help: "Operator, or operator@plugin.") var op: String
  @OptionGroup var output: JSONOption

  func run() throws {
    let context = try Context()
    if output.json { return say(try context.text("op", op)) }
    let d = try context.op(op)
    say("\(d.id) \(d.version): \(d.title)")
    paragraph(d.doc)
    paragraph(d.reference.map { $0.isEmpty ? "" : "Reference: \($0)" })
    if let path = d.plugin?.path { paragraph("Plugin: \(d.plugin?.id ?? "?") \(d.plugin?.version ?? "") in \(path)") }

    if !d.params.isEmpty {
      var table = Table("PARAMETER", "TYPE", "DEFAULT", "RANGE", "MEANING")
      for p in d.params {
        let required = p.flags?.contains("required") ?? false
        let range = Describe.range(p), isLong = range.count > 24
        // Many long words would leave the last column no room.
        let doc = isLong ? range.split(separator: "|").joined(separator: " | ") + ": " + (p.doc ?? "") : p.doc ?? ""
        table.add(
          p.name, p.kind, required ? "required" : p.default?.description ?? "-", isLong ? "see there" : range, doc)
      }
      say("\n" + table.text)
    }
    for entry in d.entries { describe(entry) }
    if !d.presets.isEmpty {
      var table = Table("PRESET", "ENTRY", "USE", "PROBLEM")
      for p in d.presets {
        let problem = [p.shape, p.params, p.tensors.map { $0.isEmpty ? "" : "+ \($0)" }, p.doc]
          .compactMap { $0 }.filter { !$0.isEmpty }.joined(separator: "  ")
        table.add(p.name, p.entry, p.flags?.joined(separator: " ") ?? "", problem)
      }
      say("\n" + table.text)
    }
  }

  private func describe(_ entry: Description.Entry) {
    let doc = entry.doc ?? ""
    say("\n" + wrap("entry \(entry.name)" + (doc.isEmpty ? "" : ": \(doc)"), width: 98, indent: 2))
    // Shapes are too long for a column: they go below the line of their tensor.
    var tensors = Table("TENSOR", "ROLE", "TYPES", "GIVEN")
    for t in entry.tensors {
      let given = t.needed.map { $0 == "0" ? "optional" : "if \($0)" } ?? "always"
      tensors.add(t.name, t.role, t.dtypes.joined(separator: "|"), given)
      let alternatives = t.shape.split(separator: ";").map { $0.filter { $0 != " " } }
      tensors.below("  [\(alternatives.joined(separator: "; "))] \(t.doc ?? "")")
    }
    say(tensors.text)
    var kernels = Table("KERNEL", "ISA", "USABLE", "KNOBS AND NOTES")
    for k in entry.kernels ?? [] {
      let isa = isaLevel(k.isa ?? [])
      let knobs = (k.knobs ?? []).map { "\($0.name)=\($0.values.map(String.init).joined(separator: "|"))" }
      let notes = knobs + [k.flags?.joined(separator: " "), k.reason, k.doc].compactMap { $0 }.filter { !$0.isEmpty }
      kernels.add(k.name, isa, k.usable ? "yes" : "no", notes.joined(separator: "; "))
    }
    say("\n" + kernels.text)
  }

  private static func range(_ p: Description.Param) -> String {
    if let words = p.names, !words.isEmpty { return words.joined(separator: "|") }
    guard p.kind != "bool" else { return "" }
    let low = p.min.map(\.description) ?? "-"
    let high = p.max.map(\.description) ?? "-"
    return low == "-" && high == "-" || low == "INT64_MIN" && high == "INT64_MAX" ? "" : "\(low)..\(high)"
  }

  private func paragraph(_ text: String?) {
    guard let text, !text.isEmpty else { return }
    say("  " + wrap(text, width: 96, indent: 2))
  }
}
