import AttuneCore
import CAttune

/// A problem as a command states it.
struct Problem {
  var op: String
  var entry: String
  /// "name" or "name:knob=1"; nil leaves the choice to the library.
  var kernel: String?
  /// In any order; nil = an output that is wanted, its shape is the plan's to tell.
  var tensors: [(name: String, tensor: HostTensor?)] = []
  var params: [Parameter] = []
  var workers: Int?
  var tune: Int32 = Int32(ATTUNE_TUNE_DEFAULT)
  /// Microseconds for measuring this problem; 0: what the mode grants.
  var budget: UInt64 = 0
  var allowReduced = false
  /// Only kernels whose bits do not depend on run or threads.
  var isDeterministic = false

  /// The C form, valid inside `body`.
  func withRecord<R>(_ body: (UnsafePointer<attune_problem>) throws -> R) rethrows -> R {
    let strings = CStrings()
    let refs = tensors.map { name, tensor in
      attune_tensor_ref(
        struct_size: UInt32(MemoryLayout<attune_tensor_ref>.size), reserved: 0, name: strings.copy(name),
        tensor: tensor.map { UnsafePointer($0.descriptor) })
    }
    let values = params.map { $0.record(strings) }
    var record = attune_problem()
    record.struct_size = UInt32(MemoryLayout<attune_problem>.size)
    record.flags =
      (allowReduced ? UInt32(ATTUNE_ALLOW_REDUCED) : 0) | (isDeterministic ? UInt32(ATTUNE_DETERMINISTIC) : 0)
    record.op = strings.copy(op)
    record.entry = strings.copy(entry)
    record.kernel = kernel.map(strings.copy)
    record.workers = Int32(clamping: workers ?? 0)
    record.tune_mode = tune
    record.tune_budget_us = budget
    return try withExtendedLifetime((strings, tensors.map(\.tensor))) {
      try withSpan(refs) { tensors in
        try withSpan(values) { params in
          record.tensors = tensors
          record.params = params
          return try body(&record)
        }
      }
    }
  }
}

private func withSpan<T, R>(_ items: [T], _ body: (attune_span) throws -> R) rethrows -> R {
  try items.withUnsafeBufferPointer {
    try body(
      attune_span(data: $0.baseAddress, count: UInt32(clamping: $0.count), stride: UInt32(MemoryLayout<T>.stride)))
  }
}

/// A plan with the tensors it computes on: outputs that the problem left open are made here.
final class Plan {
  let handle: OpaquePointer
  let problem: Problem
  /// In the order of the problem's tensors, none missing.
  let tensors: [(name: String, tensor: HostTensor)]
  private let pointers: UnsafeMutablePointer<UnsafePointer<attune_tensor>?>
  private var bindings = attune_bindings()

  struct Info {
    var plugin: String
    var kernel: String
    var knobs: String
    var workers: Int
    var workspaceBytes: UInt64
    var source: UInt32
  }

  /// Outputs and prototypes are allocated and poisoned.
  init(_ context: Context, _ problem: Problem) throws {
    var made: OpaquePointer?
    try problem.withRecord { record in
      try checked { attune_plan_create(context.handle, record, &made, $0) }
    }
    guard let made else { throw Failure("the library gave no plan") }
    do {
      tensors = try problem.tensors.map { name, given in
        if let given, given.count == 0 || !given.bytes.isEmpty { return (name, given) }
        let tensor = try given.map { try HostTensor($0.dtype, $0.shape) } ?? Plan.output(made, name)
        tensor.poison()
        return (name, tensor)
      }
    } catch {
      attune_plan_release(made)
      throw error
    }
    handle = made
    self.problem = problem
    pointers = .allocate(capacity: max(tensors.count, 1))
    for (i, t) in tensors.enumerated() { (pointers + i).initialize(to: UnsafePointer(t.tensor.descriptor)) }
    bindings.struct_size = UInt32(MemoryLayout<attune_bindings>.size)
    bindings.n_tensors = UInt32(clamping: tensors.count)
    bindings.tensors = UnsafePointer(pointers)
  }

  deinit {
    attune_plan_release(handle)
    pointers.deallocate()
  }

  private static func output(_ plan: OpaquePointer, _ name: String) throws -> HostTensor {
    var view = attune_tensor()
    var shape = [Int64](repeating: 0, count: 8)
    var strides = [Int64](repeating: 0, count: 8)
    try checked { attune_plan_tensor(plan, name, &view, &shape, &strides, $0) }
    guard let dtype = DType(view.dtype), (0...8).contains(view.ndim) else {
      throw Failure("the library tells no usable type for \(name)")
    }
    return try HostTensor(dtype, Array(shape[..<Int(view.ndim)]))
  }

  func tensor(_ name: String) -> HostTensor? { tensors.first { $0.name == name }?.tensor }

  func execute() throws(LibraryError) {
    try checked { attune_plan_execute(handle, &bindings, $0) }
  }

  /// For timing loops: the library's own call and, when it failed, the same again with its sentence.
  func executeOrThrow() throws(LibraryError) {
    if attune_plan_execute(handle, &bindings, nil) != 0 { try execute() }
  }

  func info() throws(LibraryError) -> Info {
    var record = attune_plan_info()
    record.struct_size = UInt32(MemoryLayout<attune_plan_info>.size)
    try checked { attune_plan_query(handle, &record, $0) }
    func string(_ p: UnsafePointer<CChar>?) -> String { p.map { String(cString: $0) } ?? "" }
    return Info(
      plugin: string(record.plugin), kernel: string(record.kernel), knobs: string(record.knobs),
      workers: Int(record.workers), workspaceBytes: record.workspace_bytes, source: record.source)
  }

  /// Makes a plan for a problem that may lack outputs which every call must have. Which those are can depend on the
  /// parameters; the library names the missing one, so it is added and asked again.
  static func completing(_ problem: Problem, of entry: Description.Entry?, in context: Context) throws -> Plan {
    var problem = problem
    while true {
      do {
        return try Plan(context, problem)
      } catch let error as LibraryError where error.status == attune_status(ATTUNE_E_INVALID) {
        guard let missing = entry?.tensor(error.argument), entry?.isOutput(missing) == true,
          !problem.tensors.contains(where: { $0.name == missing.name })
        else { throw error }
        problem.tensors.append((missing.name, nil))
      }
    }
  }
}
