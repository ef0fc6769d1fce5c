import CRuntime
import Glibc
import Synchronization

/// A lock for cold paths that a forked child does not inherit: whoever held it stayed in the parent. It knows its
/// holder's process, and a holder from another one counts as gone. What it guards must then be taken as half changed.
package final class ProcessLock: Sendable {
  private let holder = Atomic<Int32>(0)

  package init() {}

  package enum Claim: Sendable {
    case clean
    /// The last holder was a thread of the parent, stopped by the fork inside.
    case inherited
  }

  /// nil: it is held.
  package func tryAcquire() -> Claim? {
    let own = getpid()
    let (isFree, found) = holder.compareExchange(expected: 0, desired: own, ordering: .acquiringAndReleasing)
    if isFree { return .clean }
    guard found != own else { return nil }
    return holder.compareExchange(expected: found, desired: own, ordering: .acquiringAndReleasing).exchanged
      ? .inherited : nil
  }

  /// Waits at most `limit` nanoseconds; nil: it is still held.
  package func acquire(limit: Int64) -> Claim? {
    let begin = crt_now_ns()
    var rounds = 0
    while true {
      if let claim = tryAcquire() { return claim }
      if rounds < 64 { sched_yield() } else { usleep(100) }
      rounds &+= 1
      if rounds & 15 == 0, crt_now_ns() &- begin > limit { return nil }
    }
  }

  package func release() { holder.store(0, ordering: .releasing) }
}
