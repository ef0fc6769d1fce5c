// Scalar access to strided tensors of any element type, for REFERENCE kernels and index data: load as double, store
// with one rounding. Slow on purpose, obviously right, baseline instructions only.
#ifndef ATTUNE_KIT_SCALAR_H_
#define ATTUNE_KIT_SCALAR_H_
#include <attune/plugin.h>
#include <string.h>

namespace attune_kit {

// Index of types.h of a tensor's element type; -1 when it is none of them.
inline int DType(const attune_tensor& t) {
  switch (t.dtype.code << 8 | t.dtype.bits) {
    case 2 << 8 | 32: return ATTUNE_F32;
    case 4 << 8 | 16: return ATTUNE_BF16;
    case 2 << 8 | 16: return ATTUNE_F16;
    case 2 << 8 | 64: return ATTUNE_F64;
    case 0 << 8 | 32: return ATTUNE_I32;
    case 0 << 8 | 64: return ATTUNE_I64;
    case 1 << 8 | 8: return ATTUNE_U8;
    case 6 << 8 | 8: return ATTUNE_BOOL;
    case 0 << 8 | 8: return ATTUNE_I8;
    default: return -1;
  }
}

inline float BitsToFloat(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
inline uint32_t FloatToBits(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}

inline float Bf16ToFloat(uint16_t h) {
  return BitsToFloat(uint32_t{h} << 16);
}

inline float F16ToFloat(uint16_t h) {
  const uint32_t sign = uint32_t{h & 0x8000u} << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ffu;
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24, exact in f32
    const float magnitude = float(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  if (exponent == 31) return BitsToFloat(sign | 0x7f800000u | mantissa << 13);
  return BitsToFloat(sign | (exponent + 112) << 23 | mantissa << 13);
}

// A double rounded once, to nearest even, to a binary format of `mantissa_bits` stored bits and the given exponent
// range; exact as double. Going through f32 would round twice.
inline double RoundTo(double x, int mantissa_bits, int min_exponent) {
  if (x == 0 || !__builtin_isfinite(x)) return x;
  int exponent;
  (void)__builtin_frexp(x, &exponent);  // x = f * 2^exponent, f in [0.5, 1)
  const int lowest = exponent - 1 < min_exponent ? min_exponent : exponent - 1;
  return __builtin_ldexp(__builtin_nearbyint(__builtin_ldexp(x, mantissa_bits - lowest)), lowest - mantissa_bits);
}

inline uint16_t DoubleToBf16(double x) {
  if (__builtin_isnan(x)) return 0x7fc0;
  return uint16_t(FloatToBits(float(RoundTo(x, 7, -126))) >>
                  16);  // a bf16 value is exact in f32; beyond the largest: infinity
}

inline uint16_t DoubleToF16(double x) {
  const uint16_t sign = __builtin_signbit(x) ? 0x8000 : 0;
  if (__builtin_isnan(x)) return uint16_t(sign | 0x7e00);
  const double r = __builtin_fabs(RoundTo(x, 10, -14));
  if (r >= 65536) return uint16_t(sign | 0x7c00);
  if (r < 0x1p-14) return uint16_t(sign | uint16_t(r * 0x1p24));
  const uint32_t bits = FloatToBits(float(r));
  return uint16_t(sign | ((bits >> 13) - (112u << 10)));
}

// Element `index` (counted in elements) of a buffer of the given type. Integers are exact up to 2^53.
inline double LoadScalar(const void* data, int64_t index, int dtype) {
  switch (dtype) {
    case ATTUNE_F32: return static_cast<const float*>(data)[index];
    case ATTUNE_BF16: return Bf16ToFloat(static_cast<const uint16_t*>(data)[index]);
    case ATTUNE_F16: return F16ToFloat(static_cast<const uint16_t*>(data)[index]);
    case ATTUNE_F64: return static_cast<const double*>(data)[index];
    case ATTUNE_I32: return static_cast<const int32_t*>(data)[index];
    case ATTUNE_I64: return double(static_cast<const int64_t*>(data)[index]);
    case ATTUNE_U8:
    case ATTUNE_BOOL: return static_cast<const uint8_t*>(data)[index];
    case ATTUNE_I8: return static_cast<const int8_t*>(data)[index];
    default: return __builtin_nan("");
  }
}

inline void StoreScalar(void* data, int64_t index, int dtype, double x) {
  switch (dtype) {
    case ATTUNE_F32: static_cast<float*>(data)[index] = float(x); break;
    case ATTUNE_BF16: static_cast<uint16_t*>(data)[index] = DoubleToBf16(x); break;
    case ATTUNE_F16: static_cast<uint16_t*>(data)[index] = DoubleToF16(x); break;
    case ATTUNE_F64: static_cast<double*>(data)[index] = x; break;
    default: break;
  }
}

// A strided tensor read by index. Missing trailing indices are 0; an extent of 1 broadcasts (its stride
// counts as 0). The tensor may be absent: then it is false and must not be read. Borrows the tensor's shape and is
// cheap to make: a small call makes one of each argument.
class View {
 public:
  View() = default;
  explicit View(const attune_tensor* t) {
    if (!t) return;
    data_ = attune_data(t);
    dtype_ = attune_kit::DType(*t);
    ndim_ = t->ndim;
    shape_ = t->shape;
    for (int i = 0; i < t->ndim && i < kMaxRank; i++) stride_[i] = t->shape[i] > 1 ? t->strides[i] : 0;
  }
  explicit operator bool() const { return ndim_ >= 0; }
  int DType() const { return dtype_; }
  int Rank() const { return ndim_; }
  void* Data() const { return data_; }
  int64_t Dim(int i) const { return i < ndim_ ? shape_[i] : 1; }
  int64_t Stride(int i) const { return i < kMaxRank ? stride_[i] : 0; }
  // Elements from the first one.
  int64_t Offset(int64_t a = 0, int64_t b = 0, int64_t c = 0, int64_t d = 0, int64_t e = 0) const {
    return a * stride_[0] + b * stride_[1] + c * stride_[2] + d * stride_[3] + e * stride_[4];
  }
  template <class... I>
  double Get(I... index) const {
    return LoadScalar(data_, Offset(index...), dtype_);
  }
  template <class... I>
  void Put(double x, I... index) const {
    StoreScalar(data_, Offset(index...), dtype_, x);
  }

 private:
  static constexpr int kMaxRank = 8;
  void* data_ = nullptr;
  const int64_t* shape_ = nullptr;
  int dtype_ = -1, ndim_ = -1;  // absent
  int64_t stride_[kMaxRank] = {};
};

}  // namespace attune_kit
#endif  // ATTUNE_KIT_SCALAR_H_
