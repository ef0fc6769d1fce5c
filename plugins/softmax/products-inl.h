// Products of small row-major matrices in which every row of the left one has its own range of valid columns: what lies
// outside is not read, because 0 * NaN is not 0.
#if defined(ATTUNE_SOFTMAX_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_SOFTMAX_PRODUCTS_INL_H_
#undef ATTUNE_SOFTMAX_PRODUCTS_INL_H_
#else
#define ATTUNE_SOFTMAX_PRODUCTS_INL_H_
#endif
#include "_kit/tile-inl.h"
#include "softmax/backward.h"

HWY_BEFORE_NAMESPACE();
namespace softmax {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;
namespace kit = attune_kit::HWY_NAMESPACE;
using kit::kLanes;
using kit::kPanel;
using kit::kTileRows;

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

// C += A B or A^T B for 1 <= rows <= kRows known at run time.
template <bool kTransposed, int kVectors, int kRows = kTileRows>
HWY_INLINE void AddTile(int rows, size_t depth, const float* a, size_t lda, const float* b, size_t ldb, float* c,
                        size_t ldc) {
  if constexpr (!kTransposed) {
    kit::TileRows<kVectors, true, kRows>(rows, depth, a, lda, b, ldb, c, ldc);
  } else {
    if (rows >= kRows) return TransposedTile<kRows, kVectors>(depth, a, lda, b, ldb, c, ldc);
    if constexpr (kRows > 1) AddTile<true, kVectors, kRows - 1>(rows, depth, a, lda, b, ldb, c, ldc);
  }
}

// c[i][0, columns) += sum over k in ranges[i] of A(i, k) b[k], for i < rows. b and c are read, and c written, up to a
// multiple of kLanes columns. A row's sum is formed in an order that depends on the ranges alone.
template <bool kTransposed>
HWY_NOINLINE void AddProduct(const Range* ranges, size_t rows, const float* a, size_t lda, const float* b, size_t ldb,
                             size_t columns, float* c, size_t ldc) {
  const size_t row_step = kTransposed ? 1 : lda, depth_step = kTransposed ? lda : 1;
  for (size_t e = 0; e < columns; e += kPanel) {
    const bool wide = columns - e > kLanes;
    const auto add = [&](int n, size_t i, int begin, int end) {
      if (begin >= end) return;
      const float *from = a + i * row_step + begin * depth_step, *with = b + begin * ldb + e;
      float* to = c + i * ldc + e;
      if (n > 1 && wide) return AddTile<kTransposed, 2>(n, end - begin, from, lda, with, ldb, to, ldc);
      if (n > 1) return AddTile<kTransposed, 1>(n, end - begin, from, lda, with, ldb, to, ldc);
      if (wide) return AddTile<kTransposed, 2, 1>(1, end - begin, from, lda, with, ldb, to, ldc);
      AddTile<kTransposed, 1, 1>(1, end - begin, from, lda, with, ldb, to, ldc);
    };
    for (size_t i = 0; i < rows; i += kTileRows) {
      const int n = rows - i < kTileRows ? int(rows - i) : kTileRows;
      Range all = ranges[i];  // common to the rows of the tile; the rest is added row by row
      for (int r = 1; r < n; r++) {
        if (ranges[i + r].begin > all.begin) all.begin = ranges[i + r].begin;
        if (ranges[i + r].end < all.end) all.end = ranges[i + r].end;
      }
      if (all.end < all.begin) all.end = all.begin;
      add(n, i, all.begin, all.end);
      for (int r = 0; r < n && n > 1; r++) {
        const Range own = ranges[i + r];
        if (all.end == all.begin) {
          add(1, i + r, own.begin, own.end);
        } else {
          add(1, i + r, own.begin, all.begin);
          add(1, i + r, all.end, own.end);
        }
      }
    }
  }
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace softmax
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
