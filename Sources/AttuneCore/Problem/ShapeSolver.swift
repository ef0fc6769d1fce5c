import CAttune

/// Binding run backwards (ABI.md "Binding"): sizes are known, shapes of tensors are wanted. Working memory for one entry that
/// can be used again and again; not shared between threads.
final class ShapeSolver {
  let op: Operator, entry: Entry
  let storage = BindStorage()
  private(set) var present: UInt64 = 0
  private var bound: UInt64 = 0
  /// Type for every dtype_var of the entry.
  private var types: [UInt32: DType] = [:]

  /// `dtype`: wanted for all tensors of a dtype_var that take it; other variables get the lowest type they allow.
  init(_ op: Operator, _ entry: Entry, dtype: DType = .f32) {
    self.op = op
    self.entry = entry
    var allowed: [UInt32: UInt64] = [:]
    for tensor in entry.tensors where tensor.spec.dtypeVar != 0 && !tensor.spec.orF32 {
      allowed[tensor.spec.dtypeVar, default: .max] &= tensor.spec.dtypes
    }
    for (variable, set) in allowed { types[variable] = set & dtype.bit != 0 ? dtype : DType.set(set).first }
  }

  var environment: Environment {
    var frame = storage.frame
    frame.present = present
    frame.bound = bound
    return frame.environment
  }

  func value(_ e: Expression) -> Result<Int64, Fault> {
    var env = environment
    return e.value(&env)
  }

  func reset() {
    present = 0
    bound = 0
    for t in 0..<min(entry.tensors.count, BindFrame.capacity) {
      storage.dtypes[t] = -1
      forgetShape(t)
    }
  }

  func isPresent(_ tensor: Int) -> Bool { present >> UInt64(tensor) & 1 == 1 }
  func isBound(_ symbol: Int) -> Bool { bound >> UInt64(symbol) & 1 == 1 }

  func add(tensor: Int) {
    let spec = entry.tensors[tensor].spec
    present |= 1 << UInt64(tensor)
    let shared = types[spec.dtypeVar].flatMap { spec.dtypes & $0.bit != 0 ? $0 : nil }
    storage.dtypes[tensor] = (shared ?? DType.set(spec.dtypes).first ?? .f32).rawValue
  }

  func remove(tensor: Int) {
    present &= ~(1 << UInt64(tensor))
    storage.dtypes[tensor] = -1
  }

  func bind(_ symbol: Int, _ size: Int64) {
    storage.symbols[symbol] = size
    bound |= 1 << UInt64(symbol)
  }

  /// Lets fill in what was not given. Twice, because a default may need one that comes after it.
  func supplyLets() {
    for _ in 0..<2 {
      for item in entry.lets where !isBound(item.symbol) {
        if case .success(let x) = value(item.value) { bind(item.symbol, x) }
      }
    }
  }

  /// Symbols defined by `S=e` once more, now that they may look at the shapes of tensors.
  func redefineLets() {
    for item in entry.lets where !item.isDefault {
      if case .success(let x) = value(item.value) { bind(item.symbol, x) }
    }
  }

  /// The alternative that tensor `t` follows; of a given rank if there is one.
  func dims(_ t: Int, rank: Int? = nil) -> [Dim]? {
    var list: [Alternative] = []
    switch entry.tensors[t].shape {
    case .alternatives(let own): list = own
    case .like(let other):
      guard case .alternatives(let others) = entry.tensors[other].shape else { return nil }
      list = others
    }
    for a in list where rank == nil || rank == a.dims.count {
      guard let condition = a.condition else { return a.dims }
      if case .success(let x) = value(condition), x != 0 { return a.dims }
    }
    return nil
  }

  /// What could not be done.
  enum Gap: Error { case noShape, negative(dim: String, Int64), noValue(Expression, Fault) }

  /// Shape of tensor `t` from the symbols; `choose` picks among the forms of `a|b`.
  func makeShape(_ t: Int, choose: ([Expression]) -> Expression?) throws(Gap) {
    guard let dims = dims(t) else { throw .noShape }
    var extents: [Int64] = []
    for dim in dims {
      guard let form = choose(dim.forms) else { throw .noShape }
      switch value(form) {
      case .failure(let fault): throw .noValue(form, fault)
      case .success(let x):
        guard x >= 0 else { throw .negative(dim: dim.text, x) }
        extents.append(x)
      }
    }
    storage.setShape(t, extents)
  }

  func forgetShape(_ t: Int) {
    storage.ranks[t] = -1
    storage.shapes[t] = nil
    storage.givenRanks[t] = -1
    storage.given[t] = nil
  }
}
