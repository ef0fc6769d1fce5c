// Rows of tensors as f32, whatever their storage, and keys and values packed for products with many rows.
#if defined(ATTUNE_MOH_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_MOH_ROWS_INL_H_
#undef ATTUNE_MOH_ROWS_INL_H_
#else
#define ATTUNE_MOH_ROWS_INL_H_
#endif
#include <string.h>

#include <type_traits>

#include "_kit/dot-inl.h"
#include "_kit/rows-inl.h"
#include "moh/problem.h"

HWY_BEFORE_NAMESPACE();
namespace moh {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;
namespace kit = attune_kit::HWY_NAMESPACE;
using kit::kLanes;
using kit::kPanel;
using kit::kTileRows;
using kit::DotRow;
using kit::LoadRow;
using kit::PadTo32;
using kit::StoreRow;
using kit::WithRow;

constexpr size_t kPackKeys = 64;  // keys that are packed at a time; a multiple of every kPanel

inline void ClearRow(const View& t, int64_t offset, size_t n) {
  const size_t size = t.DType() == ATTUNE_F32 ? 4 : 2;
  memset(static_cast<char*>(t.Data()) + size_t(offset) * size, 0, n * size);
}

// row[h * width ...] = row (b, h, t) of a tensor for all heads, side by side; zeros up to `ld`.
inline void GatherHeads(const View& x, int64_t b, int64_t t, int64_t heads, int64_t width, size_t ld, float* row) {
  for (int64_t h = 0; h < heads; h++) {
    for (int64_t e = 0; e < width; e += 32) {  // by way of a buffer, because loading a row writes behind it
      float part[32];
      const size_t n = width - e < 32 ? size_t(width - e) : 32;
      LoadRow(x, x.Offset(b, h, t) + e, n, 1, part);
      memcpy(row + h * width + e, part, sizeof(float) * n);
    }
  }
  memset(row + heads * width, 0, sizeof(float) * (ld - size_t(heads * width)));
}

// sum of a[i] * b[i], i < n, in the order of kit::Tile, unlike DotRow. Where a row sees one key, its output is that
// value, and what a score's gradient subtracts must be the very number that it is subtracted from: then dq and dk are 0
// and no rounding errors.
HWY_INLINE float DotInOrder(const float* a, const float* b, size_t n) {
  const hn::CappedTag<float, 1> one;
  auto sum = hn::Zero(one);
  for (size_t i = 0; i < n; i++) sum = hn::MulAdd(hn::Set(one, a[i]), hn::Set(one, b[i]), sum);
  return hn::GetLane(sum);
}

// Rows [first, first + count) of `row` (index -> where it lies), transposed into panels: panel p holds rows
// p * kPanel ..., its row d their component d. Rows outside [valid.begin, valid.end) are 0. first: a multiple of
// kPanel. rows: scratch for kPanel rows of PadTo32(width) floats.
template <class F>
HWY_NOINLINE void PackPanels(int64_t first, int64_t count, Interval valid, size_t width, float* rows, float* panels,
                             F row) {
  const size_t ld = PadTo32(int64_t(width));
  for (int64_t j = first; j < first + count; j += kPanel) {
    const float* pointers[kPanel];
    for (size_t r = 0; r < kPanel; r++) {
      const int64_t i = j + int64_t(r);
      float* buffer = rows + r * ld;
      pointers[r] = buffer;
      if (i < valid.begin || i >= valid.end) {
        memset(buffer, 0, sizeof(float) * ld);
        continue;
      }
      const RowRef at = row(i);
      WithRow(*at.view, at.offset, [&](const auto* p) {
        using T = std::remove_cv_t<std::remove_pointer_t<decltype(p)>>;
        if constexpr (sizeof(T) == sizeof(float)) {
          pointers[r] = p;
        } else {
          kit::Widen(p, width, 1.0f, buffer);
        }
      });
    }
    kit::TransposeToPanel(pointers, width, panels + size_t(j) * width);
  }
}

// Columns instead: panel p holds columns p * kPanel ... of all `total` rows, row by row.
template <class F>
HWY_NOINLINE void PackColumns(int64_t first, int64_t count, Interval valid, size_t width, size_t total, float* panels,
                              F row) {
  for (int64_t i = first; i < first + count; i++) {
    if (i < valid.begin || i >= valid.end) continue;
    const RowRef at = row(i);
    WithRow(*at.view, at.offset, [&](const auto* p) {
      float* to = panels + size_t(i) * kPanel;
      for (size_t e = 0; e < width; e += kPanel, to += total * kPanel) {
        kit::Widen(p + e, width - e < kPanel ? width - e : kPanel, 1.0f, to);
      }
    });
  }
}

// s[0, n) += bias of keys first, ... for query t of head h; may write up to a multiple of kLanes. Reads nothing beyond
// the row.
HWY_INLINE void AddBias(const Problem& c, int64_t b, int64_t h, int64_t t, int64_t first, float* s, size_t n) {
  const hn::ScalableTag<float> d;
  WithRow(c.bias, c.bias.Offset(b, c.BiasHead(h), t, first), [&](const auto* p) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(p)>>;
    HWY_ALIGN T buffer[kLanes] = {};
    const auto add = [&](size_t j, const T* from) {
      hn::StoreU(hn::Add(hn::LoadU(d, s + j), kit::LoadAsFloat(d, from)), d, s + j);
    };
    size_t j = 0;
    if (c.bias.Stride(3) == 0) {
      for (size_t i = 0; i < kLanes; i++) buffer[i] = p[0];
      for (; j < n; j += kLanes) add(j, buffer);
      return;
    }
    for (; j + kLanes <= n; j += kLanes) add(j, p + j);
    if (j == n) return;
    memcpy(static_cast<void*>(buffer), p + j, (n - j) * sizeof(T));
    add(j, buffer);
  });
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace moh
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
