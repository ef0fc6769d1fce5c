import CRuntime
import Glibc

extension Configuration {
  /// Where choices are remembered, from `wisdom`: a file, more after ':' are read-only; "" none; nil the default file.
  ///
  /// A program with more rights than its user has no default file: environment and home directory are the user's.
  package func makeWisdom(cpu: CPUFeatures) -> WisdomStore {
    let id = cpu.fingerprint
    guard let wisdom else {
      return WisdomStore(
        path: cacheDirectory.map { $0 + "/wisdom.jsonl" }, readOnly: [], cpu: id, log: log, makesDirectory: true,
        absence: isSecure ? "in secure mode there is no file" : "HOME names no directory for a file")
    }
    let paths = wisdom.split(separator: ":", omittingEmptySubsequences: false).map(Configuration.absolute)
    return WisdomStore(
      path: paths.first.flatMap(\.self), readOnly: paths.dropFirst().compactMap(\.self), cpu: id, log: log)
  }

  /// The process may change its directory later.
  private static func absolute(_ piece: Substring) -> String? {
    let path = String(piece)
    if path.isEmpty || path.hasPrefix("/") { return path.isEmpty ? nil : path }
    guard let directory = getcwd(nil, 0) else { return path }
    defer { free(directory) }
    return String(cString: directory) + "/" + path
  }
}

extension CPUFeatures {
  /// Tells machines apart on which other kernels may win: name, level, and a hash of features and caches. For
  /// `WisdomStore`: measurements of another one are not used.
  package var fingerprint: String {
    var brand = [CChar](repeating: 0, count: 64)
    crt_cpu_name(&brand, brand.count)
    let name = brand.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
    let plain = name.filter { (0x20..<0x7f).contains($0) && $0 != UInt8(ascii: "\"") && $0 != UInt8(ascii: "\\") }
    let words = String(decoding: plain, as: UTF8.self).split(separator: " ").joined(separator: " ")
    let facts: [UInt64] = [UInt64(arch), isa.0, isa.1] + (1...3).map { crt_cache_bytes($0) }
    let hash = CRC32C.of(facts.flatMap { fact in (0..<8).map { UInt8(truncatingIfNeeded: fact >> (8 * UInt64($0))) } })
    return "\(words.isEmpty ? "unknown" : words), \(self.name), \(CRC32C.text(hash))"
  }
}
