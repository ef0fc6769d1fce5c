// exp, exp2, tanh and the logistic function on vectors of f32. Valid for every input including infinities.
#if defined(ATTUNE_KIT_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_KIT_EXP_INL_H_
#undef ATTUNE_KIT_EXP_INL_H_
#else
#define ATTUNE_KIT_EXP_INL_H_
#endif
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace attune_kit {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;

// p * 2^n for integer-valued n, p near 1, where the result is normal: n is added to the exponent of p.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ScaleByPowerOf2(D d, V p, V n) {
  const hn::RebindToSigned<D> di;
  return hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::ConvertTo(di, n))));
}

// 2^x. Error at most 2.5 ulp where the result is normal; results below 2^-126 are 0, so 2^-inf is exactly 0. 2^128 and
// above: inf.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp2(D d, V x) {
#if HWY_TARGET == HWY_AVX3
  // One instruction for what is left of x after rounding; scalef handles every exponent: 2^-inf is 0.
  const V r = V{_mm512_reduce_ps(x.raw, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  const V n = hn::Sub(x, r);
#else
  const V least = hn::Set(d, -126.0f);
  const auto normal = hn::Ge(x, least);
  const V clamped = hn::Min(hn::Max(x, least), hn::Set(d, 127.99999f));
  const V n = hn::Round(clamped);
  const V r = hn::Sub(clamped, n);
#endif
  V p = hn::Set(d, 0x1.5bba14p-10f);
  p = hn::MulAdd(p, r, hn::Set(d, 0x1.3cea88p-7f));
  p = hn::MulAdd(p, r, hn::Set(d, 0x1.c6b752p-5f));
  p = hn::MulAdd(p, r, hn::Set(d, 0x1.ebf9bcp-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 0x1.62e42ap-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
#if HWY_TARGET == HWY_AVX3
  return V{_mm512_scalef_ps(p.raw, n.raw)};
#else
  const V y = hn::IfThenElseZero(normal, ScaleByPowerOf2(d, p, n));
  return hn::IfThenElse(hn::Lt(x, hn::Set(d, 128.0f)), y, hn::Add(x, hn::Set(d, __builtin_inff())));  // inf or NaN
#endif
}

#if HWY_TARGET == HWY_AVX3
alignas(64) constexpr float kPowersOf2[32] = {  // 2^(i/32)
    1.00000000f, 1.02189720f, 1.04427373f, 1.06714046f, 1.09050775f, 1.11438680f, 1.13878858f, 1.16372490f,
    1.18920708f, 1.21524739f, 1.24185777f, 1.26905096f, 1.29683959f, 1.32523668f, 1.35425556f, 1.38390994f,
    1.41421354f, 1.44518077f, 1.47682619f, 1.50916445f, 1.54221082f, 1.57598090f, 1.61049032f, 1.64575553f,
    1.68179286f, 1.71861935f, 1.75625217f, 1.79470909f, 1.83400810f, 1.87416768f, 1.91520655f, 1.95714414f,
};
#endif

// e^x, error at most 2 ulp where the result is normal; results below the smallest normal number are 0, e^-inf is
// exactly 0.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp(D d, V x) {
#if HWY_TARGET == HWY_AVX3
  // x log2(e) = n + r with n a multiple of 1/32: adding 1.5 * 2^18 rounds to that, and leaves 32 n in the low bits, of
  // which the last five pick 2^(n mod 1) from two registers. So small an r needs a polynomial of degree 2 only.
  // Below -105 the result is 0. The operands in this order let a NaN through.
  const V clamped = V{_mm512_max_ps(_mm512_set1_ps(-105.0f), x.raw)};
  const V log2e = hn::Set(d, 0x1.715476p+0f), rest = hn::Set(d, 0x1.4ae0cp-26f), magic = hn::Set(d, 0x1.8p+18f);
  const V rounded = hn::MulAdd(clamped, log2e, magic), n = hn::Sub(rounded, magic);
  const V r = hn::MulAdd(clamped, rest, hn::MulSub(clamped, log2e, n));
  const V power = V{_mm512_permutex2var_ps(_mm512_load_ps(kPowersOf2), _mm512_castps_si512(rounded.raw),
                                           _mm512_load_ps(kPowersOf2 + 16))};
  const V slope = hn::MulAdd(hn::Set(d, 0x1.ebfd02p-3f), r, hn::Set(d, 0x1.62e584p-1f));
  const V p = hn::MulAdd(slope, hn::Mul(power, r), power);
  return V{_mm512_scalef_ps(p.raw, n.raw)};  // times 2^floor(n)
#else
  const V log2e = hn::Set(d, 1.44269504088896341f);
  const V least = hn::Set(d, -87.336544f), most = hn::Set(d, 88.722839f);  // 2^-126, the largest f32
  const auto normal = hn::Ge(x, least);
  const V clamped = hn::Min(hn::Max(x, least), most);
  const V n = hn::Round(hn::Mul(clamped, log2e));
  // ln 2 in two parts, the first with trailing zeros, so that n * ln 2 is exact enough.
  V r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), clamped);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), r);
  V p = hn::Set(d, 1.3814613e-3f);
  p = hn::MulAdd(p, r, hn::Set(d, 8.36871e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.166839e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.16666521f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.49999994f));
  p = hn::Add(hn::MulAdd(p, hn::Mul(r, r), r), hn::Set(d, 1.0f));
  const V y = hn::IfThenElseZero(normal, ScaleByPowerOf2(d, p, n));
  return hn::IfThenElse(hn::Le(x, most), y, hn::Add(x, hn::Set(d, __builtin_inff())));  // inf or NaN
#endif
}

// tanh(x), error at most 4 ulp, so that it is linear near 0.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Tanh(D d, V x) {
  const V one = hn::Set(d, 1.0f), a = hn::Abs(x), t2 = hn::Mul(x, x);
  V p = hn::Set(d, -0.0058951583f);
  p = hn::MulAdd(p, t2, hn::Set(d, 0.020795971f));
  p = hn::MulAdd(p, t2, hn::Set(d, -0.05378383f));
  p = hn::MulAdd(p, t2, hn::Set(d, 0.13331924f));
  p = hn::MulAdd(p, t2, hn::Set(d, -0.333333f));
  const V small = hn::MulAdd(hn::Mul(p, t2), x, x);
  const V e = Exp(d, hn::Mul(a, hn::Set(d, -2.0f)));  // of a number <= 0: cannot overflow
  const V large = hn::CopySign(hn::Div(hn::Sub(one, e), hn::Add(one, e)), x);
  return hn::IfThenElse(hn::Lt(a, hn::Set(d, 0.6f)), small, large);
}

// 1 / (1 + e^-x); exactly 0 at -inf.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Logistic(D d, V x) {
  const V one = hn::Set(d, 1.0f), e = Exp(d, hn::Neg(hn::Abs(x)));
  return hn::Div(hn::IfThenElse(hn::Ge(x, hn::Zero(d)), one, e), hn::Add(one, e));
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace attune_kit
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
