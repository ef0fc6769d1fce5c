import CAttune
import CRuntime
import Glibc

/// Tensors of one problem for trials: inputs with generated data, outputs between red zones. A caller's data is never
/// touched by a trial.
final class TrialMemory {
  private static let zone = 4096, pattern: UInt8 = 0x5A
  /// Generated numbers repeat after so many elements of a large tensor: making a random number takes longer than
  /// copying one, and no row begins at the same place of the period as another.
  private static let period = 65_521

  let problem: BoundProblem
  /// In the order of the problem, compact, with data.
  private(set) var tensors: [UnsafePointer<attune_tensor>?] = []
  private var blocks: [(tensor: Int, base: UnsafeMutableRawPointer, bytes: Int)] = []
  private var records: [UnsafeMutablePointer<attune_tensor>] = []

  /// Memory that the tensors of a problem take; nil when that is beyond counting.
  static func bytes(_ problem: BoundProblem) -> UInt64? {
    var sum: UInt64 = 0
    for t in problem.order {
      guard let b = Binder.byteCount(problem.shape(t), problem.storage.dtypes[t]) else { return nil }
      sum &+= UInt64(b) + 2 * UInt64(zone)
    }
    return sum
  }

  /// E_NOMEM; E_SHAPE when a generator has no value.
  init(_ problem: BoundProblem, seed: UInt64) throws(Refusal) {
    self.problem = problem
    for t in problem.order {
      let shape = problem.shape(t)
      let dtype = problem.dtype(t)
      guard let count = Binder.byteCount(shape, dtype.rawValue), let bytes = Int(exactly: count),
        bytes < Int.max / 4
      else { throw Refusal(.noMemory, "", "no memory for a trial") }
      var memory: UnsafeMutableRawPointer?
      guard posix_memalign(&memory, 4096, bytes + 2 * TrialMemory.zone) == 0, let base = memory else {
        throw Refusal(.noMemory, "", "no memory for a trial of \(bytes) bytes")
      }
      blocks.append((t, base, bytes))
      memset(base, Int32(TrialMemory.pattern), TrialMemory.zone)
      memset(base + TrialMemory.zone + bytes, Int32(TrialMemory.pattern), TrialMemory.zone)
      let data = base + TrialMemory.zone
      let model = problem.entry.tensors[t]
      if model.isOutput {
        memset(data, 0, bytes)
      } else {
        try TrialMemory.fill(data, bytes, model, dtype, shape, problem, seed)
      }
      records.append(TrialMemory.record(data, dtype, shape))
    }
    tensors = records.map { UnsafePointer($0) }
  }

  deinit {
    for block in blocks { free(block.base) }
    for record in records {
      record.pointee.shape?.deallocate()
      record.deallocate()
    }
  }

  private static func record(
    _ data: UnsafeMutableRawPointer, _ dtype: DType, _ shape: [Int64]
  ) -> UnsafeMutablePointer<attune_tensor> {
    let dims = UnsafeMutablePointer<Int64>.allocate(capacity: max(shape.count, 1))
    for (d, x) in shape.enumerated() { dims[d] = x }
    let record = UnsafeMutablePointer<attune_tensor>.allocate(capacity: 1)
    record.initialize(to: attune_tensor_make(data, dtype.rawValue, Int32(shape.count), dims))
    return record
  }

  private static func fill(
    _ data: UnsafeMutableRawPointer, _ bytes: Int, _ model: TensorModel, _ dtype: DType, _ shape: [Int64],
    _ problem: BoundProblem, _ seed: UInt64
  ) throws(Refusal) {
    let isEven: Bool =
      switch model.gen.kind {
      case .normal, .uniform, .weight, .zeros, .ones: true
      default: false
      }
    let some = period * dtype.size
    guard isEven, bytes > some else {
      return try model.gen.fill(
        data, dtype, shape: shape, environment: problem.environment, seed: seed, name: model.spec.name)
    }
    try model.gen.fill(
      data, dtype, shape: [Int64(period)], environment: problem.environment, seed: seed, name: model.spec.name)
    var done = some
    while done < bytes {
      let next = min(done, bytes - done)
      memcpy(data + done, data, next)
      done += next
    }
  }

  // MARK: looking at results

  /// The tensors whose red zones were written to since this was asked last.
  func takeDamage() -> [String] {
    var names: [String] = []
    for block in blocks {
      for zone in [block.base, block.base + TrialMemory.zone + block.bytes] where !TrialMemory.isIntact(zone) {
        memset(zone, Int32(TrialMemory.pattern), TrialMemory.zone)
        names.append(problem.entry.tensors[block.tensor].spec.name)
      }
    }
    return names
  }

  private static let untouched = [UInt8](repeating: pattern, count: zone)
  private static func isIntact(_ zone: UnsafeMutableRawPointer) -> Bool {
    memcmp(zone, untouched, untouched.count) == 0
  }

  /// A number that changes with any input byte.
  var inputSum: UInt64 {
    var sum: UInt64 = 0xcbf2_9ce4_8422_2325
    for block in blocks where !problem.entry.tensors[block.tensor].isOutput {
      let data = (block.base + TrialMemory.zone).assumingMemoryBound(to: UInt8.self)
      for i in 0..<block.bytes { sum = (sum ^ UInt64(data[i])) &* 0x100_0000_01b3 }
    }
    return sum
  }

  /// Copies of the outputs.
  func outputs() -> [TrialOutput] {
    blocks.filter { problem.entry.tensors[$0.tensor].isOutput }.map { block in
      TrialOutput(
        name: problem.entry.tensors[block.tensor].spec.name, dtype: problem.dtype(block.tensor),
        bytes: Array(UnsafeRawBufferPointer(start: block.base + TrialMemory.zone, count: block.bytes)))
    }
  }
}

/// What a kernel wrote to one output.
struct TrialOutput {
  let name: String
  let dtype: DType
  let bytes: [UInt8]

  var count: Int { bytes.count / dtype.size }
  var isFloat: Bool {
    switch dtype {
    case .f32, .f64, .bf16, .f16: true
    default: false
    }
  }

  func values() -> [Double] {
    bytes.withUnsafeBytes { raw in
      (0..<count).map { i in
        let at = i * dtype.size
        switch dtype {
        case .f32: return Double(raw.loadUnaligned(fromByteOffset: at, as: Float.self))
        case .f64: return raw.loadUnaligned(fromByteOffset: at, as: Double.self)
        case .bf16:
          return Double(Float(bitPattern: UInt32(raw.loadUnaligned(fromByteOffset: at, as: UInt16.self)) << 16))
        case .f16: return Double(Float16(bitPattern: raw.loadUnaligned(fromByteOffset: at, as: UInt16.self)))
        case .i32: return Double(raw.loadUnaligned(fromByteOffset: at, as: Int32.self))
        case .i64: return Double(raw.loadUnaligned(fromByteOffset: at, as: Int64.self))
        case .i8: return Double(raw.loadUnaligned(fromByteOffset: at, as: Int8.self))
        case .u8, .bool: return Double(raw.loadUnaligned(fromByteOffset: at, as: UInt8.self))
        }
      }
    }
  }

  /// Elements that differ from `want` by more than the tolerance: |got - want| <= atol max|want| + rtol |want|.
  func violations(of want: TrialOutput, _ tolerance: Descriptor.Tolerance) -> Int {
    guard count == want.count else { return max(count, 1) }
    let mine = values()
    let theirs = want.values()
    guard isFloat else { return zip(mine, theirs).reduce(0) { $0 + ($1.0 == $1.1 ? 0 : 1) } }
    let scale = theirs.reduce(0) { $1.isFinite ? max($0, abs($1)) : $0 }
    var wrong = 0
    for (g, w) in zip(mine, theirs) where g != w && !(g.isNaN && w.isNaN) {
      let room = tolerance.atol * scale + (w.isFinite ? tolerance.rtol * abs(w) : 0)
      if !g.isFinite || !w.isFinite || abs(g - w) > room { wrong += 1 }
    }
    return wrong
  }
}
