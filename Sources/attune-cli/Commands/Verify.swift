import ArgumentParser
import CAttune
import Glibc

struct Verify: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Run golden vectors through every usable kernel.",
    discussion: """
      DIR holds OP/CASE/case.json (or OP/cases/CASE/case.json). A case is counted once per kernel and per sequence of \
      calls that belong together: a forward and a backward pass are two. It is covered when each of its sequences was \
      passed by REFERENCE and by at least one other kernel. Exit 0 if nothing failed and every case is covered.
      """)
  @Argument(help: "Operators; none = all that DIR and the registry have.") var ops: [String] = []
  @Option(help: "Folder of golden vectors.") var golden: String
  @Option(help: "NAME, NAME:knob=value,... or all.") var kernel = "all"
  @Flag(help: "Cases that are not covered do not change the exit code.") var allowUncovered = false
  @OptionGroup var thread: ThreadOption
  @OptionGroup var output: JSONOption

  private struct Row {
    var op: String
    var name: String
    var entry: String
    var kernel: String
    var verdict: Verdict
  }

  func run() throws {
    var options = ContextOptions(workers: thread.threads)
    options.tune = Int32(ATTUNE_TUNE_OFF)
    options.wisdom = ""
    let context = try Context(options)
    let known = try context.registry().operators.map(\.id)
    for op in ops where !known.contains(op) {
      throw Failure("no operator \(op); attune list shows what there is: \(known.joined(separator: ", "))")
    }
    guard let root = File.resolve(golden), File.names(in: root) != nil else {
      throw Failure("--golden \(golden): there is no such folder")
    }
    var folders = Verify.cases(under: root, known: known)
    if !ops.isEmpty {
      for op in ops where !folders.contains(where: { $0.op == op }) { throw Failure("\(golden) has no case of \(op)") }
      folders = folders.filter { ops.contains($0.op) }
    }
    guard !folders.isEmpty else {
      let loaded = known.isEmpty ? "none is loaded" : known.joined(separator: ", ")
      throw Failure("\(golden) has no case of a known operator: \(loaded)")
    }
    var descriptions: [String: Description.Operator] = [:]
    for op in Set(folders.map(\.op)) { descriptions[op] = try context.op(op) }
    try checkKernelName(descriptions.values)

    var rows: [Row] = []
    var covered = 0
    var uncovered: [String] = []
    for (op, folder) in folders {
      guard let description = descriptions[op] else { continue }
      let runner = CaseRunner(
        context: context, op: description, loaded: try LoadedCase(folder: folder), workers: thread.threads)
      let name = folder.split(separator: "/").last.map(String.init) ?? folder
      var isCovered = true
      for calls in runner.loaded.content.sequences() {
        let made = try kernels(calls, description).map {
          Row(
            op: op, name: name, entry: CaseRunner.entries(calls), kernel: $0, verdict: try runner.run(calls, kernel: $0)
          )
        }
        rows += made
        let passed = made.filter { $0.verdict.status == .passed }.map(\.kernel)
        if !Verify.covers(passed, calls, description) { isCovered = false }
      }
      if isCovered { covered += 1 } else { uncovered.append("\(op)/\(name)") }
    }
    let failed = rows.contains { $0.verdict.status == .failed }
    if output.json { say(json(rows, covered, uncovered).text) } else { show(rows, covered, uncovered) }
    if failed || !(uncovered.isEmpty || allowUncovered) { throw ExitCode(1) }
  }

  /// Kernel names to force: the usable ones of all entries of the sequence, in their authors' order.
  private func kernels(_ calls: [GoldenCase.Call], _ op: Description.Operator) -> [String] {
    guard kernel == "all" else { return [kernel] }
    var names: [String] = []
    for call in calls {
      for k in op.entry(call.entry)?.kernels ?? [] where k.usable && !names.contains(k.name) { names.append(k.name) }
    }
    // An entry that does not exist has no kernels; one row, without a kernel, says so.
    return names.isEmpty ? [""] : names
  }

  private func checkKernelName(_ ops: some Collection<Description.Operator>) throws {
    guard kernel != "all" else { return }
    let name = String(kernel.prefix { $0 != ":" })
    let offered = ops.contains { op in op.entries.contains { $0.offers(name) } }
    guard offered else { throw Failure("--kernel \(kernel): no entry has a kernel \(name); attune list shows them") }
  }

  /// Each entry's REFERENCE passed, and at least one kernel that is not REFERENCE.
  private static func covers(_ passed: [String], _ calls: [GoldenCase.Call], _ op: Description.Operator) -> Bool {
    let references = Set(calls.map { op.entry($0.entry)?.reference ?? "" })
    return references.isSubset(of: passed) && passed.contains { !references.contains($0) }
  }

  /// Folders with a case.json, in path order, with the operator each belongs to: the folder around it (a folder called
  /// `cases` is looked through), so that a copied operator takes its cases along; else what the file says.
  private static func cases(under root: String, known: [String]) -> [(op: String, folder: String)] {
    var found: [(op: String, folder: String)] = []
    func walk(_ folder: String, _ depth: Int) {
      if File.exists(folder + "/case.json") {
        let around = folder.split(separator: "/").dropLast().last { $0 != "cases" }.map(String.init) ?? ""
        if known.contains(around) {
          found.append((around, folder))
        } else if let said = try? GoldenCase.read(folder + "/case.json").op, known.contains(said) {
          found.append((said, folder))
        }
        return
      }
      guard depth < 4 else { return }
      for name in File.names(in: folder) ?? [] { walk("\(folder)/\(name)", depth + 1) }
    }
    walk(root, 0)
    return found
  }

  private func count(_ rows: [Row], _ status: Verdict.Status) -> Int { rows.count { $0.verdict.status == status } }

  private func show(_ rows: [Row], _ covered: Int, _ uncovered: [String]) {
    var groups: [(key: String, rows: [Row])] = []
    for row in rows {
      let key = "\(row.op)\t\(row.kernel)"
      if let i = groups.firstIndex(where: { $0.key == key }) {
        groups[i].rows.append(row)
      } else {
        groups.append((key, [row]))
      }
    }
    var table = Table(
      "OPERATOR", "KERNEL", "PASSED", "FAILED", "DECLINED", "NOT OFFERED", "WORST", right: [2, 3, 4, 5, 6])
    for (_, rows) in groups {
      guard let one = rows.first else { continue }
      let worst = rows.compactMap(\.verdict.worst).max()
      table.add(
        one.op, one.kernel.isEmpty ? "-" : one.kernel, String(count(rows, .passed)), String(count(rows, .failed)),
        String(count(rows, .declined)),
        String(count(rows, .notOffered)), worst.map { fixed($0, 3) } ?? "-")
    }
    say(table.text)
    say("WORST is the largest error as a share of the tolerance.")
    var why = Table("FAILED", "KERNEL", "WHY")
    for row in rows where row.verdict.status == .failed {
      why.add("\(row.op)/\(row.name) \(row.entry)", row.kernel, row.verdict.reason ?? "")
    }
    if !why.rows.isEmpty { say("\n" + why.text) }
    if !uncovered.isEmpty { say("\nnot covered: " + wrap(uncovered.joined(separator: " "), width: 87, indent: 13)) }
    say(
      "\n\(count(rows, .passed)) passed, \(count(rows, .failed)) failed, "
        + "\(count(rows, .declined)) declined, \(count(rows, .notOffered)) not offered; "
        + "\(covered) of \(covered + uncovered.count) cases covered")
  }

  private func json(_ rows: [Row], _ covered: Int, _ uncovered: [String]) -> JSON {
    [
      "passed": JSON(count(rows, .passed)), "failed": JSON(count(rows, .failed)),
      "skipped": JSON(count(rows, .declined) + count(rows, .notOffered)), "covered": JSON(covered),
      "uncovered": JSON(uncovered),
      "cases": .array(
        rows.map {
          [
            "op": .string($0.op), "case": .string($0.name), "entry": .string($0.entry),
            "kernel": JSON($0.kernel.isEmpty ? nil : $0.kernel),
            "status": .string($0.verdict.status.rawValue), "worst": JSON($0.verdict.worst),
            "reason": JSON($0.verdict.reason),
          ]
        }),
    ]
  }
}
