// Dot products of up to kPanel rows with many, the few in the lanes of vectors: what decoding does when a head of keys
// serves more than a handful of queries. Each of the many is read once, by broadcast, where it lies; only the products
// are transposed.
#if defined(ATTUNE_KIT_LANE_DOT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_KIT_LANE_DOT_INL_H_
#undef ATTUNE_KIT_LANE_DOT_INL_H_
#else
#define ATTUNE_KIT_LANE_DOT_INL_H_
#endif
#include <hwy/highway.h>
#include <string.h>

#include "_kit/pack-inl.h"
#include "_kit/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attune_kit {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;

// Rows of a tile one vector wide: as many sums as a tile two vectors wide has.
constexpr int kNarrowRows = 2 * kTileRows;

// s[i * lds + j] = <a_i, b_j> for i < rows <= kPanel, j < columns. `panel` is A transposed: panel[c * kPanel + i] =
// a_i[c]. B is f32; `ahead` is asked for while B is read. Each product is summed in the order of c, whatever rows and columns are: equal b_j give equal bits.
HWY_INLINE void LaneDots(int rows, size_t columns, size_t depth, const float* panel, const float* b, size_t ldb,
                         float* s, size_t lds, RowsAhead* ahead) {
  const hn::ScalableTag<float> d;
  HWY_ALIGN float products[kPanel * kPanel], transposed[kPanel * kPanel];  // [column][row], [row][column]
  const float* pointers[kPanel];
  for (size_t r = 0; r < kPanel; r++) pointers[r] = products + r * kPanel;
  for (size_t j = 0; j < columns; j += kPanel) {
    const size_t n = columns - j < kPanel ? columns - j : kPanel;
    if (size_t(rows) <= kLanes) {
      for (size_t r = 0; r < n; r += kNarrowRows) {
        TileRows<1, false, kNarrowRows>(int(n - r), depth, b + (j + r) * ldb, ldb, panel, kPanel, products + r * kPanel,
                                        kPanel, ahead);
      }
    } else {
      for (size_t r = 0; r < n; r += kTileRows) {
        TileRows<2, false>(int(n - r), depth, b + (j + r) * ldb, ldb, panel, kPanel, products + r * kPanel, kPanel,
                           ahead);
      }
    }
    for (size_t r = n; r < kPanel; r++) pointers[r] = products;  // not used
    TransposeToPanel(pointers, size_t(rows), transposed);
    for (int i = 0; i < rows; i++) {
      const float* from = transposed + size_t(i) * kPanel;
      float* to = s + size_t(i) * lds + j;
      if (n == kPanel) {
        hn::StoreU(hn::Load(d, from), d, to);
        hn::StoreU(hn::Load(d, from + kLanes), d, to + kLanes);
      } else {
        memcpy(to, from, n * sizeof(float));
      }
    }
  }
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace attune_kit
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
