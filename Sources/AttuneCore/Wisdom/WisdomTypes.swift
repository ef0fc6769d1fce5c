/// One way to compute an entry. Names, never indices: an update of the plugin may reorder its kernels.
package struct TunedCandidate: Hashable, Sendable {
  package var kernel: String
  package var revision: UInt32
  package var knobs: String  // "bq=64,bk=128"; "" none
  package var workers: UInt32

  package init(kernel: String, revision: UInt32, knobs: String, workers: UInt32) {
    (self.kernel, self.revision, self.knobs, self.workers) = (kernel, revision, knobs, workers)
  }
}

/// What became of one candidate when it was measured.
package struct Trial: Hashable, Sendable {
  package enum Status: String, Hashable, Sendable, CaseIterable {
    case ok
    case slow  // dropped early
    case wrong  // not what REFERENCE computes
    case crashed, hung
    case outside  // wrote outside of its buffers
    case failed  // returned an error
  }
  package var candidate: TunedCandidate
  package var status: Status
  package var medianNs: Double  // level of its times (Contest); 0: never timed
  package var ratio: Double  // of that to the default candidate's; 0: never timed
  package var spread: Double  // how far the median lies above the least, as a share
  package var rounds: Int
  package var date: Int64  // seconds since 1970

  package init(
    candidate: TunedCandidate, status: Status, medianNs: Double = 0, ratio: Double = 0, spread: Double = 0,
    rounds: Int = 0, date: Int64
  ) {
    (self.candidate, self.status, self.medianNs, self.ratio) = (candidate, status, medianNs, ratio)
    (self.spread, self.rounds, self.date) = (spread, rounds, date)
  }
}

/// What a record is about: one bucket of one family of problems.
package struct WisdomKey: Hashable, Sendable {
  package struct Size: Hashable, Sendable {
    package var name: String
    package var value: Int64
    package init(name: String, value: Int64) { (self.name, self.value) = (name, value) }
  }
  package var op: String  // the operator's id
  /// Everything a kernel can observe but the bucketed sizes, as canonical text. Compared, never parsed.
  package var family: String
  package var sizes: [Size]  // the bucketed symbols in the entry's order

  package init(op: String, family: String, sizes: [Size]) {
    (self.op, self.family, self.sizes) = (op, family, sizes)
  }
}

/// The best candidate of a key, and what was measured to find it.
package struct WisdomRecord: Equatable, Sendable {
  /// Who won and how that was found out. Two records never mix theirs: the better founded one counts (see `joined`).
  package struct Verdict: Equatable, Sendable {
    package var winner: TunedCandidate
    package var rigor: Int32  // ATTUNE_TUNE_*
    package var weighed: Int  // how many trials it rests on
    package var plugin: String, build: String  // whose kernels: the plugin's id, the build of its file
    package var library: String  // version
    package var date: Int64  // seconds since 1970
    package var drift: Double  // how far the machine's speed moved meanwhile, as a fraction
    package var isLoaded: Bool  // the machine was busy
  }
  package var key: WisdomKey
  package var verdict: Verdict
  package var trials: [Trial]

  package var winner: TunedCandidate { verdict.winner }
  package var rigor: Int32 { verdict.rigor }
  package var plugin: String { verdict.plugin }
  package var build: String { verdict.build }
  package var library: String { verdict.library }
  package var date: Int64 { verdict.date }
  package var drift: Double { verdict.drift }
  package var isLoaded: Bool { verdict.isLoaded }

  package init(
    key: WisdomKey, winner: TunedCandidate, rigor: Int32, trials: [Trial], plugin: String, build: String,
    library: String, date: Int64, drift: Double = 0, isLoaded: Bool = false
  ) {
    self.init(
      key: key,
      verdict: Verdict(
        winner: winner, rigor: rigor, weighed: trials.count, plugin: plugin, build: build, library: library, date: date,
        drift: drift, isLoaded: isLoaded), trials: trials)
  }

  package init(key: WisdomKey, verdict: Verdict, trials: [Trial]) {
    (self.key, self.verdict, self.trials) = (key, verdict, trials)
  }
}

/// A candidate that must not be tried again in this build of its plugin.
package struct QuarantineRecord: Hashable, Sendable {
  package var op: String, entry: String
  package var plugin: String, build: String
  package var candidate: TunedCandidate  // workers 0: any number; knobs "*": any
  package var reason: Trial.Status
  package var key: String  // the problem it failed on, for people
  package var date: Int64  // seconds since 1970

  package init(
    op: String, entry: String, plugin: String, build: String, candidate: TunedCandidate, reason: Trial.Status,
    key: String, date: Int64
  ) {
    (self.op, self.entry, self.plugin, self.build) = (op, entry, plugin, build)
    (self.candidate, self.reason, self.key, self.date) = (candidate, reason, key, date)
  }
}

/// What the cost model knows about the machine. Measured once per CPU.
package struct MachineRecord: Equatable, Sendable {
  package var peakGflops: [String: Double]  // of one core, per level: "avx512": 180.0
  package var l2: Double, l3: Double, dram: Double  // GB/s of one core; 0 unknown
  package var regionNs: Double  // one parallel region with nothing to do
  package var date: Int64  // seconds since 1970

  package init(peakGflops: [String: Double], l2: Double, l3: Double, dram: Double, regionNs: Double, date: Int64) {
    (self.peakGflops, self.l2, self.l3, self.dram) = (peakGflops, l2, l3, dram)
    (self.regionNs, self.date) = (regionNs, date)
  }
}
