import CAttune

/// What becomes of the parts of a key, one after the other. `false`: stop.
protocol KeySink {
  /// Is the key there already? Then no part needs room: as long as all parts before were equal, the next one is there, too,
  /// because each says by itself where it ends.
  static var isKnown: Bool { get }
  static func take<T: Equatable & BitwiseCopyable>(_ part: T, at place: UnsafeMutableRawPointer) -> Bool
}

enum Writing: KeySink {
  static var isKnown: Bool { false }
  @inline(__always)
  static func take<T: Equatable & BitwiseCopyable>(_ part: T, at place: UnsafeMutableRawPointer) -> Bool {
    place.storeBytes(of: part, as: T.self)
    return true
  }
}

/// Compares with a key that was written before.
enum Comparing: KeySink {
  static var isKnown: Bool { true }
  @inline(__always)
  static func take<T: Equatable & BitwiseCopyable>(_ part: T, at place: UnsafeMutableRawPointer) -> Bool {
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
  private func hasRoom(_ bytes: Int) -> Bool { Sink.isKnown || length &+ bytes <= capacity }

  @inline(__always)
  private mutating func text(_ s: UnsafePointer<CChar>) -> Bool {
    var i = 0
    while hasRoom(i &+ 1), Sink.isKnown || i < 256 {
      guard Sink.take(s[i], at: base + (length &+ i)) else { return false }
      i &+= 1
      if s[i &- 1] == 0 {
        length &+= i
        return true
      }
    }
    return false
  }
  /// NULL is not "": a byte tells them apart, or a known key would be read past a part of another length.
  @inline(__always)
  private mutating func optional(_ s: UnsafePointer<CChar>?) -> Bool {
    guard let s else { return part(UInt8(0)) }
    return part(UInt8(1)) && text(s)
  }
  @inline(__always)
  private mutating func part<T: Equatable & BitwiseCopyable>(_ value: T) -> Bool {
    guard hasRoom(MemoryLayout<T>.size), Sink.take(value, at: base + length) else { return false }
    length &+= MemoryLayout<T>.size
    return true
  }
  /// Two at once: half as many steps.
  @inline(__always)
  private mutating func parts(_ low: UInt32, _ high: UInt32) -> Bool { part(UInt64(high) << 32 | UInt64(low)) }
  /// Zero bytes up to a multiple of 8.
  @inline(__always)
  private mutating func close() -> Bool {
    while length & 7 != 0 { guard part(UInt8(0)) else { return false } }
    return true
  }

  @inline(__always)
  private static func type(_ t: UnsafePointer<attune_tensor>) -> UInt32 {
    UnsafeRawPointer(t).load(fromByteOffset: MemoryLayout<attune_tensor>.offset(of: \.dtype) ?? 0, as: UInt32.self)
  }

  mutating func structure(of p: UnsafePointer<attune_problem>) -> Bool {
    let c = p.pointee
    guard let op = c.op, text(op), parts(c.flags, UInt32(bitPattern: c.workers)),
      parts(
        UInt32(bitPattern: c.tune_mode), UInt32(bitPattern: c.device_type) | UInt32(bitPattern: c.device_id) << 16)
    else { return false }
    guard optional(c.entry), optional(c.kernel) else { return false }
    guard c.tensors.count <= 64, c.params.count <= 64 else { return false }
    guard c.tensors.count == 0 || (c.tensors.stride >= 24 && c.tensors.stride & 7 == 0 && c.tensors.stride <= 4096),
      c.params.count == 0 || (c.params.stride >= 40 && c.params.stride & 7 == 0 && c.params.stride <= 4096),
      parts(c.tensors.count, c.params.count)
    else { return false }
    for i in 0..<Int(c.tensors.count) {
      guard let raw = c.tensors.data else { return false }
      let ref = raw.advanced(by: i &* Int(c.tensors.stride)).assumingMemoryBound(to: attune_tensor_ref.self)
      guard CallerMemory.verdict(ref) == .good, ref.pointee.reserved == 0,
        let name = ref.pointee.name, text(name), let t = ref.pointee.tensor,
        UInt(bitPattern: t) & 7 == 0, t.pointee.ndim >= 0, t.pointee.ndim <= 8,
        t.pointee.ndim == 0 || t.pointee.shape != nil
      else { return false }
      guard part(t.pointee.ndim), part(RunKey.type(t)) else { return false }
    }
    for i in 0..<Int(c.params.count) {
      guard let raw = c.params.data else { return false }
      let x = raw.advanced(by: i &* Int(c.params.stride)).assumingMemoryBound(to: attune_param.self)
      guard CallerMemory.verdict(x) == .good, let name = x.pointee.name, text(name), part(x.pointee.kind) else {
        return false
      }
      if x.pointee.kind == UInt32(ATTUNE_PARAM_ENUM) {
        guard let word = x.pointee.word, text(word) else { return false }
      } else if x.pointee.kind == UInt32(ATTUNE_PARAM_BOOL) {
        guard x.pointee.value.i == 0 || x.pointee.value.i == 1, part(UInt32(x.pointee.value.i)) else { return false }
      }
    }
    return close()
  }

  mutating func sizes(of p: UnsafePointer<attune_problem>, _ s: UnsafePointer<RunCache.Structure>) -> Bool {
    guard part(s.pointee.id) else { return false }
    for i in 0..<s.pointee.sizeCount {
      let size = s.pointee.sizes + i
      guard let extent = RunCache.extent(of: p, size), part(size.pointee.part(of: extent)) else { return false }
    }
    for i in 0..<s.pointee.paramCount {
      guard let value = RunCache.param(of: p, s, i), part(value) else { return false }
    }
    return true
  }
}
