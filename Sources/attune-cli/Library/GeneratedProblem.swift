import AttuneCore
import CAttune

/// A problem whose sizes come from symbols or from given data, and whose other tensors come from their generators.
struct GeneratedProblem {
  let shapes: ProblemShapes
  let inputs: [(name: String, tensor: HostTensor)]

  /// Tensors in `data` are used as they are, all other inputs are filled with seed 0.
  init(_ shapes: ProblemShapes, data: [String: HostTensor] = [:]) throws {
    self.shapes = shapes
    inputs = try shapes.slots.filter { !$0.isOutput }.map { slot in
      if let given = data[slot.name] { return (slot.name, given) }
      let tensor = try HostTensor(slot.dtype, slot.shape)
      if let base = tensor.bytes.baseAddress {
        do throws(Refusal) {
          try shapes.fill(slot, base, seed: 0)
        } catch {
          throw Failure(error.message)
        }
      }
      return (slot.name, tensor)
    }
  }

  var op: String { shapes.op.id }
  var entry: String { shapes.entry.name }
  var flops: Double { Double(shapes.bound.flops) }
  var bytes: Double { Double(shapes.bound.bytes) }
  var params: [Parameter] { shapes.params.map { Parameter(name: $0.name, value: $0.value) } }

  /// Bound sizes in the entry's order: "B=1,Hq=8,..."
  var sizes: [(symbol: String, size: Int64)] {
    shapes.entry.symbols.enumerated().compactMap { i, name in shapes.bound.symbol(i).map { (name, $0) } }
  }

  /// The problem with fresh outputs. Kernels below f32 accumulation run only when they are forced.
  func problem(kernel: String? = nil, workers: Int? = nil, tune: Int32 = Int32(ATTUNE_TUNE_DEFAULT)) -> Problem {
    Problem(
      op: op, entry: entry, kernel: kernel,
      tensors: inputs.map { ($0.name, $0.tensor) } + outputs.map { ($0, nil) }, params: params, workers: workers,
      tune: tune, allowReduced: kernel != nil)
  }

  var outputs: [String] { shapes.slots.filter(\.isOutput).map(\.name) }
}
