// Products with ranges of valid columns, and the softmax of queries in lanes, against plain loops in double.
#if defined(ATTUNE_KIT_LANES_TEST_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_KIT_LANES_TEST_INL_H_
#undef ATTUNE_KIT_LANES_TEST_INL_H_
#else
#define ATTUNE_KIT_LANES_TEST_INL_H_
#endif
#include <hwy/highway.h>
#include <math.h>

#include "_kit/lane_dot-inl.h"
#include "_kit/query_lanes-inl.h"
#include "_kit/ranged_products-inl.h"
#include "_kit/weighted_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kit_test {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace kit = attune_kit::HWY_NAMESPACE;

// What lies outside of a row's range is NaN in both operands, and must not reach the sums.
template <bool kTransposed>
void TestRangedProduct() {
  using kit::kLanes, kit::kPanel;
  constexpr size_t kRows = 21, kDepth = 19, kLda = 24, kColumns = 3 * kPanel;
  for (size_t columns : {size_t{1}, kLanes, kLanes + 3, kPanel, kPanel + 5}) {
    for (int shape = 0; shape < 3; shape++) {
      HWY_ALIGN float a[24 * kLda], b[kDepth * kColumns], c[kRows * kColumns], start[kRows * kColumns];
      kit::Range ranges[kRows];
      for (auto& x : a) x = NAN;
      for (auto& x : b) x = Random();
      for (auto& x : c) x = Random();
      memcpy(start, c, sizeof c);
      for (size_t i = 0; i < kRows; i++) {
        const int n = int(i);
        // A triangle; windows that leave a tile of rows nothing in common; some rows empty.
        ranges[i] = shape == 0 ? kit::Range{0, n + 1 < int(kDepth) ? n + 1 : int(kDepth)}
                    : shape == 1 ? kit::Range{n * 7 % 17, n * 7 % 17 + 2}
                                 : kit::Range{n % 3 == 0 ? 9 : 1, n % 3 == 0 ? 5 : 14};
        for (int k = ranges[i].begin; k < ranges[i].end; k++) {
          a[kTransposed ? size_t(k) * kLda + i : i * kLda + size_t(k)] = Random();
        }
      }
      kit::AddProduct<kTransposed>(ranges, kRows, a, kLda, b, kColumns, columns, c, kColumns);
      for (size_t i = 0; i < kRows; i++) {
        for (size_t e = 0; e < kColumns; e++) {
          double want = start[i * kColumns + e];
          if (e >= columns && e < (columns + kLanes - 1) / kLanes * kLanes) continue;  // may be anything
          for (int k = ranges[i].begin; e < columns && k < ranges[i].end; k++) {
            want += double(a[kTransposed ? size_t(k) * kLda + i : i * kLda + size_t(k)]) * b[size_t(k) * kColumns + e];
          }
          const double got = c[i * kColumns + e];
          Check(fabs(got - want) < 1e-5, hwy::TargetName(HWY_TARGET), "ranged product", double(shape), got, want);
        }
      }
    }
  }
}

// Nothing beyond a row of B is read, nothing beyond the columns written; columns that are equal have the same bits.
inline void TestLaneDots() {
  using kit::kLanes, kit::kPanel;
  constexpr size_t kMost = 67, kLdb = 45, kLds = kMost + 3;
  for (size_t depth : {1, 3, 17, 40}) {
    for (size_t columns : {size_t{1}, kPanel - 1, kPanel, kPanel + 3, kMost}) {
      for (size_t rows : {size_t{1}, kLanes, kLanes + 1, kPanel}) {
        HWY_ALIGN float panel[40 * kPanel], b[kMost * kLdb], s[kPanel * kLds];
        for (auto& x : panel) x = Random();
        for (size_t i = 0; i < kMost * kLdb; i++) b[i] = i % kLdb < depth ? Random() : NAN;
        memcpy(b + (columns - 1) * kLdb, b, depth * sizeof(float));
        for (auto& x : s) x = -7;
        kit::RowsAhead ahead(b, kLdb * sizeof(float), depth * sizeof(float), columns);
        kit::LaneDots(int(rows), columns, depth, panel, b, kLdb, s, kLds, &ahead);
        for (size_t i = 0; i < kPanel; i++) {
          for (size_t j = 0; j < kLds; j++) {
            double want = i < rows && j < columns ? 0 : -7;
            for (size_t k = 0; k < depth && i < rows && j < columns; k++) {
              want += double(panel[k * kPanel + i]) * b[j * kLdb + k];
            }
            const double got = s[i * kLds + j];
            Check(fabs(got - want) < 1e-5, hwy::TargetName(HWY_TARGET), "lane dots", double(columns), got, want);
          }
          if (i < rows) {
            const double first = s[i * kLds], last = s[i * kLds + columns - 1];
            Check(first == last, hwy::TargetName(HWY_TARGET), "equal lane dots", double(columns), last, first);
          }
        }
      }
    }
  }
}

// Three tiles of keys; query i sees the keys [i % 5, 30 - i % 7) of each, and of the first, query 2 sees none. What is
// hidden has NaN scores and values.
inline void TestLanes() {
  using kit::kPanel;
  constexpr size_t kKeys = 30, kColumns = 3 * kit::kLanes - 1;
  HWY_ALIGN float s[kKeys * kPanel], v[kKeys * kColumns + kPanel] = {}, m[kPanel], sum[kPanel], factors[kPanel];
  // Outputs in lanes, and as rows; the last tile's rows go somewhere else, divided by two.
  constexpr size_t kWidth = 2 * kPanel;
  HWY_ALIGN float o[kColumns * kPanel] = {}, rows[kPanel * kWidth], last_rows[kPanel * kWidth], halves[kPanel];
  for (auto& x : rows) x = NAN;
  for (auto& x : halves) x = 0.5f;
  double top[kPanel], z[kPanel] = {}, out[kColumns * kPanel] = {};
  for (size_t i = 0; i < kPanel; i++) m[i] = -INFINITY, sum[i] = 0, top[i] = -INFINITY;
  for (int tile = 0; tile < 3; tile++) {
    HWY_ALIGN int32_t from[kPanel], to[kPanel];
    for (size_t i = 0; i < kPanel; i++) {
      from[i] = int32_t(i % 5), to[i] = tile == 0 && i == 2 ? 0 : 30 - int32_t(i % 7);
    }
    for (size_t j = 0; j < kKeys; j++) {
      for (size_t e = 0; e < kColumns; e++) v[j * kColumns + e] = j == 0 ? NAN : Random();
      for (size_t i = 0; i < kPanel; i++) {
        const bool seen = int32_t(j) >= from[i] && int32_t(j) < to[i] && j > 0;
        if (j == 0) from[i] = from[i] > 1 ? from[i] : 1;  // the key of NaN is nobody's
        s[j * kPanel + i] = seen ? 10 * Random() + float(tile) * 4 : NAN;
      }
    }
    for (size_t i = 0; i < kPanel; i++) {
      double now = top[i];
      for (int32_t j = from[i]; j < to[i]; j++) now = fmax(now, s[size_t(j) * kPanel + i]);
      const double factor = top[i] == -INFINITY ? 0 : exp2(top[i] - now);
      z[i] *= factor, top[i] = now;
      for (size_t e = 0; e < kColumns; e++) out[e * kPanel + i] *= factor;
      for (int32_t j = from[i]; j < to[i]; j++) {
        const double weight = exp2(s[size_t(j) * kPanel + i] - now);
        z[i] += weight;
        for (size_t e = 0; e < kColumns; e++) out[e * kPanel + i] += weight * v[size_t(j) * kColumns + e];
      }
    }
    // All see keys 4 to 24 of a tile, but for query 2 and the first tile: then nothing is common.
    const size_t all_begin = tile == 0 ? kKeys : 4, all_end = tile == 0 ? kKeys : 24;
    kit::HideFromLanes(s, 0, all_begin, from, to);
    kit::HideFromLanes(s, all_end, kKeys, from, to);
    kit::SoftmaxOfLanes(s, 0, all_begin, all_end, kKeys, m, sum, factors);
    kit::ScaleLanes(factors, kColumns, o);
    float* rows_to[kPanel];
    for (size_t i = 0; i < kPanel; i++) rows_to[i] = (tile == 2 ? last_rows : rows) + i * kWidth;
    const kit::WeighedKeys keys = {0, all_begin, all_end, kKeys};
    const kit::RowSums row_sums = {tile == 0 ? nullptr : factors, tile == 2 ? halves : nullptr, rows, kWidth, rows_to};
    // The values of the second tile are packed into panels.
    HWY_ALIGN float packed[2 * kKeys * kPanel] = {};
    for (size_t x = 0; x < kKeys * kColumns; x++) {
      const size_t j = x / kColumns, e = x % kColumns;
      packed[(e / kPanel * kKeys + j) * kPanel + e % kPanel] = v[x];
    }
    kit::AddWeightedRows(kPanel - 1, kColumns, keys,
                         tile == 1 ? kit::ValuePanels{packed, kPanel, kKeys * kPanel}
                                   : kit::ValuePanels{v, kColumns, kPanel},
                         s, row_sums);
    kit::AddWeighedLanes(keys, kColumns, v, kColumns, s, o);
    for (size_t i = 0; i < kPanel; i++) {
      const char* isa = hwy::TargetName(HWY_TARGET);
      Check(m[i] == float(top[i]), isa, "lanes, maximum", double(i), m[i], top[i]);
      Check(fabs(sum[i] - z[i]) <= 1e-5 * z[i], isa, "lanes, sum", double(i), sum[i], z[i]);
      for (size_t e = 0; e < kColumns; e++) {
        const double got = o[e * kPanel + i], want = out[e * kPanel + i];
        Check(fabs(got - want) <= 1e-5 * (1 + z[i]), isa, "lanes, output", double(i), got, want);
        if (i + 1 == kPanel) continue;  // a row that was left out
        const double row = tile == 2 ? 2 * last_rows[i * kWidth + e] : rows[i * kWidth + e];
        Check(fabs(row - want) <= 1e-5 * (1 + z[i]), isa, "rows, output", double(i), row, want);
      }
    }
  }
}

inline void TestRanges() {
  TestRangedProduct<false>();
  TestRangedProduct<true>();
  TestLanes();
  TestLaneDots();
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace kit_test
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
