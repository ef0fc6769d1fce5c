import CAttune
import CRuntime

/// What this CPU and operating system offer, as far as the user wants it used. Bits are those of `attune/plugin.h`.
package struct CPUFeatures: Sendable {
  /// ATTUNE_MAX_ISA: which x86 features may be used at most.
  package enum Cap: String, Sendable, CaseIterable { case sse4, avx2, avx512 }

  package let arch: UInt32
  package let isa: (UInt64, UInt64)

  package init(arch: UInt32, isa: (UInt64, UInt64)) {
    self.arch = arch
    self.isa = isa
  }

  /// The machine's own features, lowered to `cap`.
  package init(cap: Cap?) {
    self.init(arch: crt_arch(), detected: crt_isa_bits(), cap: cap)
  }

  package init(arch: UInt32, detected: UInt64, cap: Cap?) {
    self.arch = arch
    let allowed: UInt64 =
      if arch == UInt32(ATTUNE_ARCH_X86_64), let cap { CPUFeatures.allowed(cap) } else { .max }
    isa = (detected & allowed, 0)
  }

  private static func allowed(_ cap: Cap) -> UInt64 {
    let sse4 = bits(ATTUNE_X86_SSE42)
    switch cap {
    case .sse4: return sse4
    case .avx2:
      return sse4
        | bits(ATTUNE_X86_AVX, ATTUNE_X86_F16C, ATTUNE_X86_FMA, ATTUNE_X86_AVX2, ATTUNE_X86_BMI2)
    case .avx512: return .max
    }
  }

  package static let avx2 = bits(ATTUNE_X86_AVX2, ATTUNE_X86_FMA)
  package static let avx512 = bits(
    ATTUNE_X86_AVX512F, ATTUNE_X86_AVX512BW, ATTUNE_X86_AVX512DQ, ATTUNE_X86_AVX512VL)

  package func has(_ bits: UInt64) -> Bool { isa.0 & bits == bits }

  /// "sse4", "avx2", "avx512", "neon"; "baseline" below them.
  package var name: String {
    if arch == UInt32(ATTUNE_ARCH_AARCH64) {
      return has(CPUFeatures.bits(ATTUNE_ARM_NEON)) ? "neon" : "baseline"
    }
    if has(CPUFeatures.avx512) { return "avx512" }
    if has(CPUFeatures.avx2) { return "avx2" }
    return has(CPUFeatures.bits(ATTUNE_X86_SSE42)) ? "sse4" : "baseline"
  }

  /// Names of the features in `wanted` that are not usable here; empty when all are.
  package func missing(_ wanted: (UInt64, UInt64)) -> [String] {
    let later = wanted.1 & ~isa.1  // no feature has a bit in the second word yet
    return ISA.names(wanted.0 & ~isa.0, arch: arch) + (later == 0 ? [] : ["isa[1] 0x\(String(later, radix: 16))"])
  }

  private static func bits(_ numbers: Int...) -> UInt64 { numbers.reduce(0) { $0 | 1 << UInt64($1) } }
}
