// Work that a kernel spreads over the workers of its call by itself (ATTUNE_OWNS_THREADS).
#ifndef ATTUNE_KIT_PARALLEL_H_
#define ATTUNE_KIT_PARALLEL_H_
#include <attune/plugin.h>

namespace attune_kit {

// Has the caller asked for the call to end early?
inline bool Cancelled(const attune_exec& x) {
  return x.cancel && __atomic_load_n(x.cancel, __ATOMIC_RELAXED);
}

// f(i, worker) for every i < n, in any order, at least `grain` of them by the same worker; returns when all are done.
// After a cancellation the rest is left out.
template <class F>
attune_status Parallel(const attune_exec& x, int64_t n, int64_t grain, const F& f) {
  struct Call {
    const attune_exec* x;
    const F* f;
  } call = {&x, &f};
  const auto piece = [](void* arg, int64_t begin, int64_t end, uint32_t worker) {
    const Call& call = *static_cast<Call*>(arg);
    for (int64_t i = begin; i < end && !Cancelled(*call.x); i++) (*call.f)(i, worker);
  };
  return n > 0 ? x.host->parallel_for(&x, n, grain, piece, &call) : ATTUNE_OK;
}
template <class F>
attune_status Parallel(const attune_exec& x, int64_t n, const F& f) {
  return Parallel(x, n, 1, f);
}

}  // namespace attune_kit
#endif  // ATTUNE_KIT_PARALLEL_H_
