import Testing

@testable import AttuneCore

/// A machine made of numbers: candidates with true times, disturbed as real ones are.
private struct FakeMachine {
  var times: [Double]
  var noise = 0.01
  /// Share of samples that take two to four times as long.
  var bursts = 0.0
  /// Share of time in which everything takes twice as long, for some samples at a stretch.
  var halved = 0.0
  /// Slow swings of the clock, as a share.
  var drift = 0.0
  var failing: Set<Int> = []
  private(set) var runs: [Int]
  private var numbers: SeededNumbers
  private var clock = 0.0, isHalved = false

  init(_ times: [Double], seed: UInt64) {
    self.times = times
    runs = Array(repeating: 0, count: times.count)
    numbers = SeededNumbers(seed: seed)
  }

  mutating func run(_ i: Int) -> Double {
    runs[i] += 1
    clock += 1
    var ns = times[i] * (1 + noise * numbers.normal())
    ns *= 1 + drift * (0.5 + 0.5 * (clock / 40).truncatingRemainder(dividingBy: 1))
    if numbers.chance(0.2) { isHalved = numbers.chance(halved) }
    if isHalved { ns *= 2 }
    if numbers.chance(bursts) { ns *= 2 + 2 * numbers.unit() }
    return max(ns, 1)
  }

  /// Runs a contest to its end, or to `most` samples.
  mutating func decide(sentinel: Int, preference: [Int]? = nil, seed: UInt64, most: Int = .max, rounds: Int? = nil)
    -> Contest
  {
    var rules = Contest.Rules()
    if let rounds { (rules.leastRounds, rules.mostRounds, rules.grace) = (rounds, 2 * rounds, rounds / 2) }
    var contest = Contest(
      lanes: times.count, sentinel: sentinel, preference: preference ?? Array(times.indices), seed: seed, rules: rules)
    var samples = 0
    while case .run(let i) = contest.next() {
      if samples == most {
        contest.stop()
        break
      }
      samples += 1
      if failing.contains(i) {
        runs[i] += 1
        contest.failed()
      } else {
        contest.took(run(i))
      }
    }
    return contest
  }
}

@Suite struct ContestTests {
  /// Share of seeds whose winner is at most `band` slower than the best.
  private func hits(
    _ times: [Double], sentinel: Int, seeds: UInt64 = 400, band: Double, rounds: Int? = nil,
    _ disturb: (inout FakeMachine) -> Void
  )
    -> Double
  {
    let best = times.min() ?? 1
    var good = 0
    for seed in 0..<seeds {
      var machine = FakeMachine(times, seed: seed)
      disturb(&machine)
      if let w = machine.decide(sentinel: sentinel, seed: seed, rounds: rounds).winner, times[w] <= best * (1 + band) {
        good += 1
      }
    }
    return Double(good) / Double(seeds)
  }

  @Test func findsTheBestInNoise() {
    #expect(hits([1100, 1000, 1060, 1090], sentinel: 0, band: 0.031) { $0.noise = 0.01 } >= 0.99)
  }

  @Test func findsTheBestWhileTheClockDrifts() {
    #expect(hits([1100, 1000, 1060, 1090], sentinel: 0, band: 0.031) { $0.drift = 0.08 } >= 0.99)
  }

  @Test func findsTheBestAmongBursts() {
    #expect(
      hits([1150, 1000, 1090, 1120, 1300], sentinel: 0, band: 0.031) {
        $0.bursts = 0.05
        $0.drift = 0.05
      } >= 0.99)
  }

  /// Two threads that share a core for half of the time.
  @Test func findsTheBestWhileTheMachineIsHalved() {
    #expect(hits([1150, 1000, 1120, 1300], sentinel: 0, band: 0.031, rounds: 30) { $0.halved = 0.5 } >= 0.99)
  }

  @Test func theDefaultWinsTies() {
    for seed in 0..<100 as Range<UInt64> {
      var machine = FakeMachine([1000, 990, 1005, 1010], seed: seed)
      machine.noise = 0.003
      #expect(machine.decide(sentinel: 0, seed: seed).winner == 0)
    }
  }

  @Test func equalsAreDecidedByPreference() {
    for seed in 0..<100 as Range<UInt64> {
      var machine = FakeMachine([2000, 1000, 1001, 1002], seed: seed)
      machine.noise = 0.002
      #expect(machine.decide(sentinel: 0, preference: [0, 3, 1, 2], seed: seed).winner == 2)
    }
  }

  @Test func aHopelessCandidateCostsLittle() {
    var machine = FakeMachine([1000, 50_000, 4000, 950], seed: 1)
    let contest = machine.decide(sentinel: 0, seed: 1)
    #expect(machine.runs[1] == 1)
    #expect(machine.runs[2] <= 3)
    #expect(contest.standing(1).status == .slow)
    #expect(contest.standing(1).warm != nil)
  }

  @Test func whatFailedNeverWins() {
    var machine = FakeMachine([1000, 100, 900], seed: 2)
    machine.failing = [1]
    let contest = machine.decide(sentinel: 0, seed: 2)
    #expect(contest.winner == 2)
    #expect(machine.runs[1] == 1)
    #expect(contest.standing(1).status == .failed)
  }

  @Test func withoutAYardstickNobodyIsCompared() {
    var machine = FakeMachine([1000, 900], seed: 3)
    machine.failing = [0]
    #expect(machine.decide(sentinel: 0, seed: 3).winner == nil)
    machine.failing = [0, 1]
    #expect(machine.decide(sentinel: 0, seed: 3).winner == nil)
  }

  @Test(arguments: 0..<60) func stoppingAtAnyTimeLeavesAWinner(samples: Int) {
    var machine = FakeMachine([1000, 700, 1500], seed: 4)
    let contest = machine.decide(sentinel: 0, seed: 4, most: samples)
    #expect([0, 1].contains(contest.winner))
  }

  @Test func itEnds() {
    var machine = FakeMachine(Array(repeating: 1000, count: 20), seed: 5)
    machine.bursts = 0.5
    let contest = machine.decide(sentinel: 3, seed: 5)
    #expect(contest.rounds <= 15)
    let samples = machine.runs.reduce(0, +)
    let most = 20 * (3 + 15 + 15)
    #expect(samples <= most)
  }

  @Test func twoContestsAgree() {
    var same = 0
    let times = [1000.0, 940, 930, 1200, 925]
    for seed in 0..<200 as Range<UInt64> {
      var a = FakeMachine(times, seed: seed)
      var b = FakeMachine(times, seed: seed &+ 1_000_000)
      a.bursts = 0.02
      b.bursts = 0.02
      guard let x = a.decide(sentinel: 0, seed: 9).winner, let y = b.decide(sentinel: 0, seed: 9).winner else {
        continue
      }
      if x == y || abs(times[x] / times[y] - 1) <= 0.03 { same += 1 }
    }
    #expect(same >= 190)
  }

  @Test func timesThatAreNoneAreHarmless() {
    var contest = Contest(lanes: 2, sentinel: 0, preference: [0, 1], seed: 0)
    while case .run(let i) = contest.next() { contest.took(i == 0 ? .nan : -1) }
    #expect(contest.winner == 0)
  }

  @Test func whatIsWarmRacesAtOnce() {
    var contest = Contest(lanes: 3, sentinel: 0, preference: [0, 1, 2], warm: [0: 100, 1: 90], seed: 0)
    #expect(contest.next() == .run(2))
    contest.took(1000)
    #expect(contest.standing(2).status == .slow)
    var seen: Set<Int> = []
    while case .run(let i) = contest.next() {
      seen.insert(i)
      contest.took(i == 0 ? 100 : 80)
    }
    #expect(seen == [0, 1])
    #expect(contest.winner == 1)
  }
}
