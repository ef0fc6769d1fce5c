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
    var key: UnsafeMutableRawPointer, keyLength: Int  // the first one; the table's
    var sizes: UnsafeMutablePointer<Size>, sizeCount: Int
    var params: UnsafeMutablePointer<Int32>, paramCount: Int  // positions of structural i64 and f64 parameters
  }
  struct Size {
    var tensor: Int32, dim: Int32  // position in the problem
    var rule: BucketRule
    var offset: Int64
    var isChoice: Bool  // a dim of several forms (`1|Nk`): only whether it is 1 matters
  }

  /// A plan that is known, and by what.
  struct Known {
    var structure: UnsafeMutablePointer<Structure>
    var key: UnsafeMutableRawPointer, keyLength: Int  // the second one; the table's
    var plan: UnsafeMutablePointer<PlanRecord>

    /// Would these problems have the same keys? Looked at without writing them.
    @inline(__always)
    func isFor(_ problem: UnsafePointer<attune_problem>) -> Bool {
      var first = RunKey<Comparing>(structure.pointee.key, structure.pointee.keyLength)
      var second = RunKey<Comparing>(key, keyLength)
      return first.structure(of: problem) && first.length == structure.pointee.keyLength
        && second.sizes(of: problem, structure) && second.length == keyLength
    }
  }

  static let firstKeyBytes = 4096, secondKeyBytes = 2048
  /// Bounds the memory of a caller whose sizes never repeat; beyond it plans are made, used and dropped.
  private static let limit = 4096

  private let structures = PlanTable(), plans = PlanTable()
  private let writer = RecursiveLock()
  private var kept: [Plan] = []
  private var records: [UnsafeMutablePointer<Structure>] = []
  private var knowns: [UnsafeMutablePointer<Known>] = []
  private let last = UnsafeMutablePointer<UnsafeMutableRawPointer?>.allocate(capacity: 1)  // Known

  init() { last.initialize(to: nil) }

  deinit {
    last.deallocate()
    for k in knowns { k.deallocate() }
    for r in records {
      r.pointee.sizes.deallocate()
      r.pointee.params.deallocate()
      r.deallocate()
    }
  }

  /// What was found last, by any thread: most callers repeat themselves, and comparing a problem with it is cheaper than
  /// two keys and their hashes.
  @inline(__always)
  var recent: UnsafePointer<Known>? {
    UnsafePointer(crt_load_acquire(last)?.assumingMemoryBound(to: Known.self))
  }
  @inline(__always)
  func structure(_ key: UnsafeRawPointer, _ length: Int) -> UnsafeMutablePointer<Structure>? {
    structures.find(key, length)?.assumingMemoryBound(to: Structure.self)
  }
  @inline(__always)
  func plan(_ key: UnsafeRawPointer, _ length: Int) -> UnsafeMutablePointer<PlanRecord>? {
    guard let found = plans.find(key, length) else { return nil }
    crt_store_release(last, found)
    return found.assumingMemoryBound(to: Known.self).pointee.plan
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
      let copy = structures.keep(key, length)
      r.initialize(
        to: Structure(
          id: Int64(records.count), key: copy, keyLength: length, sizes: s, sizeCount: sizes.count, params: p,
          paramCount: structural.count))
      records.append(r)
      structures.insert(copy, length, UnsafeMutableRawPointer(r))
      return r
    }
  }

  /// Keeps a plan; if another thread was first, its plan.
  func add(
    _ key: UnsafeRawPointer, _ length: Int, _ structure: UnsafeMutablePointer<Structure>, _ plan: Plan
  ) -> UnsafeMutablePointer<PlanRecord> {
    writer.withLock {
      if let known = self.plan(key, length) { return known }
      let copy = plans.keep(key, length)
      let k = UnsafeMutablePointer<Known>.allocate(capacity: 1)
      k.initialize(to: Known(structure: structure, key: copy, keyLength: length, plan: plan.record))
      kept.append(plan)
      knowns.append(k)
      plans.insert(copy, length, UnsafeMutableRawPointer(k))
      return plan.record
    }
  }
}
