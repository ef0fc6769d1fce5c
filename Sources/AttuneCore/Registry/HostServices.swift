import CAttune
import CRuntime

/// The `attune_host` that one context lends to plugins of one used minor. Must live until their `shutdown` has
/// returned; `LoadedPlugin` sees to it.
package final class HostServices: Sendable {
  private nonisolated(unsafe) let memory: UnsafeMutablePointer<attune_host>
  private let log: Log
  private let cpu: CPUFeatures
  private let blasCore: String?

  package var host: UnsafePointer<attune_host> { UnsafePointer(memory) }

  /// `blasCore`: the core type OpenBLAS is told to use; nil: chosen by `cpu`.
  package init(minor: UInt32, log: Log, cpu: CPUFeatures, blasCore: String?) {
    self.log = log
    self.cpu = cpu
    self.blasCore = blasCore
    memory = .allocate(capacity: 1)
    var host = attune_host()
    host.struct_size = UInt32(MemoryLayout<attune_host>.size)
    host.abi_minor = minor
    host.log = { HostServices.from($0)?.write($1, $2) }
    host.parallel_for = { crt_host_parallel_for($0, $1, $2, $3, $4) }
    host.get_extension = { HostServices.from($0)?.service($1) }
    memory.initialize(to: host)
    memory.pointee.ctx = Unmanaged.passUnretained(self).toOpaque()
  }

  deinit { memory.deallocate() }

  private static func from(_ ctx: UnsafeMutableRawPointer?) -> HostServices? {
    ctx.map { Unmanaged<HostServices>.fromOpaque($0).takeUnretainedValue() }
  }

  private func write(_ level: Int32, _ text: UnsafePointer<CChar>?) {
    let known = Log.Level(rawValue: min(max(level, 0), Log.Level.error.rawValue)) ?? .error
    log(known, Untrusted.lenientString(text, limit: DescriptorReader.maxText))
  }

  private func service(_ id: UnsafePointer<CChar>?) -> UnsafeRawPointer? {
    guard Untrusted.lenientString(id, limit: Limits.name) == Blas.extensionID else { return nil }
    switch Blas.lend(cpu: cpu, core: blasCore) {
    case .success(let blas): return UnsafeRawPointer(blas.table)
    case .failure(let refusal):
      log(.info, "\(Blas.extensionID) is not offered: \(refusal.message)")
      return nil
    }
  }
}
