import ArgumentParser
import AttuneCore
import CAttune
import Glibc

/// What a worker process tells on its standard output, one line each, fields separated by tabs.
enum WorkerWord: String {
  /// A candidate is about to run: it is to blame if nothing follows.
  case begin
  case trial
  case barred
  /// The plan: source, rigor, kernel, revision, knobs, workers, nanoseconds, nanoseconds of the default.
  case plan
  case refused
}

/// Tunes the problem on standard input. A process of its own: a kernel that crashes or hangs takes only this one along.
struct TuneWorker: ParsableCommand {
  static let configuration = CommandConfiguration(commandName: "tune-worker", shouldDisplay: false)
  @Option var wisdom: String?
  @Option var mode: Int32
  @Option var budget: UInt64 = 0

  func run() throws {
    var none = rlimit(rlim_cur: 0, rlim_max: 0)
    setrlimit(__rlimit_resource_t(RLIMIT_CORE.rawValue), &none)
    guard let input = readLine() else { throw Failure("nothing on standard input") }
    let line = try ShapeLine(parsing: input)
    let context = try Context(ContextOptions(workers: line.threads, tune: mode, wisdom: wisdom))
    do {
      var problem = try line.problem(context)
      problem.budget = budget
      try context.core.tuner.setWatcher(
        Tuner.Watcher { event in
          switch event {
          case .begins(let c): TuneWorker.tell(.begin, TuneWorker.fields(c))
          case .measured(let t):
            TuneWorker.tell(
              .trial, TuneWorker.fields(t.candidate) + [t.status.rawValue, "\(t.medianNs)", "\(t.ratio)"])
          case .barred(let c, let status, let reason):
            TuneWorker.tell(.barred, TuneWorker.fields(c) + [status.rawValue, reason])
          }
        })
      let e = try problem.withRecord { try context.explain($0) }
      let standard = e.record.flatMap { r in r.trials.first { $0.ratio == 1 } }
      let own = e.record.flatMap { r in r.trials.first { $0.candidate == e.chosen } }
      TuneWorker.tell(
        .plan,
        ["\(e.choice.source)", "\(e.choice.rigor)"] + TuneWorker.fields(e.chosen)
          + ["\(own?.medianNs ?? e.choice.expectedNs)", "\(standard?.medianNs ?? 0)"])
    } catch let error as LibraryError {
      TuneWorker.tell(.refused, ["\(error.name): \(error.message)"])
    } catch let failure as Failure {
      TuneWorker.tell(.refused, [failure.message])
    }
  }

  static func fields(_ c: TunedCandidate) -> [String] { [c.kernel, "\(c.revision)", c.knobs, "\(c.workers)"] }

  private static func tell(_ word: WorkerWord, _ fields: [String]) {
    let clean = fields.map { field in String(field.map { $0 == "\t" || $0 == "\n" ? " " : $0 }) }
    write(([word.rawValue] + clean).joined(separator: "\t") + "\n", to: STDOUT_FILENO)
  }
}
