// One vector of f32, bf16 or f16 storage: widened to f32 when loaded, rounded to nearest even when stored.
#if defined(ATTUNE_KIT_STORAGE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_KIT_STORAGE_INL_H_
#undef ATTUNE_KIT_STORAGE_INL_H_
#else
#define ATTUNE_KIT_STORAGE_INL_H_
#endif
#include <attune/plugin.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace attune_kit {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;

constexpr size_t kLanes = hn::MaxLanes(hn::ScalableTag<float>());  // floats in a vector

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

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace attune_kit
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
