// Softmax over keys that arrive in pieces. Per row: the maximum m so far, and the sum of exp(s - m) as one partial sum
// per lane. Scores are in natural units or, for speed, multiplied by log2(e) beforehand: kBase2.
#if defined(ATTUNE_KIT_ONLINE_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_KIT_ONLINE_SOFTMAX_INL_H_
#undef ATTUNE_KIT_ONLINE_SOFTMAX_INL_H_
#else
#define ATTUNE_KIT_ONLINE_SOFTMAX_INL_H_
#endif
#include <hwy/highway.h>
#include <math.h>

#include "_kit/exp-inl.h"
#include "_kit/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attune_kit {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;

template <bool kBase2, class D, class V = hn::Vec<D>>
HWY_INLINE V ExpOf(D d, V x) {
  if constexpr (kBase2) return Exp2(d, x);
  return Exp(d, x);
}

// s[begin, end) widened to whole vectors at both sides, with -inf in the added places. Returns {first, last} multiples
// of kLanes. s must have room for them.
struct Whole {
  size_t first, last;
};
HWY_INLINE Whole PadWithMinusInf(float* s, size_t begin, size_t end) {
  const Whole w = {begin / kLanes * kLanes, (end + kLanes - 1) / kLanes * kLanes};
  for (size_t j = w.first; j < begin; j++) s[j] = -INFINITY;
  for (size_t j = end; j < w.last; j++) s[j] = -INFINITY;
  return w;
}

// Takes the scores s[begin, end) of one row into the softmax: they become weights exp(s - m), `m` and the kLanes floats
// `sum` are updated. Returns the factor by which what was accumulated before must be multiplied (1: nothing changed).
// Scores of -inf get the weight 0; while no score was finite, m stays -inf and all weights are 0. Pads as
// PadWithMinusInf.
template <bool kBase2>
HWY_INLINE float OnlineSoftmax(float* HWY_RESTRICT s, size_t begin, size_t end, float* HWY_RESTRICT m,
                               float* HWY_RESTRICT sum) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const Whole w = PadWithMinusInf(s, begin, end);
  V top = hn::LoadU(d, s + w.first), top2 = top;
  size_t j = w.first + kLanes;
  for (; j + 2 * kLanes <= w.last; j += 2 * kLanes) {
    top = hn::Max(top, hn::LoadU(d, s + j));
    top2 = hn::Max(top2, hn::LoadU(d, s + j + kLanes));
  }
  if (j < w.last) top = hn::Max(top, hn::LoadU(d, s + j));
  const float tile_max = hn::GetLane(hn::MaxOfLanes(d, hn::Max(top, top2)));

  const float old = *m, now = tile_max > old ? tile_max : old;
  if (now == -INFINITY) {  // never exp(-inf - -inf); a NaN, which comparisons lose, stays one
    V nan = hn::LoadU(d, sum);
    for (j = w.first; j < w.last; j += kLanes) {
      const V x = hn::LoadU(d, s + j), weight = hn::IfThenZeroElse(hn::Eq(x, hn::Set(d, -INFINITY)), x);
      hn::StoreU(weight, d, s + j);
      nan = hn::Add(nan, weight);
    }
    hn::StoreU(nan, d, sum);
    return 1;
  }
  const V shift = hn::Set(d, now);
  V part = hn::Zero(d), part2 = part;
  for (j = w.first; j + 2 * kLanes <= w.last; j += 2 * kLanes) {
    const V p = ExpOf<kBase2>(d, hn::Sub(hn::LoadU(d, s + j), shift));
    const V p2 = ExpOf<kBase2>(d, hn::Sub(hn::LoadU(d, s + j + kLanes), shift));
    hn::StoreU(p, d, s + j), hn::StoreU(p2, d, s + j + kLanes);
    part = hn::Add(part, p), part2 = hn::Add(part2, p2);
  }
  if (j < w.last) {
    const V p = ExpOf<kBase2>(d, hn::Sub(hn::LoadU(d, s + j), shift));
    hn::StoreU(p, d, s + j);
    part = hn::Add(part, p);
  }
  part = hn::Add(part, part2);
  if (now == old) {
    hn::StoreU(hn::Add(hn::LoadU(d, sum), part), d, sum);
    return 1;
  }
  // The first finite maximum: the factor is 0 and nothing was accumulated yet.
  const float factor = hn::GetLane(ExpOf<kBase2>(d, hn::Set(d, old - now)));
  hn::StoreU(hn::MulAdd(hn::LoadU(d, sum), hn::Set(d, factor), part), d, sum);
  *m = now;
  return factor;
}

// x[0, n) *= factor; n is a multiple of kLanes.
HWY_INLINE void ScaleRow(float* x, size_t n, float factor) {
  const hn::ScalableTag<float> d;
  const auto f = hn::Set(d, factor);
  for (size_t i = 0; i < n; i += kLanes) hn::StoreU(hn::Mul(f, hn::LoadU(d, x + i)), d, x + i);
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace attune_kit
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
