#ifndef CRUNTIME_POOL_H
#define CRUNTIME_POOL_H
#include "CRuntime.h"
/* Non-zero while this thread runs pieces: regions opened meanwhile run inline. */
extern _Thread_local int crt_inside;
/* Runs fn over [0,n); 0 if the pool is taken or gone (forked child): the caller then runs everything itself. */
int crt_pool_run(crt_pool *pool, uint32_t workers, int64_t n, int64_t grain, attune_task_fn fn, void *arg);
#endif
