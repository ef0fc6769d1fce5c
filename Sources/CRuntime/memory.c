/* Stack frames and per-thread arenas: scratch memory of the execute path, which may not call malloc. */
#include "CRuntime.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define ALIGN 64

attune_status crt_with_frame(size_t bytes, attune_status (*body)(void *, void *), void *context) {
  if (bytes > 65536) return ATTUNE_E_INTERNAL;
  char *raw = __builtin_alloca(bytes + ALIGN);
  return body(context, (void *)(((uintptr_t)raw + ALIGN - 1) & ~(uintptr_t)(ALIGN - 1)));
}

struct arena {
  void *block;
  uint64_t capacity;
  int in_use;
};
static _Thread_local struct arena mine;
static _Atomic uint64_t reserve;
static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static void make_key(void) { pthread_key_create(&key, free); }

void crt_arena_reserve(uint64_t bytes) {
  uint64_t seen = atomic_load(&reserve);
  while (seen < bytes && !atomic_compare_exchange_weak(&reserve, &seen, bytes)) {
  }
}

static void *aligned(uint64_t bytes) {
  if (bytes > (uint64_t)INT64_MAX - ALIGN) return NULL;
  return aligned_alloc(ALIGN, (size_t)((bytes + ALIGN) & ~(uint64_t)(ALIGN - 1)));
}

void *crt_arena_acquire(uint64_t bytes) {
  struct arena *a = &mine;
  if (a->in_use) return aligned(bytes);
  if (a->capacity < bytes || !a->block) {
    uint64_t want = atomic_load(&reserve);
    void *block;
    if (want < bytes) want = bytes;
    block = aligned(want);
    if (!block && want > bytes) block = aligned(want = bytes);
    if (!block) return NULL;
    pthread_once(&once, make_key);
    free(a->block);
    a->block = block;
    a->capacity = want;
    pthread_setspecific(key, block); /* freed when the thread ends */
  }
  a->in_use = 1;
  return a->block;
}

void crt_arena_release(void *block) {
  if (block == mine.block) mine.in_use = 0;
  else free(block);
}
