import Glibc

/// Where plugins are looked for, in order. A directory's rank is its place in the list, from 1; rank 0 is for files
/// that a program names itself.
package struct SearchPath: Sendable {
  /// Who chose a directory: options or environment, the user's data directory, the place of this library, the system.
  package enum Origin: Sendable { case named, user, library, system }

  package struct Directory: Sendable {
    package let path: String
    package let rank: Int
    package let origin: Origin
  }
  package let directories: [Directory]
  /// Entries that were ignored, and why.
  package let warnings: [String]

  /// Order: `pluginPath` (from options or ATTUNE_PLUGIN_PATH), the user's data directory, beside this library, the
  /// system's.
  package init(_ configuration: Configuration) {
    var beside: [String] = []
    if let own = OwnImage.path {
      let directory = Path.directory(of: own)
      // The second form serves PREFIX/bin/attune, which holds the library inside itself.
      beside = [directory + "/attune/plugins/1", Path.directory(of: directory) + "/lib/attune/plugins/1"]
    }
    self.init(
      named: configuration.pluginPath, userData: configuration.isSecure ? nil : configuration.dataDirectory,
      beside: beside, system: ["/usr/local/lib/attune/plugins/1", "/usr/lib/attune/plugins/1"])
  }

  package init(named: String?, userData: String?, beside: [String], system: [String]) {
    var directories: [Directory] = []
    var warnings: [String] = []
    func add(_ path: String, _ origin: Origin) {
      guard !directories.contains(where: { $0.path == path }) else { return }
      directories.append(Directory(path: path, rank: directories.count &+ 1, origin: origin))
    }
    for entry in (named ?? "").split(separator: ":") {
      // A relative entry would mean another directory in every process, and the current one at worst.
      if entry.hasPrefix("/") {
        add(String(entry), .named)
      } else {
        warnings.append("plugin path: \"\(entry)\" is not an absolute path: ignored")
      }
    }
    if let userData { add(userData + "/attune/plugins/1", .user) }
    for path in beside { add(path, .library) }
    for path in system { add(path, .system) }
    self.directories = directories
    self.warnings = warnings
  }

  /// Files `attune_*.so` of one directory in bytewise order; nil: it cannot be read, `errno` says why.
  package static func candidates(in directory: String) -> [String]? {
    guard let handle = opendir(directory) else { return nil }
    defer { closedir(handle) }
    var names: [String] = []
    while let entry = readdir(handle) {
      let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
        String(validating: bytes.prefix { $0 != 0 }, as: UTF8.self)
      }
      if let name, isPluginName(name) { names.append(name) }
    }
    return names.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
  }

  /// Anything else stays closed: opening a library runs its constructors.
  package static func isPluginName(_ name: String) -> Bool {
    name.hasPrefix("attune_") && name.hasSuffix(".so") && name.utf8.count > "attune_.so".utf8.count
  }
}
