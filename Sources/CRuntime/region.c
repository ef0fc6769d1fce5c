/* Parallel regions: the pool, the caller's own threads, or this thread, behind one call that checks what it is told. */
#include "pool.h"
#include <stdatomic.h>

/* The piece this thread runs: a region nested in it keeps its worker, because other workers' slices are in use. */
static _Thread_local const crt_region *current;
static _Thread_local uint32_t current_worker;

struct region_call {
  const crt_region *region;
  attune_task_fn fn;
  void *arg;
  int64_t n;
  _Atomic int64_t done;   /* elements that ran */
  _Atomic int32_t broken; /* the caller's parallel_for left its contract */
  _Atomic int32_t cancelled;
};

static int cancelled(const crt_region *r) { return r->cancel && __atomic_load_n(r->cancel, __ATOMIC_RELAXED); }

/* One piece on any thread: guards the contract, remembers the worker for nested regions. */
static void piece(void *context, int64_t begin, int64_t end, uint32_t worker) {
  struct region_call *call = context;
  const int inside = crt_inside;
  const crt_region *outer = current;
  const uint32_t outer_worker = current_worker;
  if (begin < 0 || end < begin || end > call->n || worker >= call->region->workers) {
    atomic_store(&call->broken, 1);
    return;
  }
  if (cancelled(call->region)) {
    atomic_store(&call->cancelled, 1);
    return;
  }
  crt_inside = 1;
  current = call->region;
  current_worker = worker;
  call->fn(call->arg, begin, end, worker);
  crt_inside = inside;
  current = outer;
  current_worker = outer_worker;
  atomic_fetch_add_explicit(&call->done, end - begin, memory_order_relaxed);
}

static attune_status serial(struct region_call *call, int64_t grain, uint32_t worker) {
  int64_t begin;
  if (!call->region->cancel) grain = call->n; /* pieces only matter to whoever may cancel between them */
  for (begin = 0; begin < call->n; begin += grain) {
    if (call->n - begin < grain) grain = call->n - begin;
    piece(call, begin, begin + grain, worker);
    if (call->cancelled) return ATTUNE_E_CANCELLED;
  }
  return ATTUNE_OK;
}

attune_status crt_parallel(const crt_region *region, int64_t n, int64_t grain, attune_task_fn fn, void *arg) {
  struct region_call call = {region, fn, arg, n, 0, 0, 0};
  attune_status status;
  if (n <= 0) return ATTUNE_OK;
  if (grain < 1) grain = 1;
  if (grain > n) grain = n;
  if (crt_inside || region->workers < 2 || n <= grain) 
    return serial(&call, grain, current == region ? current_worker : 0);
  if (region->parallel_for) {
    status = region->parallel_for(region->user, n, grain, piece, &call);
    if (call.broken) return ATTUNE_E_INVALID;
    if (call.cancelled) return ATTUNE_E_CANCELLED;
    if (status) return status;
    return call.done == n ? ATTUNE_OK : ATTUNE_E_INVALID;
  }
  if (!region->pool || !crt_pool_run(region->pool, region->workers, n, grain, piece, &call)) return serial(&call, grain, 0);
  return call.cancelled ? ATTUNE_E_CANCELLED : ATTUNE_OK;
}

attune_status crt_host_parallel_for(const attune_exec *x, int64_t n, int64_t grain, attune_task_fn fn, void *arg) {
  if (!x || !x->reserved || !fn) return ATTUNE_E_INVALID;
  return crt_parallel(x->reserved, n, grain, fn, arg);
}
