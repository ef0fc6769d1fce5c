/* Facts about the machine and the process. */
#define _GNU_SOURCE
#include "CRuntime.h"
#include <dlfcn.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#if defined(__x86_64__)
static uint64_t xcr0(void) {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t)high << 32 | low;
}

uint64_t crt_isa_bits(void) {
  uint32_t a, b, c, d, c1, b7 = 0, c7 = 0, d7 = 0, a71 = 0;
  uint64_t bits = 0, os;
#define TAKE(test, bit) ((test) ? bits |= (uint64_t)1 << (bit) : 0)
  if (!__get_cpuid(1, &a, &b, &c1, &d)) return 0;
  if (__get_cpuid_count(7, 0, &a, &b7, &c7, &d7) && a >= 1) {
    uint32_t b1, c71, d1;
    __get_cpuid_count(7, 1, &a71, &b1, &c71, &d1);
  }
  (void)b, (void)c, (void)c7;
  TAKE(c1 >> 20 & 1, ATTUNE_X86_SSE42);
  if (!(c1 >> 27 & 1)) return bits; /* no OSXSAVE: no wide registers */
  os = xcr0();
  if ((os & 6) == 6 && (c1 >> 28 & 1)) {
    TAKE(1, ATTUNE_X86_AVX);
    TAKE(c1 >> 29 & 1, ATTUNE_X86_F16C);
    TAKE(c1 >> 12 & 1, ATTUNE_X86_FMA);
    TAKE(b7 >> 5 & 1, ATTUNE_X86_AVX2);
    TAKE(b7 >> 8 & 1, ATTUNE_X86_BMI2);
    TAKE(a71 >> 4 & 1, ATTUNE_X86_AVXVNNI);
  }
  if ((os & 0xe6) == 0xe6 && (b7 >> 16 & 1)) {
    TAKE(1, ATTUNE_X86_AVX512F);
    TAKE(b7 >> 30 & 1, ATTUNE_X86_AVX512BW);
    TAKE(b7 >> 17 & 1, ATTUNE_X86_AVX512DQ);
    TAKE(b7 >> 31 & 1, ATTUNE_X86_AVX512VL);
    TAKE(b7 >> 28 & 1, ATTUNE_X86_AVX512CD);
    TAKE(c7 >> 11 & 1, ATTUNE_X86_AVX512VNNI);
    TAKE(a71 >> 5 & 1, ATTUNE_X86_AVX512BF16);
    TAKE(d7 >> 23 & 1, ATTUNE_X86_AVX512FP16);
    TAKE(c7 >> 1 & 1, ATTUNE_X86_AVX512VBMI);
  }
  /* AMX also needs a permission request per process; the bits stay clear until a kernel of ours asks for it. */
#undef TAKE
  return bits;
}

uint32_t crt_arch(void) { return ATTUNE_ARCH_X86_64; }

void crt_cpu_name(char *out, size_t capacity) {
  uint32_t regs[12], top = __get_cpuid_max(0x80000000u, NULL);
  char brand[49] = {0};
  const char *p = brand;
  if (top >= 0x80000004u) {
    for (uint32_t i = 0; i < 3; i++)
      __get_cpuid(0x80000002u + i, &regs[4 * i], &regs[4 * i + 1], &regs[4 * i + 2], &regs[4 * i + 3]);
    memcpy(brand, regs, 48);
  }
  while (*p == ' ') p++;
  snprintf(out, capacity, "%s", *p ? p : "x86-64");
}

#define MXCSR_CONTROL 0xffc0u /* exception masks, rounding, flush-to-zero, denormals-are-zero */
uint32_t crt_fpcw(void) {
  uint16_t x87;
  __asm__ volatile("fnstcw %0" : "=m"(x87));
  return (_mm_getcsr() & MXCSR_CONTROL) | (uint32_t)x87 << 16;
}
void crt_set_fpcw(uint32_t words) {
  uint16_t x87 = (uint16_t)(words >> 16);
  _mm_setcsr((_mm_getcsr() & ~MXCSR_CONTROL) | (words & MXCSR_CONTROL));
  __asm__ volatile("fldcw %0" : : "m"(x87));
}
#elif defined(__aarch64__)
uint64_t crt_isa_bits(void) { return (uint64_t)1 << ATTUNE_ARM_NEON; }
uint32_t crt_arch(void) { return ATTUNE_ARCH_AARCH64; }
void crt_cpu_name(char *out, size_t capacity) { snprintf(out, capacity, "aarch64"); }
uint32_t crt_fpcw(void) {
  uint64_t v;
  __asm__ volatile("mrs %0, fpcr" : "=r"(v));
  return (uint32_t)v;
}
void crt_set_fpcw(uint32_t words) {
  uint64_t v = words;
  __asm__ volatile("msr fpcr, %0" : : "r"(v));
}
#endif

uint32_t crt_usable_cpus(void) {
  cpu_set_t set;
  int count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
  return count > 0 ? (uint32_t)count : 1;
}

uint64_t crt_cache_bytes(int level) {
  static const int names[] = {_SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL2_CACHE_SIZE, _SC_LEVEL3_CACHE_SIZE};
  long bytes = level >= 1 && level <= 3 ? sysconf(names[level - 1]) : 0;
  return bytes > 0 ? (uint64_t)bytes : 0;
}

int64_t crt_now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t crt_wall_seconds(void) { return (int64_t)time(NULL); }

const char *crt_own_path(void) {
  static _Thread_local char program[4096];
  Dl_info own, main;
  if (!dladdr((void *)crt_own_path, &own)) return NULL;
  /* The loader knows the program itself only by the name it was called with, which may come from PATH. */
  if (dladdr((void *)getauxval(AT_PHDR), &main) && main.dli_fbase == own.dli_fbase) {
    const ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n > 0) {
      program[n] = 0;
      return program;
    }
  }
  return own.dli_fname;
}

int crt_secure_mode(void) { return getauxval(AT_SECURE) != 0; }
