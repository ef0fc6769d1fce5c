/// The sentence for a name that means nothing: what was meant perhaps, why it is not there, where was looked.
extension Registry {
  func notFound(_ name: String, _ records: [PluginRecord]) -> Refusal {
    let shown = String(name.prefix(63))
    var sentence = "no operator \(shown)"
    let operators = records.flatMap(\.operators)
    let wanted = String(shown.prefix { $0 != "@" })
    let offered = operators.compactMap(\.status.registration)
    if wanted != shown, offered.contains(where: { $0.op.id == wanted }) {
      let plugins = offered.filter { $0.op.id == wanted }.map(\.plugin.id)
      return Refusal(.notFound, "op", "\(sentence): \(wanted) is offered by \(plugins.joined(separator: ", "))")
    }
    if let reason = refusal(of: wanted, records, operators) {
      return Refusal(.notFound, "op", "\(sentence): \(reason)")
    }
    let names = Set(offered.map(\.op.id)).sorted()
    let near = names.filter { Registry.distance($0, wanted) <= 2 }
    if !near.isEmpty {
      sentence += "; nearest: \(near.joined(separator: ", "))"
    } else if !names.isEmpty {
      sentence += "; there are \(names.joined(separator: ", "))"
    }
    let places = search.directories.map(\.path).joined(separator: ", ")
    return Refusal(.notFound, "op", "\(sentence); looked in \(places.isEmpty ? "no directory" : places)")
  }

  /// Why the operator, or the file that should hold it, was refused.
  private func refusal(of op: String, _ records: [PluginRecord], _ operators: [OperatorRecord]) -> String? {
    for record in operators where record.id == op {
      if case .refused(let refusal) = record.status { return refusal.message }
    }
    for record in records where record.name == "attune_\(op).so" {
      if case .refused(let refusal) = record.status { return refusal.message }
    }
    return nil
  }

  /// Edits between two words (Levenshtein). Both are at most 63 characters here.
  static func distance(_ a: String, _ b: String) -> Int {
    let x = Array(a.utf8)
    let y = Array(b.utf8)
    var row = Array(0...y.count)
    for (i, c) in x.enumerated() {
      var diagonal = i
      row[0] = i &+ 1
      for (j, d) in y.enumerated() {
        let above = row[j &+ 1]
        row[j &+ 1] = min(above &+ 1, row[j] &+ 1, diagonal &+ (c == d ? 0 : 1))
        diagonal = above
      }
    }
    return row.last ?? 0
  }
}
