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

// panel[c * kPanel + r] = rows[r][c] for r < kPanel, c < columns: kPanel rows become a panel of `columns` rows.
HWY_INLINE void TransposeToPanel(const float* const* rows, size_t columns, float* HWY_RESTRICT panel) {
  // Eight rows at a time even where vectors hold sixteen: wider ones cost more shuffles than they save stores.
  const hn::CappedTag<float, 8> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const hn::RepartitionToWide<decltype(du)> dw;
  constexpr size_t kRows = hn::MaxLanes(decltype(d)()), kColumns = 16;
  size_t c = 0;
  for (; c + 4 <= columns; c += kColumns) {  // a cache line of each row, so that rows may be a power of two apart
    const size_t last = c + kColumns < columns ? c + kColumns : columns / 4 * 4;
    for (size_t r = 0; r < kPanel; r += kRows) {
      for (size_t i = c; i < last; i += 4) {
        // Four rows per 128-bit block; blocks hold rows r+0..3, r+4..7.
        const auto a0 = LoadBlocks(d, rows + r, i), a1 = LoadBlocks(d, rows + r + 1, i);
        const auto a2 = LoadBlocks(d, rows + r + 2, i), a3 = LoadBlocks(d, rows + r + 3, i);
        const auto b0 = hn::BitCast(dw, hn::InterleaveLower(d, a0, a1)),
                   b1 = hn::BitCast(dw, hn::InterleaveLower(d, a2, a3));
        const auto b2 = hn::BitCast(dw, hn::InterleaveUpper(d, a0, a1)),
                   b3 = hn::BitCast(dw, hn::InterleaveUpper(d, a2, a3));
        float* to = panel + i * kPanel + r;
        hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dw, b0, b1)), d, to);
        hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dw, b0, b1)), d, to + kPanel);
        hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dw, b2, b3)), d, to + 2 * kPanel);
        hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dw, b2, b3)), d, to + 3 * kPanel);
      }
    }
  }
  for (c = columns / 4 * 4; c < columns; c++) {
    for (size_t r = 0; r < kPanel; r++) panel[c * kPanel + r] = rows[r][c];
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
