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
#if HWY_TARGET == HWY_SSE4
  // No instruction for it, and Highway's emulation knows neither infinities nor NaN.
  const hn::Rebind<uint16_t, D> d16;
  const hn::RebindToUnsigned<D> d32;
  const auto half = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p)));
  const auto magnitude = hn::ShiftLeft<13>(hn::And(half, hn::Set(d32, 0x7fff)));
  const auto finite =
      hn::BitCast(d32, hn::Mul(hn::BitCast(d, magnitude), hn::Set(d, 0x1p112f)));  // exact, subnormals too
  const auto special = hn::Or(magnitude, hn::Set(d32, 0x7f800000));
  const auto sign = hn::ShiftLeft<16>(hn::And(half, hn::Set(d32, 0x8000)));
  const hn::RebindToSigned<D> di;
  const auto is_special = hn::RebindMask(d32, hn::Gt(hn::BitCast(di, magnitude), hn::Set(di, (0x7c00 << 13) - 1)));
  return hn::BitCast(d, hn::Or(sign, hn::IfThenElse(is_special, special, finite)));
#else
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<hwy::float16_t, D>(), p));
#endif
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
#if HWY_TARGET == HWY_SSE4
  const hn::RebindToUnsigned<D> d32;
  const hn::RebindToSigned<D> di;
  const hn::Rebind<uint16_t, D> d16;
  const auto a = hn::Abs(x);
  const auto bits = hn::BitCast(d32, a);
  const auto odd = hn::And(hn::ShiftRight<13>(bits), hn::Set(d32, 1));
  // Exponent bias 127 -> 15, rounding to even; a carry into the exponent is right, up to infinity.
  const auto normal = hn::ShiftRight<13>(hn::Add(hn::Add(bits, odd), hn::Set(d32, 0xfff - (112u << 23))));
  // Below 2^-14 the addition aligns the mantissa to units of 2^-24 and rounds.
  const auto subnormal = hn::Sub(hn::BitCast(d32, hn::Add(a, hn::Set(d, 0.5f))), hn::Set(d32, 0x3f000000));
  auto result = hn::IfThenElse(hn::RebindMask(d32, hn::Lt(a, hn::Set(d, 0x1p-14f))), subnormal, normal);
  result = hn::IfThenElse(hn::RebindMask(d32, hn::Ge(a, hn::Set(d, 65520.0f))), hn::Set(d32, 0x7c00), result);
  result = hn::IfThenElse(hn::RebindMask(d32, hn::IsNaN(x)), hn::Set(d32, 0x7e00), result);
  result = hn::Or(result, hn::And(hn::ShiftRight<16>(hn::BitCast(d32, x)), hn::Set(d32, 0x8000)));
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, result)), d16, reinterpret_cast<uint16_t*>(p));
#else
  const hn::Rebind<hwy::float16_t, D> d16;
  hn::StoreU(hn::DemoteTo(d16, x), d16, p);
#endif
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

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace attune_kit
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
