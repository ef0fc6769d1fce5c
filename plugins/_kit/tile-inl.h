// Products of small row-major matrices in registers, the core of every kernel:
//   C[rows x 32] (+)= A[rows x depth] B[depth x 32]     (32 = 2 vectors on AVX-512, 16 on AVX2, 8 on SSE4 and NEON)
// A is read by broadcast and may lie anywhere; B is a panel: `depth` rows of kPanel consecutive floats, best aligned to
// 64 bytes.
#if defined(ATTUNE_KIT_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_KIT_TILE_INL_H_
#undef ATTUNE_KIT_TILE_INL_H_
#else
#define ATTUNE_KIT_TILE_INL_H_
#endif
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <type_traits>

#include "_kit/storage-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attune_kit {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;

// Rows of a tile: kTileRows * 2 accumulators + 2 columns of B + 1 of A fit the register file (32 or 16 vectors).
#if HWY_TARGET == HWY_AVX3 || HWY_ARCH_ARM_A64
constexpr int kTileRows = 8;
#elif HWY_TARGET == HWY_AVX2
constexpr int kTileRows = 6;
#else
constexpr int kTileRows = 4;  // without FMA a product needs a register too
#endif
constexpr size_t kPanel = 2 * kLanes;  // columns of a panel

// Rows that will be needed soon. A tile asks for one cache line per step, so that the lines come in while it computes and
// never hold up what it needs itself.
class RowsAhead {
 public:
  RowsAhead() = default;
  // n rows of `bytes` bytes, `distance` bytes apart.
  RowsAhead(const void* rows, int64_t distance, size_t bytes, size_t n)
      : at_(static_cast<const char*>(rows)), distance_(distance), bytes_(bytes), rows_(bytes > 0 ? n : 0) {}
  HWY_INLINE void Next() {
    if (rows_ == 0) return;
    hwy::Prefetch(at_ + offset_);
    offset_ += 64;
    if (offset_ < bytes_) return;
    offset_ = 0, at_ += distance_, rows_--;
  }

 private:
  const char* at_ = nullptr;
  int64_t distance_ = 0;
  size_t offset_ = 0, bytes_ = 0, rows_ = 0;
};
struct NothingAhead {};

// C[kRows x kVectors*kLanes] = (kAdd ? C : 0) + A B. lda, ldb, ldc: distances of rows in elements; a panel's ldb is
// kPanel. B may be f32, bf16 or f16: 16-bit storage is widened as it is loaded. `ahead`: RowsAhead, or absent.
template <int kRows, int kVectors, bool kAdd, class T, class Ahead = NothingAhead>
HWY_INLINE void Tile(size_t depth, const float* HWY_RESTRICT a, size_t lda, const T* HWY_RESTRICT b, size_t ldb,
                     float* HWY_RESTRICT c, size_t ldc, Ahead* ahead = nullptr) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  V sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; v++) sum[i][v] = kAdd ? hn::LoadU(d, c + i * ldc + v * kLanes) : hn::Zero(d);
  }
  // One pointer per three rows, moved every few steps: addresses then cost next to nothing. (On x86 a load can add one
  // distance, once or twice; with one pointer per call, the additions take turns with the products.)
  const float* rows[(kRows + 2) / 3];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i += 3) rows[i / 3] = a + i * lda;
  const auto step = [&](int k) HWY_ATTR {
    V row[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; v++) row[v] = LoadAsFloat(d, b + k * ldb + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
      const V scalar = hn::Set(d, rows[i / 3][i % 3 * lda + k]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; v++) sum[i][v] = hn::MulAdd(scalar, row[v], sum[i][v]);
    }
  };
  const auto move = [&](int k) HWY_ATTR {
    b += k * ldb;
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i += 3) {
      rows[i / 3] += k;
      __asm__("" : "+r"(rows[i / 3]));  // or the compiler finds out that one pointer would do
    }
  };
  if constexpr (std::is_same_v<Ahead, RowsAhead>) {
    RowsAhead lines = *ahead;  // in registers
    for (; depth > 0; depth--, move(1)) step(0), lines.Next();
    *ahead = lines;
  } else {
    for (; depth > 0; depth--, move(1)) step(0);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; v++) hn::StoreU(sum[i][v], d, c + i * ldc + v * kLanes);
  }
}

// The same for 1 <= rows <= kRows known at run time. Each row's sum is formed in the same order whatever `rows` is.
template <int kVectors, bool kAdd, int kRows = kTileRows, class T, class Ahead = NothingAhead>
HWY_INLINE void TileRows(int rows, size_t depth, const float* a, size_t lda, const T* b, size_t ldb, float* c,
                         size_t ldc, Ahead* ahead = nullptr) {
  if (rows >= kRows) return Tile<kRows, kVectors, kAdd>(depth, a, lda, b, ldb, c, ldc, ahead);
  if constexpr (kRows > 1) TileRows<kVectors, kAdd, kRows - 1>(rows, depth, a, lda, b, ldb, c, ldc, ahead);
}

// C[kRows x kVectors*kLanes] += A^T B, where column k of A^T is a[k * lda ...]: Tile with A the other way round.
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

// The same for 1 <= rows <= kRows known at run time. Each row's sum is formed in the same order whatever `rows` is.
template <int kVectors, int kRows = kTileRows>
HWY_INLINE void TransposedTileRows(int rows, size_t depth, const float* a, size_t lda, const float* b, size_t ldb,
                                   float* c, size_t ldc) {
  if (rows >= kRows) return TransposedTile<kRows, kVectors>(depth, a, lda, b, ldb, c, ldc);
  if constexpr (kRows > 1) TransposedTileRows<kVectors, kRows - 1>(rows, depth, a, lda, b, ldb, c, ldc);
}

// C[rows x columns] += A B for 1 <= rows <= kRows and columns a multiple of kLanes. Few rows take many columns at a
// time, so that enough sums are under way, and so that rows of B, which may lie in memory, are read in long pieces.
template <int kRows = kTileRows, class T>
HWY_INLINE void TileColumns(int rows, size_t columns, size_t depth, const float* a, size_t lda, const T* b, size_t ldb,
                            float* c, size_t ldc) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return TileColumns<kRows - 1>(rows, columns, depth, a, lda, b, ldb, c, ldc);
  }
  constexpr int kSums = 2 * kTileRows, kVectors = 8 * kRows <= kSums ? 8 : 4 * kRows <= kSums ? 4 : 2;
  size_t e = 0;
  for (; e + kVectors * kLanes <= columns; e += kVectors * kLanes) {
    Tile<kRows, kVectors, true>(depth, a, lda, b + e, ldb, c + e, ldc);
  }
  if constexpr (kVectors > 4) {
    if (e + 4 * kLanes <= columns) Tile<kRows, 4, true>(depth, a, lda, b + e, ldb, c + e, ldc), e += 4 * kLanes;
  }
  if constexpr (kVectors > 2) {
    if (e + 2 * kLanes <= columns) Tile<kRows, 2, true>(depth, a, lda, b + e, ldb, c + e, ldc), e += 2 * kLanes;
  }
  if (e < columns) Tile<kRows, 1, true>(depth, a, lda, b + e, ldb, c + e, ldc);
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace attune_kit
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
