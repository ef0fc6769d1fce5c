import Glibc

/// How much of each output row comes from each block of keys, found by experiment: rows of `v` are scaled, and the rows
/// of `o` that move have read them. Needs to know nothing about the operator but the shapes of v and o.
struct AttentionMap {
  /// What rows of v are multiplied by where o is linear in them: large, so that a key shows whose weight is far below the
  /// rounding of the others' sum, and small enough that f32 holds the result.
  private static let large = [0x1p60]
  /// Where it is not, for instance where v takes part in choosing keys. Small, so that the choice stays. At a near tie
  /// it changes with one of the two and not with the other, so the smaller effect counts.
  private static let small = [1 + 0x1p-6, 1 - 0x1p-6]

  /// Block i of the axis is [edges[i], edges[i + 1]).
  let queryEdges: [Int]
  let keyEdges: [Int]
  /// By query block and key block: the largest part that any row of the block has from these keys, over batch and heads.
  /// 1 = as large as the row itself. Exactly 0: not one element of these rows moved.
  let parts: [[Double]]
  /// Of all rows of o and blocks of keys: the share of pairs in which the row moved with the block.
  let share: Double
  /// Whether o is linear in v, so that the large factor was used.
  let isLinear: Bool

  /// Runs `plan` once or twice for every block of keys, and a few times before. Changes v meanwhile and restores it.
  ///
  /// - v: [B,Hkv,Nk,Dv] and o: [B,Hq,Nq,Dv], tensors of the plan, f32.
  /// - cells: blocks per axis; fewer when the axis is shorter.
  /// - head: a query head; nil = all of them.
  init(_ plan: Plan, v: HostTensor, o: HostTensor, cells: Int, head: Int?) throws {
    let (heads, queries, keys) = (Int(o.shape[1]), Int(o.shape[2]), Int(v.shape[2]))
    let queryEdges = AttentionMap.edges(queries, cells)
    let keyEdges = AttentionMap.edges(keys, cells)
    try plan.execute()
    let rows = try Rows(copying: o)
    guard rows.areFinite else { throw Failure("o is not finite everywhere: nothing can be compared", code: 1) }
    try plan.execute()
    guard rows.areSame(as: o) else {
      throw Failure("\(try plan.info().kernel) gave other bits when it ran again: nothing can be told from it", code: 1)
    }
    let original = try HostTensor(v.dtype, v.shape)
    original.bytes.copyMemory(from: UnsafeRawBufferPointer(v.bytes))
    func execute(scaling keys: [Range<Int>], by factor: Double) throws {
      for range in keys { AttentionMap.scale(v, keys: range, by: factor) }
      defer { v.bytes.copyMemory(from: UnsafeRawBufferPointer(original.bytes)) }
      try plan.execute()
    }

    // Every second block, since scaling all of v alike would not change a choice that is made by comparing its rows.
    let blocks = keyEdges.indices.dropLast().map { keyEdges[$0]..<keyEdges[$0 + 1] }
    let odd = blocks.enumerated().filter { $0.offset % 2 == 0 }.map(\.element)
    try execute(scaling: odd, by: 2)
    let twice = try Rows(copying: o)
    try execute(scaling: odd, by: 4)
    isLinear = rows.lie(with: twice, onALineTo: o)
    let factors = isLinear ? AttentionMap.large : AttentionMap.small

    // Row r of o is query r % queries of head (r / queries) % heads.
    let asked = (0..<rows.count).filter { head == nil || $0 / queries % heads == head }
    var parts = queryEdges.dropLast().map { _ in [Double](repeating: 0, count: blocks.count) }
    let blockOfQuery = queryEdges.indices.dropLast().flatMap { block in
      repeatElement(block, count: queryEdges[block + 1] - queryEdges[block])
    }
    var touched = 0
    for (block, range) in blocks.enumerated() {
      var moved = [Double](repeating: .infinity, count: asked.count)
      for factor in factors {
        try execute(scaling: [range], by: factor)
        for (i, r) in asked.enumerated() { moved[i] = min(moved[i], rows.change(of: r, in: o) / abs(factor - 1)) }
      }
      for (r, part) in zip(asked, moved) where part > 0 {
        guard part.isFinite else {
          throw Failure("o is not finite when v is scaled at keys \(range): nothing can be compared", code: 1)
        }
        let q = blockOfQuery[r % queries]
        parts[q][block] = max(parts[q][block], part)
        touched += 1
      }
    }
    self.queryEdges = queryEdges
    self.keyEdges = keyEdges
    self.parts = parts
    share = Double(touched) / (Double(asked.count) * Double(blocks.count))
  }

  /// Borders of at most `cells` blocks of nearly equal length.
  private static func edges(_ length: Int, _ cells: Int) -> [Int] {
    let n = min(cells, length)
    return (0...n).map { $0 * length / n }
  }

  private static func scale(_ v: HostTensor, keys range: Range<Int>, by factor: Double) {
    let (keys, channels) = (Int(v.shape[2]), Int(v.shape[3]))
    let elements = v.bytes.bindMemory(to: Float.self)
    for group in 0..<(Int(v.shape[0]) * Int(v.shape[1])) {
      let begin = (group * keys + range.lowerBound) * channels
      for i in begin..<(begin + range.count * channels) { elements[i] *= Float(factor) }
    }
  }

  /// The rows of o as they are without any change, and how large each is.
  private struct Rows {
    let values: HostTensor
    let count: Int
    let width: Int
    private var scales: [Double]

    init(copying o: HostTensor) throws {
      values = try HostTensor(o.dtype, o.shape)
      values.bytes.copyMemory(from: UnsafeRawBufferPointer(o.bytes))
      width = Int(o.shape[3])
      count = o.count / width
      scales = (0..<count).map { [values, width] r in
        (r * width..<(r + 1) * width).reduce(0) { max($0, abs(values.value(at: $1))) }
      }
      // A row of zeros that moves later is compared with the rest of the tensor.
      let largest = scales.max() ?? 0
      scales = scales.map { $0 > 0 ? $0 : largest }
    }

    var areFinite: Bool { (0..<values.count).allSatisfy { values.value(at: $0).isFinite } }

    func areSame(as o: HostTensor) -> Bool {
      guard let a = values.bytes.baseAddress, let b = o.bytes.baseAddress else { return true }
      return memcmp(a, b, values.bytes.count) == 0
    }

    /// Whether o is where a straight line from these rows over `twice` leads, for a scale of 1, 2 and 4.
    func lie(with twice: Rows, onALineTo o: HostTensor) -> Bool {
      var (off, largest) = (0.0, 0.0)
      for i in 0..<o.count {
        let (a, b, c) = (values.value(at: i), twice.values.value(at: i), o.value(at: i))
        off = max(off, abs(c - b - 2 * (b - a)))
        largest = max(largest, abs(c))
      }
      return off <= 1e-3 * largest
    }

    /// Largest change of row r as a part of its largest element.
    func change(of r: Int, in o: HostTensor) -> Double {
      guard let a = values.bytes.baseAddress, let b = o.bytes.baseAddress else { return 0 }
      let bytes = width * values.dtype.size
      if memcmp(a + r * bytes, b + r * bytes, bytes) == 0 { return 0 }
      var most = 0.0
      for i in r * width..<(r + 1) * width {
        let change = abs(o.value(at: i) - values.value(at: i))
        guard change.isFinite else { return .infinity }
        most = max(most, change)
      }
      return most == 0 ? 0 : most / scales[r]
    }
  }
}
