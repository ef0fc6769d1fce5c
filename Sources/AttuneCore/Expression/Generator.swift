/// A `gen` of a tensor, parsed: where test, benchmark and tuning data come from (ABI.md section 5).
package struct Generator: Sendable {
  package enum Kind: String, CaseIterable, Sendable {
    case normal, uniform, zeros, ones, weight, bernoulli, ints, lengths, cuts, pages, distinct, slopes, sin, cos
  }
  package enum Argument: Sendable {
    case number(Double)
    case expression(Expression)
  }
  package let kind: Kind
  package let arguments: [Argument]
}
