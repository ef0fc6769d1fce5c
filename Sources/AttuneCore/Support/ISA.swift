import CAttune

/// Names of the instruction-set bits of plugin.h, for people.
package enum ISA {
  private static let x86: [(bit: Int, name: String)] = [
    (ATTUNE_X86_SSE42, "sse4.2"), (ATTUNE_X86_AVX, "avx"), (ATTUNE_X86_F16C, "f16c"), (ATTUNE_X86_FMA, "fma"),
    (ATTUNE_X86_AVX2, "avx2"), (ATTUNE_X86_BMI2, "bmi2"), (ATTUNE_X86_AVX512F, "avx512f"),
    (ATTUNE_X86_AVX512BW, "avx512bw"), (ATTUNE_X86_AVX512DQ, "avx512dq"), (ATTUNE_X86_AVX512VL, "avx512vl"),
    (ATTUNE_X86_AVX512CD, "avx512cd"), (ATTUNE_X86_AVX512VNNI, "avx512vnni"), (ATTUNE_X86_AVX512BF16, "avx512bf16"),
    (ATTUNE_X86_AVX512FP16, "avx512fp16"), (ATTUNE_X86_AVX512VBMI, "avx512vbmi"), (ATTUNE_X86_AVXVNNI, "avxvnni"),
    (ATTUNE_X86_AMX_TILE, "amx-tile"), (ATTUNE_X86_AMX_BF16, "amx-bf16"), (ATTUNE_X86_AMX_INT8, "amx-int8"),
  ]
  private static let arm: [(bit: Int, name: String)] = [
    (ATTUNE_ARM_NEON, "neon"), (ATTUNE_ARM_FP16, "fp16"), (ATTUNE_ARM_DOTPROD, "dotprod"), (ATTUNE_ARM_BF16, "bf16"),
    (ATTUNE_ARM_I8MM, "i8mm"), (ATTUNE_ARM_SVE, "sve"), (ATTUNE_ARM_SVE2, "sve2"), (ATTUNE_ARM_SME, "sme"),
  ]

  package static func names(_ word0: UInt64, arch: UInt32) -> [String] {
    let table = arch == UInt32(ATTUNE_ARCH_AARCH64) ? arm : x86
    return (0..<64).filter { word0 >> UInt64($0) & 1 == 1 }.map { bit in
      table.first { $0.bit == bit }?.name ?? "bit\(bit)"
    }
  }
}
