// Linear attention in chunks, the core that every operator with a constant-size state shares. With n tokens in a chunk,
// w = exp(-slope) (1 without decay), and a state S [features x columns]:
//   a_ij = w^(i-j) <q_i, k_j>                    j <= i                                  Scores, DecayScores
//   o_i  = w^(i+late) q_i^T S + sum_j a_ij v_j                                           DecayRows on q, Outputs
//   S   <- w^n S + sum_j w^(n-late-j) k_j v_j^T                                          DecayRows on k, UpdateState
// late = 1: S is the state as the last token left it. late = 0: S has already decayed by one token, which is what a
// sweep from the last token to the first needs.
// q and k are rows of features (of whatever map), v rows of values, all f32 in a ChunkMemory. A value of token j enters
// o_i only if j <= i, not even multiplied by 0, so NaN in a later token changes nothing. Each element is summed in an
// order that depends on the sizes alone.
#if defined(ATTUNE_KIT_CHUNKED_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_KIT_CHUNKED_INL_H_
#undef ATTUNE_KIT_CHUNKED_INL_H_
#else
#define ATTUNE_KIT_CHUNKED_INL_H_
#endif
#include <hwy/highway.h>

#include "_kit/chunk_memory.h"
#include "_kit/pack-inl.h"
#include "_kit/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attune_kit {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;

enum class Start { kZero, kKeep, kScale };  // what a product is added to: 0, C, factor * C
enum class Terms { kAll, kLower };          // row i of a kLower product takes the terms 0..i only
enum class Order { kRows, kColumns };       // A is stored [rows x depth], or [depth x rows]

// C[kRows x kVectors*kLanes] = start + A B in registers. kLower: `depth` terms for all rows, then row i takes i + 1 of
// the kRows terms that follow. The product is complete before it meets `start`: a state that takes in many chunks then
// gathers one rounding error per chunk, not one per token.
template <int kRows, int kVectors, Start kStart, Terms kTerms, Order kOrder>
HWY_INLINE void ChunkTile(size_t depth, const float* HWY_RESTRICT a, size_t lda, const float* HWY_RESTRICT b,
                          size_t ldb, float factor, float* HWY_RESTRICT c, size_t ldc) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const auto element = [&](size_t i, size_t k) { return a[kOrder == Order::kRows ? i * lda + k : k * lda + i]; };
  V sum[kRows][kVectors];
  [[maybe_unused]] const V scale = hn::Set(d, factor);
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) sum[i][v] = hn::Zero(d);
  }
  for (size_t k = 0; k < depth; k++) {
    V row[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) row[v] = hn::LoadU(d, b + k * ldb + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
      const V scalar = hn::Set(d, element(size_t(i), k));
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) sum[i][v] = hn::MulAdd(scalar, row[v], sum[i][v]);
    }
  }
  if constexpr (kTerms == Terms::kLower) {
#pragma GCC unroll 16
    for (int k = 0; k < kRows; k++) {
      V row[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) row[v] = hn::LoadU(d, b + (depth + k) * ldb + v * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; i++) {
        if (i < k) continue;
        const V scalar = hn::Set(d, element(size_t(i), depth + k));
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; v++) sum[i][v] = hn::MulAdd(scalar, row[v], sum[i][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) {
      float* at = c + i * ldc + v * kLanes;
      if constexpr (kStart == Start::kKeep) sum[i][v] = hn::Add(hn::LoadU(d, at), sum[i][v]);
      if constexpr (kStart == Start::kScale) sum[i][v] = hn::MulAdd(scale, hn::LoadU(d, at), sum[i][v]);
      hn::StoreU(sum[i][v], d, at);
    }
  }
}

// The same for 1 <= rows <= kRows known at run time.
template <int kVectors, Start kStart, Terms kTerms, Order kOrder, int kRows = kTileRows>
HWY_INLINE void ChunkTileRows(size_t rows, size_t depth, const float* a, size_t lda, const float* b, size_t ldb,
                              float factor, float* c, size_t ldc) {
  if (rows >= kRows) return ChunkTile<kRows, kVectors, kStart, kTerms, kOrder>(depth, a, lda, b, ldb, factor, c, ldc);
  if constexpr (kRows > 1) {
    ChunkTileRows<kVectors, kStart, kTerms, kOrder, kRows - 1>(rows, depth, a, lda, b, ldb, factor, c, ldc);
  }
}

// C[rows x columns] = start + A B for any sizes; rows of B and C are readable, those of C writable, up to a multiple of
// kLanes. kLower: depth is ignored.
template <Start kStart, Terms kTerms, Order kOrder>
HWY_NOINLINE void ChunkProduct(size_t rows, size_t columns, size_t depth, const float* a, size_t lda, const float* b,
                               size_t ldb, float factor, float* c, size_t ldc,
                               Ahead* ahead = nullptr) {
  for (size_t e = 0; e < columns; e += kPanel) {
    for (size_t i = 0; i < rows; i += kTileRows) {
      if (ahead) ahead->Fetch();
      const size_t terms = kTerms == Terms::kLower ? i : depth;
      const float* from = a + (kOrder == Order::kRows ? i * lda : i);
      float* to = c + i * ldc + e;
      if (columns - e > kLanes) {
        ChunkTileRows<2, kStart, kTerms, kOrder>(rows - i, terms, from, lda, b + e, ldb, factor, to, ldc);
      } else {
        ChunkTileRows<1, kStart, kTerms, kOrder>(rows - i, terms, from, lda, b + e, ldb, factor, to, ldc);
      }
    }
  }
}

// a = the lower triangle of q k^T of the first n tokens. What lies above the diagonal is undefined.
inline HWY_NOINLINE void Scores(const ChunkMemory& m, size_t n) {
  for (size_t p = 0; p < n; p += kPanel) {
    const float* rows[kPanel];  // beyond the last token any row will do: nothing reads its scores
    for (size_t r = 0; r < kPanel; r++) rows[r] = m.k + (p + r < n ? p + r : n - 1) * m.ld_features;
    TransposeToPanel(rows, m.features, m.panel);
    for (size_t i = p / kTileRows * kTileRows; i < n; i += kTileRows) {
      if (m.ahead) m.ahead->Fetch();
      const size_t last = i + kTileRows < n ? i + kTileRows : n;
      const float* q = m.q + i * m.ld_features;
      float* a = m.a + i * m.ld_a + p;
      if (last - p > kLanes) {
        ChunkTileRows<2, Start::kZero, Terms::kAll, Order::kRows>(n - i, m.features, q, m.ld_features, m.panel, kPanel,
                                                                  0, a, m.ld_a);
      } else {
        ChunkTileRows<1, Start::kZero, Terms::kAll, Order::kRows>(n - i, m.features, q, m.ld_features, m.panel, kPanel,
                                                                  0, a, m.ld_a);
      }
    }
  }
}

// a_ij *= factor(i - j) for j <= i, where backward[m.rows - 1 - t] = factor(t) and kLanes more floats may be read.
HWY_INLINE void DecayScores(const ChunkMemory& m, size_t n, const float* backward) {
  const hn::ScalableTag<float> d;
  for (size_t i = 0; i < n; i++) {
    const float* factor = backward + (m.rows - 1 - i);
    float* a = m.a + i * m.ld_a;
    for (size_t j = 0; j <= i; j += kLanes) {
      hn::StoreU(hn::Mul(hn::LoadU(d, a + j), hn::LoadU(d, factor + j)), d, a + j);
    }
  }
}

// Row i of x *= factor[i * step]; step may be negative.
HWY_INLINE void DecayRows(float* x, size_t ld, size_t n, size_t width, const float* factor, ptrdiff_t step) {
  const hn::ScalableTag<float> d;
  for (size_t i = 0; i < n; i++, x += ld, factor += step) {
    const auto f = hn::Set(d, *factor);
    for (size_t e = 0; e < width; e += kLanes) hn::StoreU(hn::Mul(f, hn::LoadU(d, x + e)), d, x + e);
  }
}

// sums[i] += sum of a_ij over j <= i: the normaliser of attention that has one.
HWY_INLINE void AddScoreSums(const ChunkMemory& m, size_t n, float* sums) {
  const hn::ScalableTag<float> d;
  for (size_t i = 0; i < n; i++) {
    const float* a = m.a + i * m.ld_a;
    auto sum = hn::Zero(d);
    size_t j = 0;
    for (; j + kLanes <= i + 1; j += kLanes) sum = hn::Add(sum, hn::LoadU(d, a + j));
    sum = hn::Add(sum, hn::IfThenElseZero(hn::FirstN(d, i + 1 - j), hn::LoadU(d, a + j)));
    sums[i] += hn::GetLane(hn::SumOfLanes(d, sum));
  }
}

// o = q S + lower(a) v, or added to o. A state of features x columns, its rows ld_columns apart; null: zero.
template <Start kStart = Start::kZero>
HWY_INLINE void Outputs(const ChunkMemory& m, size_t n, const float* state) {
  if (!state) {
    return ChunkProduct<kStart, Terms::kLower, Order::kRows>(n, m.columns, 0, m.a, m.ld_a, m.v, m.ld_columns, 0, m.o,
                                                             m.ld_columns, m.ahead);
  }
  ChunkProduct<kStart, Terms::kAll, Order::kRows>(n, m.columns, m.features, m.q, m.ld_features, state, m.ld_columns, 0,
                                                  m.o, m.ld_columns, m.ahead);
  ChunkProduct<Start::kKeep, Terms::kLower, Order::kRows>(n, m.columns, 0, m.a, m.ld_a, m.v, m.ld_columns, 0, m.o,
                                                          m.ld_columns, m.ahead);
}

// S = factor * S + k^T v.
HWY_INLINE void UpdateState(const ChunkMemory& m, size_t n, float factor, float* state) {
  ChunkProduct<Start::kScale, Terms::kAll, Order::kColumns>(m.features, m.columns, n, m.k, m.ld_features, m.v,
                                                            m.ld_columns, factor, state, m.ld_columns, m.ahead);
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace attune_kit
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
