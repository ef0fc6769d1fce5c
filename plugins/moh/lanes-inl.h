// Attention of a tile of gathered query rows with the queries in the lanes of vectors: scores and outputs are kept
// transposed, kPanel queries wide. Keys and values enter the products by broadcast, so f32 ones are read where they lie
// and nothing of them is transposed or copied; the softmax runs down the lanes, without sums across them. Without bias.
#if defined(ATTUNE_MOH_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_MOH_LANES_INL_H_
#undef ATTUNE_MOH_LANES_INL_H_
#else
#define ATTUNE_MOH_LANES_INL_H_
#endif
#include <type_traits>

#include "_kit/query_lanes-inl.h"
#include "moh/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moh {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
using kit::kLaneTileRows;

// Memory of one worker, for tiles of `rows` query rows, a multiple of 32, and `keys` keys.
struct LaneMemory {
  size_t keys, ld_q, ld_o;
  float *q, *o, *m, *sum, *s, *k, *v, *rows, *out, *zero;
  Interval* visible;

  // Generous: (rows + keys + 100) * (D + Dv + 100).
  static size_t Floats(const Problem& c, size_t rows, size_t keys) {
    return (rows + keys + 100) * size_t(c.D + c.Dv + 100) / 16 * 16;
  }
  LaneMemory(const Problem& c, size_t most_rows, size_t most_keys, float* at) : keys(most_keys) {
    ld_q = PadTo32(c.D), ld_o = PadTo32(c.Dv);
    const auto take = [&](size_t n) {
      float* from = at;
      at += n;
      return from;
    };
    q = take(most_rows * ld_q), o = take(most_rows * ld_o), s = take(keys * 32);
    k = take(keys * ld_q), v = take(keys * ld_o);
    rows = take(32 * (ld_q > 32 ? ld_q : 32)), out = take(32 * ld_o), zero = take(ld_q);
    visible = reinterpret_cast<Interval*>(take(most_rows * 4)), m = take(most_rows), sum = take(most_rows);
    memset(zero, 0, sizeof(float) * ld_q);
  }
};

// Run, then ForEachRow.
class QueryLanes {
 public:
  QueryLanes(const Problem& c, const LaneMemory& w, const RowsOfHead& of, size_t rows)
      : c_(c), w_(w), of_(of), rows_(rows), panels_((rows + kPanel - 1) / kPanel) {}

  void Run() {
    Interval seen = {INT64_MAX, INT64_MIN};
    for (size_t p = 0; p < panels_; p++) Start(p, &seen);
    for (int64_t j = seen.begin, end; j < seen.end; j = end) {
      end = seen.end - j < int64_t(w_.keys) ? seen.end : j + int64_t(w_.keys);
      if (j < c_.Np && c_.Np < end) end = c_.Np;  // a tile's rows are equally far apart
      const KeyTile k = Load(false, c_.D, j, end, w_.k, w_.ld_q), v = Load(true, c_.Dv, j, end, w_.v, w_.ld_o);
      for (size_t p = 0; p < panels_; p++) AttendTile(p, j, end, k, v);
    }
  }

  // f(row, what it has accumulated, factor that makes it the output), as Attention.
  template <class F>
  void ForEachRow(F f) {
    for (size_t r = 0; r < rows_; r++) {
      if (r % kPanel == 0) {
        kit::TransposeFromPanel(w_.o + r * w_.ld_o, size_t(c_.Dv), w_.rows, w_.out, w_.ld_o);
      }
      float* row = w_.out + r % kPanel * w_.ld_o;
      const bool empty = Empty(r);
      if (empty) memset(row, 0, sizeof(float) * w_.ld_o);
      f(r, static_cast<const float*>(row), empty ? 0.0f : 1 / w_.sum[r]);
    }
  }
  double Lse(size_t r) const { return Empty(r) ? -INFINITY : w_.m[r] * kLn2 + log(double(w_.sum[r])); }

 private:
  // Key or value rows of a tile as f32.
  struct KeyTile {
    const float* at;
    size_t ld;
  };

  bool Empty(size_t r) const { return w_.visible[r].end <= w_.visible[r].begin; }

  // Transposes the queries of panel p, finds what each sees, clears its state.
  HWY_NOINLINE void Start(size_t p, Interval* seen) {
    const float* pointers[kPanel];
    Interval any = {INT64_MAX, INT64_MIN}, all = {INT64_MIN, INT64_MAX};
    for (size_t i = 0; i < kPanel; i++) {
      const size_t r = p * kPanel + i;
      pointers[i] = w_.zero;
      w_.visible[r] = {0, 0}, w_.m[r] = -INFINITY, w_.sum[r] = 0;
      if (r >= rows_) continue;
      const int64_t t = of_.Token(r);
      WithRow(c_.q, c_.q.Offset(of_.b, of_.Head(r), t), [&](const auto* x) {
        if constexpr (sizeof(*x) == sizeof(float)) {
          pointers[i] = x;
        } else {
          kit::Widen(x, size_t(c_.D), 1.0f, w_.rows + i * w_.ld_q);
          pointers[i] = w_.rows + i * w_.ld_q;
        }
      });
      const Interval v = w_.visible[r] = c_.Visible(of_.b, t);
      if (v.end <= v.begin) continue;  // an empty row: its result is not used
      any = {v.begin < any.begin ? v.begin : any.begin, v.end > any.end ? v.end : any.end};
      all = {v.begin > all.begin ? v.begin : all.begin, v.end < all.end ? v.end : all.end};
    }
    float* panel = w_.q + p * kPanel * w_.ld_q;
    kit::TransposeToPanel(pointers, size_t(c_.D), panel);
    kit::ScaleRow(panel, kPanel * size_t(c_.D), float(c_.scale * kLog2E));
    memset(w_.o + p * kPanel * w_.ld_o, 0, sizeof(float) * kPanel * w_.ld_o);
    any_[p] = any, all_[p] = all;
    *seen = {any.begin < seen->begin ? any.begin : seen->begin, any.end > seen->end ? any.end : seen->end};
  }

  // Rows [begin, end): in place, or copied to `buffer`.
  KeyTile Load(bool values, int64_t width, int64_t begin, int64_t end, float* buffer, size_t ld) const {
    const auto row = [&](int64_t j) { return values ? c_.Value(of_.b, of_.head, j) : c_.Key(of_.b, of_.head, j); };
    const RowRef first = row(begin);
    if (first.view->DType() == ATTUNE_F32) {
      return {static_cast<const float*>(first.view->Data()) + first.offset, size_t(first.view->Stride(2))};
    }
    for (int64_t j = begin; j < end; j++) {
      const RowRef from = row(j);
      LoadRow(*from.view, from.offset, size_t(width), 1, buffer + size_t(j - begin) * ld);
    }
    return {buffer, ld};
  }

  // Keys [begin, end) against panel p.
  HWY_NOINLINE void AttendTile(size_t p, int64_t begin, int64_t end, const KeyTile& k, const KeyTile& v) {
    HWY_ALIGN float factors[kPanel];
    float* o = w_.o + p * kPanel * w_.ld_o;
    const kit::QueryPanel<Interval> panel = {w_.q + p * kPanel * w_.ld_q, w_.visible + p * kPanel, any_[p], all_[p],
                                             w_.m + p * kPanel,           w_.sum + p * kPanel};
    const auto keys = kit::WeighKeys(panel, begin, end, k.at, k.ld, size_t(c_.D), w_.s, factors);
    if (keys.end == 0) return;
    kit::ScaleLanes(factors, size_t(c_.Dv), o);
    kit::AddWeighedLanes(keys, int(c_.Dv), v.at, v.ld, w_.s, o);
  }

  const Problem& c_;
  const LaneMemory& w_;
  RowsOfHead of_;
  size_t rows_, panels_;
  Interval any_[kMaxTileRows / kPanel], all_[kMaxTileRows / kPanel];
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace moh
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
