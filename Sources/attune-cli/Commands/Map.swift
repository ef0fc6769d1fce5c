import ArgumentParser
import AttuneCore
import CAttune

struct Map: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Draw which queries read which keys, found by running the operator.",
    discussion: """
      The forward entry runs once for every block of keys with those rows of v scaled. How far an output row moves is \
      the part of it that comes from these keys; a row that keeps every bit has not read them. Kernels that take a sum \
      less a part of it move by rounding too: --kernel reference does not. Without --shape: the operator's demo preset \
      on the demo's data; --param and --tensors change it. Without -o the map is printed as text.
      """)
  @Argument(help: "Operator, or operator@plugin.") var op: String
  @Option(help: "Sizes, as B=1,Hq=8,Hkv=8,Nq=512,Nk=512,D=64,Dv=64; the data is generated then.") var shape: String?
  @Option(name: .customLong("param"), parsing: .upToNextOption, help: "Parameters, each NAME=VALUE.")
  var params: [String] = []
  @Option(help: "Optional tensors to add, as a preset has them: NAME or NAME=GENERATOR, ';' between.")
  var tensors = ""
  @Option(help: "Force a kernel: NAME or NAME:knob=value,...") var kernel: String?
  @OptionGroup var thread: ThreadOption
  @Option(help: "Blocks along each axis, 1 to 512.") var cells = 64
  @Option(help: "Only this query head; without it the largest of all heads.") var head: Int?
  @Option(help: "Folder with layer*_{q,k,v,out}.npy.") var data: String?
  @Option(name: .shortAndLong, help: "SVG file to write.") var out: String?
  @OptionGroup var output: JSONOption

  /// Work and memory that a picture may take: about a minute of one core.
  private static let mostFlops = 1e12
  private static let mostBytes = 1e9

  func validate() throws {
    guard (1...512).contains(cells) else { throw ValidationError("--cells is \(cells), expected 1 to 512") }
    if shape != nil && data != nil { throw ValidationError("--data is for the demo preset, --shape generates data") }
  }

  func run() throws {
    let context = try Context(ContextOptions(workers: thread.threads, tune: Int32(ATTUNE_TUNE_OFF), wisdom: ""))
    let model = try context.model(op)
    guard let entry = model.entry(named: "forward") else { throw Failure("\(op) has no entry forward to draw") }
    let problem = try self.problem(model, entry)
    let (v, o) = try Map.axes(problem)
    let heads = o.shape[1]
    if let head, !(0..<heads).contains(Int64(head)) {
      throw Failure("--head is \(head), expected 0 to \(heads - 1): \(op) has \(heads) query heads here")
    }
    var wanted = problem.problem(kernel: kernel, workers: thread.threads, tune: Int32(ATTUNE_TUNE_OFF))
    wanted.isDeterministic = true
    let plan = try Plan(context, wanted)
    guard let values = plan.tensor(v.name), let result = plan.tensor(o.name) else {
      throw Failure("\(op) forward lost its v or o")
    }
    let map = try AttentionMap(plan, v: values, o: result, cells: cells, head: head)
    let drawing = MapDrawing(title: title(problem), map: map)
    if let out { try File.write(drawing.svg, to: out) }
    if output.json {
      say(json(map, problem, try plan.info()).text)
    } else {
      say(out.map { "\(drawing.summary); drawn in \($0)" } ?? drawing.text)
    }
  }

  private func problem(_ model: Operator, _ entry: Entry) throws -> GeneratedProblem {
    do {
      let values = try ProblemText.params(params.joined(separator: ";"), model)
      guard let shape else {
        guard let preset = model.descriptor.presets.first(where: { $0.isDemo && $0.entry == entry.name }) else {
          throw Failure("\(op) has no demo preset: give the sizes with --shape")
        }
        let data = try DemoData(folder: data)
        let problem = try GeneratedProblem(
          model, entry, preset, try data.layer(data.names[0]), params: values, tensors: tensors)
        try limit(problem.shapes)
        return problem
      }
      let shapes = try ProblemShapes(
        op: model, entry: entry, params: values, symbols: try ProblemText.symbols(shape, entry),
        extras: try ProblemText.tensors(tensors, model, entry))
      // Before memory for them is asked for.
      try limit(shapes)
      return try GeneratedProblem(shapes)
    } catch let refusal as Refusal {
      throw Failure("\(refusal.code.name): \(refusal.message)")
    }
  }

  private func limit(_ shapes: ProblemShapes) throws {
    let runs = 2 * cells + 4
    let flops = Double(shapes.bound.flops) * Double(runs)
    let bytes = Double(shapes.bound.bytes)
    guard flops <= Map.mostFlops, bytes <= Map.mostBytes else {
      throw Failure(
        "\(op) forward: \(runs) runs take \(scientific(flops)) flops on \(scientific(bytes)) bytes, expected at most "
          + "\(scientific(Map.mostFlops)) and \(scientific(Map.mostBytes)): give a smaller --shape or fewer --cells")
    }
  }

  /// v and o, if they have the form that the experiment needs.
  private static func axes(_ problem: GeneratedProblem) throws -> (v: ProblemShapes.Slot, o: ProblemShapes.Slot) {
    let slots = problem.shapes.slots
    guard let v = slots.first(where: { $0.name == "v" && !$0.isOutput }),
      let o = slots.first(where: { $0.name == "o" && $0.isOutput })
    else { throw Failure("\(problem.op) forward has no input v and output o here: there is nothing to draw") }
    guard v.shape.count == 4, o.shape.count == 4, v.shape[0] == o.shape[0], v.shape[3] == o.shape[3],
      v.dtype == .f32, o.dtype == .f32
    else {
      throw Failure(
        "\(problem.op) forward: v is \(v.dtype.name) \(v.shape) and o \(o.dtype.name) \(o.shape), expected f32 "
          + "[B,Hkv,Nk,Dv] and [B,Hq,Nq,Dv]")
    }
    guard !v.shape.contains(0), !o.shape.contains(0) else {
      throw Failure("\(problem.op) forward: v is \(v.shape) and o \(o.shape): an empty tensor has no map")
    }
    return (v, o)
  }

  private func title(_ problem: GeneratedProblem) -> String {
    var words = [op] + problem.params.map { "\($0.name)=\($0.value.text)" }
    if let head { words.append("(head \(head))") }
    return words.joined(separator: " ")
  }

  private func json(_ map: AttentionMap, _ problem: GeneratedProblem, _ info: Plan.Info) -> JSON {
    [
      "op": .string(op), "entry": .string(problem.entry), "kernel": .string(info.kernel),
      "shape": .object(problem.sizes.map { ($0.symbol, JSON($0.size)) }),
      "params": .object(problem.params.map { ($0.name, $0.json) }), "head": head.map { JSON($0) } ?? .null,
      "query_edges": .array(map.queryEdges.map { JSON($0) }), "key_edges": .array(map.keyEdges.map { JSON($0) }),
      "share": .number(map.share), "linear_in_v": .bool(map.isLinear),
      "matrix": .array(map.parts.map { .array($0.map { .number($0) }) }),
    ]
  }
}
