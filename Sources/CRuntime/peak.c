/* Measured limits of the machine, so that a kernel's speed can be told as a share of them in the same run. */
#include "CRuntime.h"
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>

#define ROUNDS 20000
/* Independent multiply-adds in registers, enough of them to hide the latency of two units. */
#define FMA_LOOP(NAME, TARGET, VEC, N, SET, MULADD, STORE, LANES) \
  __attribute__((target(TARGET), noinline)) static double NAME(float seed) { \
    VEC acc[N], x = SET(1.0f + seed), y = SET(seed); \
    float out[LANES]; \
    for (int i = 0; i < N; i++) acc[i] = SET((float)i); \
    const int64_t begin = crt_now_ns(); \
    for (int round = 0; round < ROUNDS; round++) \
      _Pragma("GCC unroll 24") for (int i = 0; i < N; i++) acc[i] = MULADD(acc[i], x, y); \
    const int64_t end = crt_now_ns(); \
    for (int i = 1; i < N; i++) acc[0] = MULADD(acc[i], x, acc[0]); \
    STORE(out, acc[0]); \
    __asm__ volatile("" : : "m"(out)); \
    return 2.0 * LANES * N * ROUNDS / (double)(end - begin); \
  }
#define SSE_MULADD(a, b, c) _mm_add_ps(_mm_mul_ps(a, b), c)
FMA_LOOP(fma_avx512, "avx512f", __m512, 24, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps, 16)
FMA_LOOP(fma_avx2, "avx2,fma", __m256, 12, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps, 8)
FMA_LOOP(fma_sse4, "sse4.2", __m128, 12, _mm_set1_ps, SSE_MULADD, _mm_storeu_ps, 4)

double crt_fma_gflops(uint64_t isa) {
  volatile float seed = 0.0f;
  if (isa >> ATTUNE_X86_AVX512F & 1) return fma_avx512(seed);
  return isa >> ATTUNE_X86_FMA & 1 ? fma_avx2(seed) : fma_sse4(seed);
}

__attribute__((target("avx512f"))) static __m512i sum_avx512(const char *p, uint64_t bytes) {
  __m512i s[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
  for (uint64_t i = 0; i + 256 <= bytes; i += 256)
    for (int k = 0; k < 4; k++) s[k] = _mm512_xor_si512(s[k], _mm512_load_si512(p + i + 64 * k));
  return _mm512_xor_si512(_mm512_xor_si512(s[0], s[1]), _mm512_xor_si512(s[2], s[3]));
}
__attribute__((target("avx512f"))) static void read_avx512(const char *p, uint64_t bytes, char *sink) {
  _mm512_storeu_si512(sink, sum_avx512(p, bytes));
}
static void read_sse2(const char *p, uint64_t bytes, char *sink) {
  __m128i s[4] = {_mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128()};
  for (uint64_t i = 0; i + 64 <= bytes; i += 64)
    for (int k = 0; k < 4; k++) s[k] = _mm_xor_si128(s[k], _mm_load_si128((const __m128i *)(p + i + 16 * k)));
  _mm_storeu_si128((__m128i *)sink, _mm_xor_si128(_mm_xor_si128(s[0], s[1]), _mm_xor_si128(s[2], s[3])));
}
static void read_all(const char *p, uint64_t bytes, uint64_t isa, char *sink) {
  if (isa >> ATTUNE_X86_AVX512F & 1) read_avx512(p, bytes, sink);
  else read_sse2(p, bytes, sink);
}
#else
double crt_fma_gflops(uint64_t isa) {
  (void)isa;
  return 0;
}
static void read_all(const char *p, uint64_t bytes, uint64_t isa, char *sink) {
  (void)isa;
  for (uint64_t i = 0; i < bytes; i++) sink[i & 63] ^= p[i];
}
#endif

double crt_fma_peak_gflops(uint64_t isa) {
  double best = 0;
  const int64_t end = crt_now_ns() + 30000000;
  do {
    const double now = crt_fma_gflops(isa);
    if (now > best) best = now;
  } while (crt_now_ns() < end);
  return best;
}

void crt_read(const void *memory, uint64_t bytes, uint64_t isa) {
  char sink[64] = {0};
  read_all(memory, bytes, isa, sink);
  __asm__ volatile("" : : "m"(sink));
}

double crt_read_bandwidth(uint64_t bytes, uint64_t isa) {
  char *p;
  double best = 0;
  bytes = (bytes + 255) / 256 * 256;
  if (!bytes || !(p = aligned_alloc(64, bytes))) return 0;
  memset(p, 1, bytes);
  for (int round = 0; round < 8; round++) {
    const int64_t begin = crt_now_ns();
    crt_read(p, bytes, isa);
    const int64_t ns = crt_now_ns() - begin;
    if (ns > 0 && (double)bytes / (double)ns > best) best = (double)bytes / (double)ns;
  }
  free(p);
  return best * 1e9;
}
