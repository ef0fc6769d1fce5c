import CAttune

/// What becomes of the parts of a key, one after the other. `false`: stop.
protocol KeySink {
  static func take<T: Equatable>(_ part: T, at place: UnsafeMutableRawPointer) -> Bool
}

enum Writing: KeySink {
  @inline(__always)
  static func take<T: Equatable>(_ part: T, at place: UnsafeMutableRawPointer) -> Bool {
    place.storeBytes(of: part, as: T.self)
    return true
  }
}

/// Compares with a key that was written before.
enum Comparing: KeySink {
  @inline(__always)
  static func take<T: Equatable>(_ part: T, at place: UnsafeMutableRawPointer) -> Bool {
    place.loadUnaligned(as: T.self) == part
  }
}

/// Writes the keys of a problem into a fixed block, or compares them with what is there. `false`: a part does not fit, is
/// another one, or cannot be read; the slow path decides why.
struct RunKey<Sink: KeySink> {
  private let base: UnsafeMutableRawPointer
  private let capacity: Int
  private(set) var length = 0

  init(_ base: UnsafeMutableRawPointer, _ capacity: Int) { (self.base, self.capacity) = (base, capacity) }

  @inline(__always)
  private mutating func text(_ s: UnsafePointer<CChar>) -> Bool {
    var i = 0
    while length < capacity {
      guard Sink.take(s[i], at: base + length) else { return false }
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
    defer { length &+= 4 }
    return Sink.take(v, at: base + length)
  }
  /// Zero bytes up to a multiple of 8.
  @inline(__always)
  private mutating func close() -> Bool {
    guard (length &+ 7) & ~7 <= capacity else { return false }
    while length & 7 != 0 {
      guard Sink.take(UInt8(0), at: base + length) else { return false }
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
