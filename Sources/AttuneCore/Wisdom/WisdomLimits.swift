/// Bounds of everything in a file of wisdom. They are chosen so that a record within them always fits its line.
package enum WisdomLimits {
  package static let schema: Int64 = 1
  package static let fileBytes = 16 << 20, lineBytes = 64 << 10
  /// Per CPU; beyond them the least founded and oldest go.
  package static let records = 4096, quarantine = 1024
  package static let cpus = 64, unknownLines = 1024
  static let trials = 136, sizes = 16
  static let cpu = 127, family = 4096, knobs = 128, build = 128, library = 31, problem = 8192, levels = 16
  static let dates: ClosedRange<Int64> = 0...253_402_300_799  // to the end of the year 9999
}

/// What is wrong with a line or a record, as a sentence.
package struct WisdomFault: Error, Equatable, Sendable {
  package let sentence: String
  init(_ sentence: String) { self.sentence = sentence }
}

/// Holds a record to the bounds. Files are written by other versions and other hands, records by a tuner that may err;
/// both pass through here, so what is in memory can be written and what is written can be read.
enum WisdomCheck {
  static func check(_ record: WisdomRecord) throws(WisdomFault) {
    try check(record.key)
    let v = record.verdict
    try check(v.winner, "winner")
    try holds((1...TuneMode.exhaustive.rawValue).contains(v.rigor), "rigor", v.rigor)
    try holds((0...Limits.candidates).contains(v.weighed), "weighed", v.weighed)
    try holds(isText(v.plugin, Limits.name), "plugin", v.plugin)
    try holds(isText(v.build, WisdomLimits.build), "build", v.build)
    try holds(isText(v.library, WisdomLimits.library), "library", v.library)
    try check(v.date)
    try check(v.drift, "drift")
    try holds(record.trials.count <= WisdomLimits.trials, "number of trials", record.trials.count)
    for trial in record.trials { try check(trial) }
  }

  static func check(_ key: WisdomKey) throws(WisdomFault) {
    try holds(!key.op.isEmpty && isText(key.op, Limits.name), "op", key.op)
    try holds(isText(key.family, WisdomLimits.family), "family", key.family)
    try holds(key.sizes.count <= WisdomLimits.sizes, "number of sizes", key.sizes.count)
    for size in key.sizes {
      try holds(Words.isName(size.name), "size's name", size.name)
      try holds(size.value >= 0, "size", size.value)
    }
    let repeated = Words.firstRepeated(key.sizes.map(\.name))
    try holds(repeated == nil, "twice named size", repeated ?? "")
  }

  static func check(_ trial: Trial) throws(WisdomFault) {
    try check(trial.candidate, "trial's kernel")
    try check(trial.medianNs, "trial's time")
    try check(trial.ratio, "trial's ratio")
    try check(trial.spread, "trial's spread")
    try holds((0...1_000_000).contains(trial.rounds), "trial's rounds", trial.rounds)
    try check(trial.date)
  }

  static func check(_ q: QuarantineRecord) throws(WisdomFault) {
    try holds(!q.op.isEmpty && isText(q.op, Limits.name), "op", q.op)
    try holds(isText(q.entry, Limits.name), "entry", q.entry)
    try holds(isText(q.plugin, Limits.name), "plugin", q.plugin)
    try holds(isText(q.build, WisdomLimits.build), "build", q.build)
    try check(q.candidate, "kernel")
    try holds(isText(q.key, WisdomLimits.problem), "problem", q.key)
    try check(q.date)
  }

  static func check(_ m: MachineRecord) throws(WisdomFault) {
    try holds(m.peakGflops.count <= WisdomLimits.levels, "number of levels", m.peakGflops.count)
    for (level, peak) in m.peakGflops {
      try holds(isText(level, Limits.name), "level", level)
      try check(peak, "peak")
    }
    for bandwidth in [m.l2, m.l3, m.dram] { try check(bandwidth, "bandwidth") }
    try check(m.regionNs, "time of a region")
    try check(m.date)
  }

  static func check(cpu: String) throws(WisdomFault) {
    try holds(!cpu.isEmpty && isText(cpu, WisdomLimits.cpu), "cpu", cpu)
  }

  private static func check(_ c: TunedCandidate, _ what: String) throws(WisdomFault) {
    try holds(!c.kernel.isEmpty && isText(c.kernel, Limits.name), what, c.kernel)
    try holds(isText(c.knobs, WisdomLimits.knobs), "knobs", c.knobs)
    try holds(c.workers <= Limits.workers, "workers", c.workers)
  }

  private static func check(_ date: Int64) throws(WisdomFault) {
    try holds(WisdomLimits.dates.contains(date), "date", date)
  }

  private static func check(_ x: Double, _ what: String) throws(WisdomFault) {
    try holds(x.isFinite && x.sign == .plus, what, x)
  }

  /// Printable, and the same length in JSON.
  private static func isText(_ text: String, _ limit: Int) -> Bool {
    text.utf8.count <= limit
      && text.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7f && $0 != UInt8(ascii: "\"") && $0 != UInt8(ascii: "\\") }
  }

  private static func holds(
    _ condition: Bool, _ what: String, _ value: @autoclosure () -> some CustomStringConvertible
  ) throws(WisdomFault) {
    guard condition else { throw WisdomFault("its \(what) is out of bounds: \(String("\(value())".prefix(80)))") }
  }
}
