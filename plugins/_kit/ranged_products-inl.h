// Products of small row-major matrices in which every row of the left one has its own range of valid columns: what lies
// outside is not read, because 0 * NaN is not 0.
#if defined(ATTUNE_KIT_RANGED_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_KIT_RANGED_PRODUCTS_INL_H_
#undef ATTUNE_KIT_RANGED_PRODUCTS_INL_H_
#else
#define ATTUNE_KIT_RANGED_PRODUCTS_INL_H_
#endif
#include <hwy/highway.h>

#include "_kit/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attune_kit {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

struct Range {
  int begin, end;  // empty when end <= begin
};

// C[rows x kVectors*kLanes] += A B or A^T B for 1 <= rows <= kRows known at run time.
template <bool kTransposed, int kVectors, int kRows = kTileRows>
HWY_INLINE void AddTile(int rows, size_t depth, const float* a, size_t lda, const float* b, size_t ldb, float* c,
                        size_t ldc) {
  if constexpr (kTransposed) {
    TransposedTileRows<kVectors, kRows>(rows, depth, a, lda, b, ldb, c, ldc);
  } else {
    TileRows<kVectors, true, kRows>(rows, depth, a, lda, b, ldb, c, ldc);
  }
}

// c[i][0, columns) += sum over k in ranges[i] of A(i, k) b[k], i < rows, where A(i, k) is a[i * lda + k], or
// a[k * lda + i] when transposed. b and c are read, and c written, up to a multiple of kLanes columns. A row's sum is
// formed in an order that depends on the ranges alone.
template <bool kTransposed>
HWY_NOINLINE void AddProduct(const Range* ranges, size_t rows, const float* a, size_t lda, const float* b, size_t ldb,
                             size_t columns, float* c, size_t ldc) {
  const size_t row_step = kTransposed ? 1 : lda, depth_step = kTransposed ? lda : 1;
  for (size_t e = 0; e < columns; e += kPanel) {
    const bool wide = columns - e > kLanes;
    const auto add = [&](int n, size_t i, int begin, int end) {
      if (begin >= end) return;
      const size_t k = size_t(begin), depth = size_t(end - begin);
      const float *from = a + i * row_step + k * depth_step, *with = b + k * ldb + e;
      float* to = c + i * ldc + e;
      if (n > 1 && wide) return AddTile<kTransposed, 2>(n, depth, from, lda, with, ldb, to, ldc);
      if (n > 1) return AddTile<kTransposed, 1>(n, depth, from, lda, with, ldb, to, ldc);
      if (wide) return AddTile<kTransposed, 2, 1>(1, depth, from, lda, with, ldb, to, ldc);
      AddTile<kTransposed, 1, 1>(1, depth, from, lda, with, ldb, to, ldc);
    };
    for (size_t i = 0; i < rows; i += kTileRows) {
      const int n = rows - i < kTileRows ? int(rows - i) : kTileRows;
      Range all = ranges[i];  // common to the rows of the tile; the rest is added row by row
      for (int r = 1; r < n; r++) {
        const Range own = ranges[i + size_t(r)];
        if (own.begin > all.begin) all.begin = own.begin;
        if (own.end < all.end) all.end = own.end;
      }
      if (all.end <= all.begin) {
        for (int r = 0; r < n; r++) add(1, i + size_t(r), ranges[i + size_t(r)].begin, ranges[i + size_t(r)].end);
        continue;
      }
      add(n, i, all.begin, all.end);
      for (int r = 0; r < n; r++) {
        add(1, i + size_t(r), ranges[i + size_t(r)].begin, all.begin);
        add(1, i + size_t(r), all.end, ranges[i + size_t(r)].end);
      }
    }
  }
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace attune_kit
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
