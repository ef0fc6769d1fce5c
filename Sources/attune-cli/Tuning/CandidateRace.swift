import AttuneCore

/// Candidates of one problem that were timed against each other: `attune bench --candidate`.
struct CandidateRace {
  let line: ShapeLine
  private let lines: [Comparison.Line]

  /// A race takes at most this long, plus one round.
  private static let longestNs = 3e9

  /// - candidates: NAME:knob=value,...@THREADS; knobs and threads may be left out.
  init(_ line: ShapeLine, _ candidates: [String], rounds: Int, _ context: Context) throws {
    self.line = line
    let names = try candidates.map { text -> (kernel: String, workers: UInt32?) in
      guard let at = text.lastIndex(of: "@") else { return (text, nil) }
      guard let workers = UInt32(text[text.index(after: at)...]), workers > 0 else {
        throw Failure("--candidate \(text): expected a number of threads behind @")
      }
      return (String(text[..<at]), workers)
    }
    let core = try context.core
    let problem = try line.problem(context)
    lines = try problem.withRecord { record in
      try checkedRefusal { () throws(Refusal) in
        try core.compare(record, names, rounds: rounds, longestNs: CandidateRace.longestNs)
      }
    }.lines
  }

  var text: String {
    var table = Table("KERNEL", "THREADS", "TIME", "RATIO", "SPREAD", "ROUNDS", "KNOBS", right: [1, 2, 3, 4, 5])
    for l in lines {
      table.add(
        l.candidate.kernel, "\(l.candidate.workers)", l.standing.level.map { duration($0) } ?? "-",
        l.standing.ratio.map { fixed($0, 3) } ?? "-", fixed(l.standing.spread, 3), "\(l.standing.rounds)",
        l.candidate.knobs)
    }
    return line.label + "\n" + table.text
  }

  var json: JSON {
    [
      "problem": .string(line.label),
      "candidates": .array(
        lines.map { l in
          [
            "kernel": .string(l.candidate.kernel), "knobs": .string(l.candidate.knobs),
            "workers": JSON(Int(l.candidate.workers)), "ns": JSON(l.standing.level),
            "ratio": JSON(l.standing.ratio), "spread": .number(l.standing.spread), "rounds": JSON(l.standing.rounds),
          ]
        }),
    ]
  }
}
