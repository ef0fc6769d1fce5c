import CAttune
import Foundation
import Testing

@testable import AttuneCore

/// Small random pieces of wisdom, drawn from few values so that they meet.
struct WisdomDraw {
  private var state: UInt64
  init(seed: UInt64) { state = seed &* 0x9e37_79b9_7f4a_7c15 &+ 1 }

  mutating func below(_ n: Int) -> Int {
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return Int(state % UInt64(n))
  }
  private mutating func oneOf<T>(_ list: [T]) -> T { list[below(list.count)] }

  mutating func candidate() -> TunedCandidate {
    TunedCandidate(
      kernel: oneOf(["tile", "row"]), revision: UInt32(below(2)), knobs: oneOf(["", "bq=64"]),
      workers: UInt32(1 + below(2)))
  }

  mutating func trial() -> Trial {
    Trial(
      candidate: candidate(), status: oneOf([.ok, .ok, .slow, .wrong]), medianNs: Double(below(3)) * 1e3 + 0.125,
      ratio: Double(below(3)) / 3, spread: Double(below(2)) / 7, rounds: below(3), date: Int64(below(3)))
  }

  mutating func record(key: WisdomKey? = nil) -> WisdomRecord {
    let key =
      key
      ?? WisdomKey(
        op: oneOf(["nsa", "sla"]), family: oneOf(["forward f32", "step bf16"]),
        sizes: [WisdomKey.Size(name: "Nq", value: Int64(1 + below(3)))])
    var record = WisdomRecord(
      key: key, winner: candidate(), rigor: Int32(4 + below(2)), trials: (0..<below(6)).map { _ in trial() },
      plugin: "p", build: oneOf(["aa", "bb"]), library: "0.1.0", date: Int64(below(3)), drift: 0.01,
      isLoaded: below(2) == 0)
    record.verdict.weighed = below(3)
    return record
  }

  mutating func quarantine() -> QuarantineRecord {
    QuarantineRecord(
      op: oneOf(["nsa", "sla"]), entry: "forward", plugin: "p", build: "aa", candidate: candidate(),
      reason: oneOf([.wrong, .crashed]), key: "Nq=1", date: Int64(below(3)))
  }

  mutating func machine() -> MachineRecord {
    MachineRecord(
      peakGflops: ["avx2": Double(below(3)), "avx512": 1.5], l2: 1, l3: 0.5, dram: Double(below(2)), regionNs: 250,
      date: Int64(below(2)))
  }

  mutating func line() -> WisdomLine {
    let cpu = oneOf(["here", "there"])
    switch below(8) {
    case 0: return .quarantine(cpu: cpu, quarantine())
    case 1: return .machine(cpu: cpu, machine())
    case 2: return .unknown(oneOf([#"{"schema": 1, "kind": "later", "x": 1}"#, #"{"schema": 1, "kind": "other"}"#]))
    default: return .tuned(cpu: cpu, record())
    }
  }

  mutating func book(_ count: Int) -> WisdomBook {
    var book = WisdomBook()
    for _ in 0..<count { book.add(line()) }
    return book
  }
}

extension WisdomBook {
  func joined(_ other: WisdomBook) -> WisdomBook {
    var out = self
    out.join(other)
    return out
  }
}

extension WisdomStore {
  /// As a context on this CPU would open it.
  convenience init(_ path: String?, readOnly: [String] = [], cpu: String = "here", lines: Lines = Lines()) {
    self.init(path: path, readOnly: readOnly, cpu: cpu, log: lines.log)
  }
}

/// A record that is like no other in its key.
func sampleRecord(_ n: Int64, op: String = "nsa", rigor: Int32 = 4, date: Int64 = 1_700_000_000) -> WisdomRecord {
  let winner = TunedCandidate(kernel: "tile", revision: 3, knobs: "bq=64,bk=128", workers: 2)
  return WisdomRecord(
    key: WisdomKey(op: op, family: "forward f32 D=64", sizes: [WisdomKey.Size(name: "Nk", value: n)]), winner: winner,
    rigor: rigor,
    trials: [
      Trial(candidate: winner, status: .ok, medianNs: 1234.5, ratio: 0.75, spread: 0.01, rounds: 7, date: date),
      Trial(
        candidate: TunedCandidate(kernel: "row", revision: 1, knobs: "", workers: 1), status: .slow, medianNs: 9e6,
        ratio: 3.5, rounds: 1, date: date),
    ], plugin: "org.example", build: "00ff00ff", library: "0.1.0", date: date, drift: 0.02)
}

func contents(of path: String) -> [UInt8] { Array(FileManager.default.contents(atPath: path) ?? Data()) }
func listing(_ folder: Folder) -> [String] {
  ((try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []).sorted()
}
