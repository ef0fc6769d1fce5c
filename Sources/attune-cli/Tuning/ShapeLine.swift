import AttuneCore
import CAttune
import FoundationEssentials

/// One problem of a shape file: sizes by symbol, or tensors with their types and shapes as ATTUNE_RECORD_SHAPES writes
/// them.
///
///     {"op": "NAME", "shape": "B=1,Hq=8,Hkv=8,Nq=512,Nk=512,D=64,Dv=64", "params": {"causal": true}, "threads": 2}
///     {"op": "NAME", "entry": "forward", "tensors": {"q": ["f32", 1, 8, 512, 64], ...}, "params": {}, "threads": 2}
struct ShapeLine: Codable, Hashable {
  var op: String
  var entry: String?
  var shape: String?
  /// Optional tensors to add, as a preset has them.
  var extras: String?
  var dtype: String?
  var tensors: [String: [Scalar]]?
  var params: [String: Scalar]?
  var threads: Int?
  var deterministic: Bool?

  /// For people: "softmax forward B=1,... causal=true f32, 2 threads".
  var label: String {
    var words = [op, entry ?? "forward"]
    if let shape { words.append(shape) }
    if let extras, !extras.isEmpty { words.append(extras) }
    for (name, entry) in (tensors ?? [:]).sorted(by: { $0.key < $1.key }) where ["q", "k"].contains(name) {
      words.append("\(name)=" + entry.dropFirst().map(\.description).joined(separator: "x"))
    }
    words += (params ?? [:]).sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
    if let dtype { words.append(dtype) }
    if let threads { words.append("\(threads) thread\(threads == 1 ? "" : "s")") }
    return words.joined(separator: " ")
  }

  var text: String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    guard let data = try? encoder.encode(self) else { return "{}" }
    return String(decoding: data, as: UTF8.self)
  }

  init(
    op: String, entry: String, shape: String, extras: String, dtype: String, params: [String: Scalar], threads: Int?
  ) {
    (self.op, self.entry, self.shape, self.dtype, self.params, self.threads) = (
      op, entry, shape, dtype, params, threads
    )
    self.extras = extras.isEmpty ? nil : extras
  }

  init(parsing line: String) throws {
    do {
      self = try JSONDecoder().decode(ShapeLine.self, from: Data(line.utf8))
    } catch {
      throw Failure(plain(error))
    }
    if (shape == nil) == (tensors == nil) { throw Failure("it needs either \"shape\" or \"tensors\"") }
    if let threads, !(1...1024).contains(threads) { throw Failure("threads is \(threads), expected 1 to 1024") }
  }

  /// The problem without data: plans read shapes and types only.
  func problem(_ context: Context) throws -> Problem {
    let model = try context.model(op)
    guard let entry = model.entry(named: self.entry ?? "forward") else {
      throw Failure("\(op) has no entry \(self.entry ?? "forward")")
    }
    let description = try context.op(op)
    let values = try (params ?? [:]).sorted { $0.key < $1.key }.map {
      try Parameter(name: $0.key, json: $0.value, for: description)
    }
    var problem = Problem(op: op, entry: entry.name, params: values, workers: threads)
    if let tensors {
      problem.tensors = try tensors.sorted { $0.key < $1.key }.map { try tensor($0.key, $0.value, entry) }
      return problem
    }
    guard let type = DType(name: dtype ?? "f32") else { throw Failure("dtype \(dtype ?? ""): choose f32, bf16 or f16") }
    do throws(Refusal) {
      let added = try ProblemText.tensors(extras ?? "", model, entry).merging(model.gradients(of: entry)) { a, _ in a }
      let shapes = try ProblemShapes(
        op: model, entry: entry, params: values.map { ($0.name, $0.value) },
        symbols: try ProblemText.symbols(shape ?? "", entry), extras: added, dtype: type)
      problem.tensors = []
      for slot in shapes.slots {
        problem.tensors.append((slot.name, slot.isOutput ? nil : try prototype(slot.dtype, slot.shape)))
      }
    } catch {
      throw Failure("\(error.code.name): \(error.message)")
    }
    return problem
  }

  private func prototype(_ dtype: DType, _ shape: [Int64]) throws(Refusal) -> HostTensor {
    do {
      return try HostTensor(dtype, shape, prototype: true)
    } catch {
      throw Refusal(.shape, "", "a tensor of shape \(shape) is too large")
    }
  }

  private func tensor(_ name: String, _ fields: [Scalar], _ entry: Entry) throws -> (String, HostTensor?) {
    guard case .word(let word)? = fields.first, let dtype = DType(name: word) else {
      throw Failure("tensor \(name) should be [\"TYPE\", extents...]")
    }
    let shape = try fields.dropFirst().map { field in
      guard case .integer(let extent) = field, extent >= 0 else {
        throw Failure("tensor \(name): \(field) is no extent")
      }
      return extent
    }
    let isOutput = entry.tensorIndex(name).map { entry.tensors[$0].isOutput } ?? false
    return (name, isOutput ? nil : try HostTensor(dtype, shape, prototype: true))
  }

  /// The lines of a file, and what is wrong with those that are none: "line 3: ...".
  static func read(_ path: String) throws -> (lines: [ShapeLine], complaints: [String]) {
    let text = String(decoding: try File.read(path), as: UTF8.self)
    var lines: [ShapeLine] = []
    var complaints: [String] = []
    for (i, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
      if line.allSatisfy({ $0 == " " || $0 == "\t" || $0 == "\r" }) { continue }
      do {
        lines.append(try ShapeLine(parsing: String(line)))
      } catch let failure as Failure {
        complaints.append("\(path) line \(i + 1): \(failure.message)")
      }
    }
    return (lines, complaints)
  }
}
