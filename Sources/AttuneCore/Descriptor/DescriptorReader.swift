import CAttune

/// What a plugin's table says about the plugin itself, and its operators, each read or refused on its own.
package struct PluginTable: Sendable {
  package struct ReadOperator: Sendable {
    package let id: String  // "#2" when not even the name can be read
    package let descriptor: Result<Descriptor.Operator, Refusal>
  }
  package typealias Init =
    @convention(c) (
      UnsafePointer<attune_host>?, UnsafeMutablePointer<UnsafeMutableRawPointer?>?, UnsafeMutablePointer<attune_error>?
    ) -> attune_status
  package typealias Shutdown = @convention(c) (UnsafeMutableRawPointer?) -> Void
  package typealias GetExtension =
    @convention(c) (UnsafeMutableRawPointer?, UnsafePointer<CChar>?) -> UnsafeRawPointer?

  package var id = "", version = Descriptor.Version(), vendor = "", license = ""
  package var operators: [ReadOperator] = []
  package var start: Init?
  package var shutdown: Shutdown?
  package var getExtension: GetExtension?
}

/// Copies a plugin's tables into `Descriptor` values. Trusts nothing in them: what is wrong in a kernel drops that
/// kernel (`Descriptor.Kernel.refused`), what is wrong elsewhere drops the operator, what is wrong in the plugin's own
/// row refuses the plugin. Meaning (expressions, names that must exist, legal defaults) is judged later by
/// `OperatorCompiler`.
package enum DescriptorReader {
  static let maxOperators = 64, maxWords = 64, maxTolerances = 16
  static let maxText = 4096  // sentences, documentation, lists in presets

  /// E_LOAD. `table` must stay readable for the duration of the call.
  package static func read(plugin table: UnsafePointer<attune_plugin>?) throws(Refusal) -> PluginTable {
    do throws(Refusal) {
      return try readPlugin(table)
    } catch {
      throw Refusal(.load, error.argument, error.message, detail: error.detail)
    }
  }

  private static func readPlugin(_ table: UnsafePointer<attune_plugin>?) throws(Refusal) -> PluginTable {
    let raw = try Untrusted.structure(table, as: attune_plugin.self)
    var out = PluginTable()
    try Untrusted.zero(raw.reserved, "reserved")
    out.id = try identifier(raw.id, "id")
    out.version = try version(raw.version)
    out.vendor = try text(raw.vendor, "vendor")
    out.license = try text(raw.license, "license")
    out.start = raw.`init`
    out.shutdown = raw.shutdown
    out.getExtension = raw.get_extension
    let (addresses, stride) = try Untrusted.elements(raw.ops, of: attune_op.self, "ops", limit: maxOperators)
    for (i, address) in addresses.enumerated() {
      out.operators.append(readOperator(address, stride, number: i))
    }
    return out
  }

  private static func readOperator(_ p: UnsafeRawPointer, _ stride: Int, number: Int) -> PluginTable.ReadOperator {
    var id = "#\(number)"
    do throws(Refusal) {
      let read = try readOperator(p, stride, id: &id)
      return PluginTable.ReadOperator(id: id, descriptor: .success(read))
    } catch {
      var refusal = error
      refusal.message = "\(id): \(refusal.message)"
      return PluginTable.ReadOperator(id: id, descriptor: .failure(refusal))
    }
  }

  /// Sets `id` as soon as it is known, so that a later refusal can be listed under it.
  private static func readOperator(
    _ p: UnsafeRawPointer, _ stride: Int, id: inout String
  ) throws(Refusal) -> Descriptor.Operator {
    let raw = try Untrusted.structure(p, as: attune_op.self, stride: stride)
    var out = Descriptor.Operator()
    out.id = try name(raw.id, "id")
    id = out.id
    try Untrusted.zero(raw.reserved, "reserved")
    out.version = try version(raw.version)
    out.title = try text(raw.title, "title")
    out.doc = try text(raw.doc, "doc")
    out.reference = try text(raw.reference, "reference")
    out.params = try all(raw.params, "params", Limits.params, parameter)
    out.entries = try all(raw.entries, "entries", Limits.entries, entry)
    out.presets = try all(raw.presets, "presets", Limits.presets, preset)
    out.tolerances = try all(raw.tolerances, "tolerances", maxTolerances, tolerance)
    return out
  }

  // MARK: pieces shared by the extensions

  /// Reads every element of a span with `read`; a refusal says which element it was.
  static func all<T: GrowingStruct, R>(
    _ span: attune_span, _ name: String, _ limit: Int, _ read: (T) throws(Refusal) -> R
  ) throws(Refusal) -> [R] {
    var out: [R] = []
    for (i, raw) in try Untrusted.array(span, of: T.self, name, limit: limit).enumerated() {
      out.append(try Untrusted.located("\(name)[\(i)]") { () throws(Refusal) in try read(raw) })
    }
    return out
  }

  /// A name that must be there.
  static func name(_ p: UnsafePointer<CChar>?, _ field: String = "name") throws(Refusal) -> String {
    let out = try Untrusted.string(p, field, limit: Limits.name)
    guard !out.isEmpty else { throw Refusal(.load, field, "\(field) is empty") }
    return out
  }

  /// The id of a plugin. '@' would make `op@plugin` ambiguous; ids also become names of files and patterns.
  static func identifier(_ p: UnsafePointer<CChar>?, _ field: String) throws(Refusal) -> String {
    let out = try name(p, field)
    guard isIdentifier(out) else {
      throw Refusal(.load, field, "\(field) \"\(out)\" has other characters than letters, digits, '.', '_' and '-'")
    }
    return out
  }

  static func isIdentifier(_ s: String) -> Bool {
    !s.isEmpty
      && s.utf8.allSatisfy { c in
        (0x30...0x39).contains(c) || (0x41...0x5a).contains(c) || (0x61...0x7a).contains(c)
          || c == 0x2e || c == 0x5f || c == 0x2d
      }
  }

  /// Text that may be missing.
  static func text(_ p: UnsafePointer<CChar>?, _ field: String, limit: Int = maxText) throws(Refusal) -> String {
    try optional(p, field, limit: limit) ?? ""
  }

  /// Text whose absence means something.
  static func optional(
    _ p: UnsafePointer<CChar>?, _ field: String, limit: Int = Limits.expression
  ) throws(Refusal) -> String? {
    guard let p else { return nil }
    return try Untrusted.string(p, field, limit: limit)
  }

  static func choice<T: RawRepresentable>(
    _ value: UInt32, as type: T.Type, _ field: String
  ) throws(Refusal) -> T where T.RawValue == UInt32 {
    guard let out = T(rawValue: value) else {
      throw Refusal(.unsupported, field, "\(field) is \(value), which is not known", detail: (0, Int64(value)))
    }
    return out
  }

  static func version(_ raw: attune_semver) throws(Refusal) -> Descriptor.Version {
    try Untrusted.zero(raw.reserved, "version.reserved")
    return Descriptor.Version(major: raw.major, minor: raw.minor, patch: raw.patch)
  }
}
