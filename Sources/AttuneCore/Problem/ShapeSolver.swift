import CAttune

/// Binding run backwards (ABI.md "Binding"): sizes are known, shapes of tensors are wanted. Working memory for one
/// entry that can be used again and again; not shared between threads.
final class ShapeSolver {
  let op: Operator, entry: Entry
  let tables: EntryTables
  let storage = BindStorage()
  /// What is known so far. On the heap, so that evaluating borrows it without copies.
  let env: UnsafeMutablePointer<Environment>
  private let typeOf: [DType]  // by tensor

  /// `dtype`: wanted for all tensors of a dtype_var that take it; other variables get the lowest type they allow.
  init(_ op: Operator, _ entry: Entry, dtype: DType = .f32) {
    self.op = op
    self.entry = entry
    tables = EntryTables(entry)
    env = .allocate(capacity: 1)
    env.initialize(to: storage.frame.environment)
    var allowed: [UInt32: UInt64] = [:]
    for tensor in entry.tensors where tensor.spec.dtypeVar != 0 && !tensor.spec.orF32 {
      allowed[tensor.spec.dtypeVar, default: .max] &= tensor.spec.dtypes
    }
    let shared = allowed.mapValues { $0 & dtype.bit != 0 ? dtype : DType.set($0).first }
    typeOf = entry.tensors.map { tensor in
      let lowest = DType.set(tensor.spec.dtypes).first ?? .f32
      guard let type = shared[tensor.spec.dtypeVar] ?? nil, tensor.spec.dtypes & type.bit != 0 else { return lowest }
      return type
    }
  }

  deinit { env.deallocate() }

  /// Forgets tensors and sizes; parameters stay.
  func reset() {
    env.pointee.present = 0
    forgetSizes()
    for t in tables.tensors.indices { storage.dtypes[t] = -1 }
  }

  func forgetSizes() {
    env.pointee.bound = 0
    for t in tables.tensors.indices {
      storage.ranks[t] = -1
      storage.shapes[t] = nil
      storage.givenRanks[t] = -1
      storage.given[t] = nil
    }
  }

  func isPresent(_ tensor: Int) -> Bool { env.pointee.present >> UInt64(tensor) & 1 == 1 }
  func isBound(_ symbol: Int) -> Bool { env.pointee.bound >> UInt64(symbol) & 1 == 1 }

  func add(tensor: Int) {
    env.pointee.present |= 1 << UInt64(tensor)
    storage.dtypes[tensor] = typeOf[tensor].rawValue
  }

  func remove(tensor: Int) {
    env.pointee.present &= ~(1 << UInt64(tensor))
    storage.dtypes[tensor] = -1
  }

  func bind(_ symbol: Int, _ size: Int64) {
    storage.symbols[symbol] = size
    env.pointee.bound |= 1 << UInt64(symbol)
  }

  /// Does a condition hold? -1 (no condition): yes. nil: it has no value.
  func holds(_ code: Int32) -> Bool? {
    if code < 0 { return true }
    var fault = Fault()
    return tables.value(code, env, &fault).map { $0 != 0 }
  }

  /// Lets fill in what was not given. Twice, because a default may need one that comes after it.
  func supplyLets() {
    for _ in 0..<2 {
      for item in tables.lets where !isBound(Int(item.symbol)) { define(item) }
    }
  }

  /// Symbols defined by `S=e` once more, now that they may look at the shapes of tensors.
  func redefineLets() {
    for item in tables.lets where !item.isDefault { define(item) }
  }

  private func define(_ item: EntryTables.Let) {
    var fault = Fault()
    if let x = tables.value(item.code, env, &fault) { bind(Int(item.symbol), x) }
  }

  /// Index of the alternative that tensor `t` follows; of a given rank if there is one.
  func alternative(_ t: Int, rank: Int? = nil) -> Int? {
    let tensor = tables.tensors[t]
    for i in Int(tensor.firstAlternative)..<Int(tensor.firstAlternative + tensor.alternatives) {
      let a = tables.alternatives[i]
      if let rank, rank != Int(a.dims) { continue }
      if holds(a.condition) == true { return i }
    }
    return nil
  }

  /// Indices of the dims of an alternative, in `tables.dims`.
  func dims(_ alternative: Int) -> Range<Int> {
    let a = tables.alternatives[alternative]
    return Int(a.firstDim)..<Int(a.firstDim + a.dims)
  }

  /// What could not be done.
  enum Gap: Error {
    case noShape
    case negative(dim: Int, Int64)
    case noValue(dim: Int, Fault)
  }

  /// Shape of tensor `t` from the symbols; `choose` picks one of n forms of `a|b`.
  func makeShape(_ t: Int, choose: (Int32) -> Int32) throws(Gap) {
    guard let alternative = alternative(t) else { throw .noShape }
    let extents = storage.extents + Limits.rank * t
    let dims = dims(alternative)
    for (d, i) in dims.enumerated() where d < Limits.rank {
      let dim = tables.dims[i]
      var fault = Fault()
      guard let x = tables.value(dim.firstForm + choose(dim.forms), env, &fault) else { throw .noValue(dim: d, fault) }
      guard x >= 0 else { throw .negative(dim: d, x) }
      extents[d] = x
    }
    storage.ranks[t] = Int32(dims.count)
    storage.givenRanks[t] = Int32(dims.count)
    storage.shapes[t] = UnsafePointer(extents)
    storage.given[t] = UnsafePointer(extents)
  }
}
