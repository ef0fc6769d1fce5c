/// Records as the JSON of their lines, and back. Field names are part of the file's form: see docs/wisdom.md.
extension TunedCandidate {
  fileprivate var members: [(String, JSON)] {
    [
      ("kernel", .string(kernel)), ("revision", .count(revision)), ("knobs", .string(knobs)),
      ("workers", .count(workers)),
    ]
  }

  fileprivate init(_ f: Fields) throws(WisdomFault) {
    self.init(
      kernel: try f.text("kernel"), revision: try f.number("revision"), knobs: try f.text("knobs"),
      workers: try f.number("workers"))
  }
}

extension Trial {
  package var json: JSON {
    .object(
      candidate.members + [
        ("status", .string(status.rawValue)), ("ns", .real(medianNs)), ("ratio", .real(ratio)),
        ("spread", .real(spread)), ("rounds", .count(rounds)), ("date", .integer(date)),
      ])
  }

  fileprivate init(_ f: Fields) throws(WisdomFault) {
    self.init(
      candidate: try TunedCandidate(f), status: try f.status("status"), medianNs: try f.real("ns"),
      ratio: try f.real("ratio"), spread: try f.real("spread"), rounds: try f.number("rounds"),
      date: try f.number("date"))
  }
}

extension WisdomKey {
  /// "Nq=1,Nk=4096"
  package var sizesText: String { sizes.map { "\($0.name)=\($0.value)" }.joined(separator: ",") }

  fileprivate init(_ f: Fields) throws(WisdomFault) {
    var sizes: [Size] = []
    for (name, value) in try f.object("sizes") {
      guard case .integer(let value) = value else { throw WisdomFault("its size \(name) is no whole number") }
      sizes.append(Size(name: name, value: value))
    }
    self.init(op: try f.text("op"), family: try f.text("family"), sizes: sizes)
  }
}

extension WisdomRecord.Verdict {
  var members: [(String, JSON)] {
    [
      ("winner", .object(winner.members)), ("rigor", .text(TuneMode(rawValue: rigor)?.name)),
      ("weighed", .count(weighed)), ("plugin", .string(plugin)), ("build", .string(build)),
      ("library", .string(library)), ("date", .integer(date)), ("drift", .real(drift)), ("loaded", .bool(isLoaded)),
    ]
  }

  fileprivate init(_ f: Fields) throws(WisdomFault) {
    let word = try f.text("rigor")
    guard let rigor = TuneMode.allCases.first(where: { $0.name == word }) else {
      throw WisdomFault("its rigor is \"\(word.prefix(80))\"")
    }
    self.init(
      winner: try TunedCandidate(Fields(try f.object("winner"))), rigor: rigor.rawValue,
      weighed: try f.number("weighed"), plugin: try f.text("plugin"), build: try f.text("build"),
      library: try f.text("library"), date: try f.number("date"), drift: try f.real("drift"),
      isLoaded: try f.flag("loaded"))
  }
}

extension WisdomRecord {
  package var members: [(String, JSON)] {
    [
      ("op", .string(key.op)), ("family", .string(key.family)),
      ("sizes", .object(key.sizes.map { ($0.name, .integer($0.value)) })),
    ] + verdict.members + [("trials", .array(trials.map(\.json)))]
  }

  init(_ f: Fields) throws(WisdomFault) {
    var trials: [Trial] = []
    for item in try f.array("trials") {
      guard case .object(let members) = item else { throw WisdomFault("one of its trials is no object") }
      trials.append(try Trial(Fields(members)))
    }
    self.init(key: try WisdomKey(f), verdict: try Verdict(f), trials: trials)
  }
}

extension QuarantineRecord {
  package var members: [(String, JSON)] {
    [
      ("op", .string(op)), ("entry", .string(entry)), ("plugin", .string(plugin)), ("build", .string(build)),
      ("candidate", .object(candidate.members)), ("reason", .string(reason.rawValue)), ("problem", .string(key)),
      ("date", .integer(date)),
    ]
  }

  init(_ f: Fields) throws(WisdomFault) {
    self.init(
      op: try f.text("op"), entry: try f.text("entry"), plugin: try f.text("plugin"), build: try f.text("build"),
      candidate: try TunedCandidate(Fields(try f.object("candidate"))), reason: try f.status("reason"),
      key: try f.text("problem"), date: try f.number("date"))
  }
}

extension MachineRecord {
  package var members: [(String, JSON)] {
    [
      ("peak_gflops", .object(peakGflops.sorted { $0.key < $1.key }.map { ($0.key, .real($0.value)) })),
      ("l2_gbs", .real(l2)), ("l3_gbs", .real(l3)), ("dram_gbs", .real(dram)), ("region_ns", .real(regionNs)),
      ("date", .integer(date)),
    ]
  }

  init(_ f: Fields) throws(WisdomFault) {
    let peaks = Fields(try f.object("peak_gflops"))
    var peakGflops: [String: Double] = [:]
    for name in peaks.names { peakGflops[name] = try peaks.real(name) }
    self.init(
      peakGflops: peakGflops, l2: try f.real("l2_gbs"), l3: try f.real("l3_gbs"), dram: try f.real("dram_gbs"),
      regionNs: try f.real("region_ns"), date: try f.number("date"))
  }
}

/// Typed access to the members of an object.
struct Fields {
  private let members: [(String, JSON)]
  init(_ members: [(String, JSON)]) { self.members = members }

  var names: [String] { members.map(\.0) }

  private func value(_ name: String) throws(WisdomFault) -> JSON {
    guard let found = members.first(where: { $0.0 == name }) else { throw WisdomFault("it has no \(name)") }
    return found.1
  }

  private func wrong(_ name: String, _ expected: String) -> WisdomFault { WisdomFault("its \(name) is no \(expected)") }

  func text(_ name: String) throws(WisdomFault) -> String {
    guard case .string(let s) = try value(name) else { throw wrong(name, "text") }
    return s
  }

  func number<T: FixedWidthInteger>(_ name: String) throws(WisdomFault) -> T {
    guard case .integer(let i) = try value(name), let n = T(exactly: i) else {
      throw wrong(name, "whole number in range")
    }
    return n
  }

  func real(_ name: String) throws(WisdomFault) -> Double {
    switch try value(name) {
    case .real(let d): return d
    case .integer(let i): return Double(i)
    default: throw wrong(name, "number")
    }
  }

  func flag(_ name: String) throws(WisdomFault) -> Bool {
    guard case .bool(let b) = try value(name) else { throw wrong(name, "truth value") }
    return b
  }

  func status(_ name: String) throws(WisdomFault) -> Trial.Status {
    guard let status = Trial.Status(rawValue: try text(name)) else { throw wrong(name, "outcome of a trial") }
    return status
  }

  func object(_ name: String) throws(WisdomFault) -> [(String, JSON)] {
    guard case .object(let o) = try value(name) else { throw wrong(name, "object") }
    return o
  }

  func array(_ name: String) throws(WisdomFault) -> [JSON] {
    guard case .array(let a) = try value(name) else { throw wrong(name, "list") }
    return a
  }
}
