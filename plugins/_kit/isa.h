// One source, one copy of a kernel per instruction set. A kernel file begins with
//   #include "_kit/isa.h"
//   #undef HWY_TARGET_INCLUDE
//   #define HWY_TARGET_INCLUDE "folder/file.cpp"   // itself
//   #include <hwy/foreach_target.h>
//   #include <hwy/highway.h>
// and wraps its vector code in `#if ATTUNE_ISA` inside `namespace HWY_NAMESPACE`. Each copy becomes a row of its own in
// the kernel table (OnIsa), so that the host picks and caps them; Highway's own dispatch would need its library and is
// not used.
#ifndef ATTUNE_KIT_ISA_H_
#define ATTUNE_KIT_ISA_H_
#include <attune/plugin.h>

// No AES or carry-less multiplication: no kernel uses them, so no kernel may require them.
#define HWY_DISABLE_PCLMUL_AES
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
// On x86-64 the target of the compiler's own flags is emulated and never wanted; on aarch64 it is NEON.
#define ATTUNE_ISA (HWY_ARCH_ARM_A64 || HWY_TARGET != HWY_STATIC_TARGET)

namespace attune_kit {

struct Isa {
  uint32_t arch;
  uint64_t bits;
};

constexpr uint64_t Bits() {
  return 0;
}
template <class... T>
constexpr uint64_t Bits(int first, T... rest) {
  return (uint64_t{1} << first) | Bits(rest...);
}

// What the compiler may use in each of Highway's targets.
constexpr Isa kSse4 = {ATTUNE_ARCH_X86_64, Bits(ATTUNE_X86_SSE42)};
constexpr Isa kAvx2 = {ATTUNE_ARCH_X86_64, kSse4.bits | Bits(ATTUNE_X86_AVX, ATTUNE_X86_F16C, ATTUNE_X86_FMA,
                                                             ATTUNE_X86_AVX2, ATTUNE_X86_BMI2)};
constexpr Isa kAvx512 = {ATTUNE_ARCH_X86_64, kAvx2.bits | Bits(ATTUNE_X86_AVX512F, ATTUNE_X86_AVX512BW,
                                                               ATTUNE_X86_AVX512DQ, ATTUNE_X86_AVX512VL)};
constexpr Isa kNeon = {ATTUNE_ARCH_AARCH64, Bits(ATTUNE_ARM_NEON)};

constexpr attune_kernel OnIsa(Isa isa, const char* name, attune_kernel_fn run, attune_kernel kernel) {
  kernel.arch = isa.arch, kernel.isa[0] = isa.bits, kernel.name = name, kernel.run = run;
  return kernel;
}

}  // namespace attune_kit
#endif  // ATTUNE_KIT_ISA_H_
