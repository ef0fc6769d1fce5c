import CAttune

/// A plugin as one context uses it: `init` has run, `shutdown` runs when the last holder (context or plan) lets go.
package final class LoadedPlugin: Sendable {
  package let image: PluginImage
  /// What `init` answered; goes into `attune_exec.instance`.
  package nonisolated(unsafe) let instance: UnsafeMutableRawPointer?
  /// Kept, because the plugin holds a pointer into it.
  private let services: HostServices
  package let warnings: [String]

  package var id: String { image.table.id }
  package var version: Descriptor.Version { image.table.version }
  /// Of the file whose code is loaded; see `PluginFile.build`.
  package var build: String { image.file.build }
  package var host: UnsafePointer<attune_host> { services.host }

  /// Runs the plugin's `init`. E_LOAD with the plugin's own sentence. [owner]
  package static func start(_ image: PluginImage, services: HostServices) throws(Refusal) -> LoadedPlugin {
    var instance: UnsafeMutableRawPointer?
    var warnings: [String] = []
    if let start = image.table.start {
      var record = ErrorRecord.empty
      let (code, isModeChanged) = FloatingPointMode.restored { start(services.host, &instance, &record) }
      if isModeChanged { warnings.append("its init changed the floating-point mode; restored") }
      guard code == ATTUNE_OK else {
        let sentence = ErrorRecord.message(of: record), name = Status(rawValue: code).name
        throw Refusal(
          .load, ErrorRecord.argument(of: record),
          "\(image.file.path): its init answered \(name)\(sentence.isEmpty ? "" : ": " + sentence)",
          detail: record.detail, source: .plugin)
      }
    }
    return LoadedPlugin(image, services, instance, warnings)
  }

  private init(
    _ image: PluginImage, _ services: HostServices, _ instance: UnsafeMutableRawPointer?, _ warnings: [String]
  ) {
    self.image = image
    self.services = services
    self.instance = instance
    self.warnings = warnings
  }

  deinit { image.table.shutdown?(instance) }
}

/// An operator that may be called, with the plugin it comes from. Immutable.
package struct Registration: Sendable {
  package let op: Operator
  package let plugin: LoadedPlugin
}
