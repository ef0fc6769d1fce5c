import CAttune

/// Value of the subtree at `root`: int64 with every step checked, `/` and `%` rounding down, booleans 0 and 1.
///
/// Sets `fault` instead of trapping, and then returns 0; a caller starts with an empty fault and looks at it
/// afterwards. `nodes` must come from a parsed `Expression` and `env` must have the tables of the scope it was parsed
/// in. Allocates nothing, retains nothing, takes no lock: it runs on the execute path. Recursion is bounded by the
/// number of nodes.
package func evaluate(
  _ nodes: UnsafePointer<Expression.Node>, _ root: Int32, _ env: UnsafePointer<Environment>, _ fault: inout Fault
) -> Int64 {
  let node = nodes[Int(root)]
  let a = Int(node.a)
  switch node.kind {
  case .integer: return node.integer
  case .symbol:
    guard env.pointee.bound & (1 &<< UInt64(a)) != 0 else { return fault.set(.unbound, symbol: node.a) }
    return env.pointee.symbols[a]
  case .parameter: return env.pointee.params[a].i
  case .knob: return env.pointee.knobs[a]
  case .workers: return env.pointee.workers
  case .has: return env.pointee.present & (1 &<< UInt64(a)) != 0 ? 1 : 0
  case .dtype: return Int64(env.pointee.dtypes[a])
  case .rank: return Int64(env.pointee.ranks[a])
  case .bytes: return bytes(of: a, env, &fault)
  case .dim:
    let i = evaluate(nodes, node.b, env, &fault)
    guard let shape = env.pointee.shapes[a], i >= 0, i < Int64(env.pointee.ranks[a]) else { return -1 }
    return shape[Int(i)]
  case .ftrunc:
    let x = (env.pointee.params[a].f * Double(evaluate(nodes, node.b, env, &fault))).rounded(.towardZero)
    // -2^63 is representable, 2^63 is the first value that does not fit; NaN fails both comparisons.
    guard x >= -0x1p63, x < 0x1p63 else { return fault.set(.overflow) }
    return Int64(x)
  case .realLess: return env.pointee.params[a].f < node.real ? 1 : 0
  case .realLessEqual: return env.pointee.params[a].f <= node.real ? 1 : 0
  case .realGreater: return env.pointee.params[a].f > node.real ? 1 : 0
  case .realGreaterEqual: return env.pointee.params[a].f >= node.real ? 1 : 0
  case .realEqual: return env.pointee.params[a].f == node.real ? 1 : 0
  case .realNotEqual: return env.pointee.params[a].f != node.real ? 1 : 0
  default: break
  }

  let x = evaluate(nodes, node.a, env, &fault)
  switch node.kind {
  case .negate: return fault.checked(x.multipliedReportingOverflow(by: -1))
  case .not: return x == 0 ? 1 : 0
  // A fault on the left gives x = 0: the right side must not run then, nor hide the first fault.
  case .or:
    if x != 0 || fault.reason != .none { return 1 }
    return evaluate(nodes, node.b, env, &fault) != 0 ? 1 : 0
  case .and:
    if x == 0 { return 0 }
    return evaluate(nodes, node.b, env, &fault) != 0 ? 1 : 0
  default: break
  }

  let y = evaluate(nodes, node.b, env, &fault)
  switch node.kind {
  case .add: return fault.checked(x.addingReportingOverflow(y))
  case .subtract: return fault.checked(x.subtractingReportingOverflow(y))
  case .multiply: return fault.checked(x.multipliedReportingOverflow(by: y))
  case .less: return x < y ? 1 : 0
  case .lessEqual: return x <= y ? 1 : 0
  case .greater: return x > y ? 1 : 0
  case .greaterEqual: return x >= y ? 1 : 0
  case .equal: return x == y ? 1 : 0
  case .notEqual: return x != y ? 1 : 0
  case .min: return Swift.min(x, y)
  case .max: return Swift.max(x, y)
  case .divide, .modulo, .cdiv:
    // y > 0 leaves no overflow: the quotient is never larger than x, and the corrections go towards zero's other side.
    guard y > 0 else { return fault.set(.division) }
    let quotient = x / y
    let rest = x % y
    switch node.kind {
    case .divide: return rest < 0 ? quotient &- 1 : quotient
    case .modulo: return rest < 0 ? rest &+ y : rest
    default: return rest > 0 ? quotient &+ 1 : quotient
    }
  default: return 0
  }
}

/// Size of a tensor in bytes, 0 while its shape is unknown.
private func bytes(of tensor: Int, _ env: UnsafePointer<Environment>, _ fault: inout Fault) -> Int64 {
  guard let shape = env.pointee.shapes[tensor] else { return 0 }
  guard let dtype = DType(rawValue: env.pointee.dtypes[tensor]) else { return fault.set(.unbound) }
  let rank = Int(env.pointee.ranks[tensor])
  var i = 0
  // An extent of 0 makes the product 0 whatever the others are, so look for it before multiplying.
  while i < rank {
    if shape[i] == 0 { return 0 }
    i &+= 1
  }
  var product = Int64(dtype.size)
  i = 0
  while i < rank {
    product = fault.checked(product.multipliedReportingOverflow(by: shape[i]))
    i &+= 1
  }
  return product
}

extension Fault {
  /// Keeps the first fault: later ones follow from the 0 that stands for the missing value.
  @inline(__always)
  fileprivate mutating func set(_ reason: Reason, symbol: Int32 = -1) -> Int64 {
    if self.reason == .none {
      self.reason = reason
      self.symbol = symbol
    }
    return 0
  }

  @inline(__always)
  fileprivate mutating func checked(_ result: (partialValue: Int64, overflow: Bool)) -> Int64 {
    result.overflow ? set(.overflow) : result.partialValue
  }
}

extension Expression {
  /// The value, or why there is none. For cold paths; see `evaluate` for what `env` must hold.
  package func value(_ env: UnsafePointer<Environment>) -> Result<Int64, Fault> {
    nodes.withUnsafeBufferPointer { nodes in
      guard let base = nodes.baseAddress else { return .failure(Fault(reason: .unbound)) }
      var fault = Fault()
      let value = AttuneCore.evaluate(base, Int32(truncatingIfNeeded: nodes.count - 1), env, &fault)
      return fault.reason == .none ? .success(value) : .failure(fault)
    }
  }
}
