// Matrix products of a chunk of tokens: whole, and over a triangle without reading what lies outside it, so that a NaN
// in a token that a row may not see stays out of the row.
#if defined(ATTUNE_MALA_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_MALA_PRODUCTS_INL_H_
#undef ATTUNE_MALA_PRODUCTS_INL_H_
#else
#define ATTUNE_MALA_PRODUCTS_INL_H_
#endif
#include "_kit/pack-inl.h"
#include "_kit/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mala {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;
namespace kit = attune_kit::HWY_NAMESPACE;
using kit::kLanes;
using kit::kPanel;
using kit::kTileRows;

// Which terms k of row i take part, in a tile whose first row is i0: all of [begin, end); [begin, end) and then
// end..end+i-i0; or begin+i-i0..begin+kTileRows-1 and then the rest of [begin, end).
enum class Terms { kAll, kLower, kUpper };

// How A is stored: element (i, k) at a[i * lda + k], or at a[k * lda + i].
enum class Stored { kRows, kColumns };

// C[kTileRows x kVectors vectors] (+)= A B. A sum is formed in registers before it meets C: over many chunks that keeps
// rounding errors as small as if C were the sum of chunk sums.
template <int kVectors, Stored kA, Terms kTerms, bool kAdd>
HWY_INLINE void ProductTile(size_t begin, size_t end, const float* HWY_RESTRICT a, size_t lda,
                            const float* HWY_RESTRICT b, size_t ldb, float* HWY_RESTRICT c, size_t ldc) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const size_t row_step = kA == Stored::kRows ? lda : 1, term_step = kA == Stored::kRows ? 1 : lda;
  V sum[kTileRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; i++) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) sum[i][v] = hn::Zero(d);
  }
  // Adds term k to the rows [first, last), both known when the loops around are unrolled.
  const auto add = [&](size_t k, int first, int last) HWY_ATTR {
    V row[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) row[v] = hn::LoadU(d, b + k * ldb + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kTileRows; i++) {
      if (i < first || i >= last) continue;
      const V scalar = hn::Set(d, a[i * row_step + k * term_step]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) sum[i][v] = hn::MulAdd(scalar, row[v], sum[i][v]);
    }
  };
  if constexpr (kTerms == Terms::kUpper) {
#pragma GCC unroll 16
    for (int i = 0; i < kTileRows; i++) add(begin + i, 0, i + 1);
    begin += kTileRows;
  }
  for (size_t k = begin; k < end; k++) add(k, 0, kTileRows);
  if constexpr (kTerms == Terms::kLower) {
#pragma GCC unroll 16
    for (int i = 0; i < kTileRows; i++) add(end + i, i, kTileRows);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; i++) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) {
      float* to = c + i * ldc + v * kLanes;
      hn::StoreU(kAdd ? hn::Add(hn::LoadU(d, to), sum[i][v]) : sum[i][v], d, to);
    }
  }
}

// Rows of B that lie behind each other, or panels of kPanel columns (TransposeRows) that are `panel` floats apart.
struct Right {
  const float* data;
  size_t ld, panel;

  static Right Rows(const float* data, size_t ld) { return {data, ld, kPanel}; }
  static Right Panels(const float* data, size_t depth) { return {data, kPanel, depth * kPanel}; }
};

// C[rows x columns] (+)= A B. Written are whole tiles: C has room for rows and columns rounded up to them. With kLower
// and kUpper A is square: `depth` is not used, or is the number of tokens.
template <Stored kA, Terms kTerms, bool kAdd>
HWY_NOINLINE void Multiply(size_t rows, size_t columns, size_t depth, const float* a, size_t lda, Right b, float* c,
                           size_t ldc) {
  for (size_t e = 0; e < columns; e += kPanel, b.data += b.panel) {
    for (size_t r = 0; r < rows; r += kTileRows) {
      const size_t begin = kTerms == Terms::kUpper ? r : 0, end = kTerms == Terms::kLower ? r : depth;
      const float* at = kA == Stored::kRows ? a + r * lda : a + r;
      if (columns - e > kLanes) {
        ProductTile<2, kA, kTerms, kAdd>(begin, end, at, lda, b.data, b.ld, c + r * ldc + e, ldc);
      } else {
        ProductTile<1, kA, kTerms, kAdd>(begin, end, at, lda, b.data, b.ld, c + r * ldc + e, ldc);
      }
    }
  }
}

// The part of S[rows x rows] = A B that has column <= row, B in panels; beyond it S may hold anything.
HWY_NOINLINE inline void MultiplyToLower(size_t rows, size_t depth, const float* a, size_t lda, Right b, float* s,
                                         size_t lds) {
  for (size_t e = 0; e < rows; e += kPanel, b.data += b.panel) {
    for (size_t r = e / kTileRows * kTileRows; r < rows; r += kTileRows) {
      if (r + kTileRows > e + kLanes) {
        ProductTile<2, Stored::kRows, Terms::kAll, false>(0, depth, a + r * lda, lda, b.data, b.ld, s + r * lds + e, lds);
      } else {
        ProductTile<1, Stored::kRows, Terms::kAll, false>(0, depth, a + r * lda, lda, b.data, b.ld, s + r * lds + e, lds);
      }
    }
  }
}

// Panels of the transposed matrix: panel p holds rows p*kPanel ... of x as columns; beyond `rows` they are 0. `zero`: a
// row of zeros. Room: columns * (rows rounded up to kPanel).
HWY_NOINLINE inline void TransposeRows(const float* x, size_t ld, size_t rows, size_t columns, const float* zero,
                                       float* panels) {
  for (size_t r = 0; r < rows; r += kPanel, panels += kPanel * columns) {
    const float* pointers[kPanel];
    for (size_t i = 0; i < kPanel; i++) pointers[i] = r + i < rows ? x + (r + i) * ld : zero;
    kit::TransposeToPanel(pointers, columns, panels);
  }
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace mala
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
