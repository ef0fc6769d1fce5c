import AttuneCore
import CAttune
import FoundationEssentials

/// How a command wants its context; nil leaves it to the environment and the library's defaults.
struct ContextOptions {
  var workers: Int?
  var tune: Int32 = Int32(ATTUNE_TUNE_DEFAULT)
  /// "" = remember nothing.
  var wisdom: String?
}

/// A context of the library, released with the last reference.
final class Context {
  let handle: OpaquePointer

  init(_ options: ContextOptions = ContextOptions()) throws {
    var made: OpaquePointer?
    var record = attune_context_options()
    record.struct_size = UInt32(MemoryLayout<attune_context_options>.size)
    record.workers = Int32(clamping: options.workers ?? 0)
    record.tune_mode = options.tune
    let strings = CStrings()
    if let wisdom = options.wisdom { record.wisdom = strings.copy(wisdom) }
    try withExtendedLifetime(strings) {
      try checked { attune_context_create(&record, &made, $0) }
    }
    guard let made else { throw Failure("the library gave no context") }
    handle = made
  }

  deinit { attune_context_release(handle) }

  /// The JSON text about registry, op, plugin, cpu, tuning or diagnostics.
  func text(_ what: String, _ name: String? = nil) throws(LibraryError) -> String {
    var need: UInt64 = 0
    var buffer: [CChar] = []
    // The registry may grow between asking for the size and asking for the text: ask again then.
    while true {
      do {
        let capacity = UInt64(buffer.count)
        try checked { attune_describe(handle, what, name, &buffer, capacity, &need, $0) }
        return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
      } catch  where error.status == attune_status(ATTUNE_E_WORKSPACE) && need > UInt64(buffer.count) && need < 1 << 30
      {
        buffer = [CChar](repeating: 0, count: Int(need))
      }
    }
  }

  func description<T: Decodable>(_ type: T.Type, of what: String, _ name: String? = nil) throws -> T {
    let json = try text(what, name)
    do {
      return try JSONDecoder().decode(type, from: Data(json.utf8))
    } catch {
      throw Failure("the library's description of \(name ?? what) has an unknown form: \(plain(error))")
    }
  }

  func op(_ name: String) throws -> Description.Operator {
    try description(Description.Operator.self, of: "op", name)
  }
  func registry() throws -> Description.Registry { try description(Description.Registry.self, of: "registry") }
  func cpu() throws -> Description.CPU { try description(Description.CPU.self, of: "cpu") }
}

/// Copies of strings as C wants them, alive as long as this object.
final class CStrings {
  private var owned: [UnsafeMutablePointer<CChar>] = []
  func copy(_ s: String) -> UnsafePointer<CChar> {
    let p = s.withCString { from in
      let count = s.utf8.count + 1
      let to = UnsafeMutablePointer<CChar>.allocate(capacity: count)
      to.update(from: from, count: count)
      return to
    }
    owned.append(p)
    return UnsafePointer(p)
  }
  deinit { for string in owned { string.deallocate() } }
}

/// Where a JSON document differs from what was expected, in one line.
func plain(_ error: any Error) -> String {
  func path(_ context: DecodingError.Context) -> String {
    let place = context.codingPath.map { $0.intValue.map { "[\($0)]" } ?? $0.stringValue }.joined(separator: ".")
    return place.isEmpty ? "top level" : place
  }
  switch error as? DecodingError {
  case .keyNotFound(let key, let context)?: return "\(path(context)) lacks \"\(key.stringValue)\""
  case .typeMismatch(let type, let context)?: return "\(path(context)) is not of type \(type)"
  case .valueNotFound(let type, let context)?: return "\(path(context)) is null, expected \(type)"
  case .dataCorrupted(let context)?: return "\(path(context)): \(context.debugDescription)"
  default: return "\(error)"
  }
}

extension Context {
  /// The library's own object, for what the C API does not offer.
  var core: AttuneCore.Context {
    get throws {
      guard let core = AttuneCore.Context.behind(handle) else { throw Failure("the context is gone") }
      return core
    }
  }

  func explain(_ problem: UnsafePointer<attune_problem>) throws -> Explanation {
    let core = try core
    return try checkedRefusal { () throws(Refusal) in try core.explain(problem) }
  }

  /// Puts a candidate under quarantine.
  func bar(_ c: TunedCandidate, op: String, entry: String, status: Trial.Status, problem: String) throws {
    let core = try core
    core.tuner.bar(c, try registration(op), entry: entry, status: status, problem: problem)
    core.tuner.wisdom.flush()
  }

  /// The operator behind its name, for what the C API does not offer: shapes from sizes, and generated data.
  func registration(_ name: String) throws -> Registration {
    let core = try core
    return try checkedRefusal { () throws(Refusal) in try core.registry.find(name) }
  }

  func model(_ name: String) throws -> Operator { try registration(name).op }
}
