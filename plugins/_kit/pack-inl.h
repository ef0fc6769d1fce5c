// Moving rows in and out of the f32 form that tiles want: widening loads of bf16 and f16, rounding stores, and the
// transposition of keys into panels.
#if defined(ATTUNE_KIT_PACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_KIT_PACK_INL_H_
#undef ATTUNE_KIT_PACK_INL_H_
#else
#define ATTUNE_KIT_PACK_INL_H_
#endif
#include <hwy/highway.h>
#include <string.h>

#include "_kit/scalar.h"
#include "_kit/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attune_kit {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;

// One vector of storage, as f32.
template <class D>
HWY_INLINE hn::Vec<D> LoadAsFloat(D d, const float* p) {
  return hn::LoadU(d, p);
}
template <class D>
HWY_INLINE hn::Vec<D> LoadAsFloat(D d, const hwy::bfloat16_t* p) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::RebindToUnsigned<D> d32;
  const auto bits = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p)));
  return hn::BitCast(d, hn::ShiftLeft<16>(bits));
}
template <class D>
HWY_INLINE hn::Vec<D> LoadAsFloat(D d, const hwy::float16_t* p) {
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<hwy::float16_t, D>(), p));
}

// One vector of f32, rounded to nearest even.
template <class D>
HWY_INLINE void StoreFromFloat(D d, hn::Vec<D> x, float* p) {
  hn::StoreU(x, d, p);
}
template <class D>
HWY_INLINE void StoreFromFloat(D d, hn::Vec<D> x, hwy::bfloat16_t* p) {
  const hn::RebindToUnsigned<D> d32;
  const hn::RebindToSigned<D> di;
  const hn::Rebind<uint16_t, D> d16;
  const auto bits = hn::BitCast(d32, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7fff))));
  const auto is_nan = hn::RebindMask(d32, hn::IsNaN(x));
  const auto result = hn::IfThenElse(is_nan, hn::Set(d32, 0x7fc0), rounded);
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, result)), d16, reinterpret_cast<uint16_t*>(p));
}
template <class D>
HWY_INLINE void StoreFromFloat(D d, hn::Vec<D> x, hwy::float16_t* p) {
  const hn::Rebind<hwy::float16_t, D> d16;
  hn::StoreU(hn::DemoteTo(d16, x), d16, p);
}

// Calls f(pointer of the true type) for an element type that is f32, bf16 or f16.
template <class F>
HWY_INLINE void WithFloatType(int dtype, const void* p, F f) {
  if (dtype == ATTUNE_BF16) return f(static_cast<const hwy::bfloat16_t*>(p));
  if (dtype == ATTUNE_F16) return f(static_cast<const hwy::float16_t*>(p));
  f(static_cast<const float*>(p));
}

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

// The vector whose 128-bit block b is rows[4 * b][column, column + 4).
template <class D>
HWY_INLINE hn::Vec<D> LoadBlocks(D d, const float* const* rows, size_t column) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    return hn::LoadU(d, rows[0] + column);
  } else {
    const hn::Half<D> half;
    return hn::Combine(d, LoadBlocks(half, rows + hn::MaxLanes(hn::Half<D>()), column), LoadBlocks(half, rows, column));
  }
}

// panel[c * kPanel + r] = rows[r][c] for r < kPanel, c < columns: kPanel rows become a panel of `columns` rows.
HWY_INLINE void TransposeToPanel(const float* const* rows, size_t columns, float* HWY_RESTRICT panel) {
  const hn::ScalableTag<float> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const hn::RepartitionToWide<decltype(du)> dw;
  size_t c = 0;
  for (; c + 4 <= columns; c += 4) {
    for (size_t r = 0; r < kPanel; r += kLanes) {
      // Four rows per 128-bit block; blocks hold rows r+0..3, r+4..7, ...
      const auto a0 = LoadBlocks(d, rows + r, c), a1 = LoadBlocks(d, rows + r + 1, c);
      const auto a2 = LoadBlocks(d, rows + r + 2, c), a3 = LoadBlocks(d, rows + r + 3, c);
      const auto b0 = hn::BitCast(dw, hn::InterleaveLower(d, a0, a1)),
                 b1 = hn::BitCast(dw, hn::InterleaveLower(d, a2, a3));
      const auto b2 = hn::BitCast(dw, hn::InterleaveUpper(d, a0, a1)),
                 b3 = hn::BitCast(dw, hn::InterleaveUpper(d, a2, a3));
      float* to = panel + c * kPanel + r;
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dw, b0, b1)), d, to);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dw, b0, b1)), d, to + kPanel);
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dw, b2, b3)), d, to + 2 * kPanel);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dw, b2, b3)), d, to + 3 * kPanel);
    }
  }
  for (; c < columns; c++) {
    for (size_t r = 0; r < kPanel; r++) panel[c * kPanel + r] = rows[r][c];
  }
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace attune_kit
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
