/// Parts of a problem written as text: what presets say, and what people type. Any thread.
package enum ProblemText {
  /// "causal=true;window=64". Throws E_PARAM.
  package static func params(
    _ text: String, _ op: Operator
  ) throws(Refusal) -> [(name: String, value: ParamValue)] {
    var params: [(name: String, value: ParamValue)] = []
    for item in Words.items(text, at: ";") {
      guard let (left, right) = Words.halves(item, at: "=") else {
        throw Refusal(.param, item, "\(op.id): \"\(item)\" is no NAME=VALUE")
      }
      let name = Words.trim(left)
      guard let index = op.paramIndex(name) else {
        throw Refusal(.param, name, "\(op.id) has no parameter \(name)")
      }
      params.append((name, try value(Words.trim(right), op.params[index], op.id)))
    }
    return params
  }

  /// One value as its parameter understands it; whether it is in range is for binding to say. Throws E_PARAM.
  package static func value(_ text: String, _ p: Descriptor.Param, _ place: String) throws(Refusal) -> ParamValue {
    func refusal(_ kind: String) -> Refusal {
      Refusal(.param, p.name, "\(place): \(p.name) is \"\(text)\", expected \(kind)")
    }
    switch p.kind {
    case .bool:
      guard text == "true" || text == "false" else { throw refusal("true or false") }
      return .flag(text == "true")
    case .i64:
      guard let x = Int64(text) else { throw refusal("an integer") }
      return .integer(x)
    case .f64:
      guard let x = Double(text) else { throw refusal("a number") }
      return .real(x)
    case .enum:
      guard p.words.contains(text) else { throw refusal(p.words.joined(separator: " or ")) }
      return .word(text)
    }
  }

  /// "B=1,Hq=8": sizes by index of the entry's symbols. Throws E_SHAPE.
  package static func symbols(_ text: String, _ entry: Entry) throws(Refusal) -> [Int: Int64] {
    var sizes: [Int: Int64] = [:]
    for item in Words.items(text, at: ",") {
      guard let (left, right) = Words.halves(item, at: "="), let size = Int64(Words.trim(right)) else {
        throw Refusal(.shape, "", "\"\(item)\" is no SYMBOL=INTEGER")
      }
      let name = Words.trim(left)
      guard let index = entry.symbols.firstIndex(of: name) else {
        throw Refusal(
          .shape, "", "\(entry.name) has no symbol \(name); it has \(entry.symbols.joined(separator: ", "))")
      }
      guard size >= 0 else { throw Refusal(.shape, "", "\(name) is \(size), expected 0 or more", detail: (0, size)) }
      guard sizes.updateValue(size, forKey: index) == nil else { throw Refusal(.shape, "", "\(name) is there twice") }
    }
    return sizes
  }

  /// "g_cmp; mask=bernoulli(0.5)": tensors of the entry, with a generator of their own or nil for the usual one.
  /// Throws E_INVALID.
  package static func tensors(_ text: String, _ op: Operator, _ entry: Entry) throws(Refusal) -> [Int: Generator?] {
    var tensors: [Int: Generator?] = [:]
    for item in Words.items(text, at: ";") {
      let (left, right) = Words.halves(item, at: "=") ?? (item, "")
      let name = Words.trim(left)
      guard let index = entry.tensorIndex(name) else {
        throw Refusal(.invalid, name, "\(op.id) \(entry.name) has no tensor \(name)")
      }
      var gen: Generator?
      if !right.isEmpty {
        let scope = Scope(params: op.params, symbols: entry.symbols, tensors: entry.tensors.map(\.spec.name))
        do throws(Refusal) {
          gen = try Generator(parsing: Words.trim(right), in: scope)
        } catch {
          throw Refusal(.invalid, name, error.message)
        }
      }
      tensors.updateValue(gen, forKey: index)
    }
    return tensors
  }
}
