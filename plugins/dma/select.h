// Which keys are kept, in one pass over their biases.
#ifndef ATTUNE_DMA_SELECT_H_
#define ATTUNE_DMA_SELECT_H_
#include "_kit/top_k.h"
#include "dma/problem.h"

namespace dma {

// death[j] for the keys of one (batch, kv head); see Problem::Position for its meaning. bias: one per key, compared in
// f32, of equals the lower key wins; not read unless the call selects. heap: scratch, min(top_w, Nk) entries.
//
// The kept sets of consecutive positions are nested: with each new key at most one leaves, for good. So the worst of
// the kept keys on top of a heap is all that has to be known.
inline void FindDeaths(const Problem& c, int64_t b, const double* bias, int32_t* heap, int32_t* death) {
  const auto above = [&](int32_t x, int32_t y) {
    return attune_kit::Worse(float(bias[x]), x, float(bias[y]), y);
  };
  const bool in_time = c.causal && c.mask_mode == kPerQuery, selects = c.Selects() && c.top_w < c.Nk;
  const size_t most = selects ? size_t(c.top_w) : 0;
  size_t n = 0;
  for (int64_t j = 0; j < c.Nk; j++) {
    const int32_t key = int32_t(j);
    if (!c.Real(b, j)) {
      death[j] = key;
      continue;
    }
    death[j] = kNever;
    if (!selects) continue;
    if (n < most) {
      heap[n++] = key;
      for (size_t i = n == most ? n / 2 : 0; i-- > 0;) attune_kit::SiftDown(heap, i, n, above);
      continue;
    }
    const int32_t worst = heap[0];
    if (!above(worst, key)) {  // the new key is the worst: nobody ever keeps it
      death[j] = key;
      continue;
    }
    death[worst] = in_time ? key : worst;
    heap[0] = key;
    attune_kit::SiftDown(heap, 0, n, above);
  }
}

// top[j] = the largest finite bias of a key up to j that is ever kept; 0 when there is none. Scores are computed with
// the bias relative to it: with biases of 1e5 the difference is what f32 can hold, not the sum.
inline void FindLargest(const Problem& c, const double* bias, const int32_t* death, double* top) {
  double most = -__builtin_inf();
  for (int64_t j = 0; j < c.Nk; j++) {
    if (death[j] > j && __builtin_isfinite(bias[j]) && bias[j] > most) most = bias[j];
    top[j] = most == -__builtin_inf() ? 0 : most;
  }
}

}  // namespace dma
#endif  // ATTUNE_DMA_SELECT_H_
