import CAttune

extension BoundProblem {
  /// The tensors of this problem at the largest sizes of its tuning class; nil when a size has no value there. The caller binds
  /// them again: a rule may refuse sizes that are not the real ones.
  func tensorsOfBucket(_ tensors: [GivenTensor]) -> [GivenTensor]? {
    resized(tensors) { symbol, size in
      (entry.buckets.first { $0.symbol == symbol }?.rule ?? .exact).round(size)
    }
  }

  /// The tensors of this problem with other sizes: `size` gets a symbol that inputs show, and its value here. nil when a size
  /// has no value there.
  func resized(_ tensors: [GivenTensor], _ size: (_ symbol: Int, _ here: Int64) -> Int64) -> [GivenTensor]? {
    let scratch = BindStorage()
    var frame = storage.frame
    frame.present = present
    frame.symbols = scratch.symbols
    for i in entry.symbols.indices { scratch.symbols[i] = -1 }
    var boundByTensors: UInt64 = 0
    for (t, model) in entry.tensors.enumerated() where isPresent(t) && !model.isOutput {
      for dim in program.dims[t] ?? [] {
        guard let bare = dim.bare, entry.derived >> UInt64(bare.symbol) & 1 == 0, let v = symbol(bare.symbol) else {
          continue
        }
        scratch.symbols[bare.symbol] = size(bare.symbol, v)
        boundByTensors |= 1 << UInt64(bare.symbol)
      }
    }
    frame.bound = boundByTensors
    var env = frame.environment
    for item in entry.lets {
      if item.isDefault, env.bound >> UInt64(item.symbol) & 1 == 1 { continue }
      var fault = Fault()
      let v = item.value.evaluate(&env, &fault)
      if fault.reason != .none {
        if item.isDefault { continue }
        return nil
      }
      scratch.symbols[item.symbol] = v
      env.bound |= 1 << UInt64(item.symbol)
    }
    var exact = environment
    var out = tensors
    for (position, t) in order.enumerated() where tensors[position].shape != nil {
      guard let dims = program.dims[t] else {
        out[position].shape = nil  // `like` another: made again
        if !entry.tensors[t].isOutput { return nil }
        continue
      }
      if entry.tensors[t].isOutput {
        out[position].shape = nil
        continue
      }
      var shape: [Int64] = []
      for (d, dim) in dims.enumerated() {
        // The form that holds here is the one to follow there.
        let form = dim.forms.first { f in
          var fault = Fault()
          return f.evaluate(&exact, &fault) == storage.extents[8 * t + d] && fault.reason == .none
        }
        var fault = Fault()
        guard let x = form?.evaluate(&env, &fault), fault.reason == .none else { return nil }
        shape.append(x)
      }
      out[position].shape = shape
    }
    return out
  }
}
