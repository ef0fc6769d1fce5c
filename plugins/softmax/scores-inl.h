// What happens to a score between q.k and the softmax: softcap, ALiBi, bias, mask. Only for calls that use one of them.
#if defined(ATTUNE_SOFTMAX_SCORES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_SOFTMAX_SCORES_INL_H_
#undef ATTUNE_SOFTMAX_SCORES_INL_H_
#else
#define ATTUNE_SOFTMAX_SCORES_INL_H_
#endif
#include "_kit/exp-inl.h"
#include "_kit/pack-inl.h"
#include "softmax/problem.h"

HWY_BEFORE_NAMESPACE();
namespace softmax {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;
namespace kit = attune_kit::HWY_NAMESPACE;
using kit::kLanes;

// Calls f(vector index j, vector of the values at p[j...]) over [0, n) for a row whose step between keys is 0
// (broadcast) or 1. Reads nothing beyond p[n).
template <class T, class Load, class F>
HWY_INLINE void ForEachVector(const T* p, int64_t step, size_t n, Load load, F f) {
  HWY_ALIGN T buffer[kLanes] = {};
  if (step == 0) {
    for (size_t i = 0; i < kLanes; i++) buffer[i] = p[0];
    const auto same = load(buffer);
    for (size_t j = 0; j < n; j += kLanes) f(j, same);
    return;
  }
  size_t j = 0;
  for (; j + kLanes <= n; j += kLanes) f(j, load(p + j));
  if (j == n) return;
  memcpy(static_cast<void*>(buffer), p + j, (n - j) * sizeof(T));
  f(j, load(buffer));
}

// Changes scores s[0, n) of query i, head h, keys [first, first + n); they come in as scale * q.k. May write up to a
// multiple of kLanes beyond n: the caller overwrites that.
HWY_INLINE void ModifyScores(const Problem& c, const Sequence& q, int64_t h, int64_t i, int64_t first, float* s,
                             size_t n) {
  const hn::ScalableTag<float> d;
  if (c.softcap > 0) {
    const auto cap = hn::Set(d, float(c.softcap)), inverse = hn::Set(d, float(1 / c.softcap));
    for (size_t j = 0; j < n; j += kLanes) {
      hn::StoreU(hn::Mul(cap, kit::Tanh(d, hn::Mul(hn::LoadU(d, s + j), inverse))), d, s + j);
    }
  }
  if (c.slopes) {
    const auto slope = hn::Set(d, float(c.Slope(q.b, h)));
    const double distance =
        double(q.q_offset) + double(i) - double(first);  // position - first key, exact where it matters
    auto away = hn::Sub(hn::Set(d, float(distance)), hn::Iota(d, 0.0f));
    for (size_t j = 0; j < n; j += kLanes) {
      hn::StoreU(hn::NegMulAdd(slope, hn::Abs(away), hn::LoadU(d, s + j)), d, s + j);
      away = hn::Sub(away, hn::Set(d, float(kLanes)));
    }
  }
  if (c.bias) {
    const int64_t at = c.bias.Offset(q.b, c.BroadcastHead(c.bias, h), i, first);
    const int size = c.bias.DType() == ATTUNE_F32 ? 4 : 2;
    kit::WithFloatType(c.bias.DType(), static_cast<const char*>(c.bias.Data()) + at * size, [&](const auto* row) {
      ForEachVector(
          row, c.bias.Stride(3), n, [&](const auto* p) { return kit::LoadAsFloat(d, p); },
          [&](size_t j, auto b) { hn::StoreU(hn::Add(hn::LoadU(d, s + j), b), d, s + j); });
    });
  }
  if (c.mask) {
    const hn::RebindToSigned<decltype(d)> di;
    const hn::Rebind<uint8_t, decltype(d)> d8;
    const uint8_t* row =
        static_cast<const uint8_t*>(c.mask.Data()) + c.mask.Offset(q.b, c.BroadcastHead(c.mask, h), i, first);
    const auto hidden = hn::Set(d, -INFINITY);
    ForEachVector(
        row, c.mask.Stride(3), n, [&](const uint8_t* p) { return hn::PromoteTo(di, hn::LoadU(d8, p)); },
        [&](size_t j, auto attend) {
          const auto masked = hn::RebindMask(d, hn::Eq(attend, hn::Zero(di)));
          hn::StoreU(hn::IfThenElse(masked, hidden, hn::LoadU(d, s + j)), d, s + j);
        });
  }
}

// s[begin, end) become weights 1/(1 + exp(-(s + bias))); pads with weights of 0 to whole vectors.
HWY_INLINE void SigmoidWeights(float* s, size_t begin, size_t end, float bias) {
  const hn::ScalableTag<float> d;
  const kit::Whole w = kit::PadWithMinusInf(s, begin, end);
  for (size_t j = w.first; j < w.last; j += kLanes) {
    hn::StoreU(kit::Logistic(d, hn::Add(hn::LoadU(d, s + j), hn::Set(d, bias))), d, s + j);
  }
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace softmax
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
