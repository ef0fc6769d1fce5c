// Rows of the call's tensors as f32, and the feature map on them.
#if defined(ATTUNE_SLA_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_SLA_ROWS_INL_H_
#undef ATTUNE_SLA_ROWS_INL_H_
#else
#define ATTUNE_SLA_ROWS_INL_H_
#endif
#include <string.h>

#include <type_traits>

#include "_kit/exp-inl.h"
#include "_kit/rows-inl.h"
#include "sla/problem.h"

HWY_BEFORE_NAMESPACE();
namespace sla {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;
namespace kit = attune_kit::HWY_NAMESPACE;
using kit::kLanes;
using kit::kPanel;
using kit::LoadRow;
using kit::PadTo32;
using kit::StoreRow;
using kit::WithRow;

// Rows [first, first + count) of a (batch, head).
HWY_NOINLINE inline void LoadRows(const View& t, int64_t b, int64_t h, int64_t first, int64_t count, size_t n,
                                  float factor, float* dst, size_t ld) {
  for (int64_t r = 0; r < count; r++) LoadRow(t, t.Offset(b, h, first + r), n, factor, dst + size_t(r) * ld);
}

// <a, b> of rows that are 0 beyond n up to whole vectors.
HWY_INLINE float DotRow(const float* a, const float* b, size_t n) {
  const hn::ScalableTag<float> d;
  auto sum = hn::Zero(d);
  for (size_t i = 0; i < n; i += kLanes) sum = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum);
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

// y = phi(x), n channels; 0 beyond them up to whole vectors. x is readable as far. y may be x.
HWY_NOINLINE inline void MapRow(FeatureMap map, const float* x, size_t n, float* y) {
  const hn::ScalableTag<float> d;
  const auto zero = hn::Zero(d);
  if (map != kSoftmax) {
    for (size_t i = 0; i < n; i += kLanes) {
      const auto v = hn::LoadU(d, x + i), above = hn::Max(v, zero);
      const auto mapped =
          map == kRelu ? above : hn::IfThenElse(hn::Gt(v, zero), hn::Add(v, hn::Set(d, 1.0f)), kit::Exp(d, v));
      hn::StoreU(hn::IfThenElseZero(hn::FirstN(d, n - i), mapped), d, y + i);
    }
    return;
  }
  const auto lowest = hn::Set(d, -INFINITY);
  auto top = lowest;
  for (size_t i = 0; i < n; i += kLanes) {
    top = hn::Max(top, hn::IfThenElse(hn::FirstN(d, n - i), hn::LoadU(d, x + i), lowest));
  }
  top = hn::MaxOfLanes(d, top);
  auto sum = zero;
  for (size_t i = 0; i < n; i += kLanes) {
    const auto e = kit::Exp(d, hn::Sub(hn::LoadU(d, x + i), top));
    const auto kept = hn::IfThenElseZero(hn::FirstN(d, n - i), e);
    hn::StoreU(kept, d, y + i);
    sum = hn::Add(sum, kept);
  }
  const auto inverse = hn::Div(hn::Set(d, 1.0f), hn::SumOfLanes(d, sum));
  for (size_t i = 0; i < n; i += kLanes) hn::StoreU(hn::Mul(inverse, hn::LoadU(d, y + i)), d, y + i);
}

// dx += the gradient of the row that was mapped to y, for the gradient dy of y; dy is 0 beyond n up to whole vectors.
HWY_NOINLINE inline void MapRowBackward(FeatureMap map, const float* y, const float* dy, size_t n, float* dx) {
  const hn::ScalableTag<float> d;
  const auto zero = hn::Zero(d), one = hn::Set(d, 1.0f);
  const auto mean = hn::Set(d, map == kSoftmax ? DotRow(y, dy, n) : 0.0f);
  for (size_t i = 0; i < n; i += kLanes) {
    const auto v = hn::LoadU(d, y + i), dv = hn::LoadU(d, dy + i);
    auto slope = hn::Mul(v, hn::Sub(dv, mean));
    if (map == kElu1) slope = hn::Mul(dv, hn::Min(v, one));  // the slope is 1 where y > 1, else y
    if (map == kRelu) slope = hn::IfThenElseZero(hn::Gt(v, zero), dv);
    hn::StoreU(hn::Add(hn::LoadU(d, dx + i), slope), d, dx + i);
  }
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace sla
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
