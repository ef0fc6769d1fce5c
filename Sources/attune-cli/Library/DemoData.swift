import AttuneCore

/// The real tensors that ship with the project: q, k, v and the model's own output of some layers.
struct DemoData {
  struct Layer {
    var name: String
    /// By tensor name: q, k, v.
    var inputs: [String: HostTensor]
    var modelOutput: HostTensor
  }

  let folder: String
  /// "layer0", ...; never empty.
  let names: [String]

  /// `folder`, else beside an installed program, else in the source tree.
  init(folder given: String?) throws {
    if let given {
      names = DemoData.names(in: given)
      guard !names.isEmpty else {
        throw Failure("\(given) has no layer*_q.npy: --data names the folder of the demo's data")
      }
      folder = given
      return
    }
    let beside = File.resolve("/proc/self/exe").map { exe in
      exe.split(separator: "/").dropLast(2).reduce("") { "\($0)/\($1)" } + "/share/attune/data"
    }
    let candidates = [beside, "examples/data"].compactMap { $0 }
    guard let found = candidates.first(where: { !DemoData.names(in: $0).isEmpty }) else {
      throw Failure("the demo's data is not beside this program nor in examples/data: say where with --data DIR")
    }
    folder = found
    names = DemoData.names(in: found)
  }

  func layer(_ name: String) throws -> Layer {
    func tensor(_ part: String) throws -> HostTensor { try Npy.read("\(folder)/\(name)_\(part).npy") }
    var inputs: [String: HostTensor] = [:]
    for part in ProblemShapes.demoTensors { inputs[part] = try tensor(part) }
    return Layer(name: name, inputs: inputs, modelOutput: try tensor("out"))
  }

  private static func names(in folder: String) -> [String] {
    (File.names(in: folder) ?? []).filter { $0.hasPrefix("layer") && $0.hasSuffix("_q.npy") }.map {
      String($0.dropLast(6))
    }
  }
}

extension GeneratedProblem {
  /// A preset on a layer's tensors. `params` and `tensors` replace or add to what the preset has.
  init(
    _ op: Operator, _ entry: Entry, _ preset: Descriptor.Preset, _ layer: DemoData.Layer,
    params: [(name: String, value: ParamValue)] = [], tensors: String = ""
  ) throws {
    do {
      var given: [Int: [Int64]] = [:]
      for (name, tensor) in layer.inputs {
        if let t = entry.tensorIndex(name) { given[t] = tensor.shape }
      }
      let usual = try ProblemText.params(preset.params, op).filter { own in !params.contains { $0.name == own.name } }
      let extras = try ProblemText.tensors(preset.tensors, op, entry)
        .merging(try ProblemText.tensors(tensors, op, entry)) { _, asked in asked }
      let shapes = try ProblemShapes(
        op: op, entry: entry, params: usual + params, symbols: try ProblemText.symbols(preset.shape, entry),
        given: given, extras: extras)
      try self.init(shapes, data: layer.inputs)
    } catch let refusal as Refusal {
      throw Failure("\(refusal.code.name): \(refusal.message)")
    }
  }
}
