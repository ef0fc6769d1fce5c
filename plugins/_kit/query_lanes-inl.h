// Online softmax with the queries in the lanes of vectors: scores, weights and outputs of a panel are kept transposed,
// [keys or columns][kPanel queries]. Keys and values then enter the products by broadcast, so f32 ones are read where
// they lie, and the softmax runs down the lanes, without sums across them. Scores are in units of log2. The scores of a
// panel are kit::TileRows of key rows with the panel of queries, kLaneTileRows keys at a time. Outputs may be kept as
// rows as well: weighted_rows-inl.h.
#if defined(ATTUNE_KIT_QUERY_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_KIT_QUERY_LANES_INL_H_
#undef ATTUNE_KIT_QUERY_LANES_INL_H_
#else
#define ATTUNE_KIT_QUERY_LANES_INL_H_
#endif
#include <hwy/highway.h>
#include <math.h>

#include <type_traits>

#include "_kit/ahead.h"
#include "_kit/exp-inl.h"
#include "_kit/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attune_kit {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;

// Rows of a register tile: rows * 2 accumulators + 2 columns + 1 broadcast fit the register file.
#if HWY_TARGET == HWY_AVX3 || HWY_ARCH_ARM_A64
constexpr int kLaneTileRows = 12;
#else
constexpr int kLaneTileRows = kTileRows;
#endif

// Keys [begin, end) of a tile. Outside of [all_begin, all_end) a weight below 0 says that the query does not see the
// key: its value is not even multiplied, as it may be NaN.
struct WeighedKeys {
  size_t begin, all_begin, all_end, end;
};

// Of the keys [begin, end) of a panel's scores: those of the queries that do not see the key become -inf, whatever they
// were. Query i sees the keys [from[i], to[i]); both arrays have kPanel entries and are aligned as vectors.
inline void HideFromLanes(float* s, size_t begin, size_t end, const int32_t* from, const int32_t* to) {
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

// Scores [any_begin, any_end) of a panel become weights; hidden ones, which lie outside of [all_begin, all_end), become
// -1. The state m, sum of its queries follows. What was added up before is to be multiplied with `factors`, one per
// query.
HWY_NOINLINE inline void SoftmaxOfLanes(float* s, size_t any_begin, size_t all_begin, size_t all_end, size_t any_end,
                                        float* m, float* sum, float* factors) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const V none = hn::Set(d, -INFINITY);
  V top[4][2];  // as many as keep the comparisons busy
  for (auto& x : top) x[0] = x[1] = none;
  size_t j = any_begin;
  for (; j + 4 <= any_end; j += 4) {
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
      top[i][0] = hn::Max(top[i][0], hn::LoadU(d, s + (j + i) * kPanel));
      top[i][1] = hn::Max(top[i][1], hn::LoadU(d, s + (j + i) * kPanel + kLanes));
    }
  }
  for (; j < any_end; j++) {
    top[0][0] = hn::Max(top[0][0], hn::LoadU(d, s + j * kPanel));
    top[0][1] = hn::Max(top[0][1], hn::LoadU(d, s + j * kPanel + kLanes));
  }
  const V top0 = hn::Max(hn::Max(top[0][0], top[1][0]), hn::Max(top[2][0], top[3][0]));
  const V top1 = hn::Max(hn::Max(top[0][1], top[1][1]), hn::Max(top[2][1], top[3][1]));
  const V old0 = hn::LoadU(d, m), old1 = hn::LoadU(d, m + kLanes);
  const V now0 = hn::IfThenElse(hn::Gt(top0, old0), top0, old0);  // a NaN is left to the weights
  const V now1 = hn::IfThenElse(hn::Gt(top1, old1), top1, old1);
  // Never -inf - -inf.
  const V shift0 = hn::IfThenZeroElse(hn::Eq(now0, none), now0);
  const V shift1 = hn::IfThenZeroElse(hn::Eq(now1, none), now1);
  V part0 = hn::Zero(d), part1 = part0;
  const auto hidden_too = [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) {
      float* at = s + i * kPanel;
      const V x0 = hn::LoadU(d, at), x1 = hn::LoadU(d, at + kLanes);
      const V p0 = Exp2(d, hn::Sub(x0, shift0)), p1 = Exp2(d, hn::Sub(x1, shift1));
      part0 = hn::Add(part0, p0), part1 = hn::Add(part1, p1);
      hn::StoreU(hn::IfThenElse(hn::Eq(x0, none), hn::Set(d, -1.0f), p0), d, at);
      hn::StoreU(hn::IfThenElse(hn::Eq(x1, none), hn::Set(d, -1.0f), p1), d, at + kLanes);
    }
  };
  hidden_too(any_begin, all_begin);
  for (j = all_begin; j < all_end; j++) {
    float* at = s + j * kPanel;
    const V p0 = Exp2(d, hn::Sub(hn::LoadU(d, at), shift0));
    const V p1 = Exp2(d, hn::Sub(hn::LoadU(d, at + kLanes), shift1));
    hn::StoreU(p0, d, at), hn::StoreU(p1, d, at + kLanes);
    part0 = hn::Add(part0, p0), part1 = hn::Add(part1, p1);
  }
  hidden_too(all_end, any_end);
  // From -inf: the factor is 0, and nothing was accumulated yet.
  const V factor0 = Exp2(d, hn::Sub(old0, shift0)), factor1 = Exp2(d, hn::Sub(old1, shift1));
  hn::StoreU(factor0, d, factors), hn::StoreU(factor1, d, factors + kLanes);
  hn::StoreU(hn::MulAdd(hn::LoadU(d, sum), factor0, part0), d, sum);
  hn::StoreU(hn::MulAdd(hn::LoadU(d, sum + kLanes), factor1, part1), d, sum + kLanes);
  hn::StoreU(now0, d, m), hn::StoreU(now1, d, m + kLanes);
}

// A panel of queries: q[features][kPanel], the state of its softmax, and the keys [begin, end) that each query, any
// of them, and all of them see. A query that sees none counts for nothing.
template <class Interval>
struct QueryPanel {
  const float* q;
  const Interval* visible;
  Interval any, all;
  float *m, *sum;
};

// Weights of the keys [begin, end), whose rows are ld apart, for the queries of a panel: s[key][kPanel]. What the
// outputs have gathered so far is to be multiplied with `factors`. Returns which keys of the tile they are; if there are
// none, nothing was written.
template <class Interval>
HWY_INLINE WeighedKeys WeighKeys(const QueryPanel<Interval>& p, int64_t begin, int64_t end, const float* keys, size_t ld,
                                 size_t features, float* s, float* factors, Ahead* ahead = nullptr) {
  const auto in_tile = [&](int64_t j) { return size_t((j < begin ? begin : j > end ? end : j) - begin); };
  WeighedKeys w = {in_tile(p.any.begin), in_tile(p.all.begin), in_tile(p.all.end), in_tile(p.any.end)};
  if (w.end <= w.begin) return {0, 0, 0, 0};
  if (w.all_end <= w.all_begin) w.all_begin = w.all_end = w.end;
  for (size_t j = w.begin; j < w.end; j += kLaneTileRows) {
    if (ahead) ahead->Fetch();
    const int n = w.end - j < size_t(kLaneTileRows) ? int(w.end - j) : kLaneTileRows;
    TileRows<2, false, kLaneTileRows>(n, features, keys + j * ld, ld, p.q, kPanel, s + j * kPanel, kPanel);
  }
  if (w.begin < w.all_begin || w.all_end < w.end) {
    HWY_ALIGN int32_t from[kPanel], to[kPanel];
    for (size_t i = 0; i < kPanel; i++) {
      from[i] = int32_t(in_tile(p.visible[i].begin)), to[i] = int32_t(in_tile(p.visible[i].end));
    }
    HideFromLanes(s, w.begin, w.all_begin, from, to);
    HideFromLanes(s, w.all_end, w.end, from, to);
  }
  SoftmaxOfLanes(s, w.begin, w.all_begin, w.all_end, w.end, p.m, p.sum, factors);
  return w;
}

// o[columns][kPanel] times the factors of the queries.
HWY_INLINE void ScaleLanes(const float* factors, size_t columns, float* o) {
  const hn::ScalableTag<float> d;
  const auto factor0 = hn::LoadU(d, factors), factor1 = hn::LoadU(d, factors + kLanes);
  for (size_t e = 0; e < columns; e++, o += kPanel) {
    hn::StoreU(hn::Mul(hn::LoadU(d, o), factor0), d, o);
    hn::StoreU(hn::Mul(hn::LoadU(d, o + kLanes), factor1), d, o + kLanes);
  }
}

// AddLaneValues for kRows columns of the values.
template <bool kMasked, int kRows>
HWY_NOINLINE void AddLaneValuesOf(size_t keys, const float* HWY_RESTRICT v, size_t ld_v,
                                  const float* HWY_RESTRICT weights, float* HWY_RESTRICT o) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
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

// o[e][queries] += sum over keys of v[key][e] * weights[key][queries] for e < n <= kLaneTileRows. kMasked: weights below
// 0 are hidden; what belongs to them is not taken.
template <bool kMasked, int kRows = kLaneTileRows>
HWY_INLINE void AddLaneValues(int n, size_t keys, const float* v, size_t ld_v, const float* weights, float* o) {
  if (n >= kRows) return AddLaneValuesOf<kMasked, kRows>(keys, v, ld_v, weights, o);
  if constexpr (kRows > 1) AddLaneValues<kMasked, kRows - 1>(n, keys, v, ld_v, weights, o);
}

// o[columns][queries] += the sum over keys of v[key][column] * weights[key][queries].
HWY_INLINE void AddWeighedLanes(const WeighedKeys& keys, int columns, const float* v, size_t ld_v, const float* weights,
                                float* o) {
  // Shares as equal as can be: small ones keep too few sums under way.
  for (int e = 0, n, left = (columns + kLaneTileRows - 1) / kLaneTileRows; left > 0; e += n, left--) {
    n = (columns - e + left - 1) / left;
    const auto add = [&](auto masked, size_t first, size_t last) {
      if (first >= last) return;
      AddLaneValues<decltype(masked)::value>(n, last - first, v + first * ld_v + e, ld_v, weights + first * kPanel,
                                             o + e * kPanel);
    };
    add(std::true_type(), keys.begin, keys.all_begin);
    add(std::false_type(), keys.all_begin, keys.all_end);
    add(std::true_type(), keys.all_end, keys.end);
  }
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace attune_kit
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
