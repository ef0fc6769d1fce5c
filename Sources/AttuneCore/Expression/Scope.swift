/// What an expression may mention: the table "Where what is visible" of ABI.md section 5.
package struct Scope {
  package let params: [Descriptor.Param]
  package let symbols: [String: Int], tensors: [String: Int]
  private let paramIndices: [String: Int]

  /// Shapes, lets, rules, costs and what kernels say: true. `needed`, `allowed` and guards: false.
  package var seesSymbols = true
  /// Names of the kernel's knobs where `k.NAME` and `$workers` are visible; nil elsewhere.
  package var knobs: [String]?
  /// Only rules may use parameters that change from call to call: a plan holds the value of everything else.
  package var seesEveryParameter = false

  /// Names are expected to be unique; of repeated ones the first counts.
  package init(params: [Descriptor.Param], symbols: [String] = [], tensors: [String] = []) {
    self.params = params
    self.symbols = Scope.indices(symbols)
    self.tensors = Scope.indices(tensors)
    self.paramIndices = Scope.indices(params.map(\.name))
  }

  package func param(_ name: String) -> (index: Int, spec: Descriptor.Param)? {
    guard let i = paramIndices[name], i < params.count else { return nil }
    return (i, params[i])
  }

  package func withoutSymbols() -> Scope { with { $0.seesSymbols = false } }
  package func withKnobs(_ names: [String]) -> Scope { with { $0.knobs = names } }
  package func withEveryParameter() -> Scope { with { $0.seesEveryParameter = true } }

  private func with(_ change: (inout Scope) -> Void) -> Scope {
    var copy = self
    change(&copy)
    return copy
  }

  private static func indices(_ names: [String]) -> [String: Int] {
    Dictionary(names.enumerated().map { ($1, $0) }, uniquingKeysWith: { first, _ in first })
  }
}
