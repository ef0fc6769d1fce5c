import CAttune

/// What is wrong with a tensor record, as plain data: found on the execute path, put into words elsewhere.
struct TensorFault {
  enum Kind: UInt8 {
    case none, null, misaligned, rank, noShape, extent, dtype, device, offset, negativeStride, lastStride, tooMany,
      tooLarge, selfOverlap, noData, unaligned
  }
  var kind = Kind.none
  var dim: Int32 = 0
  var value: Int64 = 0
}

/// Where the elements of a checked tensor lie: first byte and one past the last; equal when there are none.
struct ByteRange {
  var low: UInt = 0, high: UInt = 0
  func meets(_ other: ByteRange) -> Bool { low < other.high && other.low < high }
}

enum Layout {
  /// Strides of a compact tensor in their normal form: 0 for a dim with at most one entry, 1 for the last.
  static func compactStrides(_ shape: [Int64]) -> [Int64] {
    var strides = [Int64](repeating: 1, count: shape.count)
    var step: Int64 = 1
    for d in shape.indices.reversed() {
      strides[d] = d == shape.count - 1 ? 1 : shape[d] <= 1 ? 0 : step
      step = step &* max(shape[d], 1)
    }
    return strides
  }

  @inline(__always)
  static func bits(_ d: attune_dtype) -> UInt32 { UInt32(d.code) | UInt32(d.bits) << 8 | UInt32(d.lanes) << 16 }

  /// The common case of `normalize`: a compact tensor of exactly the plan's shape and type. True when `out` and `range` are
  /// done; false says nothing, the full judgement follows.
  @inline(__always)
  static func matches(
    _ t: UnsafePointer<attune_tensor>, _ want: UnsafePointer<PlanTensor>, into out: UnsafeMutablePointer<attune_tensor>,
    range: inout ByteRange
  ) -> Bool {
    guard UInt(bitPattern: t) & 7 == 0, t.pointee.ndim == want.pointee.rank, t.pointee.strides == nil,
      t.pointee.device.device_type == Int32(ATTUNE_DEVICE_CPU), bits(t.pointee.dtype) == want.pointee.typeBits,
      let shape = t.pointee.shape, let data = t.pointee.data
    else { return false }
    var difference: Int64 = 0
    for d in 0..<Int(want.pointee.rank) { difference |= shape[d] ^ want.pointee.shape[d] }
    let (first, over) = UInt(bitPattern: data).addingReportingOverflow(UInt(t.pointee.byte_offset))
    let (last, tooLarge) = first.addingReportingOverflow(UInt(bitPattern: Int(want.pointee.bytes)))
    guard difference == 0, !over, !tooLarge, first & want.pointee.alignMask == 0 else { return false }
    range = ByteRange(low: first, high: last)
    out.pointee = attune_tensor(
      data: UnsafeMutableRawPointer(bitPattern: first), device: t.pointee.device, ndim: t.pointee.ndim,
      dtype: t.pointee.dtype, shape: UnsafeMutablePointer(mutating: want.pointee.shape),
      strides: UnsafeMutablePointer(mutating: want.pointee.strides), byte_offset: 0)
    return true
  }

  /// Checks one tensor record and writes its normal form: strides always there, offset folded into the pointer. `shape` and
  /// `strides` hold 8 each and back the result, so nothing that another thread may change is looked at twice.
  @inline(__always)
  static func normalize(
    _ t: UnsafePointer<attune_tensor>, isOutput: Bool, stridedLast: Bool, needsData: Bool,
    into out: UnsafeMutablePointer<attune_tensor>, shape: UnsafeMutablePointer<Int64>,
    strides: UnsafeMutablePointer<Int64>,
    range: inout ByteRange
  ) -> TensorFault {
    if UInt(bitPattern: t) & 7 != 0 { return TensorFault(kind: .misaligned) }
    let rank = Int(t.pointee.ndim)
    if rank < 0 || rank > 8 { return TensorFault(kind: .rank, value: Int64(rank)) }
    guard let given = t.pointee.shape ?? (rank == 0 ? shape : nil) else { return TensorFault(kind: .noShape) }
    guard let type = DType(t.pointee.dtype) else { return TensorFault(kind: .dtype) }
    if t.pointee.device.device_type != Int32(ATTUNE_DEVICE_CPU) {
      return TensorFault(kind: .device, value: Int64(t.pointee.device.device_type))
    }
    var empty = false
    for d in 0..<rank {
      let x = given[d]
      if x < 0 { return TensorFault(kind: .extent, dim: Int32(d), value: x) }
      shape[d] = x
      empty = empty || x == 0
    }
    // Reach: distance from the first to the last element, in elements.
    var reach: Int64 = 0
    var overflow = false
    if let s = t.pointee.strides {
      for d in 0..<rank {
        let x = shape[d]
        let step = s[d]
        if x <= 1 || empty {  // nobody steps along it
          strides[d] = d == rank &- 1 ? 1 : 0
          continue
        }
        if step < 0 { return TensorFault(kind: .negativeStride, dim: Int32(d), value: step) }
        if d == rank &- 1, step != 1, !stridedLast { return TensorFault(kind: .lastStride, dim: Int32(d), value: step) }
        strides[d] = step
        let (span, a) = (x &- 1).multipliedReportingOverflow(by: step)
        let (sum, b) = reach.addingReportingOverflow(span)
        overflow = overflow || a || b
        reach = sum
      }
      if isOutput, !empty, !overflow, let d = selfOverlap(rank, shape, strides) {
        return TensorFault(kind: .selfOverlap, dim: Int32(d), value: strides[d])
      }
    } else {
      var step: Int64 = 1
      var d = rank
      while d > 0 {
        d &-= 1
        strides[d] = shape[d] <= 1 ? (d == rank &- 1 ? 1 : 0) : step
        let (next, o) = step.multipliedReportingOverflow(by: max(shape[d], 1))
        overflow = overflow || o
        step = next
      }
      reach = step &- 1
    }
    let (bytes, tooMany) = reach.multipliedReportingOverflow(by: Int64(type.size))
    if !empty, overflow || tooMany || bytes > Int64.max / 2 {
      return TensorFault(kind: t.pointee.strides == nil ? .tooMany : .tooLarge)
    }
    let base = UInt(bitPattern: t.pointee.data)
    var data = t.pointee.data
    range = ByteRange()
    if base != 0 {
      let (first, over) = base.addingReportingOverflow(UInt(t.pointee.byte_offset))
      if over { return TensorFault(kind: .offset, value: Int64(truncatingIfNeeded: t.pointee.byte_offset)) }
      if !empty {
        let (last, over) = first.addingReportingOverflow(UInt(bytes) &+ UInt(type.size))
        if over { return TensorFault(kind: .tooLarge) }
        if first & UInt(type.size &- 1) != 0 { return TensorFault(kind: .unaligned, value: Int64(type.size)) }
        range = ByteRange(low: first, high: last)
      }
      data = UnsafeMutableRawPointer(bitPattern: first)
    } else if needsData, !empty {
      return TensorFault(kind: .noData)
    }
    out.pointee = attune_tensor(
      data: data, device: t.pointee.device, ndim: Int32(rank), dtype: t.pointee.dtype, shape: shape, strides: strides,
      byte_offset: 0)
    return TensorFault()
  }

  /// The dim by which two index tuples may share an element; nil for nested strides, which is what every real layout has.
  static func selfOverlap(_ rank: Int, _ shape: UnsafePointer<Int64>, _ strides: UnsafePointer<Int64>) -> Int? {
    var done: UInt32 = 0
    var span: Int64 = 0  // reach of the dims taken so far
    while true {
      var best = -1
      for d in 0..<rank where shape[d] > 1 && done >> UInt32(d) & 1 == 0 {
        if best < 0 || strides[d] < strides[best] { best = d }
      }
      if best < 0 { return nil }
      if strides[best] <= span { return best }
      done |= 1 << UInt32(best)
      span = span &+ (shape[best] &- 1) &* strides[best]
    }
  }

  /// Whether two tensors whose byte ranges meet really share bytes. Exact for interleaved views of one buffer (q, k, v and o
  /// side by side in each token's row), otherwise on the safe side.
  static func share(_ a: attune_tensor, _ b: attune_tensor) -> Bool {
    guard let ta = DType(a.dtype), let tb = DType(b.dtype), let pa = a.data, let pb = b.data else { return true }
    // Outside their inner contiguous run both step by multiples of one distance g: bytes repeat modulo g.
    let (runA, stepA) = innerRun(a, ta.size)
    let (runB, stepB) = innerRun(b, tb.size)
    let g = gcd(stepA, stepB)
    guard g > 0, runA <= g, runB <= g else { return true }
    let ra = Int64(bitPattern: UInt64(UInt(bitPattern: pa))) % g
    let rb = Int64(bitPattern: UInt64(UInt(bitPattern: pb))) % g
    guard ra >= 0, rb >= 0 else { return true }
    let ahead = (rb &- ra &+ g) % g  // start of b behind start of a on the circle of g bytes
    return !(ahead >= runA && ahead &+ runB <= g)
  }

  /// Bytes of the innermost contiguous run, and the gcd of the byte strides outside it (0: there is nothing outside).
  private static func innerRun(_ t: attune_tensor, _ item: Int) -> (Int64, Int64) {
    guard let shape = t.shape, let strides = t.strides else { return (.max, 1) }
    var run = Int64(item)
    var outer: Int64 = 0
    var left: UInt32 = 0
    for d in 0..<Int(t.ndim) where shape[d] > 1 { left |= 1 << UInt32(d) }
    var grew = true
    while grew {
      grew = false
      for d in 0..<Int(t.ndim) where left >> UInt32(d) & 1 == 1 && strides[d] &* Int64(item) == run {
        run = run &* shape[d]
        left &= ~(1 << UInt32(d))
        grew = true
      }
    }
    for d in 0..<Int(t.ndim) where left >> UInt32(d) & 1 == 1 { outer = gcd(outer, strides[d] &* Int64(item)) }
    return (run, outer)
  }

  private static func gcd(_ a: Int64, _ b: Int64) -> Int64 {
    var (x, y) = (a, b)
    while y != 0 { (x, y) = (y, x % y) }
    return x
  }

  /// The refusal of a fault. Cold path.
  static func refusal(_ f: TensorFault, _ name: String, _ at: String, _ t: attune_tensor?) -> Refusal {
    let d = f.dim
    switch f.kind {
    case .none: return Refusal(.internal, name, "\(at): \(name)")
    case .null: return Refusal(.invalid, name, "\(at): tensor \(name) is NULL")
    case .misaligned: return Refusal(.invalid, name, "\(at): the record of \(name) is not at a multiple of 8")
    case .rank:
      return Refusal(.shape, name, "\(at): \(name) has rank \(f.value), expected 0 to 8", detail: (8, f.value))
    case .noShape: return Refusal(.invalid, name, "\(at): \(name) has rank \(t?.ndim ?? 0) and shape NULL")
    case .extent:
      return Refusal(.shape, name, "\(at): \(name) dim \(d) is \(f.value), expected 0 or more", detail: (0, f.value))
    case .dtype:
      let x = t?.dtype ?? attune_dtype()
      return Refusal(
        .dtype, name,
        "\(at): \(name) has DLPack type code \(x.code), \(x.bits) bits, \(x.lanes) lanes, expected one of types.h")
    case .device:
      return Refusal(
        .layout, name, "\(at): \(name) is on device type \(f.value), expected 1 (CPU)", detail: (1, f.value))
    case .offset: return Refusal(.layout, name, "\(at): \(name) has byte_offset \(f.value), beyond the address space")
    case .negativeStride:
      return Refusal(
        .layout, name, "\(at): \(name) dim \(d) has stride \(f.value), expected 0 or more", detail: (0, f.value))
    case .lastStride:
      return Refusal(
        .layout, name, "\(at): \(name) dim \(d) (the last) has stride \(f.value), expected 1", detail: (1, f.value))
    case .tooMany: return Refusal(.shape, name, "\(at): \(name) has more elements than any memory holds")
    case .tooLarge: return Refusal(.layout, name, "\(at): \(name) reaches beyond the address space")
    case .selfOverlap:
      return Refusal(
        .layout, name, "\(at): \(name) is an output, but its elements overlap: dim \(d) has stride \(f.value)",
        detail: (0, f.value))
    case .noData: return Refusal(.invalid, name, "\(at): \(name) has no data (NULL), expected a pointer")
    case .unaligned:
      return Refusal(
        .layout, name, "\(at): \(name) is not aligned to its element, expected a multiple of \(f.value) bytes",
        detail: (f.value, 0))
    }
  }
}
