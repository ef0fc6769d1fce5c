import AttuneCore
import CAttune
import CRuntime
import Glibc

/// Has one problem tuned by worker processes, and puts candidates under quarantine that kill them.
struct Supervisor {
  struct Outcome {
    var source: UInt32, rigor: UInt32
    var winner: TunedCandidate
    var ns: Double, defaultNs: Double
  }
  enum Verdict {
    case tuned(Outcome)
    case refused(String)
  }

  let context: Context
  let wisdom: String?
  let mode: Int32
  /// Microseconds for one problem; 0: the mode's own.
  let budget: UInt64
  /// Milliseconds: a single run of a candidate that takes longer hangs.
  let patience: Int32
  private static let mostDeaths = 32
  /// Loading plugins, making data and running REFERENCE may take this long.
  private static let preparationMs: Int32 = 60_000

  /// Candidates that were put under quarantine, with the reason.
  private(set) var barred: [(candidate: TunedCandidate, status: Trial.Status, reason: String)] = []
  var progress: (TunedCandidate) -> Void = { _ in }

  init(_ context: Context, wisdom: String?, mode: Int32, budget: UInt64, patience: Int32) {
    (self.context, self.wisdom, self.mode, self.budget, self.patience) = (context, wisdom, mode, budget, patience)
  }

  mutating func tune(_ line: ShapeLine) throws -> Verdict {
    for _ in 0..<Supervisor.mostDeaths {
      var worker = try WorkerProcess(line, wisdom: wisdom, mode: mode, budget: budget)
      var last: TunedCandidate?
      var verdict: Verdict?
      reading: while true {
        switch worker.next(patienceMs: last == nil ? max(patience, Supervisor.preparationMs) : patience) {
        case .line(let fields):
          switch WorkerWord(rawValue: fields.first ?? "") {
          case .begin:
            last = candidate(fields.dropFirst())
            if let last { progress(last) }
          case .barred:
            last = nil
            if let c = candidate(fields.dropFirst()), fields.count > 6, let s = Trial.Status(rawValue: fields[5]) {
              barred.append((c, s, fields[6]))
            }
          case .plan: verdict = outcome(Array(fields.dropFirst())).map(Verdict.tuned)
          case .refused: verdict = .refused(fields.count > 1 ? fields[1] : "no reason given")
          case .trial: last = nil
          case nil: break
          }
        case .silence:
          worker.kill()
          try bar(last, .hung, "a run took longer than \(Double(patience) / 1000) s", line)
          break reading
        case .end:
          let death = worker.wait()
          if death == nil, let verdict { return verdict }
          guard let death, last != nil else { return .refused(worker.complaint(death)) }
          try bar(last, .crashed, "killed the process: \(death)", line)
          break reading
        }
      }
      worker.kill()
      _ = worker.wait()
    }
    return .refused("\(Supervisor.mostDeaths) candidates crashed or hung")
  }

  private mutating func bar(_ c: TunedCandidate?, _ status: Trial.Status, _ reason: String, _ line: ShapeLine) throws {
    guard let c else { throw Failure("\(line.label): the worker \(status.rawValue) before it ran a candidate") }
    barred.append((c, status, reason))
    try context.bar(c, op: line.op, entry: line.entry ?? "forward", status: status, problem: line.label)
  }

  private func candidate(_ fields: ArraySlice<String>) -> TunedCandidate? {
    let f = Array(fields)
    guard f.count >= 4, let revision = UInt32(f[1]), let workers = UInt32(f[3]) else { return nil }
    return TunedCandidate(kernel: f[0], revision: revision, knobs: f[2], workers: workers)
  }

  private func outcome(_ f: [String]) -> Outcome? {
    guard f.count >= 8, let source = UInt32(f[0]), let rigor = UInt32(f[1]), let winner = candidate(f[2...]) else {
      return nil
    }
    return Outcome(source: source, rigor: rigor, winner: winner, ns: Double(f[6]) ?? 0, defaultNs: Double(f[7]) ?? 0)
  }
}

/// A running `attune tune-worker` and its lines.
struct WorkerProcess {
  enum Event {
    case line([String])
    case silence
    case end
  }
  private var pid: pid_t = 0
  private var output: Int32 = -1
  private var rest: [UInt8] = []
  private var isEnded = false

  init(_ line: ShapeLine, wisdom: String?, mode: Int32, budget: UInt64) throws {
    var words = ["attune", "tune-worker", "--mode", "\(mode)", "--budget", "\(budget)"]
    if let wisdom { words += ["--wisdom", wisdom] }
    var input: [Int32] = [-1, -1]
    var result: [Int32] = [-1, -1]
    guard pipe(&input) == 0, pipe(&result) == 0 else {
      throw Failure("no pipe to a worker process: \(File.reason())")
    }
    for end in input + result { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_adddup2(&actions, input[0], STDIN_FILENO)
    posix_spawn_file_actions_adddup2(&actions, result[1], STDOUT_FILENO)
    var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
    defer { for a in arguments { free(a) } }
    // Swift's own crash handler would start another process and keep the pipe open.
    var settings = ["SWIFT_BACKTRACE=enable=no"]
    var at = environ
    while let entry = at.pointee {
      settings.append(String(cString: entry))
      at += 1
    }
    var environment: [UnsafeMutablePointer<CChar>?] = settings.map { strdup($0) } + [nil]
    defer { for e in environment { free(e) } }
    let code = posix_spawn(&pid, "/proc/self/exe", &actions, nil, &arguments, &environment)
    close(input[0])
    close(result[1])
    guard code == 0 else {
      close(input[1])
      close(result[0])
      throw Failure("no worker process: \(String(cString: strerror(code)))")
    }
    write(line.text + "\n", to: input[1])
    close(input[1])
    output = result[0]
  }

  mutating func next(patienceMs: Int32) -> Event {
    while true {
      if let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
        let line = String(decoding: rest[..<end], as: UTF8.self)
        rest.removeSubrange(...end)
        return .line(line.split(separator: "\t", omittingEmptySubsequences: false).map(String.init))
      }
      if isEnded { return .end }
      var ready = pollfd(fd: output, events: Int16(POLLIN), revents: 0)
      let n = poll(&ready, 1, patienceMs)
      if n == 0 { return .silence }
      if n < 0 && errno == EINTR { continue }
      var buffer = [UInt8](repeating: 0, count: 4096)
      let got = read(output, &buffer, buffer.count)
      if got < 0 && errno == EINTR { continue }
      if got <= 0 { isEnded = true } else { rest += buffer[..<got] }
    }
  }

  func kill() { if pid > 0 { Glibc.kill(pid, SIGKILL) } }

  /// How it died; nil: by itself and in peace.
  mutating func wait() -> String? {
    guard pid > 0 else { return nil }
    var status: Int32 = 0
    while waitpid(pid, &status, 0) < 0 && errno == EINTR {}
    pid = 0
    close(output)
    let signal = status & 0x7f
    if signal != 0 { return strsignal(signal).map { String(cString: $0) } ?? "signal \(signal)" }
    let code = status >> 8 & 0xff
    return code == 0 ? nil : "exit code \(code)"
  }

  func complaint(_ death: String?) -> String { "the worker process gave no plan\(death.map { " (\($0))" } ?? "")" }
}
