import CAttune
import CRuntime

/// The remembered plans of `attune_run`, two lookups deep.
///
/// The first key is what a problem looks like (names, types, ranks, kinds and words of parameters); it finds how the sizes of
/// such problems are classed. The second adds the size class and the structural parameters; it finds the plan, which was made
/// for the largest sizes of its class. So a cache that grows by one token per call stays with one plan for a whole class.
final class RunCache: @unchecked Sendable {
  /// What a kind of problem adds to the second key.
  struct Structure {
    var id: Int64
    var key: UnsafeMutableRawPointer, keyLength: Int  // the first one
    var sizes: UnsafeMutablePointer<Size>, sizeCount: Int
    var params: UnsafeMutablePointer<Int32>, paramCount: Int  // positions of structural i64 and f64 parameters
  }
  struct Size {
    var tensor: Int32, dim: Int32  // position in the problem
    var rule: BucketRule
    var offset: Int64
    var isChoice: Bool  // a dim of several forms (`1|Nk`): only whether it is 1 matters
  }

  static let firstKeyBytes = 4096, secondKeyBytes = 2048
  /// Bounds the memory of a caller whose sizes never repeat; beyond it plans are made, used and dropped.
  private static let limit = 4096

  private let structures = PlanTable(), plans = PlanTable()
  private let writer = RecursiveLock()
  private var kept: [Plan] = []
  private var records: [UnsafeMutablePointer<Structure>] = []
  private let last = UnsafeMutablePointer<UnsafeMutableRawPointer?>.allocate(capacity: 1)  // Structure

  init() { last.initialize(to: nil) }

  deinit {
    last.deallocate()
    for r in records {
      r.pointee.key.deallocate()
      r.pointee.sizes.deallocate()
      r.pointee.params.deallocate()
      r.deallocate()
    }
  }

  /// The structure that was found last, by any thread: most callers repeat themselves, and comparing a problem with it is
  /// cheaper than a key and its hash.
  @inline(__always)
  var recent: UnsafeMutablePointer<Structure>? {
    crt_load_acquire(last)?.assumingMemoryBound(to: Structure.self)
  }
  @inline(__always)
  func structure(_ key: UnsafeRawPointer, _ length: Int) -> UnsafeMutablePointer<Structure>? {
    guard let found = structures.find(key, length) else { return nil }
    crt_store_release(last, found)
    return found.assumingMemoryBound(to: Structure.self)
  }
  @inline(__always)
  func plan(_ key: UnsafeRawPointer, _ length: Int) -> UnsafeMutablePointer<PlanRecord>? {
    plans.find(key, length)?.assumingMemoryBound(to: PlanRecord.self)
  }

  var isFull: Bool { writer.withLock { kept.count >= RunCache.limit } }

  /// Makes the structure of a problem that has been bound once.
  func addStructure(
    _ key: UnsafeRawPointer, _ length: Int, problem: BoundProblem, params: [(name: String, value: ParamValue)],
    exact: Bool
  ) -> UnsafeMutablePointer<Structure> {
    writer.withLock {
      if let known = structure(key, length) { return known }
      var sizes: [Size] = []
      for (position, t) in problem.order.enumerated() where !problem.entry.tensors[t].isOutput {
        for (d, dim) in (problem.program.dims[t] ?? []).enumerated() {
          var size = Size(
            tensor: Int32(position), dim: Int32(d), rule: .exact, offset: 0, isChoice: dim.forms.count > 1)
          if let bare = dim.bare, problem.entry.derived >> UInt64(bare.symbol) & 1 == 0 {
            size.offset = bare.offset
            if !exact { size.rule = problem.entry.buckets.first { $0.symbol == bare.symbol }?.rule ?? .exact }
          } else if dim.bare == nil, !size.isChoice, !exact {
            continue  // a function of other sizes
          }
          sizes.append(size)
        }
      }
      var structural: [Int32] = []
      for (position, p) in params.enumerated() {
        guard let spec = problem.op.params.first(where: { $0.name == p.name }), spec.isStructural else { continue }
        if spec.kind == .i64 || spec.kind == .f64 { structural.append(Int32(position)) }
      }
      let r = UnsafeMutablePointer<Structure>.allocate(capacity: 1)
      let s = UnsafeMutablePointer<Size>.allocate(capacity: max(sizes.count, 1))
      let p = UnsafeMutablePointer<Int32>.allocate(capacity: max(structural.count, 1))
      for (i, x) in sizes.enumerated() { (s + i).initialize(to: x) }
      for (i, x) in structural.enumerated() { (p + i).initialize(to: x) }
      let copy = UnsafeMutableRawPointer.allocate(byteCount: max(length, 8), alignment: 8)
      copy.copyMemory(from: key, byteCount: length)
      r.initialize(
        to: Structure(
          id: Int64(records.count), key: copy, keyLength: length, sizes: s, sizeCount: sizes.count, params: p,
          paramCount: structural.count))
      records.append(r)
      structures.insert(key, length, UnsafeMutableRawPointer(r))
      return r
    }
  }

  /// Keeps a plan; if another thread was first, its plan.
  func add(_ key: UnsafeRawPointer, _ length: Int, _ plan: Plan) -> UnsafeMutablePointer<PlanRecord> {
    writer.withLock {
      if let known = self.plan(key, length) { return known }
      kept.append(plan)
      plans.insert(key, length, UnsafeMutableRawPointer(plan.record))
      return plan.record
    }
  }
}
