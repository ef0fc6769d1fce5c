import CAttune
import Glibc
import Synchronization

/// The plugins of one context and the operators they offer. Everything is [any-thread]; what `find` returns never
/// changes.
package final class Registry: Sendable {
  package let search: SearchPath
  package let cpu: CPUFeatures
  private let admission: Admission
  private let trust: FileTrust
  private let log: Log
  private let blasCore: String?

  private struct State {
    var records: [PluginRecord] = []
    var names: [String: Result<Registration, Refusal>] = [:]
  }
  private let state = Mutex(State())
  /// Held while files are judged and plugins started, so that each is started once. Callbacks of plugins and of the
  /// caller run meanwhile and may come back here, hence recursive; `state` is never held across them.
  private let loading = RecursiveLock()

  /// Looks at all files of the search path and loads the good ones. Bad ones are listed, never an error.
  package convenience init(_ configuration: Configuration) {
    self.init(
      search: SearchPath(configuration), cpu: CPUFeatures(cap: configuration.maxISA),
      admission: Admission(disabled: configuration.disable), trust: FileTrust(isSecure: configuration.isSecure),
      log: configuration.log, blasCore: configuration.blasCore)
  }

  package init(
    search: SearchPath, cpu: CPUFeatures, admission: Admission, trust: FileTrust, log: Log, blasCore: String? = nil
  ) {
    self.search = search
    self.cpu = cpu
    self.admission = admission
    self.trust = trust
    self.log = log
    self.blasCore = blasCore
    discover()
  }

  /// Every file that was looked at, by directory rank, then name.
  package var records: [PluginRecord] { state.withLock { $0.records } }

  /// The operators that their name alone means, by name.
  package var registrations: [Registration] {
    records.flatMap(\.operators).compactMap { op in
      if case .active(let registration) = op.status { registration } else { nil }
    }.sorted { $0.op.id.utf8.lexicographicallyPrecedes($1.op.id.utf8) }
  }

  /// The operator "op" or "op@plugin.id". E_NOT_FOUND, E_AMBIGUOUS.
  package func find(_ name: String) throws(Refusal) -> Registration {
    guard let known = state.withLock({ $0.names[name] }) else { throw notFound(name, records) }
    return try known.get()
  }

  /// Adds one plugin file that a program names itself; it comes before all discovered ones. The same file again changes
  /// nothing. E_IO, E_DENIED, E_ABI, E_LOAD.
  @discardableResult
  package func loadFile(_ path: String) throws(Refusal) -> LoadedPlugin {
    try loading.withLock { () throws(Refusal) in
      let listed = Path.resolved(path) ?? path
      do throws(Refusal) {
        let file = try PluginFile.inspect(
          path, rank: 0, isExplicit: true, trust: trust.isSecure ? trust.onlyRoot : trust, cpu: cpu)
        if let known = records.first(where: { $0.identity == file.identity })?.plugin { return known }
        let record = try start(file)
        add([record])
        guard let plugin = record.plugin else { throw Refusal(.internal, "", "\(path): not loaded") }
        return plugin
      } catch {
        add([PluginRecord(path: listed, rank: 0, status: .refused(error))])
        throw error
      }
    }
  }

  // MARK: discovery

  private func discover() {
    for warning in search.warnings { log(.warning, warning) }
    loading.withLock {
      for directory in search.directories { discover(directory) }
    }
  }

  private func discover(_ directory: SearchPath.Directory) {
    guard let names = SearchPath.candidates(in: directory.path) else {
      if directory.origin == .named { log(.warning, "plugin directory \(directory.path): \(systemError())") }
      return
    }
    var found: [PluginRecord] = []
    var files: [PluginFile] = []
    for name in names {
      let path = directory.path + "/" + name
      do throws(Refusal) {
        files.append(
          try PluginFile.inspect(path, rank: directory.rank, isExplicit: false, trust: trust, cpu: cpu))
      } catch {
        log(.warning, error.message)
        found.append(PluginRecord(path: path, rank: directory.rank, status: .refused(error)))
      }
    }
    // Of two files of one plugin the newer is tried first; the other is loaded only if that one fails.
    let order = files.enumerated().sorted { a, b in
      let (x, y) = (a.element.note?.parsedVersion, b.element.note?.parsedVersion)
      return x == y ? a.offset < b.offset : (x ?? .init()) > (y ?? .init())
    }
    for (_, file) in order { found.append(record(of: file, beside: found)) }
    add(found)
  }

  private func record(of file: PluginFile, beside found: [PluginRecord]) -> PluginRecord {
    var record = PluginRecord(
      path: file.path, rank: file.rank, id: file.note?.id, version: file.note?.version, identity: file.identity,
      status: .shadowed(""))
    let earlier = records + found
    if let same = earlier.first(where: { $0.identity?.isSameFile(as: file.identity) ?? false }) {
      record.status = .shadowed("it is the same file as \(same.path)")
      return record
    }
    if let id = file.note?.id, let same = earlier.first(where: { $0.plugin?.id == id }) {
      record.status = .shadowed("plugin \(id) was taken from \(same.path)")
      return record
    }
    do throws(Refusal) {
      return try start(file)
    } catch {
      log(error.code == .denied ? .info : .warning, error.message)
      record.status = .refused(error)
      return record
    }
  }

  // MARK: loading

  private func start(_ file: PluginFile) throws(Refusal) -> PluginRecord {
    if let refusal = admission.refusal(for: file) { throw refusal.about(file.path) }
    let image = try PluginImage.open(file)
    if let refusal = admission.refusal(ofID: image.table.id) { throw refusal.about(file.path) }
    let accepted = image.operators.filter { admits($0) == nil }
    guard !accepted.isEmpty else {
      let reason = image.operators.first.flatMap(admits)
      throw (reason ?? Refusal(.load, "ops", "it offers no operator")).about(file.path)
    }
    let services = HostServices(minor: image.usedMinor, log: log, cpu: cpu, blasCore: blasCore)
    let plugin = try LoadedPlugin.start(image, services: services)
    var warnings = image.warnings + plugin.warnings
    if image.isOlder(than: file) {
      warnings.append("the file has changed since this process loaded \(image.file.path); the loaded code stays in use")
    }
    for warning in warnings { log(.warning, "\(file.path): \(warning)") }
    let operators = image.operators.map { offer in
      if let refusal = admits(offer) {
        log(.warning, "\(file.path): \(refusal.message)")
        return OperatorRecord(id: offer.id, status: .refused(refusal))
      }
      switch offer.result {
      case .success(let op): return OperatorRecord(id: offer.id, status: .active(Registration(op: op, plugin: plugin)))
      case .failure(let refusal): return OperatorRecord(id: offer.id, status: .refused(refusal))
      }
    }
    return PluginRecord(
      path: file.path, rank: file.rank, id: plugin.id, version: plugin.version.description, identity: file.identity,
      status: .loaded(plugin), warnings: warnings, operators: operators)
  }

  /// Why an operator of a good plugin is not offered; nil: it is.
  private func admits(_ offer: PluginImage.Offer) -> Refusal? {
    if case .failure(let refusal) = offer.result { return refusal }
    return admission.refusal(ofID: offer.id)
  }

  /// A file that was refused before and is tried again has only its last record.
  private func add(_ fresh: [PluginRecord]) {
    state.withLock { state in
      let old = state.records.filter { record in
        record.plugin != nil || !fresh.contains { $0.path == record.path && $0.rank == record.rank }
      }
      let sorted = (old + fresh).sorted { a, b in
        a.rank == b.rank ? a.path.utf8.lexicographicallyPrecedes(b.path.utf8) : a.rank < b.rank
      }
      let resolution = Resolution(sorted)
      state = State(records: resolution.records, names: resolution.names)
    }
  }
}

extension Refusal {
  fileprivate func about(_ path: String) -> Refusal {
    var out = self
    out.message = "\(path): \(message)"
    return out
  }
}

extension PluginNote {
  /// "1.2.3" as a version; missing or odd parts count as 0.
  fileprivate var parsedVersion: Descriptor.Version {
    let parts = version.split(separator: ".").map { UInt32($0) ?? 0 }
    func part(_ i: Int) -> UInt32 { parts.indices.contains(i) ? parts[i] : 0 }
    return Descriptor.Version(major: part(0), minor: part(1), patch: part(2))
  }
}
