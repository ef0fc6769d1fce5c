// The sums of all tasks become the gradients of weights and biases.
#if defined(ATTUNE_HEDGEHOG_WEIGHT_SUMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_HEDGEHOG_WEIGHT_SUMS_INL_H_
#undef ATTUNE_HEDGEHOG_WEIGHT_SUMS_INL_H_
#else
#define ATTUNE_HEDGEHOG_WEIGHT_SUMS_INL_H_
#endif
#include "hedgehog/gradient_layout.h"
#include "hedgehog/products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hedgehog {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// Runs f(i, worker) for i in [0, n) on the host's threads.
template <class F>
attune_status ParallelFor(const attune_exec& x, int64_t n, F f) {
  const auto piece = [](void* context, int64_t begin, int64_t end, uint32_t worker) {
    for (int64_t i = begin; i < end; i++) (*static_cast<F*>(context))(i, worker);
  };
  return n == 0 ? ATTUNE_OK : x.host->parallel_for(&x, n, 1, piece, &f);
}

// One side: the map of queries, or of keys. `slots`: how many a kv head has; slot(task, i) belongs to the query head
// that is the (i * heads)-th of the kv head.
struct WeightSide {
  const View &weight, &bias;  // whose head dims say which heads share an element
  View dw, db;
  int64_t slots, heads;
};

// Adds row d of every slot whose query head uses head `of` of `shared`, in the order of the tasks. to: F floats.
template <class Slot>
HWY_INLINE void SumSlots(const Problem& p, const GradientLayout& layout, const WeightSide& side, const View& shared,
                         int64_t of, int64_t d, Slot slot, float* to) {
  const size_t ld = attune_kit::ChunkStride(size_t(p.F));
  memset(to, 0, sizeof(float) * ld);
  for (int64_t task = 0; task < p.Hkv * layout.slices; task++) {
    for (int64_t i = 0; i < side.slots; i++) {
      if (p.MapHead(shared, task % p.Hkv * p.Group() + i * side.heads) != of) continue;
      kit::AddScaled(slot(task, i) + size_t(d) * ld, size_t(p.F), 1.0f, to);
    }
  }
}

// out: dw_q, dw_k, db_q, db_k, each possibly absent.
inline attune_status StoreWeights(const attune_exec& x, const Problem& p, const GradientLayout& layout,
                                  const attune_tensor* const* out) {
  const int64_t heads = p.Hq / p.Hst;
  const WeightSide queries = {p.w_q, p.b_q, View(out[0]), View(out[2]), layout.group, 1};
  const WeightSide keys = {p.w_k, p.b_k, View(out[1]), View(out[3]), layout.states, heads};
  const auto store = [&](const WeightSide& side, auto slot, int64_t d, float* row) HWY_ATTR {
    if (d < p.D) {
      for (int64_t h = 0; side.dw && h < side.dw.Dim(0); h++) {
        SumSlots(p, layout, side, side.weight, h, d, slot, row);
        StoreRow(row, size_t(p.F), 1, side.dw, side.dw.Offset(h, d));
      }
      return;
    }
    for (int64_t h = 0; side.db && h < side.db.Dim(0); h++) {
      SumSlots(p, layout, side, side.bias, h, d, slot, row);
      if (side.db.Dim(1) == 1) row[0] = SumRow(row, 0, size_t(p.F));
      StoreRow(row, size_t(side.db.Dim(1)), 1, side.db, side.db.Offset(h));
    }
  };
  return ParallelFor(x, p.D + 1, [&](int64_t d, uint32_t worker) HWY_ATTR {
    float* row = layout.Memory(worker).Take(attune_kit::ChunkStride(size_t(p.F)));
    store(queries, [&](int64_t task, int64_t i) { return layout.QueryMap(task, i); }, d, row);
    store(keys, [&](int64_t task, int64_t i) { return layout.KeyMap(task, i); }, d, row);
  });
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace hedgehog
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
