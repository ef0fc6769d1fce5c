import Glibc

/// A lock that its holder may take again. For cold paths that call out to code which may come back; `Mutex` would trap.
package final class RecursiveLock: Sendable {
  private nonisolated(unsafe) let mutex: UnsafeMutablePointer<pthread_mutex_t>

  package init() {
    mutex = .allocate(capacity: 1)
    mutex.initialize(to: pthread_mutex_t())
    var attributes = pthread_mutexattr_t()
    pthread_mutexattr_init(&attributes)
    pthread_mutexattr_settype(&attributes, Int32(PTHREAD_MUTEX_RECURSIVE))
    pthread_mutex_init(mutex, &attributes)
    pthread_mutexattr_destroy(&attributes)
  }

  deinit {
    pthread_mutex_destroy(mutex)
    mutex.deallocate()
  }

  package func withLock<R, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    return try body()
  }

  /// nil: the lock was not free within `patienceNs`.
  package func withLock<R>(patienceNs: Int64, _ body: () -> R) -> R? {
    var end = timespec()
    clock_gettime(CLOCK_REALTIME, &end)
    let ns = Int64(end.tv_nsec) + max(patienceNs, 0)
    end.tv_sec += Int(ns / 1_000_000_000)
    end.tv_nsec = Int(ns % 1_000_000_000)
    guard pthread_mutex_timedlock(mutex, &end) == 0 else { return nil }
    defer { pthread_mutex_unlock(mutex) }
    return body()
  }
}
