// Moving rows in and out of the f32 form that tiles want, and the transposition of keys into panels.
#if defined(ATTUNE_KIT_PACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_KIT_PACK_INL_H_
#undef ATTUNE_KIT_PACK_INL_H_
#else
#define ATTUNE_KIT_PACK_INL_H_
#endif
#include <hwy/highway.h>
#include <string.h>

#include "_kit/storage-inl.h"
#include "_kit/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attune_kit {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;

// dst[0, n) = factor * src; dst has room for a multiple of kLanes, what is beyond n becomes 0. Reads nothing beyond
// src[n).
template <class T>
HWY_INLINE void Widen(const T* HWY_RESTRICT src, size_t n, float factor, float* HWY_RESTRICT dst) {
  const hn::ScalableTag<float> d;
  const auto f = hn::Set(d, factor);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) hn::StoreU(hn::Mul(f, LoadAsFloat(d, src + i)), d, dst + i);
  if (i == n) return;
  HWY_ALIGN T tail[kLanes] = {};
  memcpy(static_cast<void*>(tail), src + i, (n - i) * sizeof(T));
  hn::StoreU(hn::Mul(f, LoadAsFloat(d, tail)), d, dst + i);
}

// dst[0, n) = factor * src with one rounding. src may be read up to a multiple of kLanes; nothing is written beyond
// dst[n).
template <class T>
HWY_INLINE void Narrow(const float* HWY_RESTRICT src, size_t n, float factor, T* HWY_RESTRICT dst) {
  const hn::ScalableTag<float> d;
  const auto f = hn::Set(d, factor);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) StoreFromFloat(d, hn::Mul(f, hn::LoadU(d, src + i)), dst + i);
  if (i == n) return;
  HWY_ALIGN T tail[kLanes];
  StoreFromFloat(d, hn::Mul(f, hn::LoadU(d, src + i)), tail);
  memcpy(static_cast<void*>(dst + i), tail, (n - i) * sizeof(T));
}

// dst[0, n) += factor * src. dst has room for a multiple of kLanes and may change there; src is not read beyond n.
template <class T>
HWY_INLINE void AddScaled(const T* HWY_RESTRICT src, size_t n, float factor, float* HWY_RESTRICT dst) {
  const hn::ScalableTag<float> d;
  const auto f = hn::Set(d, factor);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    hn::StoreU(hn::MulAdd(f, LoadAsFloat(d, src + i), hn::LoadU(d, dst + i)), d, dst + i);
  }
  if (i == n) return;
  HWY_ALIGN T tail[kLanes] = {};
  memcpy(static_cast<void*>(tail), src + i, (n - i) * sizeof(T));
  hn::StoreU(hn::MulAdd(f, LoadAsFloat(d, tail), hn::LoadU(d, dst + i)), d, dst + i);
}

// The vector whose 128-bit block b is rows[4 * b][column, column + 4).
template <class D>
HWY_INLINE hn::Vec<D> LoadBlocks(D d, const float* const* rows, size_t column) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    return hn::LoadU(d, rows[0] + column);
  } else {
    const hn::Half<D> half;
    return hn::Combine(d, hn::LoadU(half, rows[4] + column), hn::LoadU(half, rows[0] + column));
  }
}

// In each 128-bit block: a[0], a[2], b[0], b[2]; and a[1], a[3], b[1], b[3]. Both keep two ports of a CPU busy, on which
// an interleaving of the two has only one.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V EvenInBlocks(D d, V a, V b) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  if constexpr (hn::MaxLanes(D()) == 8) return V{_mm256_shuffle_ps(a.raw, b.raw, 0x88)};
#endif
  return hn::ConcatEven(d, b, a);
}
template <class D, class V = hn::Vec<D>>
HWY_INLINE V OddInBlocks(D d, V a, V b) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  if constexpr (hn::MaxLanes(D()) == 8) return V{_mm256_shuffle_ps(a.raw, b.raw, 0xdd)};
#endif
  return hn::ConcatOdd(d, b, a);
}

// panel[c * ld + r] = factor * rows[r][c] for r < kPanel, c < columns: kPanel rows become a panel of `columns` rows.
HWY_INLINE void TransposeToPanel(const float* const* rows, size_t columns, float* HWY_RESTRICT panel,
                                 size_t ld = kPanel, float factor = 1.0f) {
  // Eight rows at a time even where vectors hold sixteen: wider ones cost more shuffles than they save stores.
  const hn::CappedTag<float, 8> d;
  const auto scale = hn::Set(d, factor);  // nothing is multiplied where the compiler sees that it is 1
  constexpr size_t kRows = hn::MaxLanes(decltype(d)()), kColumns = 16;
  size_t c = 0;
  for (; c + 4 <= columns; c += kColumns) {  // a cache line of each row, so that rows may be a power of two apart
    const size_t last = c + kColumns < columns ? c + kColumns : columns / 4 * 4;
    for (size_t r = 0; r < kPanel; r += kRows) {
      const float* from[kRows];  // in registers
      for (size_t i = 0; i < kRows; i++) from[i] = rows[r + i];
      for (size_t i = c; i < last; i += 4) {
        // Four rows per 128-bit block; blocks hold rows r+0..3, r+4..7.
        const auto a0 = hn::Mul(scale, LoadBlocks(d, from, i)), a1 = hn::Mul(scale, LoadBlocks(d, from + 1, i));
        const auto a2 = hn::Mul(scale, LoadBlocks(d, from + 2, i)), a3 = hn::Mul(scale, LoadBlocks(d, from + 3, i));
        const auto even0 = EvenInBlocks(d, a0, a1), even2 = EvenInBlocks(d, a2, a3);
        const auto odd0 = OddInBlocks(d, a0, a1), odd2 = OddInBlocks(d, a2, a3);
        float* to = panel + i * ld + r;
        hn::StoreU(EvenInBlocks(d, even0, even2), d, to);
        hn::StoreU(EvenInBlocks(d, odd0, odd2), d, to + ld);
        hn::StoreU(OddInBlocks(d, even0, even2), d, to + 2 * ld);
        hn::StoreU(OddInBlocks(d, odd0, odd2), d, to + 3 * ld);
      }
    }
  }
  for (c = columns / 4 * 4; c < columns; c++) {
    for (size_t r = 0; r < kPanel; r++) panel[c * ld + r] = factor * rows[r][c];
  }
}

// The other way: rows[r * ld + c] = panel[c * kPanel + r] for r < kPanel, c < columns. The panel is read, and rows are
// written, up to a multiple of kPanel columns. block: scratch for kPanel * kPanel floats.
HWY_INLINE void TransposeFromPanel(const float* panel, size_t columns, float* block, float* rows, size_t ld) {
  for (size_t c = 0; c < columns; c += kPanel) {
    const float* pointers[kPanel];
    for (size_t i = 0; i < kPanel; i++) pointers[i] = panel + (c + i) * kPanel;
    TransposeToPanel(pointers, kPanel, block);
    for (size_t i = 0; i < kPanel; i++) memcpy(rows + i * ld + c, block + i * kPanel, sizeof(float) * kPanel);
  }
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace attune_kit
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
