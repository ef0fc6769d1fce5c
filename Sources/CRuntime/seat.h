#ifndef CRUNTIME_SEAT_H
#define CRUNTIME_SEAT_H
/* Where a worker of the pool runs.
 *
 * Linux often puts a woken thread on the CPU of the thread that wakes it although another one is idle: a virtual CPU that
 * is halted does not count as idle, and with few CPUs to a cache the search for idle ones ends early. Whoever opens a
 * region does not wait there, so the worker gets to run only when the scheduler balances its load, milliseconds later.
 * Therefore the caller bars those that it wakes from its own CPU. */
#include <stdint.h>

typedef struct crt_seat crt_seat;

/* One for each of `count` workers; NULL without memory. */
crt_seat *crt_seats_create(uint32_t count);
void crt_seats_release(crt_seat *seats);

/* The worker, on its own thread: once, before anything else. */
void crt_seat_take(crt_seat *seats, uint32_t worker);
/* The worker, when it is done with a region: says where it runs, and may run on all its CPUs again. */
void crt_seat_rest(crt_seat *seats, uint32_t worker);
/* The worker, before it sleeps. */
void crt_seat_sleep(crt_seat *seats, uint32_t worker);
/* The caller, one at a time: bars workers [first, count) that sleep, or were last seen on its CPU, from that CPU, until
 * they have been in a region. */
void crt_seats_part(crt_seat *seats, uint32_t first, uint32_t count);
#endif
