import CAttune
import Foundation
import Testing

@testable import AttuneCore

/// What a file loses when it is damaged: the lines that were hit, never more, and never silently.
@Suite struct WisdomFileTests {
  private static let book: WisdomBook = {
    var book = WisdomBook()
    for n in 1...3 { book.add(.tuned(cpu: "here", sampleRecord(Int64(n)))) }
    var draw = WisdomDraw(seed: 9)
    book.add(.quarantine(cpu: "here", draw.quarantine()))
    book.add(.machine(cpu: "there", draw.machine()))
    return book
  }()

  private static func read(_ bytes: [UInt8]) -> (lines: [WisdomLine], damaged: Int, isNewer: Bool) {
    var lines: [WisdomLine] = []
    var damaged = 0
    var isNewer = false
    bytes.withUnsafeBufferPointer {
      WisdomLine.forEach(in: $0) { _, verdict in
        switch verdict {
        case .good(let line): lines.append(line)
        case .newer: isNewer = true
        case .bad: damaged += 1
        }
      }
    }
    return (lines, damaged, isNewer)
  }

  private static func book(_ lines: [WisdomLine]) -> WisdomBook {
    var book = WisdomBook()
    for line in lines { book.add(line) }
    return book
  }

  @Test func whatIsWrittenIsReadBack() {
    var draw = WisdomDraw(seed: 4)
    for _ in 0..<50 {
      let book = draw.book(20)
      let back = WisdomFileTests.read(book.file)
      #expect(back.damaged == 0 && WisdomFileTests.book(back.lines) == book)
      #expect(WisdomFileTests.book(back.lines).file == book.file)
    }
  }

  /// The largest record that passes the checks must fit into a line.
  @Test func theLargestRecordFits() throws {
    let long = String(repeating: "k", count: Limits.name)
    let sizes = (0..<WisdomLimits.sizes).map {
      WisdomKey.Size(name: String(long.dropLast(2)) + "\($0 + 10)", value: .max)
    }
    var record = sampleRecord(1)
    record.key = WisdomKey(op: long, family: String(repeating: "f", count: WisdomLimits.family), sizes: sizes)
    record.trials = (0..<WisdomLimits.trials).map { i in
      let knobs = String(repeating: "q", count: WisdomLimits.knobs - 4) + "=\(i + 100)"
      return Trial(
        candidate: TunedCandidate(kernel: long, revision: .max, knobs: knobs, workers: Configuration.maxWorkers),
        status: .crashed, medianNs: 1.2345678901234567e-300, ratio: 1.2345678901234567e-300,
        spread: 1.2345678901234567e-300, rounds: 1_000_000, date: WisdomLimits.dates.upperBound)
    }
    record.verdict.winner = record.trials[0].candidate
    record.verdict.build = String(repeating: "b", count: WisdomLimits.build)
    try WisdomCheck.check(record)
    let cpu = String(repeating: "c", count: WisdomLimits.cpu)
    let line = WisdomLine.tuned(cpu: cpu, record)
    #expect(line.bytes.count <= WisdomLimits.lineBytes)
    var book = WisdomBook()
    book.add(line)
    #expect(WisdomFileTests.book(WisdomFileTests.read(book.file).lines) == book)
  }

  @Test func everyDamagedByteIsNoticedAndCostsItsLineAtMost() {
    let file = WisdomFileTests.book.file
    let whole = Set(file.split(separator: 0x0a).map { String(decoding: $0, as: UTF8.self) })
    var starts = [0]
    for (i, b) in file.enumerated() where b == 0x0a { starts.append(i + 1) }
    for i in file.indices {
      // One bit, the case of a letter, and what ends lines and records.
      for flip: UInt8 in [1 << UInt8(i & 7), 0x20, file[i] ^ 0x0a, file[i] ^ UInt8(ascii: "}")] where flip != 0 {
        var bytes = file
        bytes[i] ^= flip
        let back = WisdomFileTests.read(bytes)
        #expect(back.damaged >= 1, "byte \(i) ^ \(flip)")
        let lines = Set(back.lines.map { String(decoding: $0.bytes, as: UTF8.self) })
        #expect(lines.isSubset(of: whole), "byte \(i) ^ \(flip) made something up")
        #expect(lines.count >= whole.count - 1, "byte \(i) ^ \(flip) cost more than its line")
        // A damaged line feed costs nothing.
        if file[i] == 0x0a { #expect(lines == whole, "byte \(i) ^ \(flip)") }
      }
    }
  }

  @Test func aFileCutShortKeepsItsWholeLines() {
    let file = WisdomFileTests.book.file
    for length in 0...file.count {
      let back = WisdomFileTests.read(Array(file[..<length]))
      let feeds = file[..<length].count { $0 == 0x0a }
      let endsInObject = length < file.count && file[length] == 0x0a
      #expect(back.lines.count == feeds + (endsInObject ? 1 : 0))
      let isTorn = length > 0 && file[length - 1] != 0x0a && !endsInObject
      #expect(back.damaged == (isTorn ? 1 : 0))
    }
  }

  @Test func randomBytesGiveNothing() {
    var draw = WisdomDraw(seed: 5)
    for _ in 0..<2000 {
      let bytes = (0..<draw.below(400)).map { _ in UInt8(draw.below(256)) }
      #expect(WisdomFileTests.read(bytes).lines.isEmpty)
    }
  }

  @Test func fieldsOutOfBoundsAreDamage() {
    let good = String(decoding: WisdomLine.tuned(cpu: "here", sampleRecord(1)).bytes.dropFirst(9), as: UTF8.self)
    func isRead(_ json: String) -> Bool {
      WisdomFileTests.read(Array((CRC32C.text(CRC32C.of(json.utf8)) + " " + json).utf8)).lines.count == 1
    }
    #expect(isRead(good))
    for (from, to) in [
      (#""revision": 3"#, #""revision": -3"#), (#""revision": 3"#, #""revision": 4294967296"#),
      (#""revision": 3"#, #""revision": 3.5"#), (#""ratio": 0.75"#, #""ratio": -0.75"#),
      (#""ratio": 0.75"#, #""ratio": 1e999"#), (#""ratio": 0.75"#, #""ratio": "fast""#),
      (#""ns": 1234.5"#, #""ns": -0.0"#), (#""workers": 2"#, #""workers": 100000"#),
      (#""rigor": "measure""#, #""rigor": "guess""#), (#""status": "ok""#, #""status": "fine""#),
      (#""date": 1700000000"#, #""date": -1"#), (#""date": 1700000000"#, #""date": 9223372036854775807"#),
      (#""op": "nsa""#, #""op": """#), (#""op": "nsa""#, #""op": "n\u0000sa""#), (#""op": "nsa", "#, ""),
      (#"{"Nk": 1}"#, #"{"Nk": -1}"#), (#"{"Nk": 1}"#, #"{"Nk": 1, "Nk": 1}"#), (#"{"Nk": 1}"#, #"{"N k": 1}"#),
      (#"{"Nk": 1}"#, "[1]"), (#""cpu": "here""#, #""cpu": """#), (#""loaded": false"#, #""loaded": 0"#),
      (#""plugin": "org.example""#, #""plugin": "\#(String(repeating: "x", count: 64))""#),
      (#""kind": "tuned", "#, ""), (#""schema": 1, "#, ""), (#""schema": 1"#, #""schema": "1""#),
    ] {
      #expect(good.contains(from), "\(from)")
      #expect(!isRead(good.replacingOccurrences(of: from, with: to)), "\(to)")
    }
  }

  @Test func filesThatAreNoneAreRefusedAndKept() throws {
    let folder = Folder()
    func fault(_ name: String) -> WisdomFileFault.Kind? {
      do throws(WisdomFileFault) {
        _ = try WisdomFile(path: folder.file(name)).read()
        return nil
      } catch {
        #expect(error.sentence.hasPrefix(folder.file(name)))
        return error.kind
      }
    }
    mkfifo(folder.file("fifo"), 0o600)
    mkdir(folder.file("directory"), 0o700)
    symlink(folder.file("loop"), folder.file("loop"))
    symlink(folder.file("nothing"), folder.file("dangling"))
    symlink("/dev/zero", folder.file("zero"))
    folder.write(Array("Chapter one.\nIt was a dark night.\n".utf8), to: "novel")
    folder.write([], to: "empty")
    folder.write([UInt8](repeating: 0x20, count: WisdomLimits.fileBytes + 1), to: "huge")
    folder.write([UInt8](repeating: 0, count: 1 << 20), to: "zeros")
    #expect(fault("fifo") == .unreadable)
    #expect(fault("directory") == .unreadable)
    #expect(fault("loop") == .unreadable)
    #expect(fault("dangling") == .unreadable)
    #expect(fault("zero") == .unreadable)
    #expect(fault("novel") == .notWisdom)
    #expect(fault("zeros") == .notWisdom)
    #expect(fault("huge") == .unreadable)
    #expect(fault("missing") == .missing)
    #expect(fault("empty") == nil)
    let before = listing(folder)
    for name in before where name != "empty" {
      let lines = Lines()
      let old = contents(of: folder.file(name))
      do {
        let store = WisdomStore(folder.file(name), lines: lines)
        for n in 1...3 { store.keep(sampleRecord(Int64(n))) }
        store.flush()
        #expect(store.find(sampleRecord(1).key) != nil)
        #expect(store.status.reason != nil && store.status.unsaved == 3)
      }
      #expect(lines.all.count == 1, "\(name): \(lines.all)")
      if name != "fifo", name != "zero" { #expect(contents(of: folder.file(name)) == old) }
    }
    #expect(listing(folder) == before)
  }

  @Test func aNewerFileIsLeftAlone() {
    let folder = Folder()
    var newer = WisdomLine.unknown(#"{"schema": 2, "kind": "header"}"#).bytes + [0x0a]
    newer += WisdomLine.tuned(cpu: "here", sampleRecord(1)).bytes + [0x0a]
    for bytes in [newer, Array(newer.dropFirst(1)) + newer] {
      folder.write(bytes, to: "w")
      let lines = Lines()
      do {
        let store = WisdomStore(folder.file("w"), lines: lines)
        #expect(store.find(sampleRecord(1).key) == nil)
        store.keep(sampleRecord(2))
        #expect(store.find(sampleRecord(2).key) != nil)
        #expect(throws: Refusal.self) { try store.forget(op: nil) }
      }
      #expect(contents(of: folder.file("w")) == bytes)
      #expect(lines.all.count == 1 && lines.all.first?.contains("newer") == true)
    }
    #expect(listing(folder) == ["w"])
  }
}
