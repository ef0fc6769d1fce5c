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

#include "moh/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moh {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// Rows of a register tile: rows * 2 accumulators + 2 columns + 1 broadcast fit the register file.
#if HWY_TARGET == HWY_AVX3 || HWY_ARCH_ARM_A64
constexpr int kLaneRows = 12;
#else
constexpr int kLaneRows = kTileRows;
#endif

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
      if (r % kPanel == 0) Transpose(r / kPanel);
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
  using V = hn::Vec<hn::ScalableTag<float>>;

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
    const auto in_tile = [&](int64_t j) { return size_t((j < begin ? begin : j > end ? end : j) - begin); };
    // Keys of the tile that any query of the panel sees, and those that all see.
    const size_t any_begin = in_tile(any_[p].begin), any_end = in_tile(any_[p].end);
    size_t all_begin = in_tile(all_[p].begin), all_end = in_tile(all_[p].end);
    if (any_end <= any_begin) return;
    if (all_end <= all_begin) all_begin = all_end = any_end;

    const float* q = w_.q + p * kPanel * w_.ld_q;
    float *s = w_.s, *o = w_.o + p * kPanel * w_.ld_o;
    for (size_t j = any_begin; j < any_end; j += kLaneRows) {
      const int n = any_end - j < size_t(kLaneRows) ? int(any_end - j) : kLaneRows;
      kit::TileRows<2, false, kLaneRows>(n, size_t(c_.D), k.at + j * k.ld, k.ld, q, kPanel, s + j * kPanel, kPanel);
    }
    if (any_begin < all_begin || all_end < any_end) {
      HWY_ALIGN int32_t from[kPanel], to[kPanel];
      for (size_t i = 0; i < kPanel; i++) {
        const Interval own = w_.visible[p * kPanel + i];
        from[i] = int32_t(in_tile(own.begin)), to[i] = int32_t(in_tile(own.end));
      }
      Hide(s, any_begin, all_begin, from, to);
      Hide(s, all_end, any_end, from, to);
    }
    Softmax(p, s, any_begin, all_begin, all_end, any_end);
    for (size_t e = 0; e < size_t(c_.Dv); e += kLaneRows) {
      const int n = size_t(c_.Dv) - e < size_t(kLaneRows) ? int(size_t(c_.Dv) - e) : kLaneRows;
      const auto add = [&](auto masked, size_t first, size_t last) {
        if (first >= last) return;
        AddValues<decltype(masked)::value>(n, last - first, v.at + first * v.ld + e, v.ld, s + first * kPanel,
                                           o + e * kPanel);
      };
      add(std::true_type(), any_begin, all_begin);
      add(std::false_type(), all_begin, all_end);
      add(std::true_type(), all_end, any_end);
    }
  }

  // Scores of the queries that do not see the key become -inf, whatever they were.
  static void Hide(float* s, size_t begin, size_t end, const int32_t* from, const int32_t* to) {
    const hn::ScalableTag<float> d;
    const hn::RebindToSigned<decltype(d)> di;
    for (size_t j = begin; j < end; j++) {
      const auto key = hn::Set(di, int32_t(j));
      for (size_t i = 0; i < kPanel; i += kLanes) {
        const auto visible = hn::AndNot(hn::Lt(key, hn::Load(di, from + i)), hn::Lt(key, hn::Load(di, to + i)));
        float* at = s + j * kPanel + i;
        hn::StoreU(hn::IfThenElse(hn::RebindMask(d, visible), hn::LoadU(d, at), hn::Set(d, -INFINITY)), d, at);
      }
    }
  }

  // Scores become weights; hidden ones, outside of all_begin to all_end, become -1. The state follows.
  HWY_NOINLINE void Softmax(size_t p, float* s, size_t any_begin, size_t all_begin, size_t all_end, size_t any_end) {
    const hn::ScalableTag<float> d;
    const V none = hn::Set(d, -INFINITY);
    for (size_t lane = 0; lane < kPanel; lane += kLanes) {
      float *m = w_.m + p * kPanel + lane, *sum = w_.sum + p * kPanel + lane, *at = s + lane;
      V top = none, top2 = none;
      size_t j = any_begin;
      for (; j + 2 <= any_end; j += 2) {
        top = hn::Max(top, hn::LoadU(d, at + j * kPanel)), top2 = hn::Max(top2, hn::LoadU(d, at + (j + 1) * kPanel));
      }
      if (j < any_end) top = hn::Max(top, hn::LoadU(d, at + j * kPanel));
      top = hn::Max(top, top2);
      const V old = hn::LoadU(d, m);
      const V now = hn::IfThenElse(hn::Gt(top, old), top, old);    // a NaN is left to the weights
      const V shift = hn::IfThenZeroElse(hn::Eq(now, none), now);  // never -inf - -inf
      V part = hn::Zero(d), part2 = part;
      const auto hidden_too = [&](size_t begin, size_t end) {
        for (size_t i = begin; i < end; i++) {
          const V x = hn::LoadU(d, at + i * kPanel), weight = kit::Exp2(d, hn::Sub(x, shift));
          part = hn::Add(part, weight);
          hn::StoreU(hn::IfThenElse(hn::Eq(x, none), hn::Set(d, -1.0f), weight), d, at + i * kPanel);
        }
      };
      hidden_too(any_begin, all_begin);
      for (j = all_begin; j + 2 <= all_end; j += 2) {
        const V a = kit::Exp2(d, hn::Sub(hn::LoadU(d, at + j * kPanel), shift));
        const V b = kit::Exp2(d, hn::Sub(hn::LoadU(d, at + (j + 1) * kPanel), shift));
        hn::StoreU(a, d, at + j * kPanel), hn::StoreU(b, d, at + (j + 1) * kPanel);
        part = hn::Add(part, a), part2 = hn::Add(part2, b);
      }
      if (j < all_end) {
        const V a = kit::Exp2(d, hn::Sub(hn::LoadU(d, at + j * kPanel), shift));
        hn::StoreU(a, d, at + j * kPanel);
        part = hn::Add(part, a);
      }
      hidden_too(all_end, any_end);
      part = hn::Add(part, part2);
      if (hn::AllTrue(d, hn::Eq(now, old))) {
        hn::StoreU(hn::Add(hn::LoadU(d, sum), part), d, sum);
        continue;
      }
      const V factor = kit::Exp2(d, hn::Sub(old, shift));  // from -inf it is 0, and nothing was accumulated yet
      float* o = w_.o + p * kPanel * w_.ld_o + lane;
      for (int64_t e = 0; e < c_.Dv; e++, o += kPanel) hn::StoreU(hn::Mul(hn::LoadU(d, o), factor), d, o);
      hn::StoreU(hn::MulAdd(hn::LoadU(d, sum), factor, part), d, sum);
      hn::StoreU(now, d, m);
    }
  }

  // o[e][queries] += sum over keys of v[key][e] * weights[key][queries] for e < n. kMasked: weights below 0 are hidden;
  // what belongs to them is not taken.
  template <bool kMasked, int kRows = kLaneRows>
  static HWY_INLINE void AddValues(int n, size_t keys, const float* v, size_t ld_v, const float* weights, float* o) {
    if (n >= kRows) return AddValuesOf<kMasked, kRows>(keys, v, ld_v, weights, o);
    if constexpr (kRows > 1) AddValues<kMasked, kRows - 1>(n, keys, v, ld_v, weights, o);
  }
  template <bool kMasked, int kRows>
  static HWY_NOINLINE void AddValuesOf(size_t keys, const float* HWY_RESTRICT v, size_t ld_v,
                                       const float* HWY_RESTRICT weights, float* HWY_RESTRICT o) {
    const hn::ScalableTag<float> d;
    V sum[kRows][2];
#pragma GCC unroll 16
    for (int e = 0; e < kRows; e++) {
      sum[e][0] = hn::LoadU(d, o + e * kPanel), sum[e][1] = hn::LoadU(d, o + e * kPanel + kLanes);
    }
    for (size_t j = 0; j < keys; j++, v += ld_v, weights += kPanel) {
      const V p0 = hn::LoadU(d, weights), p1 = hn::LoadU(d, weights + kLanes);
#pragma GCC unroll 16
      for (int e = 0; e < kRows; e++) {
        const V x = hn::Set(d, v[e]);
        if constexpr (kMasked) {
          const V zero = hn::Zero(d);
          sum[e][0] = hn::IfThenElse(hn::Lt(p0, zero), sum[e][0], hn::MulAdd(x, p0, sum[e][0]));
          sum[e][1] = hn::IfThenElse(hn::Lt(p1, zero), sum[e][1], hn::MulAdd(x, p1, sum[e][1]));
        } else {
          sum[e][0] = hn::MulAdd(x, p0, sum[e][0]), sum[e][1] = hn::MulAdd(x, p1, sum[e][1]);
        }
      }
    }
#pragma GCC unroll 16
    for (int e = 0; e < kRows; e++) {
      hn::StoreU(sum[e][0], d, o + e * kPanel), hn::StoreU(sum[e][1], d, o + e * kPanel + kLanes);
    }
  }

  // Outputs of panel p as rows.
  HWY_NOINLINE void Transpose(size_t p) const {
    const float* o = w_.o + p * kPanel * w_.ld_o;
    for (size_t e = 0; e < size_t(c_.Dv); e += kPanel) {
      const float* pointers[kPanel];
      for (size_t i = 0; i < kPanel; i++) pointers[i] = o + (e + i) * kPanel;  // up to ld_o
      kit::TransposeToPanel(pointers, kPanel, w_.rows);
      for (size_t i = 0; i < kPanel; i++) {
        memcpy(w_.out + i * w_.ld_o + e, w_.rows + i * kPanel, sizeof(float) * kPanel);
      }
    }
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
