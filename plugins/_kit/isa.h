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

// The rows of a kernel for one instruction set: its name gets the set's, its share of peak is given per set.
constexpr attune_kernel OnIsa(Isa isa, const char* name, attune_kernel_fn run, attune_kernel kernel,
                              double efficiency) {
  kernel.efficiency = efficiency;
  return OnIsa(isa, name, run, kernel);
}

// The vector kernels of a table, for every instruction set of the architecture, widest first. KERNELS is a macro of one
// argument that calls it once per kernel with: name (the set's is added), function, row, and its share of peak on
// AVX-512, AVX2, SSE4 and NEON:
//   #define FORWARD_KERNELS(ON) \
//     ON("tiled", TiledForward, Tiled(), 0.6, 0.3, 0.08, 0.6)
//   const attune_kernel kForwardKernels[] = {ATTUNE_ON_EVERY_ISA(FORWARD_KERNELS) Reference(...)};
#if defined(__x86_64__)
#define ATTUNE_ON_EVERY_ISA(KERNELS) KERNELS(ATTUNE_ON_AVX512) KERNELS(ATTUNE_ON_AVX2) KERNELS(ATTUNE_ON_SSE4)
#elif defined(__aarch64__)
#define ATTUNE_ON_EVERY_ISA(KERNELS) KERNELS(ATTUNE_ON_NEON)
#else
#define ATTUNE_ON_EVERY_ISA(KERNELS)
#endif
#define ATTUNE_ON_AVX512(name, function, row, avx512, avx2, sse4, neon) \
  attune_kit::OnIsa(attune_kit::kAvx512, name "_avx512", N_AVX3::function, row, avx512),
#define ATTUNE_ON_AVX2(name, function, row, avx512, avx2, sse4, neon) \
  attune_kit::OnIsa(attune_kit::kAvx2, name "_avx2", N_AVX2::function, row, avx2),
#define ATTUNE_ON_SSE4(name, function, row, avx512, avx2, sse4, neon) \
  attune_kit::OnIsa(attune_kit::kSse4, name "_sse4", N_SSE4::function, row, sse4),
#define ATTUNE_ON_NEON(name, function, row, avx512, avx2, sse4, neon) \
  attune_kit::OnIsa(attune_kit::kNeon, name "_neon", N_NEON::function, row, neon),

}  // namespace attune_kit
#endif  // ATTUNE_KIT_ISA_H_
