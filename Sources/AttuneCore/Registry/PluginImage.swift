import CAttune
import CRuntime
import Glibc
import Synchronization

/// A plugin's code in this process and what its tables say. Loaded once per process, shared by all contexts, never
/// unloaded: function pointers of it may lie anywhere.
package final class PluginImage: Sendable {
  package struct Offer: Sendable {
    package let id: String
    package let result: Result<Operator, Refusal>
  }
  package let file: PluginFile
  package let table: PluginTable
  package let usedMinor: UInt32
  package let operators: [Offer]
  /// What a user should know although the plugin works.
  package let warnings: [String]

  private init(file: PluginFile, table: PluginTable, usedMinor: UInt32, operators: [Offer], warnings: [String]) {
    self.file = file
    self.table = table
    self.usedMinor = usedMinor
    self.operators = operators
    self.warnings = warnings
  }

  private static let loaded = Mutex<[PluginImage]>([])

  /// The image of a file, loaded now or earlier. E_LOAD, E_ABI, E_IO; every sentence begins with the path.
  package static func open(_ file: PluginFile) throws(Refusal) -> PluginImage {
    if let known = find(file) { return known }
    let fresh = try Untrusted.located(file.path) { () throws(Refusal) in try load(file) }
    // Another thread may have done the same meanwhile. dlopen gave both the same code; one image is enough.
    return loaded.withLock { images in
      if let known = images.first(where: { $0.file.identity == file.identity }) { return known }
      images.append(fresh)
      return fresh
    }
  }

  /// dlopen would answer a path or an inode it knows with the code it has, whatever lies in the file by now.
  private static func find(_ file: PluginFile) -> PluginImage? {
    loaded.withLock { images in
      images.first { $0.file.identity.isSameFile(as: file.identity) || $0.file.resolved == file.resolved }
    }
  }

  /// The file is not the one that was loaded from its place.
  package func isOlder(than file: PluginFile) -> Bool { file.identity != self.file.identity }

  private static func load(_ file: PluginFile) throws(Refusal) -> PluginImage {
    var warnings: [String] = []
    let entry = try openLibrary(file, &warnings)
    let (table, minor) = try negotiate(entry, &warnings)
    let read = try DescriptorReader.read(plugin: table)
    if let note = file.note, note.id != read.id {
      throw Refusal(.load, "id", "its note says id \(note.id), its table says \(read.id)")
    }
    return PluginImage(
      file: file, table: read, usedMinor: minor, operators: compile(read.operators), warnings: warnings)
  }

  private static func openLibrary(_ file: PluginFile, _ warnings: inout [String]) throws(Refusal)
    -> attune_plugin_entry_fn
  {
    try checkUnchanged(file)
    // RTLD_NOW: a missing symbol is found here and not in a kernel.
    let (handle, isModeChanged) = FloatingPointMode.restored {
      dlopen(file.resolved, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE)
    }
    guard let handle else { throw Refusal(.load, "", "the loader refused it: \(loaderError())", source: .system) }
    if isModeChanged { warnings.append("loading it changed the floating-point mode; restored") }
    try checkUnchanged(file)
    guard let symbol = dlsym(handle, "attune_plugin_entry_v1") else {
      throw Refusal(.load, "", "it does not export attune_plugin_entry_v1")
    }
    return unsafeBitCast(symbol, to: attune_plugin_entry_fn.self)
  }

  /// A file that is swapped between the checks and dlopen is noticed afterwards: late, but before it is asked anything.
  private static func checkUnchanged(_ file: PluginFile) throws(Refusal) {
    guard FileStatus(path: file.resolved)?.identity == file.identity else {
      throw Refusal(.io, "", "it changed while it was being loaded")
    }
  }

  private static func loaderError() -> String {
    dlerror().map { String(cString: $0) } ?? "unknown reason"
  }

  private static func negotiate(
    _ entry: attune_plugin_entry_fn, _ warnings: inout [String]
  ) throws(Refusal) -> (UnsafePointer<attune_plugin>, UInt32) {
    let newest = UInt32(ATTUNE_ABI_MINOR)
    var record = ErrorRecord.empty
    var n = attune_negotiation()
    n.struct_size = UInt32(MemoryLayout<attune_negotiation>.size)
    n.host_minor_max = newest
    let (code, isModeChanged) = FloatingPointMode.restored {
      withUnsafeMutablePointer(to: &record) { record in
        n.error = record
        return entry(&n)
      }
    }
    if isModeChanged { warnings.append("its entry function changed the floating-point mode; restored") }
    guard code == ATTUNE_OK else {
      let sentence = ErrorRecord.message(of: record)
      let code = Status(rawValue: code)
      throw Refusal(
        code == .abi ? .abi : .load, ErrorRecord.argument(of: record),
        "its entry function answered \(code.name)\(sentence.isEmpty ? "" : ": " + sentence)", detail: record.detail,
        source: .plugin)
    }
    guard n.used_minor <= newest else {
      throw Refusal(
        .abi, "used_minor", "it chose minor \(n.used_minor) of the ABI, offered were 0 to \(newest)",
        detail: (Int64(newest), Int64(n.used_minor)))
    }
    guard let table = n.plugin else { throw Refusal(.load, "plugin", "its entry function gave no table") }
    return (table, n.used_minor)
  }

  private static func compile(_ operators: [PluginTable.ReadOperator]) -> [Offer] {
    var seen: Set<String> = []
    return operators.map { read in
      do throws(Refusal) {
        let descriptor = try read.descriptor.get()
        guard seen.insert(read.id).inserted else {
          throw Refusal(.load, "id", "\(read.id): the plugin offers this operator twice")
        }
        return Offer(id: read.id, result: .success(try OperatorCompiler.compile(descriptor)))
      } catch {
        return Offer(id: read.id, result: .failure(error))
      }
    }
  }
}

/// Libraries built with -ffast-math may switch the loading thread to flush-to-zero.
enum FloatingPointMode {
  static func restored<R>(_ body: () -> R) -> (result: R, wasChanged: Bool) {
    let before = crt_fpcw()
    let result = body()
    guard crt_fpcw() != before else { return (result, false) }
    crt_set_fpcw(before)
    return (result, true)
  }
}

extension ErrorRecord {
  /// A record for a plugin to fill.
  static var empty: attune_error {
    var record = attune_error()
    record.struct_size = UInt32(MemoryLayout<attune_error>.size)
    return record
  }
}
