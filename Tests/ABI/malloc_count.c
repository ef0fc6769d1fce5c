/* Counts what the whole process takes from the heap: definitions in the program win over libc's in every library. */
#include "malloc_count.h"
#include <errno.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);
static long calls, live;

long heap_calls(void) { return __atomic_load_n(&calls, __ATOMIC_SEQ_CST); }
long heap_live(void) { return __atomic_load_n(&live, __ATOMIC_SEQ_CST); }

static void *counted(void *p, int was_live) {
  __atomic_fetch_add(&calls, 1, __ATOMIC_SEQ_CST);
  if (p && !was_live) __atomic_fetch_add(&live, 1, __ATOMIC_SEQ_CST);
  return p;
}
void *malloc(size_t n) { return counted(__libc_malloc(n), 0); }
void *calloc(size_t n, size_t size) { return counted(__libc_calloc(n, size), 0); }
void *realloc(void *p, size_t n) { return counted(__libc_realloc(p, n), p != NULL); }
void *memalign(size_t alignment, size_t n) { return counted(__libc_memalign(alignment, n), 0); }
void *aligned_alloc(size_t alignment, size_t n) { return memalign(alignment, n); }
int posix_memalign(void **p, size_t alignment, size_t n) { return (*p = memalign(alignment, n)) ? 0 : ENOMEM; }
void free(void *p) {
  if (p) __atomic_fetch_sub(&live, 1, __ATOMIC_SEQ_CST);
  __libc_free(p);
}
