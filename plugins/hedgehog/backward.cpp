// Gradients in chunks, in two passes over the tokens of a kv head: its queries in order, then its keys from the last to
// the first. O(N) time; memory beyond the tensors is five numbers per query.
#include "hedgehog/kernels.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hedgehog/backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <math.h>

#include "hedgehog/key_pass-inl.h"
#include "hedgehog/query_pass-inl.h"
#include "hedgehog/weight_sums-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hedgehog {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

attune_status ChunkedBackward(const attune_exec* exec) {
  const attune_exec& x = *exec;
  const Problem p = ReadForward(x, true);
  const GradientLayout layout(x, p);
  const View dq(x.tensors[kBwdDq]), dk(x.tensors[kBwdDk]), dv(x.tensors[kBwdDv]), d_o(x.tensors[kBwdDo]);
  const Grid grid(p, x.knobs[kChunk]);
  attune_status status = ParallelFor(x, p.Hkv * layout.slices, [&](int64_t task, uint32_t worker) HWY_ATTR {
    const int64_t head = task % p.Hkv, slice = task / p.Hkv;
    memset(layout.QueryMap(task, 0), 0, sizeof(float) * layout.task_floats);
    hedgehog::Floats memory = layout.Memory(worker);
    HeadMemory shared(p, grid, d_o, layout, task, memory);
    QueryPass queries(p, grid, shared, memory);
    KeyPass keys(p, grid, shared, memory);
    for (int64_t b = layout.FirstBatch(slice, p.B); b < layout.FirstBatch(slice + 1, p.B); b++) {
      if (Cancelled(x)) return;
      queries.Run(x, b, head, dq, layout.Factors(task));
      keys.Run(x, b, head, dk, dv);
    }
  });
  if (status == ATTUNE_OK) status = StoreWeights(x, p, layout, x.tensors + kBwdDwq);
  const View factor(x.tensors[kBwdDwindowFactor]);
  for (int64_t h = 0; status == ATTUNE_OK && factor && h < p.Hq; h++) {
    double sum = 0;
    for (int64_t s = 0; s < layout.slices; s++) {
      sum += layout.Factors(s * p.Hkv + h / p.Group())[h % p.Group()];
    }
    factor.Put(p.Gamma(h) * (1 - p.Gamma(h)) * sum, h);
  }
  return status == ATTUNE_OK && Cancelled(x) ? ATTUNE_E_CANCELLED : status;
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace hedgehog
HWY_AFTER_NAMESPACE();
