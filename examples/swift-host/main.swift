// Attention from Swift through the C header: no package, no wrapper, a module map of four lines.
import CAttune
import Glibc

/// A compact f32 tensor that owns its memory; `view` is what the library gets to see.
final class Tensor {
  let values: UnsafeMutableBufferPointer<Float>
  private let shape: UnsafeMutableBufferPointer<Int64>
  private(set) var view: attune_tensor

  init(_ dims: Int64..., fill: (Int) -> Float = { _ in 0 }) {
    shape = .allocate(capacity: dims.count)
    _ = shape.initialize(from: dims)
    values = .allocate(capacity: Int(dims.reduce(1, *)))
    for i in values.indices { values.initializeElement(at: i, to: fill(i)) }
    view = attune_tensor_make(values.baseAddress, Int32(ATTUNE_F32), Int32(dims.count), shape.baseAddress)
  }
  deinit {
    values.deallocate()
    shape.deallocate()
  }
}

struct Refusal: Error { let name: String, argument: String, message: String }

/// Calls a function of the library; what it refuses is thrown, in its own words.
func checked(_ body: (UnsafeMutablePointer<attune_error>) -> attune_status) throws {
  var record = attune_error()
  record.struct_size = UInt32(MemoryLayout<attune_error>.size)
  let code = body(&record)
  guard code != 0 else { return }
  func text<T>(_ field: T) -> String {
    withUnsafeBytes(of: field) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
  }
  throw Refusal(
    name: attune_status_name(code).map { String(cString: $0) } ?? "", argument: text(record.argument),
    message: text(record.message))
}

func span<T>(_ buffer: UnsafeBufferPointer<T>) -> attune_span {
  attune_span(data: buffer.baseAddress, count: UInt32(buffer.count), stride: UInt32(MemoryLayout<T>.stride))
}

/// Runs an operator on tensors by name; what is an output is the operator's business.
func run(_ context: OpaquePointer?, _ op: String, _ tensors: KeyValuePairs<StaticString, Tensor>) throws {
  let views = UnsafeMutableBufferPointer<attune_tensor>.allocate(capacity: tensors.count)
  defer { views.deallocate() }
  _ = views.initialize(from: tensors.map(\.value.view))
  let references = tensors.enumerated().map { i, item in
    attune_tensor_ref(
      struct_size: UInt32(MemoryLayout<attune_tensor_ref>.size), reserved: 0,
      name: UnsafeRawPointer(item.key.utf8Start).assumingMemoryBound(to: CChar.self),
      tensor: views.baseAddress.map { $0 + i })
  }
  try op.withCString { op in
    try references.withUnsafeBufferPointer { references in
      var problem = attune_problem()
      problem.struct_size = UInt32(MemoryLayout<attune_problem>.size)
      problem.op = op
      problem.tensors = span(references)
      try withExtendedLifetime(tensors) { try checked { attune_run(context, &problem, nil, $0) } }
    }
  }
}

var context: OpaquePointer?
do {
  try checked { attune_context_create(nil, &context, $0) }
  defer { attune_context_release(context) }
  let q = Tensor(1, 2, 3, 8) { Float(sin(0.3 * Double($0))) }
  let k = Tensor(1, 2, 4, 8) { Float(cos(0.2 * Double($0))) }
  let v = Tensor(1, 2, 4, 8) { Float($0) / 10 }
  let o = Tensor(1, 2, 3, 8)
  try run(context, "softmax", ["q": q, "k": k, "v": v, "o": o])
  for token in 0..<3 {
    let first = o.values[8 * token..<8 * token + 3].map { String(($0 * 1000).rounded() / 1000) }
    print("token \(token):", first.joined(separator: " "), "..")
  }
  try run(context, "softmax", ["q": q, "k": k, "v": Tensor(1, 2, 5, 8), "o": o])
} catch let refusal as Refusal {
  print("\(refusal.name), argument \(refusal.argument): \(refusal.message)")
}
