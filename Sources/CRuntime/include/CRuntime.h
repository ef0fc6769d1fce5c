/* What the host needs below Swift: parallel regions, stack frames, thread arenas, libffi, CPU facts, clocks.
 * Internal to the library: nothing here is exported. */
#ifndef CRUNTIME_H
#define CRUNTIME_H
#include <attune/plugin.h>

/* ---- threads: pool.c, region.c ------------------------------------------------------------------------------------ */

typedef struct crt_pool crt_pool;

/* `threads` counts the caller: threads - 1 are started, fewer if the system refuses. `spin` = polls before an idle worker
 * sleeps. NULL without memory. */
crt_pool *crt_pool_create(uint32_t threads, uint32_t spin);
uint32_t crt_pool_threads(const crt_pool *pool);
/* No region may be running. Joins the workers, except in a forked child, where there are none. */
void crt_pool_release(crt_pool *pool);

/* Where the pieces of one call run. Borrowed during the call. */
typedef struct crt_region {
  crt_pool *pool; /* may be NULL: serial */
  attune_status (*parallel_for)(void *user, int64_t n, int64_t grain, attune_task_fn fn, void *arg); /* caller's, or NULL */
  void *user;
  const int32_t *cancel; /* may be NULL */
  uint32_t workers;
  uint32_t reserved;
} crt_region;

/* Runs fn over [0,n) in pieces of at least `grain` and returns when all are done. worker < region->workers, and no two
 * concurrent pieces of one call share a worker. Nested calls run inline with the worker of their piece.
 * E_CANCELLED when stopped early; E_INVALID when the caller's parallel_for broke its contract (worker or range out of
 * bounds, pieces missing): what it asked for out of bounds has not been run. */
attune_status crt_parallel(const crt_region *region, int64_t n, int64_t grain, attune_task_fn fn, void *arg);
/* attune_host.parallel_for: x->reserved points at the crt_region of the call. */
attune_status crt_host_parallel_for(const attune_exec *x, int64_t n, int64_t grain, attune_task_fn fn, void *arg);

/* ---- memory: memory.c --------------------------------------------------------------------------------------------- */

/* Calls body with `bytes` of this thread's stack (64-byte aligned, contents undefined); at most 64 KiB. */
attune_status crt_with_frame(size_t bytes, attune_status (*body)(void *context, void *frame), void *context);

/* Lets the next first acquire of every thread take at least this much. */
void crt_arena_reserve(uint64_t bytes);
/* 64-byte aligned scratch of this thread, reused from call to call; a nested acquire gets memory of its own. NULL without
 * memory. bytes 0 is allowed. */
void *crt_arena_acquire(uint64_t bytes);
void crt_arena_release(void *block);

static inline void *crt_load_acquire(void *const *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void crt_store_release(void **p, void *v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
/* First caller gets 1, all others 0. */
static inline int crt_claim(int32_t *flag) { return __atomic_exchange_n(flag, 1, __ATOMIC_ACQ_REL) == 0; }
static inline int32_t crt_load_i32(const int32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void crt_store_i32(int32_t *p, int32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }

/* ---- native kernels: native.c ------------------------------------------------------------------------------------- */

typedef struct crt_cif crt_cif;
/* ctypes: ATTUNE_C_* per argument, at most 64. NULL on unknown types or without memory. Immutable afterwards. */
crt_cif *crt_cif_create(const uint32_t *ctypes, uint32_t count);
void crt_cif_release(crt_cif *cif);
/* Calls fn with one 8-byte slot per argument; f32 and i32 lie in the first bytes of theirs. [any-thread] */
attune_status crt_native_call(const crt_cif *cif, attune_native_fn fn, uint64_t *slots);

/* ---- machine: cpu.c, peak.c --------------------------------------------------------------------------------------- */

/* Bits of plugin.h (word 0) that both CPU and operating system offer. */
uint64_t crt_isa_bits(void);
uint32_t crt_arch(void); /* ATTUNE_ARCH_* */
/* Brand string of the CPU, NUL-terminated; capacity >= 49. */
void crt_cpu_name(char *out, size_t capacity);
/* Threads this process may run on. */
uint32_t crt_usable_cpus(void);
/* Bytes of the data or unified cache of a level of CPU 0; 0 unknown. */
uint64_t crt_cache_bytes(int level);
/* Floating-point control words (rounding, flush-to-zero, masks), status flags left out. */
uint32_t crt_fpcw(void);
void crt_set_fpcw(uint32_t words);
/* f32 multiply-add rate of the calling thread with the widest vectors among the bits of `isa`: measured once, in about
 * 0.1 ms, and the best of 30 ms. */
double crt_fma_gflops(uint64_t isa);
double crt_fma_peak_gflops(uint64_t isa);
/* Reads memory aligned to 64 bytes, a multiple of 256 bytes, once. */
void crt_read(const void *memory, uint64_t bytes, uint64_t isa);
/* Measured on the calling thread: bytes per second of reading `bytes` of memory repeatedly; 0 without memory. */
double crt_read_bandwidth(uint64_t bytes, uint64_t isa);
int64_t crt_now_ns(void);
/* Seconds since 1970. */
int64_t crt_wall_seconds(void);
/* File that holds this code (shared library or program); NULL unknown. Valid until this thread asks again. */
const char *crt_own_path(void);
/* Non-zero: set-user-id, set-group-id or file capabilities; the environment may not be trusted. */
int crt_secure_mode(void);
#endif
