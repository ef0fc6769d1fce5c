import CRuntime

/// Times of single calls, in nanoseconds.
struct Timing {
  var samples: [Double] = []
  var total: Double { samples.reduce(0, +) }
  var median: Double { Timing.median(samples) }
  /// How much longer than `other`: the median over rounds of the difference within a round.
  func beyond(_ other: Timing) -> Double { Timing.median(zip(samples, other.samples).map { $0 - $1 }) }

  private static func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    guard !sorted.isEmpty else { return .nan }
    let middle = sorted.count / 2
    return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
  }
  var min: Double { samples.min() ?? .nan }
}

/// Times several bodies against each other: rounds are interleaved, so that a slow second of the machine hits all.
/// Each runs once or twice to warm up, then until it was measured for 0.3 s and 20 rounds, but not beyond 2 s.
/// A body shorter than 0.2 ms is repeated within a round.
struct Stopwatch {
  private struct Lane {
    let body: () throws -> Void
    var batch = 1
    var timing = Timing()
    var spent = 0.0

    mutating func round() throws {
      let begin = crt_now_ns()
      for _ in 0..<batch { try body() }
      let ns = Double(crt_now_ns() &- begin)
      spent += ns
      timing.samples.append(ns / Double(batch))
    }

    /// Nanoseconds of one call.
    func once() throws -> Double {
      let begin = crt_now_ns()
      try body()
      return Double(Swift.max(crt_now_ns() &- begin, 1))
    }

    var isDone: Bool { spent >= 2e9 || spent >= 0.3e9 && timing.samples.count >= 20 }
  }

  static func measure(_ bodies: [() throws -> Void]) throws -> [Timing] {
    var lanes = try bodies.map { body in
      var lane = Lane(body: body)
      var ns = try lane.once()
      if ns < 1e7 { ns = try lane.once() }  // the first call of a short one says little
      lane.batch = Int(Swift.max(1, (0.2e6 / ns).rounded(.up)))
      return lane
    }
    while lanes.contains(where: { !$0.isDone }) {
      for i in lanes.indices where !lanes[i].isDone { try lanes[i].round() }
    }
    return lanes.map(\.timing)
  }
}
