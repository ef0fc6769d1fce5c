// Linear attention in chunks, the core that every operator with a constant-size state shares. With n tokens in a chunk,
// w = exp(-slope) (1 without decay), and a state S [features x columns]:
//   a_ij = w^(i-j) <q_i, k_j>                    j <= i               TransposeQueries, Scores, DecayScores
//   o_i  = w^(i+late) q_i^T S + sum_j a_ij v_j                        Outputs
//   S   <- w^n S + sum_j w^(n-late-j) k_j v_j^T                       DecayRows on k, UpdateState
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
enum class Parts { kAll, kState };          // of Outputs

// Rows of a tile and vectors of each. In columns, the elements of A that a step needs follow each other: on AVX-512 the
// multiply-add then reads and spreads its element by itself, in one micro-operation (with an index register in the
// address, or a second vector that shares the element, it takes two), and 16 rows of one vector need the fewest of all.
template <Order kOrder>
struct TileShape {
  static constexpr int kRows = kTileRows, kVectors = 2;
};
#if HWY_TARGET == HWY_AVX3
template <>
struct TileShape<Order::kColumns> {
  static constexpr int kRows = 16, kVectors = 1;
};
#endif

// The sums of a tile of C, kRows x kVectors*kLanes, in registers.
template <int kRows, int kVectors>
struct TileSums {
  using V = hn::Vec<hn::ScalableTag<float>>;
  V of[kRows][kVectors];

  HWY_INLINE void Clear() {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) of[i][v] = hn::Zero(hn::ScalableTag<float>());
    }
  }
  // Row i *= factors[i].
  HWY_INLINE void Scale(const float* HWY_RESTRICT factors) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
      const V factor = hn::Set(hn::ScalableTag<float>(), factors[i]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) of[i][v] = hn::Mul(factor, of[i][v]);
    }
  }
  // Row i = f[i] * row i + g[i] * x.
  HWY_INLINE void Combine(const float* HWY_RESTRICT f, const float* HWY_RESTRICT g, const float* HWY_RESTRICT x) {
    const hn::ScalableTag<float> d;
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
      const V vf = hn::Set(d, f[i]), vg = hn::Set(d, g[i]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) {
        of[i][v] = hn::MulAdd(vf, of[i][v], hn::Mul(vg, hn::LoadU(d, x + v * kLanes)));
      }
    }
  }
  // Rows from `first` on: += the term of one column of A and one row of B.
  template <Order kOrder>
  HWY_INLINE void AddTerm(const float* HWY_RESTRICT a, size_t lda, const float* HWY_RESTRICT b, int first) {
    const hn::ScalableTag<float> d;
    V row[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) row[v] = hn::LoadU(d, b + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
      if (i < first) continue;
      const V scalar = hn::Set(d, a[kOrder == Order::kRows ? i * lda : i]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) of[i][v] = hn::MulAdd(scalar, row[v], of[i][v]);
    }
  }
  // += A B; kLower: `depth` terms for all rows, then row i takes i + 1 of the kRows terms that follow.
  template <Terms kTerms, Order kOrder>
  HWY_INLINE void AddTerms(size_t depth, const float* HWY_RESTRICT a, size_t lda, const float* HWY_RESTRICT b,
                           size_t ldb) {
    const size_t step = kOrder == Order::kRows ? 1 : lda;
    for (; depth > 0; depth--) {
      AddTerm<kOrder>(a, lda, b, 0);
      a += step, b += ldb;
      __asm__("" : "+r"(a));  // or it gets an index register
    }
    if constexpr (kTerms == Terms::kLower) {
#pragma GCC unroll 16
      for (int k = 0; k < kRows; k++) {
        AddTerm<kOrder>(a, lda, b, k);
        a += step, b += ldb;
      }
    }
  }
  template <Start kStart>
  HWY_INLINE void Store(float factor, float* HWY_RESTRICT c, size_t ldc) {
    const hn::ScalableTag<float> d;
    [[maybe_unused]] const V scale = hn::Set(d, factor);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) {
        float* at = c + i * ldc + v * kLanes;
        if constexpr (kStart == Start::kKeep) of[i][v] = hn::Add(hn::LoadU(d, at), of[i][v]);
        if constexpr (kStart == Start::kScale) of[i][v] = hn::MulAdd(scale, hn::LoadU(d, at), of[i][v]);
        hn::StoreU(of[i][v], d, at);
      }
    }
  }
};

// C[kRows x kVectors*kLanes] = start + A B in registers. kLower: as in AddTerms. The product is complete before it
// meets `start`: a state that takes in many chunks then gathers one rounding error per chunk, not one per token.
template <int kRows, int kVectors, Start kStart, Terms kTerms, Order kOrder>
HWY_INLINE void ChunkTile(size_t depth, const float* HWY_RESTRICT a, size_t lda, const float* HWY_RESTRICT b,
                          size_t ldb, float factor, float* HWY_RESTRICT c, size_t ldc) {
  TileSums<kRows, kVectors> sums;
  sums.Clear();
  sums.template AddTerms<kTerms, kOrder>(depth, a, lda, b, ldb);
  sums.template Store<kStart>(factor, c, ldc);
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

// ChunkProduct with tiles of kRows x kVectors.
template <int kRows, int kVectors, Start kStart, Terms kTerms, Order kOrder>
HWY_INLINE void ChunkProductBy(size_t rows, size_t columns, size_t depth, const float* a, size_t lda, const float* b,
                               size_t ldb, float factor, float* c, size_t ldc, Ahead* ahead) {
  for (size_t e = 0; e < columns; e += kVectors * kLanes) {
    for (size_t i = 0; i < rows; i += kRows) {
      if (ahead) ahead->Fetch();
      const size_t terms = kTerms == Terms::kLower ? i : depth;
      const float* from = a + (kOrder == Order::kRows ? i * lda : i);
      float* to = c + i * ldc + e;
      if (columns - e > kLanes * (kVectors - 1)) {
        ChunkTileRows<kVectors, kStart, kTerms, kOrder, kRows>(rows - i, terms, from, lda, b + e, ldb, factor, to,
                                                               ldc);
      } else {
        ChunkTileRows<1, kStart, kTerms, kOrder, kRows>(rows - i, terms, from, lda, b + e, ldb, factor, to, ldc);
      }
    }
  }
}

// C[rows x columns] = start + A B for any sizes; rows of B and C are readable, those of C writable, up to a multiple of
// kLanes. kLower: depth is ignored.
template <Start kStart, Terms kTerms, Order kOrder>
HWY_NOINLINE void ChunkProduct(size_t rows, size_t columns, size_t depth, const float* a, size_t lda, const float* b,
                               size_t ldb, float factor, float* c, size_t ldc,
                               Ahead* ahead = nullptr) {
  using Shape = TileShape<kOrder>;
  if (rows <= kTileRows) {  // a higher tile would have too few sums under way
    return ChunkProductBy<kTileRows, 2, kStart, kTerms, kOrder>(rows, columns, depth, a, lda, b, ldb, factor, c, ldc,
                                                                ahead);
  }
  ChunkProductBy<Shape::kRows, Shape::kVectors, kStart, kTerms, kOrder>(rows, columns, depth, a, lda, b, ldb, factor, c,
                                                                        ldc, ahead);
}

// at[c * ld + r] = row r of x at column c, for n rows; what follows the last row within a panel is undefined.
HWY_INLINE void TransposeRows(const float* x, size_t ldx, size_t n, size_t columns, float* at, size_t ld) {
  for (size_t p = 0; p < n; p += kPanel) {
    const float* rows[kPanel];  // beyond the last one any row will do
    for (size_t r = 0; r < kPanel; r++) rows[r] = x + (p + r < n ? p + r : n - 1) * ldx;
    TransposeToPanel(rows, columns, at + p, ld);
  }
}
// qt = q^T.
inline HWY_NOINLINE void TransposeQueries(const ChunkMemory& m, size_t n) {
  TransposeRows(m.q, m.ld_features, n, m.features, m.qt, m.ld_a);
}

// Scores with keys where they are, ld_k floats apart, in whole tiles: where that is a constant, the row of an element is
// part of its address, and the multiply-add spreads it as cheaply as one of a column (TileShape).
template <size_t ld_k>
HWY_INLINE void ScoresOfRows(const ChunkMemory& m, size_t n) {
  constexpr size_t kRows = TileShape<Order::kColumns>::kRows;
  for (size_t j = 0; j < n; j += kRows) {
    for (size_t i = j / kLanes * kLanes; i < n; i += kLanes) {
      if (m.ahead) m.ahead->Fetch();
      ChunkTile<kRows, 1, Start::kZero, Terms::kAll, Order::kRows>(m.features, m.k + j * ld_k, ld_k, m.qt + i, m.ld_a,
                                                                   0, m.at + j * m.ld_a + i, m.ld_a);
    }
  }
}

// at = the upper triangle of k q^T of the first n tokens, whose queries are transposed. What lies below the diagonal is
// undefined.
inline HWY_NOINLINE void Scores(const ChunkMemory& m, size_t n) {
  using Shape = TileShape<Order::kColumns>;
  if constexpr (Shape::kVectors == 1) {
    constexpr size_t kUsual[] = {attune_kit::ChunkStride(64), attune_kit::ChunkStride(128)};
    if (n % Shape::kRows == 0 && m.ld_features == kUsual[0]) return ScoresOfRows<kUsual[0]>(m, n);
    if (n % Shape::kRows == 0 && m.ld_features == kUsual[1]) return ScoresOfRows<kUsual[1]>(m, n);
  }
  TransposeRows(m.k, m.ld_features, n, m.features, m.kt, m.ld_a);
  for (size_t j = 0; j < n; j += Shape::kRows) {
    for (size_t i = j / kLanes * kLanes; i < n; i += Shape::kVectors * kLanes) {
      if (m.ahead) m.ahead->Fetch();
      const float *k = m.kt + j, *q = m.qt + i;
      float* a = m.at + j * m.ld_a + i;
      if (n - i > kLanes * (Shape::kVectors - 1)) {
        ChunkTileRows<Shape::kVectors, Start::kZero, Terms::kAll, Order::kColumns, Shape::kRows>(
            n - j, m.features, k, m.ld_a, q, m.ld_a, 0, a, m.ld_a);
      } else {
        ChunkTileRows<1, Start::kZero, Terms::kAll, Order::kColumns, Shape::kRows>(n - j, m.features, k, m.ld_a, q,
                                                                                   m.ld_a, 0, a, m.ld_a);
      }
    }
  }
}

// a_ij *= factor[i - j] for j <= i. A vector before and after factor[0, n) is readable.
HWY_INLINE void DecayScores(const ChunkMemory& m, size_t n, const float* factor) {
  const hn::ScalableTag<float> d;
  for (size_t j = 0; j < n; j++) {
    float* a = m.at + j * m.ld_a;
    for (size_t i = j / kLanes * kLanes; i < n; i += kLanes) {
      const auto f = hn::LoadU(d, factor + (ptrdiff_t(i) - ptrdiff_t(j)));
      hn::StoreU(hn::Mul(hn::LoadU(d, a + i), f), d, a + i);
    }
  }
}
// a_ij += x[i] for j <= i. x is readable up to whole vectors.
HWY_INLINE void AddToScores(const ChunkMemory& m, size_t n, const float* x) {
  const hn::ScalableTag<float> d;
  for (size_t j = 0; j < n; j++) {
    float* a = m.at + j * m.ld_a;
    for (size_t i = j / kLanes * kLanes; i < n; i += kLanes) {
      hn::StoreU(hn::Add(hn::LoadU(d, a + i), hn::LoadU(d, x + i)), d, a + i);
    }
  }
}
// sums[i] += sum of a_ij over j <= i: the normaliser of attention that has one. sums may change up to whole vectors.
HWY_INLINE void AddScoreSums(const ChunkMemory& m, size_t n, float* sums) {
  const hn::ScalableTag<float> d;
  for (size_t i = 0; i < n; i += kLanes) {
    const float* a = m.at + i;
    auto sum = hn::Zero(d);
    size_t j = 0;
    for (; j < i; j++, a += m.ld_a) sum = hn::Add(sum, hn::LoadU(d, a));
    for (; j < n && j < i + kLanes; j++, a += m.ld_a) {
      sum = hn::Add(sum, hn::IfThenZeroElse(hn::FirstN(d, j - i), hn::LoadU(d, a)));
    }
    hn::StoreU(hn::Add(hn::LoadU(d, sums + i), sum), d, sums + i);
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

// What becomes of outputs before they are stored: o_i = f[i] o_i + g[i] x. x is readable up to whole vectors.
struct Combination {
  const float *f, *g, *x;
};

// A tile of Outputs, rows from i and columns from e on.
template <int kVectors, Start kStart, Parts kParts, int kRows>
HWY_INLINE void OutputTile(const ChunkMemory& m, size_t rows, size_t i, size_t e, const float* state,
                           const float* factors, const Combination* end) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return OutputTile<kVectors, kStart, kParts, kRows - 1>(m, rows, i, e, state, factors, end);
  }
  TileSums<kRows, kVectors> sums;
  sums.Clear();
  if (state) {
    sums.template AddTerms<Terms::kAll, Order::kColumns>(m.features, m.qt + i, m.ld_a, state + e, m.ld_columns);
    if (factors) sums.Scale(factors + i);
  }
  if constexpr (kParts == Parts::kAll) {
    sums.template AddTerms<Terms::kLower, Order::kColumns>(i, m.at + i, m.ld_a, m.v + e, m.ld_v);
  }
  if (end) sums.Combine(end->f + i, end->g + i, end->x + e);
  sums.template Store<kStart>(0, m.o + i * m.ld_o + e, m.ld_o);
}

// o_i = factors[i] q_i^T S + sum over j <= i of a_ij v_j, or added to o; kState: the first part only. The queries are
// transposed. A state of features x columns, its rows ld_columns apart; null: zero. No factors: 1. No end: as it is.
template <Start kStart = Start::kZero, Parts kParts = Parts::kAll>
HWY_NOINLINE void Outputs(const ChunkMemory& m, size_t n, const float* state, const float* factors = nullptr,
                          const Combination* end = nullptr) {
  using Shape = TileShape<Order::kColumns>;
  for (size_t e = 0; e < m.columns; e += Shape::kVectors * kLanes) {
    for (size_t i = 0; i < n; i += Shape::kRows) {
      if (m.ahead) m.ahead->Fetch();
      if (m.columns - e > kLanes * (Shape::kVectors - 1)) {
        OutputTile<Shape::kVectors, kStart, kParts, Shape::kRows>(m, n - i, i, e, state, factors, end);
      } else {
        OutputTile<1, kStart, kParts, Shape::kRows>(m, n - i, i, e, state, factors, end);
      }
    }
  }
}

// S = factor * S + k^T v.
HWY_INLINE void UpdateState(const ChunkMemory& m, size_t n, float factor, float* state) {
  ChunkProduct<Start::kScale, Terms::kAll, Order::kColumns>(m.features, m.columns, n, m.k, m.ld_features, m.v,
                                                            m.ld_v, factor, state, m.ld_columns, m.ahead);
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace attune_kit
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
