import CAttune
import CRuntime
import Glibc

/// What a context was asked to be: its options over the environment over the defaults. Read once, then constant.
///
/// In secure mode (set-user-id, set-group-id, file capabilities) the environment counts as empty.
package struct Configuration: Sendable {
  package typealias TuneMode = AttuneCore.TuneMode

  package var pluginPath: String?
  package var disable: [String] = []  // globs on plugin and operator ids
  package var maxISA: CPUFeatures.Cap?
  package var workers: UInt32 = 1
  package var tuneMode = TuneMode.measure
  package var tuneBudgetMicroseconds: UInt64?  // for the life of the context
  package var wisdom: String?  // nil: the default file, "": none
  package var cacheDirectory: String?
  package var recordShapes: String?
  package var blasCore: String?
  package var dataDirectory: String?  // the user's, for plugins
  package var isChecked = false
  package var isSecure = false
  /// The variables that were set and read, for `describe`.
  package var environment: [(name: String, value: String)] = []
  package var log = Log.standardError(threshold: .warning)

  package static let maxWorkers = Limits.workers
  private static let textLimit = 1 << 16
  private static let variableNames = [
    "ATTUNE_PLUGIN_PATH", "ATTUNE_DISABLE", "ATTUNE_TUNE", "ATTUNE_TUNE_BUDGET_MS", "ATTUNE_WISDOM", "ATTUNE_CACHE_DIR",
    "ATTUNE_RECORD_SHAPES", "ATTUNE_MAX_ISA", "ATTUNE_THREADS", "ATTUNE_LOG", "ATTUNE_CHECK",
    "ATTUNE_OPENBLAS_CORETYPE",
  ]

  /// `options` NULL: environment and defaults. Bad values of the environment cost one log line each; bad options are
  /// refused. E_INVALID, E_UNSUPPORTED.
  package init(options: UnsafePointer<attune_context_options>?) throws(Refusal) {
    let secure = crt_secure_mode() != 0
    try self.init(options: options, isSecure: secure) { name in
      getenv(name).map { String(cString: $0) }
    }
  }

  /// For tests: any environment.
  package init(
    options: UnsafePointer<attune_context_options>?, isSecure: Bool, environment: @escaping (String) -> String?
  ) throws(Refusal) {
    self.isSecure = isSecure
    let given: attune_context_options =
      if let options { try CallerMemory.view(options, "options").pointee } else { attune_context_options() }
    var complaints: [String] = []
    let variables = Variables(get: isSecure ? { _ in nil } : environment)
    self.environment = Configuration.variableNames.compactMap { name in variables.text(name).map { (name, $0) } }
    read(variables, complaints: &complaints)
    try read(given)
    log = Configuration.makeLog(given, level: variables.get("ATTUNE_LOG"), complaints: &complaints)
    for line in complaints { log(.warning, line) }
  }

  private mutating func read(_ variables: Variables, complaints: inout [String]) {
    pluginPath = variables.text("ATTUNE_PLUGIN_PATH")
    disable = variables.text("ATTUNE_DISABLE")?.split(separator: ",").map(String.init) ?? []
    maxISA = variables.choice("ATTUNE_MAX_ISA", CPUFeatures.Cap.allCases, \.rawValue, &complaints)
    let cpus = min(max(crt_usable_cpus(), 1), Configuration.maxWorkers)
    workers = variables.number("ATTUNE_THREADS", in: 1...Configuration.maxWorkers, &complaints) ?? cpus
    tuneMode = variables.choice("ATTUNE_TUNE", TuneMode.allCases, \.name, &complaints) ?? .measure
    tuneBudgetMicroseconds =
      variables.number("ATTUNE_TUNE_BUDGET_MS", in: 1...UInt64(86_400_000), &complaints).map { $0 &* 1000 }
    wisdom = variables.get("ATTUNE_WISDOM")
    recordShapes = variables.text("ATTUNE_RECORD_SHAPES")
    blasCore = variables.text("ATTUNE_OPENBLAS_CORETYPE")
    isChecked = variables.choice("ATTUNE_CHECK", [false, true], { $0 ? "1" : "0" }, &complaints) ?? false
    let home = variables.directory("HOME")
    cacheDirectory =
      variables.directory("ATTUNE_CACHE_DIR", &complaints)
      ?? (variables.directory("XDG_CACHE_HOME") ?? home.map { $0 + "/.cache" }).map { $0 + "/attune" }
    dataDirectory = variables.directory("XDG_DATA_HOME") ?? home.map { $0 + "/.local/share" }
  }

  private mutating func read(_ options: attune_context_options) throws(Refusal) {
    let unknown = options.flags & ~UInt32(ATTUNE_CHECKED)
    guard unknown == 0 else {
      throw Refusal(.unsupported, "options.flags", "options.flags has unknown bits: \(unknown)")
    }
    if options.flags & UInt32(ATTUNE_CHECKED) != 0 { isChecked = true }
    if options.workers != 0 {
      guard let asked = UInt32(exactly: options.workers), asked <= Configuration.maxWorkers else {
        throw Refusal(
          .invalid, "options.workers",
          "options.workers is \(options.workers), expected 0 to \(Configuration.maxWorkers)",
          detail: (Int64(Configuration.maxWorkers), Int64(options.workers)))
      }
      workers = asked
    }
    if options.tune_mode != 0 {
      guard let asked = TuneMode(rawValue: options.tune_mode) else {
        throw Refusal(
          .invalid, "options.tune_mode", "options.tune_mode is \(options.tune_mode), expected 0 to 6",
          detail: (6, Int64(options.tune_mode)))
      }
      tuneMode = asked
    }
    if options.tune_budget_us != 0 { tuneBudgetMicroseconds = options.tune_budget_us }
    let limit = Configuration.textLimit
    if let p = options.plugin_path {
      pluginPath = try CallerMemory.string(p, limit: limit, "options.plugin_path")
    }
    if let p = options.wisdom { wisdom = try CallerMemory.string(p, limit: limit, "options.wisdom") }
  }

  /// A caller with a callback of its own sees everything unless ATTUNE_LOG says otherwise; standard error sees
  /// warnings.
  private static func makeLog(_ options: attune_context_options, level: String?, complaints: inout [String]) -> Log {
    var threshold: Log.Level? = options.log == nil ? .warning : .debug
    if let level, !level.isEmpty {
      if let known = Log.Level.allCases.first(where: { $0.name == level }) {
        threshold = known
      } else if level == "off" {
        threshold = nil
      } else {
        complaints.append("ATTUNE_LOG is \"\(level)\", expected debug, info, warning, error or off: ignored")
      }
    }
    guard let callback = options.log else { return .standardError(threshold: threshold) }
    return .callback(callback, user: options.user, threshold: threshold)
  }
}

/// Typed reading of environment variables. Empty is unset; a bad value adds a complaint and reads as unset.
private struct Variables {
  let get: (String) -> String?

  func text(_ name: String) -> String? { get(name).flatMap { $0.isEmpty ? nil : $0 } }

  func choice<T>(_ name: String, _ values: [T], _ word: (T) -> String, _ complaints: inout [String]) -> T? {
    guard let given = text(name) else { return nil }
    if let found = values.first(where: { word($0) == given }) { return found }
    let words = values.map(word).joined(separator: ", ")
    complaints.append("\(name) is \"\(given)\", expected one of \(words): ignored")
    return nil
  }

  func number<T: FixedWidthInteger>(_ name: String, in range: ClosedRange<T>, _ complaints: inout [String]) -> T? {
    guard let given = text(name) else { return nil }
    if let value = T(given), range.contains(value) { return value }
    complaints.append("\(name) is \"\(given)\", expected \(range.lowerBound) to \(range.upperBound): ignored")
    return nil
  }

  /// Relative directories would depend on the current one.
  func directory(_ name: String) -> String? {
    var unwanted: [String] = []
    return directory(name, &unwanted)
  }

  func directory(_ name: String, _ complaints: inout [String]) -> String? {
    guard let given = text(name) else { return nil }
    if given.hasPrefix("/") { return given }
    complaints.append("\(name) is \"\(given)\", expected an absolute path: ignored")
    return nil
  }
}
