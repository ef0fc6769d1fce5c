// What the kernels of forward and step share: the phases of a call, and the end of a row.
#if defined(ATTUNE_DMA_PHASES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_DMA_PHASES_INL_H_
#undef ATTUNE_DMA_PHASES_INL_H_
#else
#define ATTUNE_DMA_PHASES_INL_H_
#endif
#include <math.h>

#include "dma/selection-inl.h"
#include "dma/state.h"

HWY_BEFORE_NAMESPACE();
namespace dma {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// Normalises and stores a row: o, of the sum `total` of weights, the maximum m in units of log2 and the bias that all
// scores are relative to.
inline void StoreResult(const Problem& c, int64_t b, int64_t h, int64_t i, float* o, float total, float m,
                        double largest) {
  // The row keeps no key: it is 0 whatever lies in the accumulator. A total of NaN is no empty row.
  if (total == 0) memset(o, 0, sizeof(float) * PadTo32(c.Dv));
  StoreRow(o, size_t(c.Dv), total == 0 ? 0 : 1 / total, {&c.o, c.o.Offset(b, h, i)});
  if (c.lse) c.lse.Put(total == 0 ? -INFINITY : m * kLn2 + largest + log(double(total)), b, h, i);
}

// Phases: biases and deaths of all keys; tiles of queries; the state (step). What a task writes depends on sizes and
// knobs alone. Attention: one worker's work on a tile, with
//   static Positions(x, c)                             query positions of a tile
//   Attention(x, c, selection, positions, carver)      takes its memory
//   Run(b, head, first, count)
template <class Attention>
attune_status RunPhases(const attune_exec& x, const Problem& c) {
  const int64_t positions = Attention::Positions(x, c);
  float* const base = static_cast<float*>(x.workspace);
  Selection selection(c);
  const size_t shared = selection.Place(c, false, base);
  Carver counter(nullptr);
  (void)Attention(x, c, selection, positions, &counter);
  const size_t rows = (Selection::Scratch(c) + 15) / 16 * 16, scratch = counter.Used() > rows ? counter.Used() : rows;
  if ((shared + x.n_workers * scratch) * sizeof(float) > x.workspace_bytes) {
    return attune_fail(x.error, ATTUNE_E_WORKSPACE, "", "the kernel reserved less workspace than it needs");
  }
  const auto memory = [&](uint32_t worker) { return base + shared + worker * scratch; };
  attune_status status = selection.Find(x, c, memory);
  const int64_t heads = c.B * c.Hkv, tiles = (c.Nq + positions - 1) / positions;
  if (status == ATTUNE_OK) {  // the last tiles first: with causal they see most
    status = Parallel(x, heads * tiles, [&](int64_t n, uint32_t worker) {
      Carver m(memory(worker));
      const int64_t first = (tiles - 1 - n / heads) * positions;
      Attention(x, c, selection, positions, &m)
          .Run(n % heads / c.Hkv, n % heads % c.Hkv, first, c.Nq - first < positions ? c.Nq - first : positions);
    });
  }
  if (status == ATTUNE_OK && c.k_out) {
    status = Parallel(x, heads, [&](int64_t n, uint32_t) {
      StoreState(c, n / c.Hkv, n % c.Hkv, selection.Bias(n), selection.Death(n));
    });
  }
  return status == ATTUNE_OK && Cancelled(x) ? ATTUNE_E_CANCELLED : status;
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace dma
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
