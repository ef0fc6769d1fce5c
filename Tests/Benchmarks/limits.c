/* What several threads of this machine can do at once, each kept on a CPU of its own: multiply-adds and reads of memory that
 * no cache holds. Made from the library's own measurements (Sources/CRuntime/peak.c) by limits.py. */
#define _GNU_SOURCE
#include <CRuntime.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define MAX_THREADS 256
#define PIECE (8u << 20) /* bytes read between two looks at the clock */

enum { SUMS = 12, STEPS = 64, REPEATS = 50 };
/* GFLOP/s of multiply-adds that load an operand each from the first-level cache, as a register tile of a product does. Whoever
 * else runs on the same core takes from these what multiply-adds in registers do not notice. a: STEPS * SUMS numbers. */
#define LOADED_LOOP(NAME, TARGET, VEC, SET, MULADD, STORE, LANES) \
  __attribute__((target(TARGET), noinline)) static double NAME(const float *a) { \
    VEC acc[SUMS], b = SET(a[0]); \
    float out[LANES]; \
    for (int i = 0; i < SUMS; i++) acc[i] = b; \
    const int64_t begin = crt_now_ns(); \
    for (int repeat = 0; repeat < REPEATS; repeat++) { \
      for (const float *at = a; at < a + STEPS * SUMS; at += 2 * SUMS) { \
        _Pragma("GCC unroll 12") for (int i = 0; i < SUMS; i++) acc[i] = MULADD(SET(at[i]), b, acc[i]); \
        _Pragma("GCC unroll 12") for (int i = 0; i < SUMS; i++) acc[i] = MULADD(SET(at[SUMS + i]), b, acc[i]); \
      } \
    } \
    const int64_t end = crt_now_ns(); \
    for (int i = 1; i < SUMS; i++) acc[0] = MULADD(acc[i], b, acc[0]); \
    STORE(out, acc[0]); \
    __asm__ volatile("" : : "m"(out)); \
    return 2.0 * LANES * SUMS * STEPS * REPEATS / (double)(end - begin); \
  }
#if defined(__x86_64__)
#define SSE_MULADD(a, b, c) _mm_add_ps(_mm_mul_ps(a, b), c)
LOADED_LOOP(loaded_avx512, "avx512f", __m512, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps, 16)
LOADED_LOOP(loaded_avx2, "avx2,fma", __m256, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps, 8)
LOADED_LOOP(loaded_sse4, "sse4.2", __m128, _mm_set1_ps, SSE_MULADD, _mm_storeu_ps, 4)
static double loaded_gflops(const float *a, uint64_t isa) {
  if (isa >> ATTUNE_X86_AVX512F & 1) return loaded_avx512(a);
  return isa >> ATTUNE_X86_FMA & 1 ? loaded_avx2(a) : loaded_sse4(a);
}
#else
static double loaded_gflops(const float *a, uint64_t isa) {
  (void)a;
  return crt_fma_gflops(isa);
}
#endif

typedef struct {
  pthread_barrier_t *start;
  const char *memory; /* NULL: multiply-adds */
  bool loaded;        /* with operands from the first-level cache */
  uint64_t bytes, offset, isa;
  double seconds, rate, best; /* best: of the bursts of multiply-adds */
  int cpu;
} runner;

static void *run(void *arg) {
  runner *r = arg;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(r->cpu, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
  pthread_barrier_wait(r->start);
  float numbers[STEPS * SUMS];
  for (int i = 0; i < STEPS * SUMS; i++) numbers[i] = 1;
  const int64_t begin = crt_now_ns();
  double units = 0, took = 0; /* GFLOP or bytes, and seconds */
  do {
    if (r->memory) {
      crt_read(r->memory + r->offset, PIECE, r->isa);
      r->offset = (r->offset + PIECE) % r->bytes;
      units += PIECE;
    } else {
      /* A burst is always the same work: the mean rate is the harmonic one. */
      const double burst = r->loaded ? loaded_gflops(numbers, r->isa) : crt_fma_gflops(r->isa);
      units += 1;
      took += 1 / burst;
      if (burst > r->best) r->best = burst;
    }
  } while ((double)(crt_now_ns() - begin) < r->seconds * 1e9);
  r->rate = units / (r->memory ? (double)(crt_now_ns() - begin) / 1e9 : took);
  return NULL;
}

/* The sum over the threads; 0 when they cannot be had. */
static double together(uint32_t threads, runner *each) {
  pthread_t ids[MAX_THREADS];
  pthread_barrier_t start;
  cpu_set_t usable;
  if (sched_getaffinity(0, sizeof usable, &usable) || threads > (uint32_t)CPU_COUNT(&usable)) return 0;
  if (pthread_barrier_init(&start, NULL, threads)) return 0;
  double sum = 0;
  int cpu = -1;
  for (uint32_t i = 0; i < threads; i++) {
    do cpu++;
    while (!CPU_ISSET(cpu, &usable));
    each[i].cpu = cpu;
    each[i].start = &start;
    if (pthread_create(&ids[i], NULL, run, &each[i])) abort(); /* those that exist would wait for ever */
  }
  for (uint32_t i = 0; i < threads; i++) {
    pthread_join(ids[i], NULL);
    sum += each[i].rate;
  }
  pthread_barrier_destroy(&start);
  return sum;
}

/* Instructions that a library capped to `level` may use. */
static uint64_t isa_of(const char *level) {
  const uint64_t all = crt_isa_bits(), fma = 1ull << ATTUNE_X86_FMA, avx512 = 1ull << ATTUNE_X86_AVX512F;
  if (!strcmp(level, "avx2")) return all & ~avx512;
  return strcmp(level, "sse4") ? all : all & ~(avx512 | fma);
}

/* GFLOP/s of f32 multiply-adds, in registers or with operands from the first-level cache. best: of the fastest burst of one
 * thread, some microseconds that fit between what neighbours do. */
double limits_multiply_adds(uint32_t threads, const char *level, double seconds, bool loaded, double *best) {
  runner each[MAX_THREADS];
  if (threads < 1 || threads > MAX_THREADS) return 0;
  for (uint32_t i = 0; i < threads; i++)
    each[i] = (runner){.isa = isa_of(level), .seconds = seconds, .loaded = loaded};
  const double sum = together(threads, each);
  *best = 0;
  for (uint32_t i = 0; i < threads; i++)
    if (each[i].best > *best) *best = each[i].best;
  return sum;
}

/* Bytes per second. `total` bytes are kept from the first call on, and each call reads on where the last one ended. */
double limits_read(uint32_t threads, const char *level, uint64_t total, double seconds) {
  static char *memory;
  static uint64_t held, offset;
  runner each[MAX_THREADS];
  if (threads < 1 || threads > MAX_THREADS) return 0;
  const uint64_t share = total / threads / PIECE * PIECE;
  if (!share) return 0;
  if (held < total) {
    free(memory);
    held = 0;
    if (!(memory = aligned_alloc(64, total / 64 * 64))) return 0;
    memset(memory, 1, total / 64 * 64);
    held = total;
  }
  for (uint32_t i = 0; i < threads; i++)
    each[i] = (runner){.memory = memory + i * share, .bytes = share, .offset = offset % share,
                       .isa = isa_of(level), .seconds = seconds};
  const double rate = together(threads, each);
  offset = each[0].offset;
  return rate;
}
