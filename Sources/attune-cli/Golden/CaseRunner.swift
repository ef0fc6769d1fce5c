import AttuneCore
import CAttune

/// The verdict on one sequence of calls of a case, with one kernel forced.
struct Verdict {
  enum Status: String {
    case passed, failed, declined
    case notOffered = "not-offered"
  }
  var status: Status
  /// Largest error as a share of what is allowed; nil when nothing was compared.
  var worst: Double?
  var reason: String?
}

/// Runs the calls of a case through the C API.
struct CaseRunner {
  let context: Context
  let op: Description.Operator
  let loaded: LoadedCase
  let workers: Int?

  /// `kernel` ("name" or "name:knob=1") is forced in entries that offer it; elsewhere, and in calls that it declines,
  /// the library chooses, so that later calls have their states. When it declined every call the verdict is `declined`.
  func run(_ calls: [GoldenCase.Call], kernel: String) throws -> Verdict {
    let name = String(kernel.prefix { $0 != ":" })
    for call in calls where op.entry(call.entry) == nil {
      return Verdict(status: .notOffered, reason: "no entry \(call.entry)")
    }
    guard calls.contains(where: { op.entry($0.entry)?.offers(name) == true }) else {
      return Verdict(status: .notOffered, reason: "no kernel \(name) in \(CaseRunner.entries(calls))")
    }
    var registers: [String: HostTensor] = [:]
    var worst: Double?
    var ran = 0
    var declines: [String] = []
    for (number, call) in calls.enumerated() {
      guard let entry = op.entry(call.entry) else { continue }
      let label = calls.count > 1 ? "call \(number + 1) (\(call.entry)): " : ""
      var forced = entry.offers(name)
      let plan: Plan
      do {
        let problem = try self.problem(call, entry, registers)
        do {
          plan = try compute(problem, entry, forced ? kernel : nil)
        } catch let error as LibraryError where forced && error.isDecline {
          declines.append(label + error.message)
          forced = false
          plan = try compute(problem, entry, nil)
        }
      } catch let error as LibraryError {
        // Without a forced kernel nothing is left to decline: the entry itself refuses the problem.
        guard error.isDecline else {
          return Verdict(status: .failed, worst: worst, reason: "\(label)\(error.name): \(error.message)")
        }
        return Verdict(status: .declined, reason: label + error.message)
      }
      if forced { ran += 1 }
      for (slot, reference) in call.expect.sorted(by: { $0.key < $1.key }) {
        guard let got = plan.tensor(slot) else { continue }
        let (want, ignore) = try loaded.resolve(reference)
        let match = Match(
          slot, got: got, want: want, limits: loaded.content.limits(reference.tensor), ignore: ignore)
        worst = max(worst ?? 0, match.worst)
        if let failure = match.failure {
          return Verdict(status: .failed, worst: worst, reason: label + failure)
        }
      }
      for (slot, register) in call.stateOut ?? [:] {
        guard let state = plan.tensor(slot) else {
          return Verdict(status: .notOffered, reason: "\(label)no output \(slot)")
        }
        registers[register] = state
      }
    }
    guard ran > 0 else { return Verdict(status: .declined, reason: declines.first) }
    guard worst != nil else { return Verdict(status: .notOffered, reason: "none of the stored outputs") }
    let partly = declines.first.map { "declined \(declines.count) of \(declines.count + ran) calls: \($0)" }
    return Verdict(status: .passed, worst: worst, reason: partly)
  }

  /// "forward" or "forward+merge": the entries of a sequence, each once.
  static func entries(_ calls: [GoldenCase.Call]) -> String {
    var seen: [String] = []
    for call in calls where !seen.contains(call.entry) { seen.append(call.entry) }
    return seen.joined(separator: "+")
  }

  private func compute(_ problem: Problem, _ entry: Description.Entry, _ kernel: String?) throws -> Plan {
    var problem = problem
    problem.kernel = kernel
    problem.allowReduced = kernel != nil
    let plan = try Plan.completing(problem, of: entry, in: context)
    try plan.execute()
    return plan
  }

  private func problem(
    _ call: GoldenCase.Call, _ entry: Description.Entry, _ registers: [String: HostTensor]
  ) throws -> Problem {
    var problem = Problem(
      op: op.id, entry: call.entry, workers: workers, tune: Int32(ATTUNE_TUNE_OFF))
    for (slot, reference) in call.feed.sorted(by: { $0.key < $1.key }) {
      problem.tensors.append((slot, try loaded.resolve(reference).tensor))
    }
    for (slot, register) in (call.stateIn ?? [:]).sorted(by: { $0.key < $1.key }) {
      guard let state = registers[register] else {
        throw loaded.bad("register \(register) is read before it is written")
      }
      problem.tensors.append((slot, state))
    }
    // Expected outputs are asked for with the expected shape: the library must agree with it.
    for (slot, reference) in call.expect.sorted(by: { $0.key < $1.key })
    where entry.tensor(slot).map(entry.isOutput) == true {
      let want = try loaded.resolve(reference).tensor
      problem.tensors.append((slot, try HostTensor(want.dtype, want.shape, prototype: true)))
    }
    for slot in (call.stateOut ?? [:]).keys.sorted()
    where call.expect[slot] == nil && entry.tensor(slot).map(entry.isOutput) == true {
      problem.tensors.append((slot, nil))
    }
    let params = loaded.content.params.merging(call.params ?? [:]) { $1 }
    problem.params = try params.sorted { $0.key < $1.key }.map {
      try Parameter(name: $0.key, json: $0.value, for: op)
    }
    return problem
  }
}
