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
#include "_kit/pack-inl.h"
#include "_kit/tile-inl.h"
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

constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;

inline size_t PadTo32(int64_t n) {
  return size_t(n + 31) / 32 * 32;
}

// Calls f(typed pointer) with the row that begins at an offset of a tensor of f32, bf16 or f16.
template <class F>
HWY_INLINE void WithRow(const RowRef& row, F f) {
  const int dtype = row.view->DType();
  kit::WithFloatType(dtype, static_cast<const char*>(row.view->Data()) + row.offset * (dtype == ATTUNE_F32 ? 4 : 2), f);
}
// dst[0, n) = factor * row, zeros up to a multiple of kLanes.
HWY_INLINE void LoadRow(const RowRef& row, size_t n, float factor, float* dst) {
  WithRow(row, [&](const auto* p) { kit::Widen(p, n, factor, dst); });
}
// row[0, n) = factor * src, rounded once.
HWY_INLINE void StoreRow(const float* src, size_t n, float factor, const RowRef& row) {
  WithRow(row, [&](const auto* p) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(p)>>;
    kit::Narrow(src, n, factor, const_cast<T*>(p));
  });
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

// C[kRows x kVectors*kLanes] += A^T B, where column k of A^T is a[k * lda ...]: kit::Tile with A the other way round.
template <int kRows, int kVectors>
HWY_INLINE void TransposedTile(size_t depth, const float* HWY_RESTRICT a, size_t lda, const float* HWY_RESTRICT b,
                               size_t ldb, float* HWY_RESTRICT c, size_t ldc) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  V sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; v++) sum[i][v] = hn::LoadU(d, c + i * ldc + v * kLanes);
  }
  for (size_t k = 0; k < depth; k++) {
    V row[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; v++) row[v] = hn::LoadU(d, b + k * ldb + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
      const V scalar = hn::Set(d, a[k * lda + i]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; v++) sum[i][v] = hn::MulAdd(scalar, row[v], sum[i][v]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; v++) hn::StoreU(sum[i][v], d, c + i * ldc + v * kLanes);
  }
}
template <int kVectors, int kRows = kTileRows>
HWY_INLINE void TransposedRows(size_t rows, size_t depth, const float* a, size_t lda, const float* b, size_t ldb,
                               float* c, size_t ldc) {
  if (rows >= size_t(kRows)) return TransposedTile<kRows, kVectors>(depth, a, lda, b, ldb, c, ldc);
  if constexpr (kRows > 1) TransposedRows<kVectors, kRows - 1>(rows, depth, a, lda, b, ldb, c, ldc);
}
// c[i][0, columns) += sum over k < depth of a[k * kPanel + i] * b[k][0, columns), for i < rows <= kPanel. b and c have
// room for a multiple of kLanes columns.
HWY_NOINLINE inline void AddTransposed(size_t rows, size_t columns, size_t depth, const float* a, const float* b,
                                       size_t ldb, float* c, size_t ldc) {
  for (size_t e = 0; e < columns; e += kPanel) {
    for (size_t i = 0; i < rows; i += kTileRows) {
      if (columns - e > kLanes) {
        TransposedRows<2>(rows - i, depth, a + i, kPanel, b + e, ldb, c + i * ldc + e, ldc);
      } else {
        TransposedRows<1>(rows - i, depth, a + i, kPanel, b + e, ldb, c + i * ldc + e, ldc);
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

inline bool Cancelled(const attune_exec& x) {
  return x.cancel && __atomic_load_n(x.cancel, __ATOMIC_RELAXED);
}

// f(i, worker) for every i < n, in any order.
template <class F>
attune_status Parallel(const attune_exec& x, int64_t n, const F& f) {
  struct Call {
    const attune_exec* x;
    const F* f;
  } call = {&x, &f};
  const auto piece = [](void* arg, int64_t begin, int64_t end, uint32_t worker) {
    const Call& call = *static_cast<Call*>(arg);
    for (int64_t i = begin; i < end && !Cancelled(*call.x); i++) (*call.f)(i, worker);
  };
  return n > 0 ? x.host->parallel_for(&x, n, 1, piece, &call) : ATTUNE_OK;
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace dma
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
