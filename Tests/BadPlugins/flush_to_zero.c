/* Switches the loading thread to flush-to-zero, as a library built with -ffast-math may. */
#include "plugin.h"
__attribute__((constructor)) static void fast(void) {
#if defined(__x86_64__)
  __builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | 0x8040);
#elif defined(__aarch64__)
  uint64_t mode;
  __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
  __asm__ volatile("msr fpcr, %0" : : "r"(mode | 1 << 24));
#endif
}
