// The bounded state of a step.
#ifndef ATTUNE_DMA_STATE_H_
#define ATTUNE_DMA_STATE_H_
#include <string.h>

#include "dma/problem.h"

namespace dma {

// Writes what is left of the keys of one (batch, kv head) after the last token, oldest first. In place, what has not
// moved is not touched; a slot is never behind the key that takes it.
inline void StoreState(const Problem& c, int64_t b, int64_t head, const double* bias, const int32_t* death) {
  int64_t unmoved = 0;
  while (unmoved < c.Cached() && death[unmoved] == kNever) unmoved++;
  const auto store = [&](const View& state, const View& out, auto copy) {
    const bool in_place = state && state.Data() == out.Data();
    int64_t slot = in_place ? unmoved : 0;
    for (int64_t j = slot; j < c.Nk; j++) {
      if (death[j] == kNever) copy(j, slot++);
    }
  };
  const auto store_rows = [&](const KeyRows& from, const View& out, int64_t width) {
    const int64_t size = out.DType() == ATTUNE_F32 ? 4 : 2;
    store(from.cached, out, [&](int64_t j, int64_t slot) {
      const RowRef row = from.At(b, head, j);
      memmove(static_cast<char*>(out.Data()) + out.Offset(b, head, slot) * size,
              static_cast<const char*>(row.view->Data()) + row.offset * size, size_t(width * size));
    });
  };
  store_rows(c.k, c.k_out, c.D);
  store_rows(c.v, c.v_out, c.Dv);
  float* const biases = static_cast<float*>(c.key_bias_out.Data()) + c.key_bias_out.Offset(b, head);
  const int64_t step = c.key_bias_out.Stride(2);
  store(c.key_bias_state, c.key_bias_out, [&](int64_t j, int64_t slot) { biases[slot * step] = float(bias[j]); });
}

}  // namespace dma
#endif  // ATTUNE_DMA_STATE_H_
