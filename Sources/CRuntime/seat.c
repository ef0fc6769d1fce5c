#define _GNU_SOURCE
#include "seat.h"
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { UNKNOWN = -1, ASLEEP = -2 };

struct crt_seat {
  _Alignas(64) _Atomic int tid; /* 0 until taken */
  _Atomic int cpu;              /* where the worker was when it rested, or one of the above */
  _Atomic int moved;            /* `allowed` is to be restored */
  cpu_set_t allowed;            /* written by the caller while `moved` is 0, read by the worker while it is 1 */
};

crt_seat *crt_seats_create(uint32_t count) {
  crt_seat *seats = aligned_alloc(_Alignof(crt_seat), count * sizeof *seats);
  uint32_t i;
  if (!seats) return NULL;
  memset(seats, 0, count * sizeof *seats);
  for (i = 0; i < count; i++) atomic_init(&seats[i].cpu, UNKNOWN);
  return seats;
}

void crt_seats_release(crt_seat *seats) { free(seats); }

void crt_seat_take(crt_seat *seats, uint32_t worker) { atomic_store(&seats[worker].tid, (int)syscall(SYS_gettid)); }

void crt_seat_rest(crt_seat *seats, uint32_t worker) {
  crt_seat *seat = seats + worker;
  if (atomic_load_explicit(&seat->moved, memory_order_acquire)) {
    sched_setaffinity(0, sizeof seat->allowed, &seat->allowed);
    atomic_store_explicit(&seat->moved, 0, memory_order_release);
  }
  atomic_store_explicit(&seat->cpu, sched_getcpu(), memory_order_relaxed);
}

void crt_seat_sleep(crt_seat *seats, uint32_t worker) {
  atomic_store_explicit(&seats[worker].cpu, ASLEEP, memory_order_relaxed);
}

void crt_seats_part(crt_seat *seats, uint32_t first, uint32_t count) {
  const int here = sched_getcpu();
  uint32_t i;
  if (here < 0 || here >= CPU_SETSIZE) return;
  for (i = first; i < count; i++) {
    crt_seat *seat = seats + i;
    cpu_set_t others;
    const int tid = atomic_load(&seat->tid), cpu = atomic_load_explicit(&seat->cpu, memory_order_relaxed);
    if (!tid || (cpu != here && cpu != ASLEEP)) continue;
    if (atomic_load_explicit(&seat->moved, memory_order_acquire)) continue;
    /* What the kernel refuses is left as it is: the worker only comes later. */
    if (sched_getaffinity(tid, sizeof seat->allowed, &seat->allowed)) continue;
    others = seat->allowed;
    CPU_CLR(here, &others);
    if (CPU_COUNT(&others) == 0 || sched_setaffinity(tid, sizeof others, &others)) continue;
    /* Only now, or the worker could restore first and stay barred. */
    atomic_store_explicit(&seat->moved, 1, memory_order_release);
  }
}
