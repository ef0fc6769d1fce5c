import CAttune

/// A registered operator: its descriptor with every expression compiled and every name resolved. Immutable.
package final class Operator: Sendable {
  package let descriptor: Descriptor.Operator
  package let entries: [Entry]
  package var id: String { descriptor.id }
  package var params: [Descriptor.Param] { descriptor.params }

  package init(descriptor: Descriptor.Operator, entries: [Entry]) {
    self.descriptor = descriptor
    self.entries = entries
  }

  package func entry(named name: String) -> Entry? { entries.first { $0.name == name } }
  package func paramIndex(_ name: String) -> Int? { params.firstIndex { $0.name == name } }
}

package final class Entry: Sendable {
  package let descriptor: Descriptor.Entry
  package let symbols: [String]
  package let tensors: [TensorModel]
  package let lets: [Let]
  /// Symbols defined by `S=e`: tensor dims only compare with them. Bit i = symbols[i].
  package let derived: UInt64
  package let rules: [Expression]  // parallel to descriptor.rules
  package let buckets: [(symbol: Int, rule: BucketRule)]
  package let flops: Expression, bytes: Expression?
  package let kernels: [Kernel]
  /// Kernels of the descriptor that cannot be used at all, in its order, so that a reader learns why they are missing.
  package let droppedKernels: [DroppedKernel]
  package var name: String { descriptor.name }

  package init(
    descriptor: Descriptor.Entry, symbols: [String], tensors: [TensorModel], lets: [Let], rules: [Expression],
    buckets: [(symbol: Int, rule: BucketRule)], flops: Expression, bytes: Expression?, kernels: [Kernel],
    droppedKernels: [DroppedKernel] = []
  ) {
    self.descriptor = descriptor
    self.symbols = symbols
    self.tensors = tensors
    self.lets = lets
    self.derived = lets.reduce(0) { $1.isDefault ? $0 : $0 | 1 << UInt64($1.symbol) }
    self.rules = rules
    self.buckets = buckets
    self.flops = flops
    self.bytes = bytes
    self.kernels = kernels
    self.droppedKernels = droppedKernels
  }

  package func tensorIndex(_ name: String) -> Int? { tensors.firstIndex { $0.spec.name == name } }
}

package struct TensorModel: Sendable {
  package let spec: Descriptor.Tensor
  /// OUT, STATE_OUT, and SAVED in an entry that differentiates nothing.
  package let isOutput: Bool
  package let needed: Expression?, allowed: Expression?  // nil: always
  package let shape: ShapeModel
  /// STATE_OUT: index of its STATE in the same entry. Otherwise nil.
  package let state: Int?
  package let gen: Generator
}

package enum ShapeModel: Sendable {
  case like(Int)
  case alternatives([Alternative])
}

package struct Alternative: Sendable {
  package let condition: Expression?  // no symbols inside
  package let dims: [Dim]
}

package struct Dim: Sendable {
  package let text: String
  /// `SYM`, `SYM+INT` or `SYM-INT` and nothing else: may bind the symbol to extent - offset.
  package let bare: (symbol: Int, offset: Int64)?
  package let forms: [Expression]  // `a|b`: any of them
}

package struct Let: Sendable {
  package let symbol: Int
  package let isDefault: Bool  // `S=?e`
  package let value: Expression
}

package enum BucketRule: String, Sendable { case pow2, half2, exact }

package struct Kernel: Sendable {
  package let spec: Descriptor.Kernel
  package let when: Expression?, knobWhen: Expression?, tasks: Expression?, workspace: Expression?
  package let flops: Expression?, bytes: Expression?
  package let args: [KernelArgument]
}

package struct DroppedKernel: Sendable, Equatable { package let name: String, reason: String }

/// A row of a native argument list with its name resolved.
package enum KernelArgument: Sendable {
  case data(tensor: Int)
  case tensor(Int)
  case stride(tensor: Int, dim: Int, Descriptor.Argument.CType)
  case expr(Expression, Descriptor.Argument.CType)
  case param(Int, Descriptor.Argument.CType)
  case workspace, exec
  case taskBegin(Descriptor.Argument.CType)
  case taskEnd(Descriptor.Argument.CType)
  case worker(Descriptor.Argument.CType)
}
