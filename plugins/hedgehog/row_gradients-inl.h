// What flows back from the rows of a chunk of queries into the weights of a tile of keys.
#if defined(ATTUNE_HEDGEHOG_ROW_GRADIENTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_HEDGEHOG_ROW_GRADIENTS_INL_H_
#undef ATTUNE_HEDGEHOG_ROW_GRADIENTS_INL_H_
#else
#define ATTUNE_HEDGEHOG_ROW_GRADIENTS_INL_H_
#endif
#include "hedgehog/chunk-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hedgehog {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// What the second pass knows of a query from the first.
struct RowFacts {
  float inverse;  // 1 / normaliser
  float flow;     // do . o / normaliser: what every weight of the row loses; 0 for a single key
  float keep;     // 1; for a single key the share of its gradient that the normaliser leaves
  float top;      // maximum of the window
  float share;    // what each score equal to it gives back, because the maximum is a function of the scores
};

// Upstream gradients of a chunk's rows, multiplied by everything between them and the values: of the linear part, of
// the window.
class RowGradients {
 public:
  RowGradients(const Problem& p, size_t rows, hedgehog::Floats& memory) : p_(p) {
    linear = memory.Rows(rows, p.Dv), window = memory.Rows(rows, p.Dv);
    linear_flow = memory.Take(rows), window_flow = memory.Take(rows), keep = memory.Take(rows);
    ds = memory.Rows(rows, rows);
  }

  // Row r from do.
  void Scale(size_t r, const float* d_o, const RowFacts& facts, float linear_factor, float gamma) {
    kit::Widen(d_o, size_t(p_.Dv), linear_factor * facts.inverse, linear.Row(r));
    kit::Widen(d_o, size_t(p_.Dv), gamma * facts.inverse, window.Row(r));
    linear_flow[r] = linear_factor * facts.flow, window_flow[r] = gamma * facts.flow, keep[r] = facts.keep;
  }

  // ds = gradient of phi_q . phi_k within the chunk's ranges, 0 outside.
  void OfFeatures(const Chunk& chunk, const KeyTile& tile, size_t columns) {
    const hn::ScalableTag<float> d;
    ProductTransposed<false>(chunk.n, columns, p_.Dv, linear, tile.v, ds, chunk.ranges, chunk.panel);
    for (size_t r = 0; r < chunk.n; r++) {
      float* row = ds.Row(r);
      const auto flow = hn::Set(d, linear_flow[r]), factor = hn::Set(d, keep[r]);
      for (int j = 0; j < chunk.ranges[r].end; j += int(kLanes)) {
        hn::StoreU(hn::MulSub(factor, hn::LoadU(d, row + j), flow), d, row + j);
      }
    }
    ClearOutside(chunk.ranges, chunk.n, columns, ds);
  }

  // The chunk's scores become weights, ds = gradients of the scores less the share; both 0 outside of the ranges.
  // facts(r); on_top(r, j) is called for each score that is its row's maximum.
  template <class Facts, class OnTop>
  void OfWindow(const Chunk& chunk, const KeyTile& tile, size_t columns, Facts facts, OnTop on_top) {
    const hn::ScalableTag<float> d;
    ProductTransposed<false>(chunk.n, columns, p_.Dv, window, tile.v, ds, chunk.ranges, chunk.panel);
    for (size_t r = 0; r < chunk.n; r++) {
      const Range range = chunk.ranges[r];
      if (range.end <= range.begin) continue;
      const RowFacts& f = facts(r);
      float *a = chunk.a.Row(r), *t = ds.Row(r);
      const kit::Whole whole = kit::PadWithMinusInf(a, size_t(range.begin), size_t(range.end));
      const auto top = hn::Set(d, f.top), share = hn::Set(d, f.share);
      const auto flow = hn::Set(d, window_flow[r]), factor = hn::Set(d, keep[r]);
      for (size_t j = whole.first; j < whole.last; j += kLanes) {
        const auto u = hn::LoadU(d, a + j);
        if (f.top == -INFINITY) {  // no real key; never exp(-inf - -inf)
          hn::StoreU(hn::Zero(d), d, a + j), hn::StoreU(hn::Zero(d), d, t + j);
          continue;
        }
        const auto on = hn::Eq(u, top);
        if (!hn::AllFalse(d, on)) {
          for (size_t i = j; i < j + kLanes; i++) {
            if (a[i] == f.top) on_top(r, i);
          }
        }
        const auto e = kit::Exp(d, hn::Sub(u, top));
        const auto flows = hn::Mul(e, hn::MulSub(factor, hn::LoadU(d, t + j), flow));
        hn::StoreU(e, d, a + j);
        hn::StoreU(hn::Sub(flows, hn::IfThenElseZero(on, share)), d, t + j);
      }
    }
    ClearOutside(chunk.ranges, chunk.n, columns, chunk.a);
    ClearOutside(chunk.ranges, chunk.n, columns, ds);
  }

  Matrix linear, window;
  float *linear_flow, *window_flow, *keep;
  Matrix ds;  // rows x keys of a tile

 private:
  const Problem& p_;
};

// Which rows meet each key of a tile, from which keys each row meets: both ends of the ranges only grow with the row.
HWY_INLINE void TransposeRanges(const Range* rows, size_t n, size_t columns, Range* keys) {
  size_t first = 0, last = 0;
  for (size_t j = 0; j < columns; j++) {
    while (first < n && rows[first].end <= int(j)) first++;
    while (last < n && rows[last].begin <= int(j)) last++;
    keys[j] = {int(first), int(last)};
  }
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace hedgehog
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
