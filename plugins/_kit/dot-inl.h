// Dot products of a few rows with many: what decoding does instead of tiles, because it reads each key once and never
// moves it.
#if defined(ATTUNE_KIT_DOT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_KIT_DOT_INL_H_
#undef ATTUNE_KIT_DOT_INL_H_
#else
#define ATTUNE_KIT_DOT_INL_H_
#endif
#include <hwy/highway.h>
#include <string.h>

#include "_kit/storage-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attune_kit {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;

// sum of a[i] * b[i], i < n. Reads both up to a multiple of kLanes; what is there does not matter.
HWY_INLINE float DotRow(const float* a, const float* b, size_t n) {
  const hn::ScalableTag<float> d;
  auto sum = hn::Zero(d);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) sum = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum);
  if (i < n) {
    const auto rest = hn::Mul(hn::LoadU(d, a + i), hn::LoadU(d, b + i));
    sum = hn::Add(sum, hn::IfThenElseZero(hn::FirstN(d, n - i), rest));
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

// The sum of the 128-bit blocks of x.
template <class D, class V = hn::Vec<D>>
HWY_INLINE hn::Vec<hn::CappedTag<float, 4>> SumOfBlocks(D d, V x) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    return x;
  } else {
    const hn::Half<D> half;
    return SumOfBlocks(half, hn::Add(hn::LowerHalf(half, x), hn::UpperHalf(half, x)));
  }
}

// Four sums of lanes at once: lane i of the result is the sum of x_i.
template <class D, class V = hn::Vec<D>>
HWY_INLINE hn::Vec<hn::CappedTag<float, 4>> SumOfLanes4(D d, V x0, V x1, V x2, V x3) {
  const hn::RepartitionToWide<hn::RebindToUnsigned<D>> dw;
  const V a = hn::Add(hn::InterleaveLower(d, x0, x1), hn::InterleaveUpper(d, x0, x1));
  const V b = hn::Add(hn::InterleaveLower(d, x2, x3), hn::InterleaveUpper(d, x2, x3));
  const auto aw = hn::BitCast(dw, a), bw = hn::BitCast(dw, b);
  const V c = hn::Add(hn::BitCast(d, hn::InterleaveLower(dw, aw, bw)), hn::BitCast(d, hn::InterleaveUpper(dw, aw, bw)));
  return SumOfBlocks(d, c);
}
// Dot products of rows of A, f32, and rows of B in their own storage: s[i * lds + j] = <a_i, b_j>, i < kRows, j <
// kColumns (1 or 4). For few rows of A this beats a transposition of B. A's rows are followed by zeros up to a multiple
// of kLanes; of B nothing is read beyond `depth`.
template <int kRows, int kColumns, class T>
HWY_INLINE void DotTile(size_t depth, const float* HWY_RESTRICT a, size_t lda, const T* HWY_RESTRICT b, size_t ldb,
                        float* HWY_RESTRICT s, size_t lds) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  V sum[kRows][kColumns];
#pragma GCC unroll 4
  for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; j++) sum[i][j] = hn::Zero(d);
  }
  size_t k = 0;
  for (; k + kLanes <= depth; k += kLanes) {
    V row[kColumns];
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; j++) row[j] = LoadAsFloat(d, b + j * ldb + k);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; i++) {
      const V x = hn::LoadU(d, a + i * lda + k);
#pragma GCC unroll 4
      for (int j = 0; j < kColumns; j++) sum[i][j] = hn::MulAdd(x, row[j], sum[i][j]);
    }
  }
  if (k < depth) {
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; j++) {
      HWY_ALIGN T tail[kLanes] = {};
      memcpy(static_cast<void*>(tail), b + j * ldb + k, (depth - k) * sizeof(T));
      const V row = LoadAsFloat(d, tail);
#pragma GCC unroll 4
      for (int i = 0; i < kRows; i++) sum[i][j] = hn::MulAdd(hn::LoadU(d, a + i * lda + k), row, sum[i][j]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kRows; i++) {
    if constexpr (kColumns == 4) {
      hn::StoreU(SumOfLanes4(d, sum[i][0], sum[i][1], sum[i][2], sum[i][3]), hn::CappedTag<float, 4>(), s + i * lds);
    } else {
#pragma GCC unroll 4
      for (int j = 0; j < kColumns; j++) s[i * lds + j] = hn::GetLane(hn::SumOfLanes(d, sum[i][j]));
    }
  }
}

// Rows of DotTile<., 4, .> that keep its sums in registers.
#if HWY_TARGET == HWY_AVX3 || HWY_ARCH_ARM_A64
constexpr int kDotRows = 4;
#else
constexpr int kDotRows = 2;
#endif

// The same for any number of rows and columns.
template <int kColumns, int kRows = kDotRows, class T>
HWY_INLINE void DotRows(int rows, size_t depth, const float* a, size_t lda, const T* b, size_t ldb, float* s,
                        size_t lds) {
  for (; rows >= kRows; rows -= kRows, a += kRows * lda, s += kRows * lds) {
    DotTile<kRows, kColumns>(depth, a, lda, b, ldb, s, lds);
  }
  if constexpr (kRows > 1) {
    if (rows > 0) DotRows<kColumns, kRows - 1>(rows, depth, a, lda, b, ldb, s, lds);
  }
}
template <class T>
HWY_INLINE void Dots(int rows, size_t columns, size_t depth, const float* a, size_t lda, const T* b, size_t ldb,
                     float* s, size_t lds) {
  size_t j = 0;
  for (; j + 4 <= columns; j += 4) DotRows<4>(rows, depth, a, lda, b + j * ldb, ldb, s + j, lds);
  for (; j < columns; j++) DotRows<1>(rows, depth, a, lda, b + j * ldb, ldb, s + j, lds);
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace attune_kit
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
