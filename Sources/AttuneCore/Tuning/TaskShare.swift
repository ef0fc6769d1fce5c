import CAttune
import CRuntime

/// An even choice of the tasks of a call, for timing large problems: one piece out of every `every`, each at another
/// place of its stretch, because tasks of equal place often cost the same (the first rows of every head are cheap
/// under a causal mask).
private struct Share {
  var call: UnsafeMutablePointer<TaskCall>
  var tasks: Int64, grain: Int64, every: Int64

  static func stretches(_ tasks: Int64, _ grain: Int64, _ every: Int64) -> Int64 {
    let pieces = (tasks + grain - 1) / grain
    return (pieces + every - 1) / every
  }

  /// Tasks of the piece that stands for a stretch. Multiples of the golden ratio fill an interval evenly.
  static func range(_ stretch: Int64, _ tasks: Int64, _ grain: Int64, _ every: Int64) -> (begin: Int64, end: Int64) {
    let pieces = (tasks + grain - 1) / grain
    let first = stretch * every
    let length = min(every, pieces - first)
    let golden = 0.5 + Double(stretch) * 0.6180339887498949
    let offset = min(length - 1, Int64(Double(length) * (golden - golden.rounded(.down))))
    let begin = (first + max(offset, 0)) * grain
    return (begin, min(begin + grain, tasks))
  }
}

extension TaskCall {
  /// Runs only the pieces that `PlanRecord.every` leaves. The outputs are worth nothing.
  static func runShare(_ c: inout TaskCall, _ tasks: Int64, _ grain: Int64) -> attune_status {
    let every = c.call.pointee.plan.pointee.every
    guard let region = UnsafeRawPointer(c.exec.reserved)?.assumingMemoryBound(to: crt_region.self), tasks > 0, grain > 0
    else { return 0 }
    return withUnsafeMutablePointer(to: &c) { c in
      var share = Share(call: c, tasks: tasks, grain: grain, every: every)
      let n = Share.stretches(tasks, grain, every)
      let status = crt_parallel(
        region, n, 1,
        { context, begin, end, worker in
          guard let context else { return }
          let s = context.assumingMemoryBound(to: Share.self).pointee
          for stretch in begin..<max(end, begin) {
            let r = Share.range(stretch, s.tasks, s.grain, s.every)
            if r.begin < r.end { TaskCall.piece(s.call, r.begin, r.end, worker) }
          }
        }, &share)
      if crt_load_i32(&c.pointee.failed) != 0 { return c.pointee.status }
      return status == 0 ? 0 : Cold.region(c.pointee.call, status)
    }
  }

  /// The share of all tasks that `runShare` runs.
  static func share(of tasks: Int64, _ grain: Int64, _ every: Int64) -> Double {
    guard tasks > 0, grain > 0, every > 0 else { return 1 }
    var run: Int64 = 0
    for stretch in 0..<Share.stretches(tasks, grain, every) {
      let r = Share.range(stretch, tasks, grain, every)
      run += max(0, r.end - r.begin)
    }
    return Double(run) / Double(tasks)
  }
}
