import CAttune
import CRuntime
import Glibc
import Synchronization
import Testing

/// Parallel regions: every piece once, workers kept apart, contracts of lent threads enforced.
@Suite struct RegionTests {
  /// What the pieces of a region saw.
  final class Witness: Sendable {
    let counts: Mutex<[Int]>  // runs per element
    let running: Mutex<[Int]>  // pieces running per worker
    let collisions = Atomic(0)
    init(_ n: Int, workers: Int = 64) {
      counts = Mutex([Int](repeating: 0, count: n))
      running = Mutex([Int](repeating: 0, count: workers))
    }

    func enter(_ begin: Int64, _ end: Int64, _ worker: UInt32) {
      running.withLock {
        $0[Int(worker)] += 1
        if $0[Int(worker)] > 1 { collisions.add(1, ordering: .relaxed) }
      }
      counts.withLock { for i in begin..<end { $0[Int(i)] += 1 } }
      running.withLock { $0[Int(worker)] -= 1 }
    }
  }

  private static let body: attune_task_fn = { context, begin, end, worker in
    guard let context else { return }
    Unmanaged<Witness>.fromOpaque(context).takeUnretainedValue().enter(begin, end, worker)
  }

  private func run(_ region: inout crt_region, _ n: Int64, _ grain: Int64, _ witness: Witness) -> attune_status {
    crt_parallel(&region, n, grain, RegionTests.body, Unmanaged.passUnretained(witness).toOpaque())
  }

  @Test(arguments: [1, 2, 5]) func everyPieceOnce(threads: UInt32) {
    let pool = crt_pool_create(threads, 100)
    defer { crt_pool_release(pool) }
    for (n, grain) in [(0, 1), (1, 1), (7, 3), (1000, 1), (1000, 400), (64, 1000)] {
      let witness = Witness(n)
      var region = crt_region(pool: pool, parallel_for: nil, user: nil, cancel: nil, workers: threads, reserved: 0)
      #expect(run(&region, Int64(n), Int64(grain), witness) == 0)
      #expect(witness.counts.withLock { $0.allSatisfy { $0 == 1 } })
      #expect(witness.collisions.load(ordering: .relaxed) == 0)
    }
  }

  @Test func manyCallersShareAPool() async {
    let pool = UInt(bitPattern: crt_pool_create(3, 50))
    await withTaskGroup(of: Bool.self) { group in
      for _ in 0..<4 {
        group.addTask {
          for _ in 0..<300 {
            let witness = Witness(40)
            var region = crt_region(
              pool: OpaquePointer(bitPattern: pool), parallel_for: nil, user: nil, cancel: nil, workers: 3, reserved: 0)
            let status = crt_parallel(&region, 40, 2, RegionTests.body, Unmanaged.passUnretained(witness).toOpaque())
            guard status == 0, witness.counts.withLock({ $0.allSatisfy { $0 == 1 } }),
              witness.collisions.load(ordering: .relaxed) == 0
            else { return false }
          }
          return true
        }
      }
      for await good in group { #expect(good) }
    }
    crt_pool_release(OpaquePointer(bitPattern: pool))
  }

  @Test func aPlanWithFewerWorkersStaysBelowThem() {
    let pool = crt_pool_create(4, 1000)
    defer { crt_pool_release(pool) }
    for _ in 0..<200 {
      let witness = Witness(100, workers: 2)  // a third worker would be out of bounds
      var region = crt_region(pool: pool, parallel_for: nil, user: nil, cancel: nil, workers: 2, reserved: 0)
      #expect(run(&region, 100, 1, witness) == 0)
      #expect(witness.counts.withLock { $0.allSatisfy { $0 == 1 } })
    }
  }

  @Test func cancelStopsBetweenPieces() {
    let flag = UnsafeMutablePointer<Int32>.allocate(capacity: 1)
    defer { flag.deallocate() }
    flag.pointee = 1
    let witness = Witness(10)
    var region = crt_region(pool: nil, parallel_for: nil, user: nil, cancel: flag, workers: 1, reserved: 0)
    #expect(run(&region, 10, 1, witness) == attune_status(ATTUNE_E_CANCELLED))
    #expect(witness.counts.withLock { $0.allSatisfy { $0 == 0 } })
    flag.pointee = 0
    #expect(run(&region, 10, 3, witness) == 0)
    #expect(witness.counts.withLock { $0.allSatisfy { $0 == 1 } })
  }

  typealias Lent =
    @convention(c) (UnsafeMutableRawPointer?, Int64, Int64, attune_task_fn?, UnsafeMutableRawPointer?) -> attune_status

  /// Lent threads that break their promise each in another way: refused, and nothing out of bounds has run.
  private static let broken: [(String, Lent)] = [
    (
      "worker",
      { _, n, _, fn, arg in
        fn?(arg, 0, n, 2); return 0
      }
    ),
    (
      "range",
      { _, n, _, fn, arg in
        fn?(arg, 0, n + 1, 0); return 0
      }
    ),
    (
      "negative",
      { _, n, _, fn, arg in
        fn?(arg, -1, n, 0); return 0
      }
    ),
    ("nothing", { _, _, _, _, _ in 0 }),
    (
      "half",
      { _, n, _, fn, arg in
        fn?(arg, 0, n / 2, 0); return 0
      }
    ),
    (
      "twice",
      { _, n, _, fn, arg in
        fn?(arg, 0, n, 0); fn?(arg, 0, n, 1); return 0
      }
    ),
  ]
  @Test(arguments: broken.indices) func lentThreadsKeepTheContract(_ i: Int) {
    let witness = Witness(8)
    var region = crt_region(
      pool: nil, parallel_for: RegionTests.broken[i].1, user: nil, cancel: nil, workers: 2, reserved: 0)
    #expect(run(&region, 8, 1, witness) == attune_status(ATTUNE_E_INVALID), "\(RegionTests.broken[i].0)")
  }

  @Test func lentThreadsMayFail() {
    let witness = Witness(8)
    var region = crt_region(
      pool: nil, parallel_for: { _, _, _, _, _ in attune_status(ATTUNE_E_NOMEM) }, user: nil, cancel: nil, workers: 2,
      reserved: 0)
    #expect(run(&region, 8, 1, witness) == attune_status(ATTUNE_E_NOMEM))
  }

  @Test func arenasNest() {
    let outer = crt_arena_acquire(1000)
    let inner = crt_arena_acquire(10)
    #expect(outer != nil && inner != nil && outer != inner)
    #expect(UInt(bitPattern: outer) % 64 == 0 && UInt(bitPattern: inner) % 64 == 0)
    crt_arena_release(inner)
    crt_arena_release(outer)
    let again = crt_arena_acquire(1000)
    #expect(again == outer)
    crt_arena_release(again)
    #expect(crt_arena_acquire(.max) == nil)
  }
}
