import CAttune
import Testing

@testable import AttuneCore

@Suite struct WisdomJoinTests {
  @Test func recordsJoinInAnyOrderAndAnyNumberOfTimes() {
    let key = WisdomKey(op: "nsa", family: "f", sizes: [])
    var draw = WisdomDraw(seed: 1)
    for _ in 0..<3000 {
      let (a, b, c) = (
        draw.record(key: key).canonical, draw.record(key: key).canonical, draw.record(key: key).canonical
      )
      #expect(a.joined(b) == b.joined(a))
      #expect(a.joined(b).joined(c) == a.joined(b.joined(c)))
      #expect(a.joined(a) == a)
      #expect(a.joined(b).joined(b) == a.joined(b))
    }
  }

  /// The bound on trials must not make the order of joins matter.
  @Test func tooManyTrialsJoinTheSameWay() {
    let key = WisdomKey(op: "nsa", family: "f", sizes: [])
    var draw = WisdomDraw(seed: 2)
    func large() -> WisdomRecord {
      var record = draw.record(key: key)
      record.trials = (0..<120).map { _ in
        var trial = draw.trial()
        trial.candidate.knobs = "b=\(draw.below(240))"
        trial.date = Int64(draw.below(9))
        return trial
      }
      return record.canonical
    }
    for _ in 0..<60 {
      let (a, b, c) = (large(), large(), large())
      let whole = a.joined(b).joined(c)
      #expect(whole == c.joined(b).joined(a))
      #expect(whole == b.joined(a.joined(c)))
      #expect(whole.trials.count == WisdomLimits.trials)
    }
  }

  @Test func booksJoinInAnyOrderAndAnyNumberOfTimes() {
    var draw = WisdomDraw(seed: 3)
    for _ in 0..<300 {
      let (a, b, c) = (draw.book(12), draw.book(12), draw.book(12))
      #expect(a.joined(b) == b.joined(a))
      #expect(a.joined(b).joined(c) == a.joined(b.joined(c)))
      #expect(a.joined(a) == a)
      #expect(a.joined(b).file == b.joined(a).file)
    }
  }

  @Test func theBetterFoundedVerdictCounts() {
    let key = WisdomKey(op: "nsa", family: "f", sizes: [])
    func record(_ kernel: String, rigor: Int32, weighed: Int, date: Int64) -> WisdomRecord {
      var r = WisdomRecord(
        key: key, winner: TunedCandidate(kernel: kernel, revision: 1, knobs: "", workers: 1), rigor: rigor, trials: [],
        plugin: "p", build: "b", library: "l", date: date)
      r.verdict.weighed = weighed
      return r
    }
    func winner(_ a: WisdomRecord, _ b: WisdomRecord) -> String { a.joined(b).winner.kernel }
    let base = record("base", rigor: 4, weighed: 5, date: 10)
    #expect(winner(base, record("rigor", rigor: 5, weighed: 1, date: 1)) == "rigor")
    #expect(winner(base, record("trials", rigor: 4, weighed: 6, date: 1)) == "trials")
    #expect(winner(base, record("later", rigor: 4, weighed: 5, date: 11)) == "later")
    #expect(winner(base, record("lax", rigor: 3, weighed: 99, date: 99)) == "base")
    #expect(winner(base, record("aaaa", rigor: 4, weighed: 5, date: 10)) == "base")
  }

  @Test func aLaterTrialReplacesAnEarlierOne() {
    let candidate = TunedCandidate(kernel: "k", revision: 1, knobs: "", workers: 1)
    let early = Trial(candidate: candidate, status: .ok, ratio: 0.1, date: 1)
    let late = Trial(candidate: candidate, status: .wrong, date: 2)
    #expect(Trial.canonical([early, late]) == [late])
    #expect(Trial.canonical([late, early]) == [late])
  }

  /// A tuner that measures again because a plugin has changed looks at fewer candidates, maybe within the same second.
  @Test func aVerdictMadeInKnowledgeOfAnotherReplacesIt() {
    let store = WisdomStore(nil)
    store.keep(sampleRecord(1))
    var again = sampleRecord(1)
    again.trials = []
    again.verdict.winner.kernel = "other"
    again.verdict.build = "new"
    store.keep(again)
    #expect(store.find(again.key)?.winner.kernel == "other")
    #expect(store.find(again.key)?.trials.count == 2)
    var lax = again
    lax.verdict.rigor = 3
    lax.verdict.winner.kernel = "lax"
    store.keep(lax)
    #expect(store.find(again.key)?.winner.kernel == "other")
  }

  @Test func aFileThatWouldBeTooLargeGivesUpTheLeastFounded() {
    var book = WisdomBook()
    for n in 0..<20 {
      book.add(.tuned(cpu: "here", sampleRecord(Int64(n), rigor: n == 3 ? 5 : 4, date: 1000 + Int64(n))))
    }
    let whole = book.file
    #expect(book.file(limit: whole.count) == whole)
    let half = book.file(limit: whole.count / 2)
    #expect(half.count <= whole.count / 2 && half.count > whole.count / 3)
    let text = String(decoding: half, as: UTF8.self)
    #expect(text.contains(#"{"Nk": 3}"#) && text.contains(#"{"Nk": 19}"#) && !text.contains(#"{"Nk": 4}"#))
  }

  @Test func aFullBookGivesUpTheLeastFounded() {
    var book = WisdomBook()
    for n in 0..<Int64(WisdomLimits.records + 10) {
      book.add(.tuned(cpu: "here", sampleRecord(n, rigor: n == 0 ? 5 : 4, date: 1_000_000 + n)))
    }
    let text = String(decoding: book.file, as: UTF8.self)
    #expect(text.split(separator: "\n").count == WisdomLimits.records + 1)
    #expect(text.contains(#"{"Nk": 0}"#) && !text.contains(#"{"Nk": 1}"#) && !text.contains(#"{"Nk": 10}"#))
    #expect(text.contains(#"{"Nk": 11}"#))
  }
}
