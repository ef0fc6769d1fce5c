import CAttune

extension BindProgram {
  /// The refusal of an outcome: code, argument, numbers and sentence. Cold path.
  package func refusal(_ o: Outcome, _ frame: BindFrame, _ op: Operator) -> Refusal {
    let at = "\(op.id) \(entry.name)"
    guard let s = step(o.step) else { return Refusal(.internal, "", "\(at): sizes do not bind") }
    let tensor = s.tensor >= 0 && Int(s.tensor) < entry.tensors.count ? entry.tensors[Int(s.tensor)].spec.name : ""
    switch (o.problem, s.kind) {
    case (.negative, _):
      return Refusal(
        .shape, tensor, "\(at): \(tensor) dim \(s.dim) (\(dimText(s))) is \(o.actual), expected at least \(o.expected)",
        detail: (o.expected, o.actual))
    case (.rule, _) where Int(s.index) < entry.rules.count:
      let rule = entry.descriptor.rules[Int(s.index)]
      let text = rule.text.isEmpty ? "\(rule.expr) does not hold" : rule.text
      let values = self.values(of: entry.rules[Int(s.index)], frame, op)
      return Refusal(rule.code, culprit(entry.rules[Int(s.index)], op), "\(at): \(text)\(values)")
    case (.noValue, .rule) where Int(s.index) < entry.rules.count:
      return Refusal(.shape, "", "\(at): rule \(entry.rules[Int(s.index)].text) has no value: \(words(o.fault))")
    case (.noValue, .define), (.noValue, .supply):
      let name = Int(s.symbol) < entry.symbols.count ? entry.symbols[Int(s.symbol)] : "?"
      return Refusal(.shape, "", "\(at): size \(name) has no value: \(words(o.fault))")
    case (.noValue, _):
      return Refusal(.shape, tensor, "\(at): \(tensor) dim \(s.dim) (\(dimText(s))) has no value: \(words(o.fault))")
    case (.differs, .like), (.differs, .likeMade):
      let other = Int(s.symbol) < entry.tensors.count ? entry.tensors[Int(s.symbol)].spec.name : "?"
      return Refusal(
        .shape, tensor, "\(at): \(tensor) has \(o.actual) where \(other) has \(o.expected)",
        detail: (o.expected, o.actual))
    default:
      let from = origin(of: dimText(s)).map { " (from \($0))" } ?? ""
      return Refusal(
        .shape, tensor, "\(at): \(tensor) dim \(s.dim) (\(dimText(s))) is \(o.actual), expected \(o.expected)\(from)",
        detail: (o.expected, o.actual))
    }
  }

  private func dimText(_ s: Step) -> String {
    guard s.tensor >= 0, Int(s.tensor) < dims.count, let list = dims[Int(s.tensor)], s.dim >= 0, Int(s.dim) < list.count
    else { return "?" }
    return list[Int(s.dim)].text
  }

  /// The tensor that gave a symbol its value.
  private func origin(of symbol: String) -> String? {
    for i in 0..<stepCount {
      guard let s = step(i), s.kind == .bind, Int(s.symbol) < entry.symbols.count else { continue }
      if symbol.split(whereSeparator: { !($0.isLetter || $0.isNumber || $0 == "_") }).contains(
        entry.symbols[Int(s.symbol)][...])
      {
        return entry.tensors[Int(s.tensor)].spec.name
      }
    }
    return nil
  }

  private func words(_ f: Fault) -> String {
    if f.reason == .unbound, f.symbol >= 0, Int(f.symbol) < entry.symbols.count {
      return "\(entry.symbols[Int(f.symbol)]) is unknown"
    }
    return f.words
  }

  /// " (Hq=6, Hkv=4)": what the symbols and parameters of a rule were.
  private func values(of rule: Expression, _ frame: BindFrame, _ op: Operator) -> String {
    var seen: [String] = []
    func note(_ s: String) { if !seen.contains(s) { seen.append(s) } }
    for n in rule.nodes {
      let i = Int(n.a)
      if n.kind == .symbol, i < entry.symbols.count {
        note("\(entry.symbols[i]) is \(frame.symbols[i])")
      } else if n.usesParameter, i < op.params.count {
        note("\(op.params[i].name) is \(Parameters.text(frame.params[i], op.params[i]))")
      } else if n.kind == .dtype, i < entry.tensors.count {
        note("\(entry.tensors[i].spec.name) is \(DType(rawValue: frame.dtypes[i])?.name ?? "absent")")
      } else if n.kind == .has, i < entry.tensors.count {
        note("\(entry.tensors[i].spec.name) is \(frame.present >> UInt64(i) & 1 == 1 ? "given" : "absent")")
      }
    }
    return seen.isEmpty ? "" : " (" + seen.joined(separator: ", ") + ")"
  }

  /// The argument a rule is about: its first parameter or tensor, else the tensor that gave its first symbol.
  private func culprit(_ rule: Expression, _ op: Operator) -> String {
    for n in rule.nodes {
      if n.usesParameter, Int(n.a) < op.params.count { return op.params[Int(n.a)].name }
      if [.has, .dtype, .rank, .dim].contains(n.kind), Int(n.a) < entry.tensors.count {
        return entry.tensors[Int(n.a)].spec.name
      }
    }
    for n in rule.nodes where n.kind == .symbol && Int(n.a) < entry.symbols.count {
      if let t = origin(of: entry.symbols[Int(n.a)]) { return t }
    }
    return ""
  }
}

extension Expression.Node {
  /// `a` is the index of a parameter.
  var usesParameter: Bool {
    switch kind {
    case .parameter, .real, .ftrunc, .realLess, .realLessEqual, .realGreater, .realGreaterEqual, .realEqual,
      .realNotEqual:
      true
    default: false
    }
  }
}

/// The name nearest to a mistyped one, if it is near.
package func nearest(_ name: String, _ known: [String]) -> String? {
  func distance(_ a: [UInt8], _ b: [UInt8]) -> Int {
    var row = Array(0...b.count)
    for (i, x) in a.enumerated() {
      var diagonal = row[0]
      row[0] = i + 1
      for (j, y) in b.enumerated() {
        let d = min(min(row[j], row[j + 1]) + 1, diagonal + (x == y ? 0 : 1))
        (diagonal, row[j + 1]) = (row[j + 1], d)
      }
    }
    return row[b.count]
  }
  guard name.utf8.count <= 64 else { return nil }
  let scored = known.map { ($0, distance(Array(name.utf8), Array($0.utf8))) }
  guard let best = scored.min(by: { $0.1 < $1.1 }), best.1 <= 2, best.1 < name.utf8.count else { return nil }
  return best.0
}
