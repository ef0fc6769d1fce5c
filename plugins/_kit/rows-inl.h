// Rows of a tensor of f32, bf16 or f16 to and from f32 in working memory.
#if defined(ATTUNE_KIT_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_KIT_ROWS_INL_H_
#undef ATTUNE_KIT_ROWS_INL_H_
#else
#define ATTUNE_KIT_ROWS_INL_H_
#endif
#include <hwy/highway.h>

#include <type_traits>

#include "_kit/pack-inl.h"
#include "_kit/scalar.h"

HWY_BEFORE_NAMESPACE();
namespace attune_kit {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// Floats of a row of n columns in working memory: whole vectors and panels fit on every instruction set.
constexpr size_t PadTo32(int64_t n) {
  return size_t(n + 31) / 32 * 32;
}

// Calls f(typed pointer) with the row that begins at element `offset` of a tensor.
template <class F>
HWY_INLINE void WithRow(const View& t, int64_t offset, F f) {
  const int64_t size = t.DType() == ATTUNE_F32 ? 4 : 2;
  WithFloatType(t.DType(), static_cast<const char*>(t.Data()) + offset * size, f);
}
// dst[0, n) = factor * row, zeros up to a multiple of kLanes.
HWY_INLINE void LoadRow(const View& t, int64_t offset, size_t n, float factor, float* dst) {
  WithRow(t, offset, [&](const auto* p) { Widen(p, n, factor, dst); });
}
// row[0, n) = factor * src, rounded once. Reads src up to a multiple of kLanes.
HWY_INLINE void StoreRow(const float* src, size_t n, float factor, const View& t, int64_t offset) {
  WithRow(t, offset, [&](const auto* p) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(p)>>;
    Narrow(src, n, factor, const_cast<T*>(p));
  });
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace attune_kit
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
