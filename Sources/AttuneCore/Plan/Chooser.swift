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

/// Decides among the usable candidates of a problem. The one seam for everything that remembers or measures.
package protocol KernelChooser: Sendable {
  /// `candidates` is in the author's order and not empty.
  func choose(_ candidates: [Candidate], for problem: BoundProblem) throws(Refusal) -> Choice
}

/// The first usable kernel with its default knobs (tune mode OFF).
package struct FirstUsable: KernelChooser {
  package init() {}
  package func choose(_ candidates: [Candidate], for problem: BoundProblem) -> Choice {
    Choice(order: candidates, source: Int32(ATTUNE_DEFAULTED), rigor: Int32(ATTUNE_TUNE_OFF), expectedNs: 0)
  }
}

/// The least estimated time; of equals the author's first.
package struct BestEstimate: KernelChooser {
  package init() {}
  package func choose(_ candidates: [Candidate], for problem: BoundProblem) -> Choice {
    let order = candidates.enumerated().sorted { ($0.element.estimate, $0.offset) < ($1.element.estimate, $1.offset) }
    let sorted = order.map(\.element)
    return Choice(
      order: sorted, source: Int32(ATTUNE_ESTIMATED), rigor: Int32(ATTUNE_TUNE_ESTIMATE),
      expectedNs: sorted.first?.estimate ?? 0)
  }
}

/// Only what is remembered (tune mode FROZEN): without a memory that is nothing.
package struct OnlyRemembered: KernelChooser {
  package init() {}
  package func choose(_ candidates: [Candidate], for problem: BoundProblem) throws(Refusal) -> Choice {
    throw Refusal(
      .notTuned, "", "\(problem.op.id) \(problem.entry.name): tune mode is frozen and nothing is remembered for this problem")
  }
}

/// A roofline: arithmetic at the kernel's share of peak, or bytes at memory speed, whichever is slower. It ranks kernels of
/// one problem; its absolute numbers are only good for splitting work.
enum CostModel {
  /// Multiply-add rates of one core around 3 GHz by vector width, flops per nanosecond.
  static func peak(isa: UInt64) -> Double {
    func has(_ bit: Int) -> Bool { isa >> UInt64(bit) & 1 == 1 }
    if has(ATTUNE_X86_AVX512F) { return 192 }
    if has(ATTUNE_X86_AVX2) || has(ATTUNE_X86_AVX) { return 96 }
    return has(ATTUNE_X86_SSE42) ? 24 : 12
  }
  static let bytesPerNs = 12.0
  static let regionNs = 500.0  // opening a parallel region, most of it uncertainty

  static func nanoseconds(_ kernel: Kernel, flops: Int64, bytes: Int64, workers: UInt32, tasks: Int64?) -> Double {
    let known = kernel.spec.efficiency
    let share = known > 0 ? min(known, 1) : kernel.spec.isReference ? 0.01 : 0.25
    var parallel = Double(workers)
    if let tasks { parallel = min(parallel, Double(max(tasks, 1))) } else if !kernel.spec.ownsThreads { parallel = 1 }
    let compute = Double(flops) / (peak(isa: kernel.spec.isa.0) * share * parallel)
    return max(compute, Double(bytes) / bytesPerNs) + (parallel > 1 ? regionNs : 0)
  }
}
