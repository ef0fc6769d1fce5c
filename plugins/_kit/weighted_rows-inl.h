// Weighted sums of value rows for the queries of a panel, whose weights lie in lanes (query_lanes-inl.h):
//   o[query][column] = before[query] * o[query][column] + sum over keys of weights[key][query] * v[key][column]
// The outputs are rows, so nothing is transposed when they are done: weights enter by broadcast, values as vectors.
#if defined(ATTUNE_KIT_WEIGHTED_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_KIT_WEIGHTED_ROWS_INL_H_
#undef ATTUNE_KIT_WEIGHTED_ROWS_INL_H_
#else
#define ATTUNE_KIT_WEIGHTED_ROWS_INL_H_
#endif
#include "_kit/query_lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attune_kit {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;

// Value rows `ld` floats apart in panels of kPanel columns, which are `panel` floats apart: kPanel where whole rows lie
// together. Their rows are read up to a multiple of kLanes columns.
struct ValuePanels {
  const float* at;
  size_t ld, panel;
};

// before: null where o holds nothing yet; then it is not read. after: what the results are multiplied with; null: 1.
// Result i goes to to[i] + column.
struct RowSums {
  const float *before, *after, *o;
  size_t ld_o;
  float* const* to;
};

// kVectors vectors of columns from `column` on, where v begins, of kRows queries from `row` on.
template <int kRows, int kVectors>
HWY_NOINLINE void AddWeightedRowsOf(const WeighedKeys& keys, const float* HWY_RESTRICT v, size_t ld_v,
                                    const float* HWY_RESTRICT weights, const RowSums& r, size_t row, size_t column) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  V sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 2
    for (int u = 0; u < kVectors; u++) {
      sum[i][u] = r.before ? hn::Mul(hn::Set(d, r.before[row + i]),
                                     hn::LoadU(d, r.o + (row + i) * r.ld_o + column + u * kLanes))
                           : hn::Zero(d);
    }
  }
  const auto add = [&](auto masked, size_t begin, size_t end) __attribute__((always_inline)) HWY_ATTR {
    const float *x = v + begin * ld_v, *w = weights + begin * kPanel + row;
    for (size_t j = begin; j < end; j++, x += ld_v, w += kPanel) {
      V value[kVectors];
#pragma GCC unroll 2
      for (int u = 0; u < kVectors; u++) value[u] = hn::LoadU(d, x + u * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; i++) {
        const V weight = hn::Set(d, w[i]);
#pragma GCC unroll 2
        for (int u = 0; u < kVectors; u++) {
          const V next = hn::MulAdd(weight, value[u], sum[i][u]);
          if constexpr (decltype(masked)::value) {
            sum[i][u] = hn::IfThenElse(hn::Lt(weight, hn::Zero(d)), sum[i][u], next);
          } else {
            sum[i][u] = next;
          }
        }
      }
    }
  };
  add(std::true_type(), keys.begin, keys.all_begin);
  add(std::false_type(), keys.all_begin, keys.all_end);
  add(std::true_type(), keys.all_end, keys.end);
  if (r.after) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
      const V factor = hn::Set(d, r.after[row + i]);
#pragma GCC unroll 2
      for (int u = 0; u < kVectors; u++) sum[i][u] = hn::Mul(factor, sum[i][u]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 2
    for (int u = 0; u < kVectors; u++) hn::StoreU(sum[i][u], d, r.to[row + i] + column + u * kLanes);
  }
}

// For n <= kLaneTileRows queries.
template <int kVectors, int kRows = kLaneTileRows>
HWY_INLINE void AddWeightedRows(int n, const WeighedKeys& keys, const float* v, size_t ld_v, const float* weights,
                                const RowSums& r, size_t row, size_t column) {
  if (n >= kRows) return AddWeightedRowsOf<kRows, kVectors>(keys, v, ld_v, weights, r, row, column);
  if constexpr (kRows > 1) {
    AddWeightedRows<kVectors, kRows - 1>(n, keys, v, ld_v, weights, r, row, column);
  }
}

// All columns of the panel's first n queries. Results are written up to a multiple of kLanes columns.
HWY_INLINE void AddWeightedRows(size_t n, size_t columns, const WeighedKeys& keys, const ValuePanels& values,
                                const float* weights, const RowSums& r) {
  // Shares as equal as can be: small ones keep too few sums under way.
  const size_t shares = (n + kLaneTileRows - 1) / kLaneTileRows;
  for (size_t e = 0; e < columns; e += kPanel) {
    const float* v = values.at + e / kPanel * values.panel;
    for (size_t row = 0, left = shares, rows; left > 0; row += rows, left--) {
      rows = (n - row + left - 1) / left;
      if (columns - e > kLanes) {
        AddWeightedRows<2>(int(rows), keys, v, values.ld, weights, r, row, e);
      } else {
        AddWeightedRows<1>(int(rows), keys, v, values.ld, weights, r, row, e);
      }
    }
  }
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace attune_kit
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
