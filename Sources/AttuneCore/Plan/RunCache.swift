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

  deinit {
    for r in records {
      r.pointee.sizes.deallocate()
      r.pointee.params.deallocate()
      r.deallocate()
    }
  }

  @inline(__always)
  func structure(_ key: UnsafeRawPointer, _ length: Int) -> UnsafeMutablePointer<Structure>? {
    structures.find(key, length)?.assumingMemoryBound(to: Structure.self)
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
      r.initialize(
        to: Structure(
          id: Int64(records.count), sizes: s, sizeCount: sizes.count, params: p, paramCount: structural.count))
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

/// Writes the keys of a problem into a fixed block. `false`: it does not fit or cannot be read; the slow path decides why.
struct RunKey {
  private let base: UnsafeMutableRawPointer
  private let capacity: Int
  private(set) var length = 0

  init(_ base: UnsafeMutableRawPointer, _ capacity: Int) { (self.base, self.capacity) = (base, capacity) }

  @inline(__always)
  private mutating func text(_ s: UnsafePointer<CChar>) -> Bool {
    var i = 0
    while length < capacity {
      base.storeBytes(of: s[i], toByteOffset: length, as: CChar.self)
      length &+= 1
      if s[i] == 0 { return true }
      i &+= 1
      if i > 255 { return false }
    }
    return false
  }
  @inline(__always)
  private mutating func number(_ v: UInt32) -> Bool {
    guard length &+ 4 <= capacity else { return false }
    base.storeBytes(of: v, toByteOffset: length, as: UInt32.self)
    length &+= 4
    return true
  }
  /// Zero bytes up to a multiple of 8.
  @inline(__always)
  private mutating func close() -> Bool {
    guard (length &+ 7) & ~7 <= capacity else { return false }
    while length & 7 != 0 {
      base.storeBytes(of: 0, toByteOffset: length, as: UInt8.self)
      length &+= 1
    }
    return true
  }

  mutating func structure(of p: UnsafePointer<attune_problem>) -> Bool {
    let c = p.pointee
    guard let op = c.op, text(op), number(c.flags), number(UInt32(bitPattern: c.workers)),
      number(UInt32(bitPattern: c.tune_mode)),
      number(UInt32(bitPattern: c.device_type) | UInt32(bitPattern: c.device_id) << 16)
    else { return false }
    if let e = c.entry { guard text(e) else { return false } } else { guard number(0) else { return false } }
    if let k = c.kernel { guard text(k) else { return false } } else { guard number(0) else { return false } }
    guard c.tensors.count <= 64, c.params.count <= 64 else { return false }
    guard c.tensors.count == 0 || (c.tensors.stride >= 24 && c.tensors.stride & 7 == 0 && c.tensors.stride <= 4096),
      c.params.count == 0 || (c.params.stride >= 40 && c.params.stride & 7 == 0 && c.params.stride <= 4096),
      number(c.tensors.count), number(c.params.count)
    else { return false }
    for i in 0..<Int(c.tensors.count) {
      guard let raw = c.tensors.data else { return false }
      let ref = raw.advanced(by: i &* Int(c.tensors.stride)).assumingMemoryBound(to: attune_tensor_ref.self)
      guard CallerMemory.verdict(ref) == .good, ref.pointee.reserved == 0,
        let name = ref.pointee.name, text(name), let t = ref.pointee.tensor,
        UInt(bitPattern: t) & 7 == 0, t.pointee.ndim >= 0, t.pointee.ndim <= 8,
        t.pointee.ndim == 0 || t.pointee.shape != nil
      else { return false }
      let d = t.pointee.dtype
      guard number(UInt32(d.code) | UInt32(d.bits) << 8 | UInt32(d.lanes) << 16), number(UInt32(t.pointee.ndim)) else {
        return false
      }
    }
    for i in 0..<Int(c.params.count) {
      guard let raw = c.params.data else { return false }
      let x = raw.advanced(by: i &* Int(c.params.stride)).assumingMemoryBound(to: attune_param.self)
      guard CallerMemory.verdict(x) == .good, let name = x.pointee.name, text(name), number(x.pointee.kind) else {
        return false
      }
      if x.pointee.kind == UInt32(ATTUNE_PARAM_ENUM) {
        guard let word = x.pointee.word, text(word) else { return false }
      } else if x.pointee.kind == UInt32(ATTUNE_PARAM_BOOL) {
        guard x.pointee.value.i == 0 || x.pointee.value.i == 1, number(UInt32(x.pointee.value.i)) else { return false }
      }
    }
    return close()
  }

  mutating func sizes(of p: UnsafePointer<attune_problem>, _ s: UnsafePointer<RunCache.Structure>) -> Bool {
    guard 8 &* (1 &+ s.pointee.sizeCount &+ s.pointee.paramCount) <= capacity else { return false }
    var word = base.assumingMemoryBound(to: Int64.self)
    word.pointee = s.pointee.id
    word += 1
    let c = p.pointee
    for i in 0..<s.pointee.sizeCount {
      let size = s.pointee.sizes[i]
      guard let raw = c.tensors.data else { return false }
      let ref = raw.advanced(by: Int(size.tensor) &* Int(c.tensors.stride)).assumingMemoryBound(
        to: attune_tensor_ref.self)
      guard let extent = ref.pointee.tensor?.pointee.shape?[Int(size.dim)] else { return false }
      if size.isChoice {
        word.pointee = extent == 1 ? 1 : 2
      } else {
        word.pointee = size.rule.round(extent &- size.offset)
      }
      word += 1
    }
    for i in 0..<s.pointee.paramCount {
      guard let raw = c.params.data else { return false }
      let x = raw.advanced(by: Int(s.pointee.params[i]) &* Int(c.params.stride)).assumingMemoryBound(
        to: attune_param.self)
      word.pointee =
        x.pointee.kind == UInt32(ATTUNE_PARAM_F64)
        ? Int64(bitPattern: x.pointee.value.f.bitPattern) : x.pointee.value.i
      word += 1
    }
    length = 8 &* (1 &+ s.pointee.sizeCount &+ s.pointee.paramCount)
    return true
  }
}
