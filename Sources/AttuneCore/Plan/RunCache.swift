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

    /// What of an extent is in the second key.
    @inline(__always)
    func part(of extent: Int64) -> Int64 { isChoice ? extent == 1 ? 1 : 2 : rule.round(extent &- offset) }
    /// The extents that have this part: above the first, up to the second. Some may be missing.
    func extents(of part: Int64) -> (above: Int64, upTo: Int64) {
      if isChoice { return part == 1 ? (0, 1) : (1, .max) }
      let range = rule.sizes(of: part)
      let (above, low) = range.above.addingReportingOverflow(offset)
      let (upTo, high) = range.upTo.addingReportingOverflow(offset)
      return low || high ? (0, 0) : (above, upTo)
    }
  }

  /// A plan that is known, and by what.
  struct Known {
    var structure: UnsafeMutablePointer<Structure>
    /// The sizes of its class, in the structure's order: above the first, up to the second.
    var ranges: UnsafeMutablePointer<(above: Int64, upTo: Int64)>
    var params: UnsafePointer<Int64>  // as in the second key
    var plan: UnsafeMutablePointer<PlanRecord>

    /// Would a problem's keys find this plan? Looked at without writing them.
    @inline(__always)
    func isFor(_ problem: UnsafePointer<attune_problem>) -> Bool {
      var first = RunKey<Comparing>(structure.pointee.key, structure.pointee.keyLength)
      guard first.structure(of: problem), first.length == structure.pointee.keyLength else { return false }
      for i in 0..<structure.pointee.sizeCount {
        guard let extent = RunCache.extent(of: problem, structure.pointee.sizes + i), extent > ranges[i].above,
          extent <= ranges[i].upTo
        else { return false }
      }
      for i in 0..<structure.pointee.paramCount where RunCache.param(of: problem, structure, i) != params[i] {
        return false
      }
      return true
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
    for k in knowns {
      k.pointee.ranges.deallocate()
      k.deallocate()
    }
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

  /// The extent that a size is made of; nil: the problem has none there.
  @inline(__always)
  static func extent(of problem: UnsafePointer<attune_problem>, _ size: UnsafePointer<Size>) -> Int64? {
    let tensors = problem.pointee.tensors
    guard let raw = tensors.data else { return nil }
    let ref = raw.advanced(by: Int(size.pointee.tensor) &* Int(tensors.stride)).assumingMemoryBound(
      to: attune_tensor_ref.self)
    return ref.pointee.tensor?.pointee.shape?[Int(size.pointee.dim)]
  }

  /// Structural parameter i, the bits of an f64; nil: the problem has none there.
  @inline(__always)
  static func param(of problem: UnsafePointer<attune_problem>, _ s: UnsafePointer<Structure>, _ i: Int) -> Int64? {
    let params = problem.pointee.params
    guard let raw = params.data else { return nil }
    let x = raw.advanced(by: Int(s.pointee.params[i]) &* Int(params.stride)).assumingMemoryBound(to: attune_param.self)
    let isReal = x.pointee.kind == UInt32(ATTUNE_PARAM_F64)
    return isReal ? Int64(bitPattern: x.pointee.value.f.bitPattern) : x.pointee.value.i
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
      let count = structure.pointee.sizeCount
      let ranges = UnsafeMutablePointer<(above: Int64, upTo: Int64)>.allocate(capacity: max(count, 1))
      let classes = UnsafePointer(copy.assumingMemoryBound(to: Int64.self) + 1)  // behind the structure's id
      for i in 0..<count { (ranges + i).initialize(to: structure.pointee.sizes[i].extents(of: classes[i])) }
      k.initialize(to: Known(structure: structure, ranges: ranges, params: classes + count, plan: plan.record))
      kept.append(plan)
      knowns.append(k)
      plans.insert(copy, length, UnsafeMutableRawPointer(k))
      return plan.record
    }
  }
}
