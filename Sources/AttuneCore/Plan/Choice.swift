import CAttune

/// A kernel with its knobs set that can take a problem.
package struct Candidate: Sendable {
  package var kernel: Int  // in entry.kernels
  package var knobs: [Int64]
  package var workers: UInt32
  package var tasks: Int64?  // nil: one call
  package var workspace: UInt64
  package var estimate: Double  // nanoseconds
}

/// Where and how a choice was made: `attune_plan_info.source` and `.rigor`.
package struct Choice: Sendable {
  package var order: [Candidate]  // best first; never empty
  package var source: Int32, rigor: Int32
  package var expectedNs: Double  // 0 unknown
}

extension Choice {
  /// The first usable kernel with its default knobs.
  static func defaulted(_ candidates: [Candidate]) -> Choice {
    Choice(order: candidates, source: Int32(ATTUNE_DEFAULTED), rigor: Int32(ATTUNE_TUNE_OFF), expectedNs: 0)
  }

  /// The least estimated time first; of equals the author's first.
  static func estimated(_ candidates: [Candidate]) -> Choice {
    let order = candidates.enumerated().sorted { ($0.element.estimate, $0.offset) < ($1.element.estimate, $1.offset) }
    return Choice(
      order: order.map(\.element), source: Int32(ATTUNE_ESTIMATED), rigor: Int32(ATTUNE_TUNE_ESTIMATE),
      expectedNs: order.first?.element.estimate ?? 0)
  }
}
