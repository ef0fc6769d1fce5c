// Rows of f32, padded with zeros to a multiple of every vector: what all vector code here works on.
#if defined(ATTUNE_LLA_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_LLA_ROWS_INL_H_
#undef ATTUNE_LLA_ROWS_INL_H_
#else
#define ATTUNE_LLA_ROWS_INL_H_
#endif
#include <string.h>

#include <type_traits>

#include "_kit/rows-inl.h"
#include "lla/problem.h"

HWY_BEFORE_NAMESPACE();
namespace lla {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;
namespace kit = attune_kit::HWY_NAMESPACE;
using kit::kLanes;
using kit::kPanel;
using kit::PadTo32;
using kit::StoreRow;

// dst[0, PadTo32(n)) = factor * the row of a tensor that begins at element `at`, then zeros.
HWY_INLINE void LoadRow(const View& t, int64_t at, int64_t n, float factor, float* dst) {
  memset(dst + PadTo32(n) - 32, 0, sizeof(float) * 32);
  kit::LoadRow(t, at, size_t(n), factor, dst);
}

// From here on n is a multiple of kLanes.
HWY_INLINE float Dot(const float* a, const float* b, size_t n) {
  const hn::ScalableTag<float> d;
  auto sum = hn::Zero(d), sum2 = sum;
  size_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    sum = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum);
    sum2 = hn::MulAdd(hn::LoadU(d, a + i + kLanes), hn::LoadU(d, b + i + kLanes), sum2);
  }
  if (i < n) sum = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum);
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(sum, sum2)));
}

// y = factor * y + x
HWY_INLINE void ScaleAdd(float* y, float factor, const float* x, size_t n) {
  const hn::ScalableTag<float> d;
  const auto f = hn::Set(d, factor);
  for (size_t i = 0; i < n; i += kLanes) hn::StoreU(hn::MulAdd(f, hn::LoadU(d, y + i), hn::LoadU(d, x + i)), d, y + i);
}

// y += factor * x
HWY_INLINE void AddScaled(float* y, float factor, const float* x, size_t n) {
  const hn::ScalableTag<float> d;
  const auto f = hn::Set(d, factor);
  for (size_t i = 0; i < n; i += kLanes) hn::StoreU(hn::MulAdd(f, hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, y + i);
}

HWY_INLINE void Multiply(float* y, const float* x, size_t n) {
  const hn::ScalableTag<float> d;
  for (size_t i = 0; i < n; i += kLanes) hn::StoreU(hn::Mul(hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, y + i);
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace lla
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
