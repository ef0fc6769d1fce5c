// One tile of gathered query rows against one tile of keys: weights P and the gradients dS of their scores.
#if defined(ATTUNE_MOH_GRADIENT_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_MOH_GRADIENT_TILE_INL_H_
#undef ATTUNE_MOH_GRADIENT_TILE_INL_H_
#else
#define ATTUNE_MOH_GRADIENT_TILE_INL_H_
#endif
#include "_kit/ranged_products-inl.h"
#include "moh/attention-inl.h"
#include "moh/backward.h"

HWY_BEFORE_NAMESPACE();
namespace moh {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
using kit::Range;

// Gathered rows of one kv head: queries times scale (and log2(e) where scores are in that unit), upstream gradients
// times their gates, lse in the unit of the scores, delta_i = <do_i, o_i>, and what each sees.
struct GatheredRows {
  float *q, *d_o, *lse, *delta;
  Interval* visible;
};

// Keys and values of one kv head, made once per call. Panels as of PackPanels and PackColumns.
struct PackedHead {
  float *key_panels, *value_panels, *value_columns, *key_rows;
};

// Memory of one worker and the tile in it.
struct GradientTile {
  size_t ld_q, ld_v, ld_s;
  float *p, *ds, *sum;  // weights, their gradients and free room: one row per query
  float *dk, *dv;       // sums of the tile of keys
  GatheredRows own;     // room for rows that are gathered from all over
  int32_t* codes;
  size_t rows = 0, keys = 0;
  int64_t first_key = 0;
  Range seen[kMaxGradientTile], columns[kMaxGradientTile];  // what a row sees of the keys, and a key of the rows

  // queries * (D + Dv + 64 + 12) + keys * (D + Dv + 64) + 3 * queries * (keys + 16), and a little.
  static size_t Floats(const Problem& c, size_t queries, size_t keys) {
    const size_t q = PadTo32(c.D), v = PadTo32(c.Dv);
    return queries * (q + v + 12) + keys * (q + v) + 3 * queries * (keys + 16) + 64;
  }
  GradientTile(const Problem& c, size_t queries, size_t most_keys, float* at) {
    ld_q = PadTo32(c.D), ld_v = PadTo32(c.Dv), ld_s = most_keys + 16;
    const auto take = [&](size_t n) {
      float* from = at;
      at += n;
      return from;
    };
    p = take(queries * ld_s), ds = take(queries * ld_s), sum = take(queries * ld_s);
    dk = take(most_keys * ld_q), dv = take(most_keys * ld_v);
    own.q = take(queries * ld_q), own.d_o = take(queries * ld_v);
    own.visible = reinterpret_cast<Interval*>(take(queries * 4));
    own.lse = take(queries), own.delta = take(queries), codes = reinterpret_cast<int32_t*>(take(queries));
  }

  // Makes rows `r` of `of` and keys [first, first + count) the current tile; false when none of the rows sees a key.
  bool Find(const GatheredRows& r, size_t count, int64_t first, size_t n_keys) {
    rows = count, keys = n_keys, first_key = first;
    bool any = false;
    for (size_t i = 0; i < rows; i++) {
      const auto clamp = [&](int64_t key) {
        return key <= first ? 0 : key - first < int64_t(keys) ? int(key - first) : int(keys);
      };
      seen[i] = {clamp(r.visible[i].begin), clamp(r.visible[i].end)};
      any |= seen[i].end > seen[i].begin;
    }
    return any;
  }

  // Fills p and ds within what each row sees.
  template <bool kPlain>
  void Fill(const Problem& c, const PackedHead& head, const GatheredRows& r, const RowsOfHead& of) {
    const hn::ScalableTag<float> d;
    Product(r.q, ld_q, head.key_panels + size_t(first_key) * size_t(c.D), size_t(c.D), p);
    Product(r.d_o, ld_v, head.value_panels + size_t(first_key) * size_t(c.Dv), size_t(c.Dv), ds);
    for (size_t i = 0; i < rows; i++) {
      const Range v = seen[i];
      if (v.end <= v.begin) continue;
      float *weights = p + i * ld_s, *gradients = ds + i * ld_s;
      if (r.lse[i] == -INFINITY) {  // a bias hides all keys: never exp(-inf - -inf)
        memset(weights + v.begin, 0, sizeof(float) * size_t(v.end - v.begin));
        memset(gradients + v.begin, 0, sizeof(float) * size_t(v.end - v.begin));
        continue;
      }
      if constexpr (!kPlain) {
        AddBias(c, of.b, of.Head(i), of.Token(i), first_key + v.begin, weights + v.begin, size_t(v.end - v.begin));
      }
      const auto lse = hn::Set(d, r.lse[i]), delta = hn::Set(d, r.delta[i]);
      for (size_t j = size_t(v.begin); j < size_t(v.end); j += kLanes) {
        const auto w = kit::ExpOf<kPlain>(d, hn::Sub(hn::LoadU(d, weights + j), lse));
        hn::StoreU(w, d, weights + j);
        hn::StoreU(hn::Mul(w, hn::Sub(hn::LoadU(d, gradients + j), delta)), d, gradients + j);
      }
    }
  }

  // For every key of the tile, the rows that see it: the transpose of `seen`. Needs rows in the order of their tokens:
  // then both ends never fall from one row to the next.
  void FindColumns() {
    size_t begin = 0, end = 0;
    for (size_t j = 0; j < keys; j++) {
      while (begin < rows && seen[begin].end <= int(j)) begin++;
      while (end < rows && seen[end].begin <= int(j)) end++;
      columns[j] = {int(begin), int(end)};
    }
  }

 private:
  // out[rows x keys] = a times panels, for the tiles that any of their rows sees.
  void Product(const float* a, size_t lda, const float* panels, size_t depth, float* out) const {
    for (size_t j = 0; j < keys; j += kPanel) {
      for (size_t r = 0; r < rows; r += kTileRows) {
        const int n = rows - r < kTileRows ? int(rows - r) : kTileRows;
        bool any = false;
        for (size_t i = r; i < r + size_t(n); i++) any |= seen[i].begin < int(j + kPanel) && seen[i].end > int(j);
        if (!any) continue;
        kit::TileRows<2, false>(n, depth, a + r * lda, lda, panels + j * depth, kPanel, out + r * ld_s + j, ld_s);
      }
    }
  }
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace moh
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
