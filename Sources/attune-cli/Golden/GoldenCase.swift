import AttuneCore
import FoundationEssentials

/// One `case.json` of golden vectors, format `attune-golden/1`: calls with stored inputs and stored results.
struct GoldenCase: Decodable {
  struct Stored: Decodable {
    var file: String
    var shape: [Int64]
    var dtype: String
    /// Boxes [[start, stop] per dim] that are not compared.
    var ignore: [[[Int64]]]?
  }
  struct Limits: Decodable {
    var rtol: Double
    var atol: Double
  }
  struct Tolerance: Decodable {
    var rtol: Double
    var atol: Double
    var perTensor: [String: Limits]?

    enum CodingKeys: String, CodingKey {
      case rtol, atol
      case perTensor = "per_tensor"
    }
  }
  /// A stored tensor, a slice [start, stop) of an axis of it, or one index of an axis, which then disappears.
  struct Reference: Decodable {
    var tensor: String
    var axis: Int?
    var start: Int64?
    var stop: Int64?
    var index: Int64?
  }
  struct Call: Decodable {
    var entry: String
    var params: [String: Scalar]?
    var feed: [String: Reference]
    /// Slot -> register.
    var stateIn: [String: String]?
    var stateOut: [String: String]?
    var expect: [String: Reference]

    enum CodingKeys: String, CodingKey {
      case entry, params, feed, expect
      case stateIn = "state_in"
      case stateOut = "state_out"
    }
  }

  var format: String
  var op: String
  var pass: String
  var params: [String: Scalar]
  var steps: [Call]?
  var inputs: [String: Stored]
  var outputs: [String: Stored]
  var grads: [String: Stored]
  var tolerance: Tolerance

  static func read(_ path: String) throws -> GoldenCase {
    let json = try File.read(path)
    let found: GoldenCase
    do {
      found = try JSONDecoder().decode(GoldenCase.self, from: Data(json))
    } catch {
      throw Failure("\(path): \(plain(error))")
    }
    guard found.format == "attune-golden/1" else {
      throw Failure("\(path): format is \(found.format), expected attune-golden/1")
    }
    return found
  }

  /// Sequences of calls that stand on their own. `steps` is one sequence, because calls hand states on; a forward and a
  /// backward pass are two, because each is fed from stored tensors only.
  func sequences() -> [[Call]] {
    if let steps, !steps.isEmpty { return [steps] }
    func whole(_ names: some Sequence<String>) -> [String: Reference] {
      Dictionary(names.map { ($0, Reference(tensor: $0)) }, uniquingKeysWith: { first, _ in first })
    }
    let upstream = inputs.keys.filter { $0.hasPrefix("d") && outputs[String($0.dropFirst())] != nil }
    let forward = Call(
      entry: "forward", feed: whole(inputs.keys.filter { !upstream.contains($0) }), expect: whole(outputs.keys))
    guard pass == "forward+backward" else { return [[forward]] }
    return [[forward], [Call(entry: "backward", feed: whole(inputs.keys), expect: whole(grads.keys))]]
  }

  func stored(_ name: String) -> Stored? { inputs[name] ?? outputs[name] ?? grads[name] }

  func limits(_ name: String) -> Limits {
    tolerance.perTensor?[name] ?? Limits(rtol: tolerance.rtol, atol: tolerance.atol)
  }
}

/// A case with its tensors, read once and shared by all kernels.
final class LoadedCase {
  let content: GoldenCase
  let folder: String
  private var tensors: [String: HostTensor] = [:]

  init(folder: String) throws {
    self.folder = folder
    content = try GoldenCase.read(folder + "/case.json")
  }

  /// The tensor of a reference, and its boxes to ignore in the reference's own coordinates.
  func resolve(_ r: GoldenCase.Reference) throws -> (tensor: HostTensor, ignore: [[Range<Int64>]]) {
    guard let stored = content.stored(r.tensor) else { throw bad("there is no tensor \(r.tensor)") }
    let whole = try tensors[r.tensor] ?? load(r.tensor, stored)
    tensors[r.tensor] = whole
    let boxes = try (stored.ignore ?? []).map { box in
      guard box.count == whole.shape.count, box.allSatisfy({ $0.count == 2 && $0[0] >= 0 && $0[0] <= $0[1] }) else {
        throw bad("ignore of \(r.tensor) does not fit its shape \(whole.shape)")
      }
      return box.map { $0[0]..<$0[1] }
    }
    guard let axis = r.axis else { return (whole, boxes) }
    let begin: Int64
    let end: Int64
    switch (r.index, r.start, r.stop) {
    case (let index?, nil, nil) where index >= 0 && index < .max: (begin, end) = (index, index + 1)
    case (nil, let start?, let stop?): (begin, end) = (start, stop)
    default: throw bad("a reference to \(r.tensor) has an axis but neither an index nor start and stop")
    }
    let drop = r.index != nil
    let tensor: HostTensor
    do {
      tensor = try whole.slice(axis: axis, start: begin, stop: end, drop: drop)
    } catch let failure as Failure {
      throw bad("\(r.tensor): \(failure.message)")
    }
    let cut: [[Range<Int64>]] = boxes.compactMap { box in
      let part = box[axis].clamped(to: begin..<end)
      guard !part.isEmpty else { return nil }
      var box = box
      if drop { box.remove(at: axis) } else { box[axis] = (part.lowerBound - begin)..<(part.upperBound - begin) }
      return box
    }
    return (tensor, cut)
  }

  private func load(_ name: String, _ stored: GoldenCase.Stored) throws -> HostTensor {
    let types: [String: DType] = [
      "float32": .f32, "float64": .f64, "float16": .f16, "int32": .i32, "int64": .i64, "uint8": .u8, "int8": .i8,
      "bool": .bool,
    ]
    let tensor = try Npy.read("\(folder)/\(stored.file)")
    guard tensor.shape == stored.shape, tensor.dtype == types[stored.dtype] else {
      throw bad("\(stored.file) is \(tensor.dtype.name) \(tensor.shape), expected \(stored.dtype) \(stored.shape)")
    }
    return tensor
  }

  func bad(_ why: String) -> Failure { Failure("\(folder)/case.json: \(why)") }
}
