import CRuntime
import Glibc

/// Byte keys to pointers: lookups take no lock, inserts are serialised by their caller. Slots are written once and a full
/// table is replaced by a larger one; old tables stay until the end, so a reader never loses what it looks at.
final class PlanTable {
  private struct Slot {
    var key: UnsafeMutableRawPointer?  // published last
    var length: Int
    var hash: UInt64
    var value: UnsafeMutableRawPointer
  }
  private struct Table {
    var mask: Int
    var slots: UnsafeMutablePointer<Slot>
  }
  private let current: UnsafeMutablePointer<UnsafeMutableRawPointer?>  // Table
  private var tables: [UnsafeMutablePointer<Table>] = []
  private var keys: [UnsafeMutableRawPointer] = []
  private(set) var count = 0

  init() {
    current = .allocate(capacity: 1)
    current.initialize(to: nil)
    grow(to: 64)
  }
  deinit {
    for t in tables {
      t.pointee.slots.deallocate()
      t.deallocate()
    }
    for k in keys { k.deallocate() }
    current.deallocate()
  }

  /// `length` is a multiple of 8; the bytes behind the content are zero.
  @inline(__always)
  static func hash(_ key: UnsafeRawPointer, _ length: Int) -> UInt64 {
    // Four sums side by side: one would wait for its multiplication at every word.
    var a: UInt64 = 0x9E37_79B9_7F4A_7C15, b = a &+ 1, c = a &+ 2, d = a &+ 3
    var i = 0
    while i &+ 32 <= length {
      a = mixed(a, key.load(fromByteOffset: i, as: UInt64.self))
      b = mixed(b, key.load(fromByteOffset: i &+ 8, as: UInt64.self))
      c = mixed(c, key.load(fromByteOffset: i &+ 16, as: UInt64.self))
      d = mixed(d, key.load(fromByteOffset: i &+ 24, as: UInt64.self))
      i &+= 32
    }
    while i < length {
      a = mixed(a, key.load(fromByteOffset: i, as: UInt64.self))
      i &+= 8
    }
    return mixed(mixed(a, b), mixed(c, d))
  }

  @inline(__always)
  private static func mixed(_ h: UInt64, _ word: UInt64) -> UInt64 {
    let product = (h ^ word) &* 0xff51_afd7_ed55_8ccd
    return product ^ product >> 32
  }

  @inline(__always)
  func find(_ key: UnsafeRawPointer, _ length: Int) -> UnsafeMutableRawPointer? {
    guard let raw = crt_load_acquire(current) else { return nil }
    let table = raw.assumingMemoryBound(to: Table.self)
    let h = PlanTable.hash(key, length)
    let mask = table.pointee.mask
    let slots = table.pointee.slots
    var i = Int(truncatingIfNeeded: h) & mask
    while true {
      let slot = slots + i
      let known = UnsafeMutableRawPointer(slot).assumingMemoryBound(to: UnsafeMutableRawPointer?.self)
      guard let k = crt_load_acquire(known) else { return nil }
      if slot.pointee.hash == h, slot.pointee.length == length, memcmp(k, key, length) == 0 {
        return slot.pointee.value
      }
      i = (i &+ 1) & mask
    }
  }

  /// A copy that lives as long as the table. Serialised by the caller.
  func keep(_ key: UnsafeRawPointer, _ length: Int) -> UnsafeMutableRawPointer {
    let copy = UnsafeMutableRawPointer.allocate(byteCount: max(length, 8), alignment: 8)
    copy.copyMemory(from: key, byteCount: length)
    keys.append(copy)
    return copy
  }

  /// Serialised by the caller; the key must be new and has been kept.
  func insert(_ copy: UnsafeMutableRawPointer, _ length: Int, _ value: UnsafeMutableRawPointer) {
    count += 1
    if let t = tables.last, count * 2 > t.pointee.mask + 1 { grow(to: (t.pointee.mask + 1) * 2) }
    if let t = tables.last { PlanTable.put(t, copy, length, PlanTable.hash(copy, length), value) }
  }

  private static func put(
    _ t: UnsafeMutablePointer<Table>, _ key: UnsafeMutableRawPointer, _ length: Int, _ h: UInt64,
    _ value: UnsafeMutableRawPointer
  ) {
    var i = Int(truncatingIfNeeded: h) & t.pointee.mask
    while t.pointee.slots[i].key != nil { i = (i &+ 1) & t.pointee.mask }
    let slot = t.pointee.slots + i
    (slot.pointee.length, slot.pointee.hash, slot.pointee.value) = (length, h, value)
    crt_store_release(UnsafeMutableRawPointer(slot).assumingMemoryBound(to: UnsafeMutableRawPointer?.self), key)
  }

  private func grow(to capacity: Int) {
    let t = UnsafeMutablePointer<Table>.allocate(capacity: 1)
    let slots = UnsafeMutablePointer<Slot>.allocate(capacity: capacity)
    let empty = Slot(key: nil, length: 0, hash: 0, value: UnsafeMutableRawPointer(t))
    slots.initialize(repeating: empty, count: capacity)
    t.initialize(to: Table(mask: capacity - 1, slots: slots))
    if let old = tables.last {
      for i in 0...old.pointee.mask {
        let s = old.pointee.slots[i]
        if let k = s.key { PlanTable.put(t, k, s.length, s.hash, s.value) }
      }
    }
    tables.append(t)
    crt_store_release(current, UnsafeMutableRawPointer(t))
  }
}
