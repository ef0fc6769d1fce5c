// Products of row-major matrices of f32 whose rows lie ChunkStride apart, and of the banded tiles that a causal rule or
// a window cuts out. Rows are readable, those of results writable, up to whole vectors.
#if defined(ATTUNE_HEDGEHOG_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_HEDGEHOG_PRODUCTS_INL_H_
#undef ATTUNE_HEDGEHOG_PRODUCTS_INL_H_
#else
#define ATTUNE_HEDGEHOG_PRODUCTS_INL_H_
#endif
#include <hwy/highway.h>

#include "_kit/chunked-inl.h"
#include "_kit/pack-inl.h"
#include "hedgehog/matrix.h"

HWY_BEFORE_NAMESPACE();
namespace hedgehog {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;
namespace kit = attune_kit::HWY_NAMESPACE;
using kit::kLanes;
using kit::kPanel;
using kit::kTileRows;
using kit::Order;
using kit::Start;
using kit::Terms;

template <bool kAdd>
constexpr Start kStart = kAdd ? Start::kKeep : Start::kZero;

// C = A B, or C += A B: rows x columns, the sums over `depth` terms.
template <bool kAdd>
HWY_INLINE void Product(size_t rows, size_t columns, size_t depth, Matrix a, Matrix b, Matrix c,
                        attune_kit::Ahead* ahead = nullptr) {
  kit::ChunkProduct<kStart<kAdd>, Terms::kAll, Order::kRows>(rows, columns, depth, a.p, a.ld, b.p, b.ld, 0, c.p, c.ld,
                                                             ahead);
}
// C += A^T B, where A has `depth` rows.
HWY_INLINE void AddProductOfColumns(size_t rows, size_t columns, size_t depth, Matrix a, Matrix b, Matrix c,
                                    attune_kit::Ahead* ahead = nullptr) {
  kit::ChunkProduct<Start::kKeep, Terms::kAll, Order::kColumns>(rows, columns, depth, a.p, a.ld, b.p, b.ld, 0, c.p,
                                                                c.ld, ahead);
}

// The least range that holds the ranges of n rows.
HWY_INLINE Range Union(const Range* ranges, size_t n) {
  Range all = {0, 0};
  for (size_t i = 0; i < n; i++) {
    const Range r = ranges[i];
    if (r.end <= r.begin) continue;
    if (all.end <= all.begin) all = r;
    if (r.begin < all.begin) all.begin = r.begin;
    if (r.end > all.end) all.end = r.end;
  }
  return all;
}

// C = A B^T, or C += A B^T, where B has `columns` rows. Tiles of which no row of C needs a column are left out:
// `ranges` of the rows, or nullptr. `panel`: room for depth * kPanel floats.
template <bool kAdd>
HWY_NOINLINE void ProductTransposed(size_t rows, size_t columns, size_t depth, Matrix a, Matrix b, Matrix c,
                                    const Range* ranges, float* panel) {
  for (size_t p = 0; p < columns; p += kPanel) {
    const float* from[kPanel];  // beyond the last row any will do: nothing reads its products
    for (size_t r = 0; r < kPanel; r++) from[r] = b.Row(p + r < columns ? p + r : columns - 1);
    kit::TransposeToPanel(from, depth, panel);
    for (size_t i = 0; i < rows; i += kTileRows) {
      const size_t n = rows - i < kTileRows ? rows - i : kTileRows;
      if (ranges) {
        const Range all = Union(ranges + i, n);
        if (all.end <= int(p) || all.begin >= int(p + kPanel)) continue;
      }
      if (columns - p > kLanes) {
        kit::ChunkTileRows<2, kStart<kAdd>, Terms::kAll, Order::kRows>(n, depth, a.Row(i), a.ld, panel, kPanel, 0,
                                                                       c.Row(i) + p, c.ld);
      } else {
        kit::ChunkTileRows<1, kStart<kAdd>, Terms::kAll, Order::kRows>(n, depth, a.Row(i), a.ld, panel, kPanel, 0,
                                                                       c.Row(i) + p, c.ld);
      }
    }
  }
}

// Row i of the tile becomes 0 outside of ranges[i].
HWY_INLINE void ClearOutside(const Range* ranges, size_t rows, size_t columns, Matrix a) {
  for (size_t i = 0; i < rows; i++) {
    const Range r = ranges[i];
    float* row = a.Row(i);
    if (r.end <= r.begin) {
      memset(row, 0, sizeof(float) * columns);
      continue;
    }
    memset(row, 0, sizeof(float) * r.begin);
    memset(row + r.end, 0, sizeof(float) * (columns - r.end));
  }
}

// Is every element finite? Reads whole vectors.
HWY_INLINE bool AllFinite(size_t rows, size_t columns, Matrix x) {
  const hn::ScalableTag<float> d;
  auto sum = hn::Zero(d);  // x * 0 is 0, or NaN
  for (size_t i = 0; i < rows; i++) {
    for (size_t e = 0; e + kLanes <= columns; e += kLanes) {
      sum = hn::MulAdd(hn::LoadU(d, x.Row(i) + e), hn::Zero(d), sum);
    }
    const size_t rest = columns % kLanes;
    if (rest) {
      const auto last = hn::LoadU(d, x.Row(i) + columns - rest);
      sum = hn::MulAdd(hn::IfThenElseZero(hn::FirstN(d, rest), last), hn::Zero(d), sum);
    }
  }
  return hn::GetLane(hn::SumOfLanes(d, sum)) == 0;
}

// c_i += sum over k in ranges[i] of A(i, k) b_k, where A(i, k) is 0 outside of the ranges; kColumns: A is stored
// transposed. Unless every element of B is finite, b_k outside of a row's range is not even multiplied by 0.
template <Order kOrder>
HWY_NOINLINE void AddBand(const Range* ranges, size_t rows, size_t columns, Matrix a, Matrix b, Matrix c) {
  const Range all = Union(ranges, rows);
  if (all.end <= all.begin) return;
  const bool finite = AllFinite(size_t(all.end - all.begin), columns, {b.Row(size_t(all.begin)), b.ld});
  const auto add = [&](size_t i, size_t n, Range r, size_t e, auto wide) {
    if (r.end <= r.begin) return;
    constexpr int kVectors = decltype(wide)::value;
    const float* from = kOrder == Order::kRows ? a.Row(i) + r.begin : a.Row(r.begin) + i;
    kit::ChunkTileRows<kVectors, Start::kKeep, Terms::kAll, kOrder>(n, r.end - r.begin, from, a.ld, b.Row(r.begin) + e,
                                                                    b.ld, 0, c.Row(i) + e, c.ld);
  };
  const auto panel = [&](size_t e, auto wide) {
    for (size_t i = 0; i < rows; i += kTileRows) {
      const size_t n = rows - i < kTileRows ? rows - i : kTileRows;
      if (finite) {
        add(i, n, Union(ranges + i, n), e, wide);
      } else {
        for (size_t r = 0; r < n; r++) add(i + r, 1, ranges[i + r], e, wide);
      }
    }
  };
  for (size_t e = 0; e < columns; e += kPanel) {
    if (columns - e > kLanes) {
      panel(e, std::integral_constant<int, 2>());
    } else {
      panel(e, std::integral_constant<int, 1>());
    }
  }
}

HWY_INLINE float DotRow(const float* a, const float* b, size_t n) {
  const hn::ScalableTag<float> d;
  auto sum = hn::Zero(d), sum2 = sum;
  size_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    sum = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum);
    sum2 = hn::MulAdd(hn::LoadU(d, a + i + kLanes), hn::LoadU(d, b + i + kLanes), sum2);
  }
  for (; i < n; i += kLanes) {
    const auto both = hn::Mul(hn::LoadU(d, a + i), hn::LoadU(d, b + i));
    sum = hn::Add(sum, hn::IfThenElseZero(hn::FirstN(d, n - i), both));
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(sum, sum2)));
}
HWY_INLINE float SumRow(const float* a, size_t begin, size_t end) {
  const hn::ScalableTag<float> d;
  auto sum = hn::Zero(d);
  for (size_t i = begin; i < end; i += kLanes) {
    sum = hn::Add(sum, hn::IfThenElseZero(hn::FirstN(d, end - i), hn::LoadU(d, a + i)));
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

// Row i of n rows = factor * element row i of the tensor: rows are `step` elements apart.
HWY_INLINE void LoadRow(const View& view, int64_t offset, size_t width, float factor, float* to) {
  kit::WithFloatType(view.DType(), static_cast<const char*>(view.Data()) + offset * Bytes(view),
                     [&](const auto* p) { kit::Widen(p, width, factor, to); });
}
HWY_INLINE void StoreRow(const float* from, size_t width, float factor, const View& view, int64_t offset) {
  kit::WithFloatType(view.DType(), static_cast<char*>(view.Data()) + offset * Bytes(view), [&](const auto* p) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(p)>>;
    kit::Narrow(from, width, factor, const_cast<T*>(p));
  });
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace hedgehog
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
