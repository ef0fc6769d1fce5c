// Rows of queries, keys and values as f32, wherever and in whatever storage the call has them.
#if defined(ATTUNE_SOFTMAX_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_SOFTMAX_ROWS_INL_H_
#undef ATTUNE_SOFTMAX_ROWS_INL_H_
#else
#define ATTUNE_SOFTMAX_ROWS_INL_H_
#endif
#include "_kit/pack-inl.h"
#include "softmax/problem.h"

HWY_BEFORE_NAMESPACE();
namespace softmax {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;
namespace kit = attune_kit::HWY_NAMESPACE;
using kit::kLanes;
using kit::kPanel;

inline bool IsCode(const View& rows) {
  return rows.DType() == ATTUNE_I8 || rows.DType() == ATTUNE_U8;
}

// (code - zero) * scale for a row of 8-bit or packed 4-bit codes.
HWY_INLINE void Dequantise(const RowRef& row, size_t n, float scale, float zero, float* dst) {
  if (row.view->DType() == ATTUNE_I8) {
    const int8_t* codes = static_cast<const int8_t*>(row.view->Data()) + row.offset;
    for (size_t i = 0; i < n; i++) dst[i] = (codes[i] - zero) * scale;
    return;
  }
  const uint8_t* codes = static_cast<const uint8_t*>(row.view->Data()) + row.offset;
  for (size_t i = 0; i < n; i++) dst[i] = ((i % 2 ? codes[i / 2] >> 4 : codes[i / 2] & 15) - zero) * scale;
}

// Calls f(typed pointer) with key or value row j as f32, bf16 or f16; codes are first expanded into `buffer`, f32.
template <class F>
HWY_INLINE void WithRow(const Problem& c, const Sequence& s, int64_t head, int64_t j, const KeyRows& rows,
                        const KeyRows& scales, const KeyRows& zeros, size_t n, float* buffer, F f) {
  const RowRef row = c.KeyAt(rows, s, head, j);
  const int dtype = row.view->DType();
  if (IsCode(*row.view)) {
    const RowRef scale = c.KeyAt(scales, s, head, j);
    float zero = 0;
    if (zeros.cached.view) {
      const RowRef z = c.KeyAt(zeros, s, head, j);
      zero = static_cast<const float*>(z.view->Data())[z.offset];
    }
    Dequantise(row, n, static_cast<const float*>(scale.view->Data())[scale.offset], zero, buffer);
    return f(static_cast<const float*>(buffer));
  }
  const int64_t size = dtype == ATTUNE_F32 ? 4 : 2;
  kit::WithFloatType(dtype, static_cast<const char*>(row.view->Data()) + row.offset * size, f);
}

// Keys [first, last) as panels: panel p holds keys first + p*kPanel ..., its row d their component d. Missing keys of
// the last panel are 0. `rows`: kPanel rows of `ld` floats; `zero`: a row of zeros.
inline HWY_NOINLINE void PackKeys(const Problem& c, const Sequence& s, int64_t head, int64_t first, int64_t last,
                                  size_t ld, float* rows, const float* zero, float* panels) {
  for (int64_t j = first; j < last; j += kPanel, panels += kPanel * c.D) {
    const float* pointers[kPanel];
    for (size_t r = 0; r < kPanel; r++) {
      pointers[r] = zero;
      if (j + int64_t(r) >= last) continue;
      float* buffer = rows + r * ld;
      WithRow(c, s, head, j + r, c.k, c.k_scale, c.k_zero, c.D, buffer, [&](const auto* p) {
        using T = std::remove_cv_t<std::remove_pointer_t<decltype(p)>>;
        pointers[r] = buffer;
        if constexpr (sizeof(T) == sizeof(float)) {
          pointers[r] = p;
        } else {
          kit::Widen(p, c.D, 1.0f, buffer);
        }
      });
    }
    kit::TransposeToPanel(pointers, c.D, panels);
  }
}

// Values [first, last) as panels of columns: panel p holds columns p*kPanel ..., its row j the value first + j. Panels
// are panel_rows * kPanel floats apart.
inline HWY_NOINLINE void PackValues(const Problem& c, const Sequence& s, int64_t head, int64_t first, int64_t last,
                                    size_t panel_rows, float* buffer, float* panels) {
  const size_t width = c.Dv;
  for (int64_t j = first; j < last; j++, panels += kPanel) {
    WithRow(c, s, head, j, c.v, c.v_scale, c.v_zero, width, buffer, [&](const auto* p) {
      float* to = panels;
      for (size_t e = 0; e < width; e += kPanel, to += panel_rows * kPanel) {
        kit::Widen(p + e, width - e < kPanel ? width - e : kPanel, 1.0f, to);
      }
    });
  }
}

// Appends this call's keys and values of one kv head to its caches, and copies the old ones unless the update is in
// place.
inline HWY_NOINLINE void WriteCaches(const Problem& c, int64_t b, int64_t head) {
  const auto write = [&](const KeyRows& rows, const Axes& out, int64_t width) {
    const bool in_place = rows.split > 0 && out.view.Data() == rows.cached.view.Data();
    const int64_t size = out.view.DType() == ATTUNE_F32 ? 4 : 2;
    const Sequence s = {b, 0, 0, 0, 0, c.Nk, 0};
    for (int64_t j = in_place ? rows.split : 0; j < c.Nk; j++) {
      const RowRef from = c.KeyAt(rows, s, head, j);
      memcpy(static_cast<char*>(out.view.Data()) + out.At(b, head, j) * size,
             static_cast<const char*>(from.view->Data()) + from.offset * size, width * size);
    }
  };
  write(c.k, c.k_cache_out, c.D);
  write(c.v, c.v_cache_out, c.Dv);
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace softmax
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
