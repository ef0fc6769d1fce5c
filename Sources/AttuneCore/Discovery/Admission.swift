import Glibc

/// The last word before a file is opened and its constructors run. Whatever else may keep a file out (a list of files
/// that crashed before, a first look by another process) belongs into `refusal(for:)`.
package struct Admission: Sendable {
  /// Globs on the ids of plugins and operators (ATTUNE_DISABLE).
  package let disabled: [String]

  package init(disabled: [String]) { self.disabled = disabled }

  /// Why the file stays closed; nil: it may be opened. E_DENIED.
  package func refusal(for file: PluginFile) -> Refusal? {
    file.note.flatMap { refusal(ofID: $0.id) }
  }

  /// The same for the id of a plugin or operator.
  package func refusal(ofID id: String) -> Refusal? {
    guard let glob = disabled.first(where: { fnmatch($0, id, 0) == 0 }) else { return nil }
    return Refusal(.denied, "", "\(id) is disabled by ATTUNE_DISABLE (\(glob))")
  }
}
