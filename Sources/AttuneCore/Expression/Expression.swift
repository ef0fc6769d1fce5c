import CAttune

/// A compiled expression of ABI.md section 5: a flat tree, children before parents, the root last.
package struct Expression: Sendable {
  package let text: String
  package let nodes: [Node]

  package struct Node: Sendable, BitwiseCopyable {
    package enum Kind: UInt8, Sendable, BitwiseCopyable {
      case integer, symbol, parameter, real, knob, workers  // leaves. parameter: bool, i64 or enum index; real: f64
      case has, dtype, rank, bytes  // of tensor `a`
      case dim  // of tensor `a`, index expression `b`
      case ftrunc  // f64 parameter `a` times expression `b`
      case negate, not  // of `a`
      case or, and, add, subtract, multiply, divide, modulo, less, lessEqual, greater, greaterEqual, equal, notEqual
      case min, max, cdiv
      // f64 parameter `a` against the literal in `real`
      case realLess, realLessEqual, realGreater, realGreaterEqual, realEqual, realNotEqual
    }
    package var kind: Kind
    /// Children as indices into `nodes`, or the index of a symbol, tensor, parameter or knob.
    package var a: Int32 = 0, b: Int32 = 0
    package var integer: Int64 = 0
    package var real: Double = 0
  }
}

/// Everything an expression may ask for. Borrowed pointers: evaluation allocates nothing and retains nothing, because
/// the same code runs on the execute path.
package struct Environment {
  package var symbols: UnsafePointer<Int64>
  package var bound: UInt64  // bit i: symbols[i] has a value
  package var params: UnsafePointer<attune_value>
  package var present: UInt64  // bit i: tensor i takes part
  package var dtypes: UnsafePointer<Int32>  // index, -1 unknown
  package var ranks: UnsafePointer<Int32>  // -1 unknown
  package var shapes: UnsafePointer<UnsafePointer<Int64>?>
  package var knobs: UnsafePointer<Int64>
  package var workers: Int64
}

/// Why an expression has no value.
package struct Fault: Error, Equatable {
  package enum Reason: UInt8 { case none, unbound, overflow, division }
  package var reason = Reason.none
  package var symbol: Int32 = -1
}
