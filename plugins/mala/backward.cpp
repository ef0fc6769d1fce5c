#include "_kit/isa.h"
#include "mala/chunked.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mala/backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "mala/gradients-inl.h"
#include "mala/single_key.h"

HWY_BEFORE_NAMESPACE();
namespace mala {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

attune_status ChunkedBackward(const attune_exec* exec) {
  const attune_exec& x = *exec;
  const Problem c = Read(x, kBackward);
  const Layout w(x, c, x.knobs[kChunk], x.knobs[kSplit], true);
  attune_status status = SumKeys(x, c, w);
  if (status != ATTUNE_OK) return status;

  status = ParallelFor(x, w.heads * w.segments, [&](int64_t task, uint32_t worker) HWY_ATTR {
    HeadGradients(x, c, w, task / w.segments, worker).Queries(task % w.segments);
  });
  if (status != ATTUNE_OK) return status;

  status = ParallelFor(x, w.heads, [&](int64_t head, uint32_t) HWY_ATTR {
    if (c.causal) {
      return ScanSlots(w, true, [&](int64_t i) { return w.Gradients(head, i); }, [](const Slot&) {});
    }
    for (int64_t i = 1; i < w.segments; i++) AddSlot(w, w.Gradients(head, i), w.Gradients(head, 0));
  });
  if (status != ATTUNE_OK) return status;

  status = ParallelFor(x, w.heads * w.segments, [&](int64_t task, uint32_t worker) HWY_ATTR {
    HeadGradients head(x, c, w, task / w.segments, worker);
    c.causal ? head.KeysBackwards(task % w.segments) : head.Keys(task % w.segments);
  });
  if (status != ATTUNE_OK) return status;

  // Overwrites what the above made of batch entries with a single key.
  status = ParallelFor(x, w.heads, [&](int64_t head, uint32_t worker) HWY_ATTR {
    const int64_t key = SingleKey(c, head / c.Hkv);
    Arena arena(w, worker);
    if (key >= 0) SingleKeyBackward(c, head / c.Hkv, head % c.Hkv, key, reinterpret_cast<double*>(arena.Take(16)));
  });
  return status == ATTUNE_OK && Cancelled(x) ? ATTUNE_E_CANCELLED : status;
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace mala
HWY_AFTER_NAMESPACE();
