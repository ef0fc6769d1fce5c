// Rows of tensors as f32, products of rows, and regions over the workers.
#if defined(ATTUNE_DMA_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_DMA_ROWS_INL_H_
#undef ATTUNE_DMA_ROWS_INL_H_
#else
#define ATTUNE_DMA_ROWS_INL_H_
#endif
#include <string.h>

#include <type_traits>

#include "_kit/exp-inl.h"
#include "_kit/rows-inl.h"
#include "dma/problem.h"

HWY_BEFORE_NAMESPACE();
namespace dma {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;
namespace kit = attune_kit::HWY_NAMESPACE;
using kit::kLanes;
using kit::kPanel;
using kit::kTileRows;
using kit::PadTo32;

constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;

// Calls f(typed pointer) with the row that begins at an offset of a tensor of f32, bf16 or f16.
template <class F>
HWY_INLINE void WithRow(const RowRef& row, F f) {
  kit::WithRow(*row.view, row.offset, f);
}
// dst[0, n) = factor * row, zeros up to a multiple of kLanes.
HWY_INLINE void LoadRow(const RowRef& row, size_t n, float factor, float* dst) {
  kit::LoadRow(*row.view, row.offset, n, factor, dst);
}
// row[0, n) = factor * src, rounded once.
HWY_INLINE void StoreRow(const float* src, size_t n, float factor, const RowRef& row) {
  kit::StoreRow(src, n, factor, *row.view, row.offset);
}
// 2^x for x <= 0, or 0 when that is so small that it changes no sum with a 1 in it: biases that are far apart make many
// such weights, and denormal numbers cost a hundred times as much as others.
constexpr float kLeastExponent = -80;
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Weight(D d, V x) {
  const V least = hn::Set(d, kLeastExponent);
  // The operands of the maximum in this order let a NaN through.
  return hn::IfThenZeroElse(hn::Lt(x, least), kit::Exp2(d, hn::Max(least, x)));
}

// Is every number of x[0, n) finite? n: rounded up to whole vectors, which LoadRow fills.
HWY_INLINE bool AllFinite(const float* x, size_t n) {
  const hn::ScalableTag<float> d;
  for (size_t i = 0; i < n; i += kLanes) {
    if (!hn::AllTrue(d, hn::IsFinite(hn::LoadU(d, x + i)))) return false;
  }
  return true;
}

// sum of a[i] * b[i], i < n, in double; rows are filled with zeros up to a multiple of kLanes.
HWY_INLINE double DotInDouble(const float* a, const float* b, size_t n) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> df;
  auto sum0 = hn::Zero(d), sum1 = hn::Zero(d);
  constexpr size_t kHalf = kLanes / 2;
  for (size_t i = 0; i < n; i += kLanes) {
    sum0 = hn::MulAdd(hn::PromoteTo(d, hn::LoadU(df, a + i)), hn::PromoteTo(d, hn::LoadU(df, b + i)), sum0);
    sum1 = hn::MulAdd(hn::PromoteTo(d, hn::LoadU(df, a + i + kHalf)), hn::PromoteTo(d, hn::LoadU(df, b + i + kHalf)),
                      sum1);
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
}

// c[i][0, columns) += sum over k < depth of a[k * kPanel + i] * b[k][0, columns), for i < rows <= kPanel. b and c have
// room for a multiple of kLanes columns.
HWY_NOINLINE inline void AddTransposed(size_t rows, size_t columns, size_t depth, const float* a, const float* b,
                                       size_t ldb, float* c, size_t ldc) {
  for (size_t e = 0; e < columns; e += kPanel) {
    for (size_t i = 0; i < rows; i += kTileRows) {
      if (columns - e > kLanes) {
        kit::TransposedTileRows<2>(int(rows - i), depth, a + i, kPanel, b + e, ldb, c + i * ldc + e, ldc);
      } else {
        kit::TransposedTileRows<1>(int(rows - i), depth, a + i, kPanel, b + e, ldb, c + i * ldc + e, ldc);
      }
    }
  }
}

// Takes pieces of a worker's memory; with a null base it only counts.
class Carver {
 public:
  explicit Carver(float* base) : base_(base) {}
  float* Take(size_t n) {
    const size_t at = used_;
    used_ += (n + 15) / 16 * 16;
    return base_ ? base_ + at : nullptr;
  }
  size_t Used() const { return used_; }

 private:
  float* base_;
  size_t used_ = 0;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace dma
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
