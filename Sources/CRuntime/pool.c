/* A fork-join pool on one futex word.
 *
 * The caller never waits for a worker that has not started: a worker may enter a region only while it is open, the caller
 * runs every piece that nobody took, closes the region, and waits only for workers that are inside. So the worst case is
 * the serial time, and a forked child, where no worker exists, simply runs everything itself. Idle workers poll for a
 * while before they sleep, because waking a sleeping thread costs tens of microseconds. */
#define _GNU_SOURCE
#include "pool.h"
#include "seat.h"
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#else
#define PAUSE() __asm__ volatile("yield")
#endif
#define LINE 64
#define OPEN 0x80000000u

struct crt_pool {
  /* High half: epoch, one per region. Low half: OPEN and the number of workers inside. */
  _Alignas(LINE) _Atomic uint64_t state;
  _Atomic uint32_t joined; /* a worker has been inside of the last region */
  _Alignas(LINE) _Atomic int64_t next;
  _Alignas(LINE) _Atomic uint32_t sleepers;
  /* The region: written by its caller before it opens, read only by workers that are inside. */
  _Alignas(LINE) int64_t n;
  int64_t grain;
  attune_task_fn fn;
  void *arg;
  uint32_t workers;
  _Alignas(LINE) _Atomic int busy;
  _Atomic int stop;
  uint32_t threads, spin, generation;
  pthread_t *thread;
  crt_seat *seats;
};

_Thread_local int crt_inside;

/* Counts forks on the child's side: a pool of an older generation has lost its threads. */
static _Atomic uint32_t generation;
static void after_fork(void) { atomic_fetch_add(&generation, 1); }
static pthread_once_t once = PTHREAD_ONCE_INIT;
static void watch_forks(void) { pthread_atfork(NULL, NULL, after_fork); }

static uint32_t *half(crt_pool *p, int high) { return (uint32_t *)(void *)&p->state + high; } /* little endian */
static void futex_wait(uint32_t *word, uint32_t seen) { syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0); }
static void futex_wake(uint32_t *word, uint32_t count) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0); }

static void take_pieces(crt_pool *p, uint32_t worker) {
  const int64_t n = p->n, grain = p->grain;
  int64_t begin;
  crt_inside = 1;
  while ((begin = atomic_fetch_add_explicit(&p->next, grain, memory_order_relaxed)) < n)
    p->fn(p->arg, begin, n - begin > grain ? begin + grain : n, worker);
  crt_inside = 0;
}

struct start {
  crt_pool *pool;
  uint32_t worker;
};

static void *worker_main(void *argument) {
  struct start *start = argument;
  crt_pool *p = start->pool;
  const uint32_t worker = start->worker;
  uint32_t seen = 0, polls;
  uint64_t state;
  free(start);
  crt_seat_take(p->seats, worker);
  for (;;) {
    crt_seat_rest(p->seats, worker);
    for (polls = 0; (uint32_t)((state = atomic_load_explicit(&p->state, memory_order_acquire)) >> 32) == seen;) {
      if (polls++ < p->spin) {
        PAUSE();
        continue;
      }
      crt_seat_sleep(p->seats, worker);
      atomic_fetch_add(&p->sleepers, 1);
      if ((uint32_t)(atomic_load(&p->state) >> 32) == seen) futex_wait(half(p, 1), seen);
      atomic_fetch_sub(&p->sleepers, 1);
    }
    seen = (uint32_t)(state >> 32);
    if (atomic_load(&p->stop)) return NULL;
    while ((uint32_t)(state >> 32) == seen && (state & OPEN))
      if (atomic_compare_exchange_weak(&p->state, &state, state + 1)) {
        atomic_store_explicit(&p->joined, 1, memory_order_relaxed);
        if (worker < p->workers) take_pieces(p, worker);
        state = atomic_fetch_sub_explicit(&p->state, 1, memory_order_acq_rel);
        if ((uint32_t)state == 1) futex_wake(half(p, 0), 1); /* closed, and this was the last one inside */
        break;
      }
  }
}

crt_pool *crt_pool_create(uint32_t threads, uint32_t spin) {
  crt_pool *p = aligned_alloc(LINE, (sizeof *p + LINE - 1) / LINE * LINE);
  uint32_t i;
  sigset_t all, old;
  if (!p) return NULL;
  pthread_once(&once, watch_forks);
  memset(p, 0, sizeof *p);
  p->threads = 1;
  p->spin = spin;
  p->generation = atomic_load(&generation);
  if (threads > 1) p->thread = calloc(threads, sizeof *p->thread);
  if (p->thread) p->seats = crt_seats_create(threads);
  if (!p->seats) return p;
  sigfillset(&all); /* signals are the program's business: its handlers run on its own threads */
  pthread_sigmask(SIG_SETMASK, &all, &old);
  for (i = 1; i < threads; i++) {
    struct start *start = malloc(sizeof *start);
    if (!start) break;
    start->pool = p;
    start->worker = i;
    if (pthread_create(&p->thread[i], NULL, worker_main, start)) {
      free(start);
      break;
    }
    p->threads = i + 1;
  }
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  return p;
}

uint32_t crt_pool_threads(const crt_pool *pool) { return pool ? pool->threads : 1; }

int crt_pool_run(crt_pool *p, uint32_t workers, int64_t n, int64_t grain, attune_task_fn fn, void *arg) {
  int free_now = 0, polls;
  uint64_t state;
  uint32_t epoch, pieces, sleepers, alone;
  if (p->threads < 2 || p->generation != atomic_load_explicit(&generation, memory_order_relaxed)) return 0;
  if (!atomic_compare_exchange_strong(&p->busy, &free_now, 1)) return 0;
  p->n = n;
  p->grain = grain;
  p->fn = fn;
  p->arg = arg;
  p->workers = workers;
  atomic_store_explicit(&p->next, 0, memory_order_relaxed);
  alone = !atomic_exchange_explicit(&p->joined, 0, memory_order_relaxed);
  epoch = (uint32_t)(atomic_load_explicit(&p->state, memory_order_relaxed) >> 32) + 1;
  atomic_store(&p->state, (uint64_t)epoch << 32 | OPEN);
  sleepers = atomic_load(&p->sleepers);
  if (sleepers || alone) crt_seats_part(p->seats, 1, p->threads);
  if (sleepers) {
    pieces = (n - 1) / grain < (int64_t)sleepers ? (uint32_t)((n - 1) / grain) : sleepers;
    futex_wake(half(p, 1), workers < p->threads ? sleepers : pieces); /* which sleeper wakes is not ours to choose */
  }
  take_pieces(p, 0);
  state = atomic_fetch_and(&p->state, ~(uint64_t)OPEN) & ~(uint64_t)OPEN;
  for (polls = 0; (uint32_t)state; state = atomic_load_explicit(&p->state, memory_order_acquire))
    if (polls++ < 2000) PAUSE();
    else futex_wait(half(p, 0), (uint32_t)state);
  atomic_store_explicit(&p->busy, 0, memory_order_release);
  return 1;
}

void crt_pool_release(crt_pool *p) {
  uint32_t i;
  if (!p) return;
  if (p->generation == atomic_load(&generation)) {
    atomic_store(&p->stop, 1);
    atomic_fetch_add(&p->state, (uint64_t)1 << 32);
    futex_wake(half(p, 1), 0x7fffffff);
    for (i = 1; i < p->threads; i++) pthread_join(p->thread[i], NULL);
  }
  crt_seats_release(p->seats);
  free(p->thread);
  free(p);
}
