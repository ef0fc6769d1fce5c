import ArgumentParser
import AttuneCore
import CAttune
import Glibc

struct Wisdom: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Look at what the tuner remembers, and move it between machines.",
    subcommands: [WisdomShow.self, WisdomMerge.self, WisdomVerify.self, WisdomForget.self])
}

/// The file that contexts of this user and environment use, without asking the plugins.
private struct OwnWisdom {
  let store: WisdomStore

  init() throws {
    do {
      let settings = try Configuration(options: nil)
      store = settings.makeWisdom(cpu: CPUFeatures(cap: settings.maxISA))
    } catch { throw Failure("\(error.code.name): \(error.message)") }
  }

  /// The named file, else the own one. nil: nothing was remembered yet.
  func file(_ named: String?) throws -> WisdomFile? {
    if let named { return WisdomFile(path: named) }
    let status = store.status
    guard let path = status.path else { throw Failure("nothing is remembered: \(status.reason ?? "unknown reason")") }
    let file = WisdomFile(path: path)
    return file.identity == nil ? nil : file
  }
}

private func read(_ file: WisdomFile) throws -> WisdomFile.Contents {
  do {
    return try file.read()
  } catch { throw Failure(error.sentence, code: error.kind == .notWisdom || error.kind == .newer ? 1 : 2) }
}

struct WisdomShow: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "show", abstract: "Print remembered choices: what won, how, and what may not be tried again.")
  @Argument(help: "File to show; default: the one in use.") var file: String?
  @Option(help: "Only of this operator.") var op: String?
  @OptionGroup var output: JSONOption

  func run() throws {
    let own = try OwnWisdom()
    guard let source = try own.file(file) else {
      return output.json
        ? say(document(WisdomFile.Contents(), own, path: own.store.status.path).text) : say("nothing yet")
    }
    let contents = try read(source)
    if output.json { return say(document(contents, own, path: source.path).text) }
    say(source.path)
    for (cpu, shelf) in contents.book.shelves.sorted(by: { $0.key < $1.key }) {
      say("\n\(cpu)\(cpu == own.store.cpu ? " (this machine)" : "")")
      show(shelf)
    }
    if contents.damaged > 0 { say("\n\(contents.damaged) damaged lines: attune wisdom verify tells which") }
  }

  private func isWanted(_ id: String) -> Bool { op == nil || op == id }

  private func show(_ shelf: WisdomBook.Shelf) {
    if let m = shelf.machine, op == nil {
      let peaks = m.peakGflops.sorted { $0.key < $1.key }.map { "\($0.key) \(fixed($0.value, 0))" }
      say(
        "  GFLOP/s of a core: \(peaks.joined(separator: ", ")); GB/s: L2 \(fixed(m.l2, 0)), L3 \(fixed(m.l3, 0)), "
          + "memory \(fixed(m.dram, 0)); a parallel region: \(duration(m.regionNs))")
    }
    var table = Table("OPERATOR", "SIZES", "KERNEL", "KNOBS", "WORKERS", "RIGOR", "TRIALS", "MEASURED", right: [4, 6])
    for r in shelf.records.filter({ isWanted($0.key.op) }).sorted(by: WisdomShow.precedes) {
      let rigor = TuneMode(rawValue: r.rigor)?.name ?? ""
      let time = r.trials.first { $0.candidate == r.winner }.map { duration($0.medianNs) } ?? ""
      table.add(
        r.key.op, r.key.sizesText, "\(r.winner.kernel)/\(r.winner.revision)", r.winner.knobs, "\(r.winner.workers)",
        rigor, "\(r.trials.count)", "\(day(r.date)) \(time)")
      table.below(r.key.family)
    }
    if !table.rows.isEmpty { say(table.text) }
    var quarantine = Table("NOT TRIED AGAIN", "ENTRY", "KERNEL", "KNOBS", "WORKERS", "WHY", "SINCE")
    for q in shelf.quarantine.values.filter({ isWanted($0.op) }).sorted(by: { ($0.op, $0.date) < ($1.op, $1.date) }) {
      let workers = q.candidate.workers == 0 ? "any" : "\(q.candidate.workers)"
      quarantine.add(
        q.op, q.entry, "\(q.candidate.kernel)/\(q.candidate.revision)", q.candidate.knobs, workers, q.reason.rawValue,
        day(q.date))
      quarantine.below("\(q.plugin) \(q.build): \(q.key)")
    }
    if !quarantine.rows.isEmpty { say(quarantine.text) }
  }

  private static func precedes(_ a: WisdomRecord, _ b: WisdomRecord) -> Bool {
    if a.key.op != b.key.op { return a.key.op < b.key.op }
    if a.key.family != b.key.family { return a.key.family < b.key.family }
    return a.key.sizes.map(\.value).lexicographicallyPrecedes(b.key.sizes.map(\.value))
  }

  private func document(_ contents: WisdomFile.Contents, _ own: OwnWisdom, path: String?) -> JSON {
    func line(_ cpu: String, _ members: [(String, AttuneCore.JSON)]) -> JSON {
      .object([("cpu", .string(cpu)), ("here", .bool(cpu == own.store.cpu))] + members.map { ($0, JSON($1)) })
    }
    let shelves = contents.book.shelves.sorted { $0.key < $1.key }
    return [
      "path": JSON(path), "cpu": .string(own.store.cpu),
      "records": .array(
        shelves.flatMap { cpu, shelf in
          shelf.records.filter { isWanted($0.key.op) }.sorted(by: WisdomShow.precedes).map { line(cpu, $0.members) }
        }),
      "quarantine": .array(
        shelves.flatMap { cpu, shelf in
          shelf.quarantine.values.filter { isWanted($0.op) }.sorted { ($0.op, $0.date) < ($1.op, $1.date) }
            .map { line(cpu, $0.members) }
        }),
      "machines": .array(shelves.compactMap { cpu, shelf in shelf.machine.map { line(cpu, $0.members) } }),
      "unknown": JSON(contents.book.unknown.count), "damaged": JSON(contents.damaged),
    ]
  }
}

struct WisdomVerify: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify", abstract: "Check every line of a file of remembered choices; exit 1 when one is damaged.")
  @Argument(help: "File to check; default: the one in use.") var file: String?
  @OptionGroup var output: JSONOption

  func run() throws {
    let own = try OwnWisdom()
    guard let source = try own.file(file) else {
      return output.json ? say(document("", WisdomFile.Contents(), 0, 0).text) : say("nothing yet")
    }
    let contents = try read(source)
    let shelves = contents.book.shelves
    let here = shelves[own.store.cpu]?.count ?? 0
    let foreign = shelves.values.reduce(0) { $0 + $1.count } - here
    if output.json {
      say(document(source.path, contents, here, foreign).text)
    } else {
      for fault in contents.faults { say("\(source.path):\(fault.line): \(fault.sentence)") }
      let quarantined = shelves.values.reduce(0) { $0 + $1.quarantine.count }
      say(
        "\(source.path): \(here) records for this CPU, \(foreign) for others, \(quarantined) quarantined, "
          + "\(contents.book.unknown.count) of unknown kind, \(contents.damaged) damaged")
    }
    if contents.damaged > 0 { throw ExitCode(1) }
  }

  private func document(_ path: String, _ contents: WisdomFile.Contents, _ here: Int, _ foreign: Int) -> JSON {
    [
      "path": .string(path), "records": JSON(here), "foreign": JSON(foreign),
      "quarantined": JSON(contents.book.shelves.values.reduce(0) { $0 + $1.quarantine.count }),
      "unknown": JSON(contents.book.unknown.count), "damaged": JSON(contents.damaged),
      "faults": .array(contents.faults.map { ["line": JSON($0.line), "reason": .string($0.sentence)] }),
    ]
  }
}

struct WisdomMerge: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "merge", abstract: "Join files of remembered choices into one, in any order, any number of times.",
    discussion: "What OUT holds already stays in it. Records of every CPU are kept.")
  @Argument(help: "File to join into; made when it is missing.") var out: String
  @Argument(help: "Files to read.") var inputs: [String]
  @OptionGroup var output: JSONOption

  func run() throws {
    var book = WisdomBook()
    var damaged = 0
    for path in inputs {
      let contents = try read(WisdomFile(path: path))
      damaged += contents.damaged
      if contents.damaged > 0 { warn("\(path) has \(contents.damaged) damaged lines: skipped") }
      book.join(contents.book)
    }
    do {
      let merged = try WisdomFile(path: out).update { $0.join(book) }
      let records = merged.book.shelves.values.reduce(0) { $0 + $1.count }
      let document: JSON = ["path": .string(out), "records": JSON(records), "damaged": JSON(damaged)]
      say(output.json ? document.text : "\(out): \(records) records")
    } catch { throw Failure(error.sentence) }
  }
}

struct WisdomForget: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "forget", abstract: "Drop the remembered choices of an operator, or all.",
    discussion: "Candidates that may not be tried again stay barred. Read-only files keep their records.")
  @Argument(help: "Operator; default: all of them.") var op: String?
  @OptionGroup var output: JSONOption

  func run() throws {
    let context = try Context()
    try checked { attune_wisdom_forget(context.handle, op, $0) }
    let document: JSON = ["forgot": JSON(op)]
    say(output.json ? document.text : "forgot \(op ?? "everything")")
  }
}

extension JSON {
  fileprivate init(_ value: AttuneCore.JSON) {
    switch value {
    case .null: self = .null
    case .bool(let b): self = .bool(b)
    case .integer(let i): self = .integer(i)
    case .real(let d): self = .number(d)
    case .string(let s): self = .string(s)
    case .array(let items): self = .array(items.map { JSON($0) })
    case .object(let members): self = .object(members.map { ($0, JSON($1)) })
    }
  }
}

/// "2026-11-21", in universal time.
private func day(_ date: Int64) -> String {
  var seconds = time_t(date)
  var parts = tm()
  guard gmtime_r(&seconds, &parts) != nil else { return "?" }
  var text = [CChar](repeating: 0, count: 32)
  let count = strftime(&text, text.count, "%Y-%m-%d", &parts)
  return String(decoding: text.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
}
