import CAttune
import CRuntime
import Glibc

/// Runs candidates of one problem on private memory: once to see whether they are right, often to see how fast they
/// are. One thread uses a runner; the candidates themselves use the context's threads.
final class TrialRunner {
  typealias MakePlan = (BoundProblem, Candidate, _ isChecked: Bool) throws(Refusal) -> Plan

  enum Outcome: Equatable {
    case took(ns: Double)
    case failed(Trial.Status, String)
  }

  private let makePlan: MakePlan
  private let problem: BoundProblem
  private let memory: TrialMemory
  private struct Lane {
    var candidate: Candidate, isWhole: Bool
    var plan: Plan
    var repetitions = 1, share = 1.0
  }
  private var lanes: [Lane] = []

  /// - problem: what is timed.
  init(_ problem: BoundProblem, seed: UInt64, makePlan: @escaping MakePlan) throws(Refusal) {
    self.problem = problem
    self.makePlan = makePlan
    memory = try TrialMemory(problem, seed: seed)
  }

  // MARK: speed

  /// Shortest sample, so that the clock and the call do not count.
  static let sampleNs = 100_000.0

  /// One sample of a candidate, in nanoseconds of one whole call. `longest`: if a call takes longer, only an even
  /// choice of its tasks is run and the time scaled up; 0 never does that.
  func time(_ c: Candidate, longest: Double) -> Outcome {
    let isWhole = longest <= 0
    let at: Int
    if let known = lanes.firstIndex(where: { $0.isWhole == isWhole && $0.candidate.isSame(c) }) {
      at = known
    } else {
      do throws(Refusal) {
        lanes.append(Lane(candidate: c, isWhole: isWhole, plan: try makePlan(problem, c, false)))
      } catch {
        return .failed(.failed, error.message)
      }
      at = lanes.count - 1
    }
    let begin = crt_now_ns()
    for _ in 0..<lanes[at].repetitions {
      if let failure = call(lanes[at].plan) { return failure }
    }
    let ns = Double(max(crt_now_ns() &- begin, 1))
    if let failure = memory.damage() { return failure }
    let once = ns / Double(lanes[at].repetitions) / lanes[at].share
    if lanes[at].repetitions == 1, ns < TrialRunner.sampleNs {
      lanes[at].repetitions = Int(min(1000, (TrialRunner.sampleNs / ns).rounded(.up)))
    } else if !isWhole, lanes[at].share == 1, ns > 1.5 * longest {
      lanes[at].share = lanes[at].plan.takeShare(longest / ns)
    }
    return .took(ns: once)
  }

  /// Compares what two candidates compute of the whole problem; nil: the same, within the tolerance.
  func difference(_ c: Candidate, from other: Candidate) -> Failure? {
    guard case .took = time(other, longest: 0) else { return (.failed, "there is nothing to compare with") }
    let wanted = memory.outputs()
    if case .failed(let status, let reason) = time(c, longest: 0) { return (status, reason) }
    return memory.complaint(wanted)
  }

  private func call(_ plan: Plan) -> Outcome? {
    var record = ErrorRecord.empty
    guard let (status, reason) = plan.failure(memory, &record) else { return nil }
    return .failed(status, reason)
  }
}

/// Compares candidates with REFERENCE on a problem that is small enough for it.
final class TrialJudge {
  enum Verdict: Equatable {
    case right
    /// The candidate does not take the small problem.
    case unknown
    case bad(Trial.Status, String)
  }

  /// Arithmetic that REFERENCE may spend: some milliseconds.
  static let flops: Int64 = 8_000_000

  private let makePlan: TrialRunner.MakePlan
  private let problem: BoundProblem
  private let memory: TrialMemory
  private let wanted: [TrialOutput]
  private let inputSum: UInt64

  /// E_NOMEM, and what REFERENCE answers.
  init(
    _ problem: BoundProblem, reference: Candidate, seed: UInt64, makePlan: @escaping TrialRunner.MakePlan
  ) throws(Refusal) {
    self.problem = problem
    self.makePlan = makePlan
    memory = try TrialMemory(problem, seed: seed)
    inputSum = memory.inputSum
    var record = ErrorRecord.empty
    if let (_, reason) = try makePlan(problem, reference, true).failure(memory, &record) {
      throw Refusal(
        .internal, "", "\(problem.op.id) \(problem.entry.name): REFERENCE failed: \(reason)", source: .kernel)
    }
    wanted = memory.outputs()
  }

  func verdict(_ c: Candidate) -> Verdict {
    let plan: Plan
    do throws(Refusal) {
      plan = try makePlan(problem, c, true)
    } catch {
      return .unknown
    }
    var record = ErrorRecord.empty
    if let (status, reason) = plan.failure(memory, &record) { return .bad(status, reason) }
    if case .failed(let status, let reason)? = memory.damage() { return .bad(status, reason) }
    if memory.inputSum != inputSum { return .bad(.outside, "changed an input") }
    if let (status, reason) = memory.complaint(wanted) { return .bad(status, reason) }
    return .right
  }
}

typealias Failure = (status: Trial.Status, reason: String)

extension TrialMemory {
  /// Outputs that are not what they should be.
  func complaint(_ wanted: [TrialOutput]) -> Failure? {
    let tolerances = problem.op.descriptor.tolerances
    let tolerance =
      tolerances.first { $0.dtype == problem.storageType } ?? tolerances.first
      ?? Descriptor.Tolerance(rtol: 1e-3, atol: 1e-3)
    for (got, want) in zip(outputs(), wanted) {
      let wrong = got.violations(of: want, tolerance)
      // A near-tie that falls the other way changes a row of an operator that selects.
      let allowed = problem.op.selects ? got.count / 1000 : 0
      if wrong > allowed { return (.wrong, "\(wrong) of \(got.count) elements of \(got.name) are wrong") }
    }
    return nil
  }

  /// What the last run did to memory that is not its own.
  func damage() -> TrialRunner.Outcome? {
    let names = takeDamage()
    return names.isEmpty ? nil : .failed(.outside, "wrote outside of \(names.joined(separator: ", "))")
  }
}

extension BoundProblem {
  /// Storage type of the main tensors: the first one that is not f32, else f32.
  fileprivate var storageType: DType {
    let floats: [DType] = order.map { dtype($0) }.filter { $0 == .bf16 || $0 == .f16 || $0 == .f32 }
    return floats.first { $0 != .f32 } ?? .f32
  }
}

extension Operator {
  /// Some entry can tell by index what it chose.
  fileprivate var selects: Bool {
    entries.contains { e in
      e.tensors.contains { $0.isOutput && DType.set($0.spec.dtypes).allSatisfy { $0 == .i32 || $0 == .i64 } }
    }
  }
}

extension Plan {
  /// One call; nil when it went well.
  func failure(_ memory: TrialMemory, _ record: inout attune_error) -> Failure? {
    let status = execute(memory.tensors, &record)
    guard status != 0 else { return nil }
    // The checked call's own words for a kernel that left its workspace.
    let isOutside = status == attune_status(ATTUNE_E_INTERNAL) && ErrorRecord.argument(of: record) == "workspace"
    return (isOutside ? .outside : .failed, ErrorRecord.message(of: record))
  }

  /// One call on tensors in the problem's order.
  func execute(_ tensors: [UnsafePointer<attune_tensor>?], _ error: inout attune_error) -> attune_status {
    withUnsafeMutablePointer(to: &error) { error in
      tensors.withUnsafeBufferPointer { tensors in
        var call = Call(
          plan: UnsafePointer(record), tensors: tensors.baseAddress, references: nil, referenceStride: 0,
          problemParams: attune_span(), params: attune_span(), workspace: nil, workspaceBytes: 0, cancel: nil,
          stream: nil,
          error: error)
        return Execute.run(&call)
      }
    }
  }

  /// From now on only an even choice of the tasks is run, about `share` of them. Answers the share; 1 when tasks are
  /// too few or not the host's to choose.
  func takeShare(_ share: Double) -> Double {
    guard record.pointee.candidateCount > 0 else { return 1 }
    let c = record.pointee.candidates.pointee
    let pieces = c.tasks / max(c.grain, 1)
    let least = 4 * Int64(c.workers)
    guard !c.ownsThreads, share > 0, pieces >= 2 * least else { return 1 }
    let every = min(Int64(1 / share), pieces / least)
    guard every > 1 else { return 1 }
    record.pointee.every = every
    return TaskCall.share(of: c.tasks, c.grain, every)
  }
}
