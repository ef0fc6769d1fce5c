import CAttune

/// Random legal problems of an entry (ABI.md "Generators"): small odd sizes, any mode, some of the optional tensors.
package enum RandomProblem {
  /// - dtype: as in `ProblemShapes`.
  /// - maxFlops: larger problems are drawn again; a reference kernel should finish in milliseconds.
  ///
  /// The same seed gives the same problem everywhere. Throws the last refusal when 1000 draws in a row were refused.
  /// Any thread.
  package static func draw(
    _ op: Operator, _ entry: Entry, seed: UInt64, dtype: DType = .f32, maxFlops: Int64 = 1 << 24
  ) throws(Refusal) -> ProblemShapes {
    let solver = ShapeSolver(op, entry, dtype: dtype)
    var numbers = SeededNumbers(seed: seed, name: "\(op.id).\(entry.name)")
    var last = Refusal(.shape, "", "\(op.id) \(entry.name): no legal problem in \(attempts) random ones")
    for _ in 0..<attempts {
      guard case .drawn = solver.draw(&numbers) else { continue }
      do throws(Refusal) {
        let problem = try ProblemShapes(solver, solver.params, [:])
        if problem.bound.flops <= maxFlops { return problem }
      } catch {
        last = error
      }
    }
    throw last
  }

  package static let attempts = 1000
}

extension ShapeSolver {
  enum Draw {
    case drawn
    case refused
    case noValue(rule: Int, Fault)
  }

  /// Draws parameters, tensors and sizes, and asks the rules. After `.drawn` every input has a shape.
  func draw(_ numbers: inout SeededNumbers) -> Draw {
    reset()
    drawParams(&numbers)
    guard drawPresence(&numbers) else { return .refused }
    var outcome = ask(.presence)
    guard case .drawn = outcome else { return outcome }
    // Another try with other sizes is cheaper than one with another mode, and keeps modes from being rare that rules
    // make hard to meet.
    for _ in 0..<8 {
      forgetSizes()
      outcome = drawSizes(&numbers)
      if case .drawn = outcome { break }
    }
    return outcome
  }

  private func drawSizes(_ numbers: inout SeededNumbers) -> Draw {
    drawSymbols(&numbers)
    supplyLets()
    // Rules that need no shapes come first, to save making them; but a let may have looked at a shape that is not
    // there yet.
    let early = ask(.symbols)
    guard case .drawn = early else { return early }
    // Forms are drawn from copies of one state: the second round only corrects sizes that depend on other shapes.
    let state = numbers
    _ = numbers.next()
    for round in 0..<2 {
      var forms = state
      for t in tables.tensors.indices where isPresent(t) && !tables.tensors[t].isOutput {
        do throws(Gap) {
          try makeShape(t) { Int32(truncatingIfNeeded: forms.below(Int64($0))) }
        } catch {
          return .refused
        }
      }
      if round == 0 { redefineLets() }
    }
    let late = ask(.symbols)
    guard case .drawn = late else { return late }
    return ask(.shapes)
  }

  private func ask(_ stage: EntryTables.Rule.Stage) -> Draw {
    for (i, rule) in tables.rules.enumerated() where rule.stage == stage {
      var fault = Fault()
      guard let holds = tables.value(rule.code, env, &fault) else { return .noValue(rule: i, fault) }
      if holds == 0 { return .refused }
    }
    return .drawn
  }

  /// What `draw` chose, in the form of a problem.
  var params: [(name: String, value: ParamValue)] {
    op.params.enumerated().map { i, p in
      let v = storage.params[i]
      switch p.kind {
      case .bool: return (p.name, .flag(v.i != 0))
      case .i64: return (p.name, .integer(v.i))
      case .f64: return (p.name, .real(v.f))
      case .enum: return (p.name, .word(v.i >= 0 && v.i < Int64(p.words.count) ? p.words[Int(v.i)] : ""))
      }
    }
  }

  /// Enums and bools are drawn half of the time, so that rules about combinations do not refuse nearly everything;
  /// numbers keep their defaults, and required ones stay small.
  private func drawParams(_ numbers: inout SeededNumbers) {
    for (i, p) in op.params.enumerated() where i < BindFrame.capacity {
      var v = p.def
      if p.isRequired || numbers.chance(0.5) {
        switch p.kind {
        case .bool: v.i = numbers.below(2)
        case .enum: v.i = numbers.below(Int64(p.words.count))
        case .i64 where p.isRequired:
          let low = max(p.min.i, p.max.i < 0 ? p.max.i &- 4 : 0)
          v.i = numbers.within(low, min(p.max.i, low &+ 4))
        case .f64 where p.isRequired:
          let low = max(p.min.f, -1)
          let high = min(p.max.f, low + 2)
          v.f = low + (high - low) * numbers.unit()
        case .i64, .f64: break
        }
      }
      storage.params[i] = v
    }
  }

  /// False when the choice contradicts itself: `needed` and `allowed` may look at other tensors.
  private func drawPresence(_ numbers: inout SeededNumbers) -> Bool {
    // One in four, and often as the tensor before: those that only come together are neighbours in practice.
    var isWanted = false
    for t in tables.tensors.indices where tables.tensors[t].isOptional {
      if numbers.chance(0.5) { isWanted = numbers.chance(0.25) }
      if isWanted { add(tensor: t) }
    }
    for t in tables.tensors.indices {
      guard let needed = holds(tables.tensors[t].needed), let allowed = holds(tables.tensors[t].allowed) else {
        return false
      }
      if needed, !isPresent(t) { add(tensor: t) }
      if !allowed, isPresent(t) { remove(tensor: t) }
    }
    for t in tables.tensors.indices {
      guard let needed = holds(tables.tensors[t].needed), let allowed = holds(tables.tensors[t].allowed) else {
        return false
      }
      guard isPresent(t) ? allowed : !needed else { return false }
    }
    return true
  }

  /// Only symbols that a tensor of this problem shows: binding forwards then finds the same ones. Equal sizes are
  /// common on purpose: rules often want them.
  private func drawSymbols(_ numbers: inout SeededNumbers) {
    var last: Int64 = 1
    for t in tables.tensors.indices where isPresent(t) && !tables.tensors[t].isOutput {
      guard let alternative = alternative(t) else { continue }
      for i in dims(alternative) {
        let symbol = Int(tables.dims[i].symbol)
        guard symbol >= 0, !isBound(symbol), entry.derived >> UInt64(symbol) & 1 == 0 else { continue }
        if !numbers.chance(0.4) { last = ShapeSolver.sizes[Int(numbers.below(Int64(ShapeSolver.sizes.count)))] }
        bind(symbol, last)
      }
    }
  }

  private static let sizes: [Int64] = [1, 1, 2, 2, 3, 4, 4, 5, 7, 8, 13, 16, 17, 33]
}
