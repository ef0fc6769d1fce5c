// One row's linear system solved directly: its matrix is formed and factored. Takes about as long as D/4 iterations.
#if defined(ATTUNE_LLA_CHOLESKY_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_LLA_CHOLESKY_INL_H_
#undef ATTUNE_LLA_CHOLESKY_INL_H_
#else
#define ATTUNE_LLA_CHOLESKY_INL_H_
#endif
#include "_kit/chunked-inl.h"
#include "lla/row_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lla {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// Matrices are the upper triangle in rows of `ld` floats; left of the diagonal is anything unless said otherwise.

// out[rows x columns] += a^T x, a stored [depth x rows].
HWY_INLINE void AddTransposed(size_t rows, size_t columns, size_t depth, const float* a, size_t lda, const float* x,
                              size_t ldx, float* out, size_t ldo) {
  kit::ChunkProduct<kit::Start::kKeep, kit::Terms::kAll, kit::Order::kColumns>(rows, columns, depth, a, lda, x, ldx, 0,
                                                                               out, ldo);
}

// u += rows^T rows, for `depth` rows of n columns that are followed by zeros.
HWY_INLINE void AddGram(const float* rows, size_t depth, size_t n, size_t ld, float* u) {
  constexpr size_t kRows = kit::kTileRows;
  for (size_t a = 0; a < n; a += kRows) {
    const size_t first = a / kLanes * kLanes;
    AddTransposed(n - a < kRows ? n - a : kRows, n - first, depth, rows + a, ld, rows + first, ld, u + a * ld + first,
                  ld);
  }
}

// u becomes the factor U of U^T U = u, zero left of the diagonal within a vector, with 1 / U_aa on it. No pivot of the
// true matrix is below the ridge in it, so that smaller ones are rounding.
HWY_NOINLINE inline void Factor(float* u, size_t n, size_t ld, float ridge) {
  const hn::ScalableTag<float> d;
  for (size_t a = 0; a < n; a++) {
    float* row = u + a * ld;
    const size_t first = a / kLanes * kLanes;
    const float pivot = row[a] > ridge ? row[a] : ridge, inverse = 1 / sqrtf(pivot);
    kit::ScaleRow(row + first, ld - first, inverse);
    for (size_t e = first; e < a; e++) row[e] = 0;
    for (size_t i = a + 1; i < n; i++) {
      const size_t begin = i / kLanes * kLanes;
      const auto f = hn::Set(d, -row[i]);
      float* to = u + i * ld;
      for (size_t e = begin; e < ld; e += kLanes) {
        hn::StoreU(hn::MulAdd(f, hn::LoadU(d, row + e), hn::LoadU(d, to + e)), d, to + e);
      }
    }
    row[a] = inverse;
  }
}

// x = (U^T U)^-1 x with U as Factor makes it; x is followed by zeros.
HWY_INLINE void SolveFactored(const float* u, size_t n, size_t ld, float* x) {
  for (size_t a = 0; a < n; a++) {
    const size_t first = a / kLanes * kLanes;
    const float solved = x[a] * u[a * ld + a];
    AddScaled(x + first, -solved, u + a * ld + first, ld - first);
    x[a] = solved;
  }
  for (size_t a = n; a-- > 0;) {
    const size_t first = a / kLanes * kLanes;
    const float known = x[a];
    x[a] = 0;
    x[a] = (known - Dot(x + first, u + a * ld + first, ld - first)) * u[a * ld + a];
  }
}

// Solutions x[n] of row r for the right sides b[n].
template <class Tile>
HWY_NOINLINE void SolveDirectly(const Tile& t, size_t r, const float* const* b, float* const* x, int n) {
  const hn::ScalableTag<float> d;
  const Problem& c = t.Call();
  const TileMemory& m = t.Memory();
  const size_t D = size_t(c.D), ld = m.ld_k;
  const float* kbar = t.Row(m.kbar, r);
  const auto scale = hn::Set(d, m.inverse_omega[r]);
  HWY_ALIGN float roots[kPieceKeys];
  memset(m.factor, 0, sizeof(float) * D * ld);
  for (int64_t first = 0; first < m.visible[r]; first += int64_t(kPieceKeys)) {
    // Rows sqrt(p) (k - kbar), centred exactly: this is the way for small ridges, where digits matter.
    const int64_t left = m.visible[r] - first;
    const size_t keys = left < int64_t(kPieceKeys) ? size_t(left) : kPieceKeys;
    const float *p = t.Weights(first, r), *k = t.Ready().rows + size_t(first) * ld;
    for (size_t j = 0; j < keys; j += kLanes) hn::StoreU(hn::Sqrt(hn::Mul(hn::LoadU(d, p + j), scale)), d, roots + j);
    float* to = m.centred;
    for (size_t j = 0; j < keys; j++, k += ld, to += ld) {
      const auto root = hn::Set(d, roots[j]);
      for (size_t e = 0; e < ld; e += kLanes) {
        hn::StoreU(hn::Mul(root, hn::Sub(hn::LoadU(d, k + e), hn::LoadU(d, kbar + e))), d, to + e);
      }
    }
    AddGram(m.centred, keys, D, ld, m.factor);
  }
  for (size_t a = 0; a < D; a++) m.factor[a * ld + a] += m.ridge[r];
  Factor(m.factor, D, ld, m.ridge[r]);
  for (int s = 0; s < n; s++) {
    memcpy(t.Row(x[s], r), t.Row(b[s], r), sizeof(float) * ld);
    SolveFactored(m.factor, D, ld, t.Row(x[s], r));
  }
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace lla
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
