// The bounded state of a step.
#ifndef ATTUNE_DMA_STATE_H_
#define ATTUNE_DMA_STATE_H_
#include <string.h>

#include "dma/problem.h"

namespace dma {

// Writes what is left of the keys of one (batch, kv head) after the last token, oldest first. In place, what has not
// moved is not touched; a slot is never behind the key that takes it.
inline void StoreState(const Problem& c, int64_t b, int64_t head, const double* bias, const int32_t* death) {
  const int64_t size = c.k_out.DType() == ATTUNE_F32 ? 4 : 2;
  const auto move = [&](const KeyRows& from, const View& to, int64_t j, int64_t slot, int64_t width) {
    const RowRef row = from.At(b, head, j);
    const char* source = static_cast<const char*>(row.view->Data()) + row.offset * size;
    char* target = static_cast<char*>(to.Data()) + to.Offset(b, head, slot) * size;
    if (source != target) memmove(target, source, size_t(width * size));
  };
  int64_t slot = 0;
  for (int64_t j = 0; j < c.Nk; j++) {
    if (death[j] != kNever) continue;
    move(c.k, c.k_out, j, slot, c.D);
    move(c.v, c.v_out, j, slot, c.Dv);
    c.key_bias_out.Put(bias[j], b, head, slot++);
  }
}

}  // namespace dma
#endif  // ATTUNE_DMA_STATE_H_
