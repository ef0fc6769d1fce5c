import CAttune
import CRuntime
import Foundation
import Testing

@testable import AttuneCore

@Suite struct WisdomStoreTests {
  @Test func whatOneStoreKeepsAnotherFinds() {
    let folder = Folder()
    let path = folder.file("w.jsonl")
    var draw = WisdomDraw(seed: 6)
    let barred = draw.quarantine()
    let machine = draw.machine()
    do {
      let store = WisdomStore(path)
      store.keep(sampleRecord(1))
      store.keep(sampleRecord(2))
      store.quarantine(barred)
      store.machine = machine
    }
    let store = WisdomStore(path)
    #expect(store.find(sampleRecord(1).key) == sampleRecord(1).canonical)
    #expect(store.find(sampleRecord(3).key) == nil)
    #expect(Set(store.family("forward f32 D=64", op: "nsa").map(\.key.sizesText)) == ["Nk=1", "Nk=2"])
    #expect(store.family("forward f32 D=64", op: "sla").isEmpty)
    #expect(store.quarantined(op: barred.op, entry: "forward", build: "aa") == [barred])
    #expect(store.quarantined(op: barred.op, entry: "forward", build: "ab").isEmpty)
    #expect(store.machine == machine)
    #expect(store.status.records == 2 && store.status.unsaved == 0 && store.status.reason == nil)
    #expect(FileStatus(path: path)?.permissions == 0o600)
    #expect(listing(folder) == ["w.jsonl", "w.jsonl.lock"])
    store.forgive(op: barred.op)
    #expect(WisdomStore(path).quarantined(op: barred.op, entry: "forward", build: "aa").isEmpty)
  }

  @Test func aFirstRecordIsSavedAtOnce() {
    let folder = Folder()
    let store = WisdomStore(folder.file("w"))
    store.keep(sampleRecord(1))
    #expect(WisdomStore(folder.file("w")).find(sampleRecord(1).key) != nil)
    #expect(store.status.unsaved == 0)
  }

  @Test func theDefaultDirectoryIsMadeAndANamedOneIsNot() throws {
    let folder = Folder()
    var configuration = try Configuration(options: nil, isSecure: false) { _ in nil }
    let cpu = CPUFeatures(cap: nil)
    configuration.cacheDirectory = folder.file("cache/attune")
    configuration.makeWisdom(cpu: cpu).keep(sampleRecord(1))
    #expect(FileStatus(path: folder.file("cache/attune"))?.permissions == 0o700)
    #expect(FileStatus(path: folder.file("cache/attune/wisdom.jsonl")) != nil)
    configuration.wisdom = folder.file("missing/w")
    configuration.log = Log(threshold: nil) { _, _ in }
    configuration.makeWisdom(cpu: cpu).keep(sampleRecord(1))
    #expect(listing(folder) == ["cache"])
    configuration.wisdom = ""
    #expect(configuration.makeWisdom(cpu: cpu).status.path == nil)
    configuration.wisdom = "own:\(folder.file("cache/attune/wisdom.jsonl"))"
    let both = configuration.makeWisdom(cpu: cpu)
    #expect(both.status.path?.hasPrefix("/") == true && both.status.path?.hasSuffix("/own") == true)
    #expect(both.find(sampleRecord(1).key) != nil)
  }

  @Test func secureModeHasNoFile() throws {
    let configuration = try Configuration(options: nil, isSecure: true) { _ in "/root" }
    let status = configuration.makeWisdom(cpu: CPUFeatures(cap: nil)).status
    #expect(status.path == nil && status.reason == "in secure mode there is no file")
  }

  @Test func theOwnFileComesBeforeReadOnlyOnes() {
    let folder = Folder()
    var vendor = sampleRecord(1, rigor: 6)
    vendor.verdict.winner.kernel = "vendor"
    WisdomStore(folder.file("v")).keep(vendor)
    WisdomStore(folder.file("v")).keep(sampleRecord(2))
    let bytes = contents(of: folder.file("v"))
    let store = WisdomStore(folder.file("w"), readOnly: [folder.file("none"), folder.file("v")])
    #expect(store.find(vendor.key)?.winner.kernel == "vendor")
    store.keep(sampleRecord(1))
    #expect(store.find(vendor.key)?.winner.kernel == "tile")
    #expect(store.find(sampleRecord(2).key) != nil)
    store.flush()
    #expect(contents(of: folder.file("v")) == bytes)
    #expect(store.status.readOnly.map(\.records) == [0, 2])
  }

  @Test func foreignAndUnknownLinesStayInTheFile() {
    let folder = Folder()
    let unknown = WisdomLine.unknown(#"{"schema": 1, "kind": "later", "x": [1, 2]}"#)
    WisdomStore(folder.file("w"), cpu: "there").keep(sampleRecord(1))
    folder.write(contents(of: folder.file("w")) + unknown.bytes + [0x0a], to: "w")
    let store = WisdomStore(folder.file("w"))
    #expect(store.find(sampleRecord(1).key) == nil && store.status.foreign == 1)
    store.keep(sampleRecord(2))
    store.flush()
    #expect(WisdomStore(folder.file("w"), cpu: "there").find(sampleRecord(1).key) != nil)
    #expect(String(decoding: contents(of: folder.file("w")), as: UTF8.self).contains("later"))
    #expect(store.status.damaged == 0)
  }

  @Test func recordsOfOthersBecomeVisible() {
    let folder = Folder()
    let reader = WisdomStore(folder.file("w"))
    #expect(reader.find(sampleRecord(1).key) == nil)
    WisdomStore(folder.file("w")).keep(sampleRecord(1))
    let begin = crt_now_ns()
    while reader.find(sampleRecord(1).key) == nil, crt_now_ns() - begin < 5_000_000_000 { usleep(50_000) }
    #expect(reader.find(sampleRecord(1).key) != nil)
    #expect(crt_now_ns() - begin < 3_000_000_000)
  }

  @Test func damagedLinesAreCopiedBeforeTheyAreDropped() {
    let folder = Folder()
    do {
      let store = WisdomStore(folder.file("w"))
      for n in 1...3 { store.keep(sampleRecord(Int64(n))) }
    }
    var bytes = contents(of: folder.file("w"))
    bytes[bytes.count - 20] ^= 4
    folder.write(bytes, to: "w")
    let lines = Lines()
    let store = WisdomStore(folder.file("w"), lines: lines)
    #expect(store.find(sampleRecord(1).key) != nil && store.find(sampleRecord(3).key) == nil)
    #expect(store.status.damaged == 1)
    #expect(lines.all == ["warning: wisdom: \(folder.file("w")) has 1 damaged line: skipped"])
    #expect(listing(folder) == ["w", "w.lock"])
    store.keep(sampleRecord(4))
    store.flush()
    #expect(contents(of: folder.file("w.damaged")) == bytes)
    #expect(WisdomStore(folder.file("w")).status.damaged == 0)
    #expect(WisdomStore(folder.file("w")).status.records == 3)
  }

  @Test func whatKilledWritersLeftIsSweptUp() {
    let folder = Folder()
    folder.write([1, 2, 3], to: "w.tmp.123.4")
    folder.write([1, 2, 3], to: "w.tmp.notes")
    WisdomStore(folder.file("w")).keep(sampleRecord(1))
    #expect(listing(folder) == ["w", "w.lock", "w.tmp.notes"])
  }

  @Test func aFileBehindALinkIsReplacedAndNotTheLink() {
    let folder = Folder()
    WisdomStore(folder.file("w")).keep(sampleRecord(1))
    symlink("w", folder.file("link"))
    let store = WisdomStore(folder.file("link"))
    store.keep(sampleRecord(2))
    store.flush()
    #expect(WisdomStore(folder.file("w")).status.records == 2)
    #expect(listing(folder) == ["link", "w", "w.lock"])
  }

  /// Another process may be stopped while it holds the lock.
  @Test func aLockedFileIsSavedLater() {
    let folder = Folder()
    let lines = Lines()
    let holder = open(folder.file("w.lock"), O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    #expect(flock(holder, LOCK_EX) == 0)
    let store = WisdomStore(folder.file("w"), lines: lines)
    let begin = crt_now_ns()
    store.keep(sampleRecord(1))
    #expect((1_900_000_000...4_000_000_000).contains(crt_now_ns() - begin))
    store.keep(sampleRecord(2))  // waits no second time
    #expect(crt_now_ns() - begin < 4_500_000_000)
    #expect(store.status.unsaved == 2 && store.status.reason?.contains("held") == true)
    #expect(store.find(sampleRecord(2).key) != nil && lines.all.count == 1)
    close(holder)
    store.flush()
    #expect(store.status.unsaved == 0 && store.status.reason == nil)
    #expect(WisdomStore(folder.file("w")).status.records == 2)
  }

  @Test func forgettingReachesTheFileAndOtherStoresDoNotBringItBack() throws {
    let folder = Folder()
    let other = WisdomStore(folder.file("w"))
    other.keep(sampleRecord(1))
    other.keep(sampleRecord(2, op: "sla"))
    other.flush()
    let store = WisdomStore(folder.file("w"))
    #expect(store.knows(op: "nsa") && !store.knows(op: "mala"))
    try store.forget(op: "nsa")
    #expect(!store.knows(op: "nsa") && store.knows(op: "sla"))
    other.keep(sampleRecord(3, op: "sla"))
    other.flush()
    let after = WisdomStore(folder.file("w"))
    #expect(!after.knows(op: "nsa") && after.status.records == 2)
    try after.forget(op: nil)
    #expect(WisdomStore(folder.file("w")).status.records == 0)
  }

  @Test func filesGoFromStoreToStore() throws {
    let folder = Folder()
    let (a, b) = (WisdomStore(nil), WisdomStore(folder.file("b")))
    a.keep(sampleRecord(1))
    a.keep(sampleRecord(2))
    try a.export(to: folder.file("out"))
    b.keep(sampleRecord(1))
    #expect(try b.importFile(folder.file("out")) == .init(accepted: 1, duplicate: 1))
    #expect(try b.importFile(folder.file("out")) == .init(duplicate: 2))
    #expect(WisdomStore(folder.file("b")).status.records == 2)
    var bytes = contents(of: folder.file("out"))
    bytes[bytes.count - 5] ^= 1
    bytes += WisdomLine.tuned(cpu: "there", sampleRecord(1)).bytes + [0x0a]
    bytes += WisdomLine.unknown(#"{"schema": 1, "kind": "later"}"#).bytes
    folder.write(bytes, to: "mixed")
    let c = WisdomStore(nil)
    #expect(
      try c.importFile(folder.file("mixed")) == .init(accepted: 1, foreignCPU: 1, damaged: 1, unknown: 1))
    func code(_ name: String) -> Status? {
      do {
        _ = try c.importFile(folder.file(name))
        return nil
      } catch { return error.code }
    }
    folder.write(Array("no wisdom".utf8), to: "novel")
    #expect(code("missing") == .notFound && code("novel") == .corrupt && code(".") == .io)
    #expect(throws: Refusal.self) { try c.export(to: folder.path) }
    #expect(throws: Refusal.self) { try c.export(to: folder.file("no/where")) }
    #expect(!listing(folder).contains { $0.contains(".tmp.") })
  }

  @Test func badRecordsAreNotKept() {
    let lines = Lines()
    let store = WisdomStore(nil, lines: lines)
    var record = sampleRecord(1)
    record.trials[0].ratio = .nan
    store.keep(record)
    record.trials[0].ratio = -1
    store.keep(record)
    record = sampleRecord(1)
    record.verdict.winner.kernel = "a\nb"
    store.keep(record)
    #expect(store.status.records == 0 && lines.all.count == 3)
  }

  @Test func manyThreadsShareAStore() async {
    let folder = Folder()
    let store = WisdomStore(folder.file("w"))
    await withTaskGroup(of: Void.self) { group in
      for t in 0..<8 {
        group.addTask {
          for n in 0..<40 {
            store.keep(sampleRecord(Int64(t * 40 + n)))
            _ = store.find(sampleRecord(Int64(n)).key)
            if n % 8 == 0 { store.flush() }
          }
        }
      }
    }
    store.flush()
    #expect(WisdomStore(folder.file("w")).status.records == 320)
  }

  @Test func aLockLeftByTheParentIsOpen() {
    let lock = ProcessLock()
    #expect(lock.tryAcquire() == .clean)
    #expect(lock.tryAcquire() == nil && lock.acquire(limit: 1_000_000) == nil)
    lock.release()
    #expect(lock.acquire(limit: 1_000_000) == .clean)
  }
}
