// One row at a time: the feature map, the rotation, and vector sums.
#if defined(ATTUNE_MALA_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_MALA_ROWS_INL_H_
#undef ATTUNE_MALA_ROWS_INL_H_
#else
#define ATTUNE_MALA_ROWS_INL_H_
#endif
#include <string.h>

#include <type_traits>

#include "_kit/dot-inl.h"
#include "_kit/exp-inl.h"
#include "_kit/pack-inl.h"
#include "mala/problem.h"

HWY_BEFORE_NAMESPACE();
namespace mala {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;
namespace kit = attune_kit::HWY_NAMESPACE;
using kit::kLanes;

template <class D, class V = hn::Vec<D>>
HWY_INLINE V FeatureMap(D d, V x) {
  return hn::IfThenElse(hn::Gt(x, hn::Zero(d)), hn::Add(x, hn::Set(d, 1.0f)), kit::Exp(d, x));
}

// dst = phi(src), n elements; 0 beyond them up to whole vectors, as in every row of working memory.
template <class T>
HWY_INLINE void MapRow(const T* HWY_RESTRICT src, size_t n, float* HWY_RESTRICT dst) {
  const hn::ScalableTag<float> d;
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) hn::StoreU(FeatureMap(d, kit::LoadAsFloat(d, src + i)), d, dst + i);
  if (i == n) return;
  HWY_ALIGN T tail[kLanes] = {};
  memcpy(static_cast<void*>(tail), src + i, (n - i) * sizeof(T));
  hn::StoreU(hn::IfThenElseZero(hn::FirstN(d, n - i), FeatureMap(d, kit::LoadAsFloat(d, tail))), d, dst + i);
}

// A row of n elements where it is, or in f32 in `buffer`.
HWY_INLINE const float* AsFloats(const float* row, size_t, float*) {
  return row;
}
template <class T>
HWY_INLINE const float* AsFloats(const T* row, size_t n, float* buffer) {
  kit::Widen(row, n, 1.0f, buffer);
  return buffer;
}

// A vector of columns of n elements, ld apart, in place: x = phi(x), and dots = the sum of factors[i] x_i.
HWY_INLINE void MapColumn(float* HWY_RESTRICT x, size_t ld, size_t n, const float* HWY_RESTRICT factors,
                          float* HWY_RESTRICT dots) {
  const hn::ScalableTag<float> d;
  auto sum = hn::Zero(d);
  for (size_t i = 0; i < n; i++, x += ld) {
    const auto mapped = FeatureMap(d, hn::LoadU(d, x));
    hn::StoreU(mapped, d, x);
    sum = hn::MulAdd(hn::Set(d, factors[i]), mapped, sum);
  }
  hn::StoreU(sum, d, dots);
}

// What a rotation does to a vector of pairs: (x0, x1) -> (-x1, x0).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V QuarterTurn(D, V x) {
  const V swapped = hn::Shuffle2301(x);
  return hn::OddEven(swapped, hn::Neg(swapped));
}

// dst = src rotated by one row of each table; all four are readable as whole vectors.
HWY_INLINE void RotateRow(const float* HWY_RESTRICT src, const float* sin, const float* cos, size_t n,
                          float* HWY_RESTRICT dst) {
  const hn::ScalableTag<float> d;
  for (size_t i = 0; i < n; i += kLanes) {
    const auto x = hn::LoadU(d, src + i);
    const auto turned = hn::Mul(QuarterTurn(d, x), hn::LoadU(d, sin + i));
    hn::StoreU(hn::MulAdd(x, hn::LoadU(d, cos + i), turned), d, dst + i);
  }
}
// The transposed rotation, in place.
HWY_INLINE void RotateRowBack(float* row, const float* sin, const float* cos, size_t n) {
  const hn::ScalableTag<float> d;
  for (size_t i = 0; i < n; i += kLanes) {
    const auto x = hn::LoadU(d, row + i);
    const auto turned = QuarterTurn(d, hn::Mul(x, hn::LoadU(d, sin + i)));
    hn::StoreU(hn::MulSub(x, hn::LoadU(d, cos + i), turned), d, row + i);
  }
}

// <a, b> of rows that are 0 beyond n up to whole vectors.
HWY_INLINE float DotRow(const float* a, const float* b, size_t n) {
  const hn::ScalableTag<float> d;
  auto sum = hn::Zero(d);
  for (size_t i = 0; i < n; i += kLanes) sum = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum);
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

// dots[r] = <row r of a, row r of b>; rows are 0 beyond n up to whole vectors.
HWY_INLINE void DotPairs(const float* a, const float* b, size_t ld, size_t rows, size_t n, float* dots) {
  const hn::ScalableTag<float> d;
  size_t r = 0;
  for (; r + 4 <= rows; r += 4, a += 4 * ld, b += 4 * ld) {
    auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
    for (size_t i = 0; i < n; i += kLanes) {
      s0 = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), s0);
      s1 = hn::MulAdd(hn::LoadU(d, a + ld + i), hn::LoadU(d, b + ld + i), s1);
      s2 = hn::MulAdd(hn::LoadU(d, a + 2 * ld + i), hn::LoadU(d, b + 2 * ld + i), s2);
      s3 = hn::MulAdd(hn::LoadU(d, a + 3 * ld + i), hn::LoadU(d, b + 3 * ld + i), s3);
    }
    hn::StoreU(kit::SumOfLanes4(d, s0, s1, s2, s3), hn::CappedTag<float, 4>(), dots + r);
  }
  for (; r < rows; r++, a += ld, b += ld) dots[r] = DotRow(a, b, n);
}

// dst = f x, whole vectors. dst may be x.
HWY_INLINE void ScaleRow(float f, const float* x, size_t n, float* dst) {
  const hn::ScalableTag<float> d;
  const auto vf = hn::Set(d, f);
  for (size_t i = 0; i < n; i += kLanes) hn::StoreU(hn::Mul(vf, hn::LoadU(d, x + i)), d, dst + i);
}
// row *= phi'(x), where mapped = phi(x): 1 above 0, else exp(x). Whole vectors.
HWY_INLINE void TimesSlope(const float* mapped, size_t n, float* row) {
  const hn::ScalableTag<float> d;
  for (size_t i = 0; i < n; i += kLanes) {
    const auto slope = hn::Min(hn::LoadU(d, mapped + i), hn::Set(d, 1.0f));
    hn::StoreU(hn::Mul(slope, hn::LoadU(d, row + i)), d, row + i);
  }
}
// dst = f x + g y, whole vectors. dst may be x or y.
HWY_INLINE void CombineRows(float f, const float* x, float g, const float* y, size_t n, float* dst) {
  const hn::ScalableTag<float> d;
  const auto vf = hn::Set(d, f), vg = hn::Set(d, g);
  for (size_t i = 0; i < n; i += kLanes) {
    hn::StoreU(hn::MulAdd(vf, hn::LoadU(d, x + i), hn::Mul(vg, hn::LoadU(d, y + i))), d, dst + i);
  }
}

// total += the sum of `rows` rows, each times its factor if there are any, for kVectors vectors of columns: enough sums
// are under way that none waits for the one before.
template <int kVectors>
HWY_INLINE void AddColumnsOf(const float* x, size_t ld, size_t rows, const float* factors, float* total) {
  const hn::ScalableTag<float> d;
  hn::Vec<decltype(d)> sum[kVectors];
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; i++) sum[i] = hn::Zero(d);
  for (size_t r = 0; r < rows; r++) {
    const auto factor = hn::Set(d, factors ? factors[r] : 1.0f);
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; i++) sum[i] = hn::MulAdd(factor, hn::LoadU(d, x + r * ld + i * kLanes), sum[i]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; i++) {
    hn::StoreU(hn::Add(hn::LoadU(d, total + i * kLanes), sum[i]), d, total + i * kLanes);
  }
}
HWY_INLINE void AddColumns(const float* x, size_t ld, size_t rows, const float* factors, size_t n, float* total) {
  size_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) AddColumnsOf<4>(x + i, ld, rows, factors, total + i);
  for (; i < n; i += kLanes) AddColumnsOf<1>(x + i, ld, rows, factors, total + i);
}

// prefix[r] = base + x[0] + ... + x[r]; prefix may be x.
HWY_INLINE void PrefixRows(const float* base, const float* x, size_t ld, size_t rows, size_t n, float* prefix) {
  const hn::ScalableTag<float> d;
  for (size_t i = 0; i < n; i += kLanes) {
    const auto start = hn::LoadU(d, base + i);
    auto sum = hn::Zero(d);
    for (size_t r = 0; r < rows; r++) {
      sum = hn::Add(sum, hn::LoadU(d, x + r * ld + i));
      hn::StoreU(hn::Add(start, sum), d, prefix + r * ld + i);
    }
  }
}
// Calls f(typed pointer to row (b, h, i)).
template <class F>
HWY_INLINE void WithRow(const Rows& rows, int64_t b, int64_t h, int64_t i, F f) {
  const int64_t size = rows.view.DType() == ATTUNE_F32 ? 4 : 2;
  kit::WithFloatType(rows.view.DType(), static_cast<char*>(rows.view.Data()) + rows.At(b, h, i) * size,
                     [&](const auto* p) HWY_ATTR {
                       using T = std::remove_cv_t<std::remove_pointer_t<decltype(p)>>;
                       f(const_cast<T*>(p));
                     });
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace mala
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
