// Scores of a tile of queries and a block of its keys, keys down, queries across: a lane is a query, so that the
// softmax of a row needs no sum across lanes, a key's bias is one scalar, and who keeps a key is one comparison of
// vectors.
// Row of a tile = position * heads of the group + head. A panel is kPanel rows. Scores are in units of log2, with the
// bias relative to the largest that the row keeps.
#if defined(ATTUNE_DMA_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_DMA_TILE_INL_H_
#undef ATTUNE_DMA_TILE_INL_H_
#else
#define ATTUNE_DMA_TILE_INL_H_
#endif
#include <math.h>

#include "dma/selection-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dma {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// Positions of a tile for a wanted number of rows.
inline int64_t TilePositions(const Problem& c, int64_t rows) {
  const int64_t n = rows / (c.Group() > 0 ? c.Group() : 1), most = n < c.Nq ? n : c.Nq;
  return most > 1 ? most : 1;
}

// The queries of a tile, and the keys they keep.
class Tile {
 public:
  // Takes its memory from m: panels of D numbers per row, what a block of keys wants, and lists as long as all keys.
  Tile(const Problem& c, const Selection& selection, int64_t positions, size_t block_keys, Carver* m)
      : c_(c),
        selection_(selection),
        ld_q(PadTo32(c.D)),
        elementwise_(c.mask || (c.bias && !c.BiasPerKey())),
        block_keys_(block_keys) {
    const size_t rows = PadTo32(positions * c.Group());
    panels_ = m->Take(rows * size_t(c.D));
    row_buffer_ = m->Take(kPanel * (ld_q > PadTo32(c.Dv) ? ld_q : PadTo32(c.Dv)));
    t_ = reinterpret_cast<int32_t*>(m->Take(rows));
    top_ = reinterpret_cast<double*>(m->Take(2 * rows));
    list_.keys = reinterpret_cast<int32_t*>(m->Take(size_t(c.Nk) + 32));
    list_.rest = reinterpret_cast<int32_t*>(m->Take(size_t(c.Nk) + 32));
    active_ = reinterpret_cast<uint8_t*>(m->Take(c.mask ? size_t(c.Nk) / 4 + 16 : 0));
    added_ = m->Take(elementwise_ ? kPanel * (block_keys + 16) : 0);
    added_panel_ = m->Take(elementwise_ ? kPanel * (block_keys + 16) : 0);
    bias_ = reinterpret_cast<double*>(m->Take(2 * block_keys));
    shift_ = m->Take(block_keys);
  }

  // Makes queries [first, first + count) of a kv head the current ones and finds their keys.
  void Begin(int64_t b, int64_t head, int64_t first, int64_t count) {
    b_ = b, head_ = head, first_ = first, rows_ = count * c_.Group();
    const int64_t n = b * c_.Hkv + head, t0 = c_.Position(first), t1 = c_.Position(first + count - 1);
    FindKeys(c_.Nk, selection_.Death(n), t0, t1, c_.mask ? Active(count) : nullptr, elementwise_, &list_);
    const size_t whole = PadTo32(rows_);
    for (size_t r = 0; r < whole; r++) {
      const int64_t t = c_.Position(r < size_t(rows_) ? Query(r) : first + count - 1);
      t_[r] = int32_t(t);
      top_[r] = !c_.BiasPerKey() ? 0 : selection_.Largest(n)[t < c_.Nk ? t : c_.Nk - 1];
    }
  }
  // Rows of q or do of the tile times `factor`, transposed into panels. kept: room for all rows, which stay there;
  // null: they do not.
  void LoadQueries(const View& from, int64_t width, float factor, float* panels, float* kept) {
    const size_t ld = PadTo32(width);
    for (size_t r = 0; r < size_t(rows_); r += kPanel) {
      const float* rows[kPanel];
      for (size_t i = 0; i < kPanel; i++) {
        float* to = kept ? kept + (r + i) * ld : row_buffer_ + i * ld;
        rows[i] = to;
        if (r + i < size_t(rows_)) {
          LoadRow({&from, from.Offset(b_, Head(r + i), Query(r + i))}, size_t(width), factor, to);
        } else {
          memset(to, 0, sizeof(float) * ld);
        }
      }
      kit::TransposeToPanel(rows, size_t(width), panels + r * size_t(width));
    }
  }
  // The queries themselves, in units of log2.
  void LoadQueries(float* kept) { LoadQueries(c_.q, c_.D, QueryFactor(), panels_, kept); }
  float QueryFactor() const { return float(c_.scale * kLog2E); }

  const KeyList& Keys() const { return list_; }
  int64_t Rows() const { return rows_; }
  int64_t Query(size_t r) const { return first_ + int64_t(r) / c_.Group(); }
  int64_t Head(size_t r) const { return head_ * c_.Group() + int64_t(r) % c_.Group(); }
  // What is subtracted from the biases of row r, in natural units.
  double Largest(size_t r) const { return top_[r]; }

  // Rows of keys or values [begin, begin + n) of the list.
  void Gather(const KeyRows& from, int64_t begin, size_t n, int64_t width, float* to) const {
    const size_t ld = PadTo32(width);
    for (size_t k = 0; k < n; k++) {
      LoadRow(from.At(b_, head_, list_.keys[begin + int64_t(k)]), size_t(width), 1, to + k * ld);
    }
  }
  // Rows of them that only some queries keep and that are not finite become 0, because 0 * NaN is not 0. Their places
  // among the n go to `odd`; returns the number of them.
  size_t TakeOutOdd(int64_t begin, size_t n, int64_t width, float* rows, int32_t* odd) const {
    const size_t ld = PadTo32(width);
    size_t count = 0;
    for (size_t k = begin < list_.common ? size_t(list_.common - begin) : 0; k < n; k++) {
      if (AllFinite(rows + k * ld, size_t(width))) continue;
      memset(rows + k * ld, 0, sizeof(float) * ld);
      odd[count++] = int32_t(k);
    }
    return count;
  }

  // s[k * kPanel + lane] = <key k, query>, for n keys in rows of ld_q and the panel of rows that begins at first_row.
  void Scores(const float* keys, size_t n, size_t first_row, float* s) const {
    Products(keys, n, size_t(c_.D), ld_q, panels_ + first_row * size_t(c_.D), s);
  }
  // The same for any rows, `ld` apart, and a panel of `depth` rows.
  HWY_NOINLINE static void Products(const float* keys, size_t n, size_t depth, size_t ld, const float* panel,
                                    float* s) {
    for (size_t k = 0; k < n; k += kTileRows) {
      kit::TileRows<2, false>(n - k < size_t(kTileRows) ? int(n - k) : kTileRows, depth, keys + k * ld, ld, panel,
                              kPanel, s + k * kPanel, kPanel);
    }
  }

  // The following is about keys [begin, begin + n) of the list.
  void BeginBlock(int64_t begin, size_t n) {
    begin_ = begin, n_ = n;
    if (!c_.BiasPerKey()) return;
    const double* bias = selection_.Bias(b_ * c_.Hkv + head_);
    for (size_t k = 0; k < n; k++) bias_[k] = bias[list_.keys[begin + int64_t(k)]];
    shifted_by_ = NAN;
  }
  // Adds biases to the scores of a panel, and gives -inf to what a row does not keep.
  HWY_NOINLINE void Modify(size_t first_row, float* s) {
    if (c_.BiasPerKey()) AddBias(first_row, s);
    if (elementwise_) AddElements(first_row, s);
    const hn::ScalableTag<float> d;
    const hn::RebindToSigned<decltype(d)> di;
    const int32_t* death = selection_.Death(b_ * c_.Hkv + head_);
    const auto none = hn::Set(d, -INFINITY);
    const auto t0 = hn::LoadU(di, t_ + first_row), t1 = hn::LoadU(di, t_ + first_row + kLanes);
    for (size_t k = begin_ < list_.common ? size_t(list_.common - begin_) : 0; k < n_; k++) {
      const int32_t j = list_.keys[begin_ + int64_t(k)];
      const auto before = hn::Set(di, j - 1), dead = hn::Set(di, death[j]);
      const auto kept0 = hn::RebindMask(d, hn::And(hn::Gt(t0, before), hn::Gt(dead, t0)));
      const auto kept1 = hn::RebindMask(d, hn::And(hn::Gt(t1, before), hn::Gt(dead, t1)));
      float* row = s + k * kPanel;
      hn::StoreU(hn::IfThenElse(kept0, hn::LoadU(d, row), none), d, row);
      hn::StoreU(hn::IfThenElse(kept1, hn::LoadU(d, row + kLanes), none), d, row + kLanes);
    }
  }

 private:
  // Keys that the mask shows to any query of the tile.
  const uint8_t* Active(int64_t count) {
    const View& mask = c_.mask;
    const uint8_t* data = static_cast<const uint8_t*>(mask.Data());
    memset(active_, 0, size_t(c_.Nk));
    const int64_t heads = mask.Dim(1) == c_.Hq ? c_.Group() : 1, queries = mask.Dim(2) > 1 ? count : 1;
    for (int64_t h = 0; h < heads; h++) {
      for (int64_t i = 0; i < queries; i++) {
        const uint8_t* row =
            data + mask.Offset(b_, c_.BroadcastHead(mask, head_ * c_.Group() + h), first_ + i);
        if (mask.Stride(3) == 0) {
          if (row[0]) memset(active_, 1, size_t(c_.Nk));
          continue;
        }
        for (int64_t j = 0; j < c_.Nk; j++) active_[j] |= row[j];
      }
    }
    return active_;
  }

  void AddBias(size_t first_row, float* s) {
    const hn::ScalableTag<float> d;
    bool same = true;
    for (size_t i = 1; i < kPanel; i++) same &= top_[first_row + i] == top_[first_row];
    if (!same) {  // while the largest bias still changes: at the beginning of a sequence
      for (size_t k = 0; k < n_; k++) {
        for (size_t i = 0; i < kPanel; i++) s[k * kPanel + i] += float((bias_[k] - top_[first_row + i]) * kLog2E);
      }
      return;
    }
    if (shifted_by_ != top_[first_row]) {
      shifted_by_ = top_[first_row];
      for (size_t k = 0; k < n_; k++) shift_[k] = float((bias_[k] - shifted_by_) * kLog2E);
    }
    for (size_t k = 0; k < n_; k++) {
      const auto add = hn::Set(d, shift_[k]);
      float* row = s + k * kPanel;
      hn::StoreU(hn::Add(hn::LoadU(d, row), add), d, row);
      hn::StoreU(hn::Add(hn::LoadU(d, row + kLanes), add), d, row + kLanes);
    }
  }

  // Bias and mask that differ from score to score: row by row as they lie, then transposed.
  HWY_NOINLINE void AddElements(size_t first_row, float* s) {
    const hn::ScalableTag<float> d;
    const int32_t* keys = list_.keys + begin_;
    const bool run = n_ > 0 && keys[n_ - 1] - keys[0] == int32_t(n_) - 1;  // ascending, so without gaps
    const size_t ld = block_keys_ + 16;
    const float* rows[kPanel];
    for (size_t i = 0; i < kPanel; i++) {
      float* to = added_ + i * ld;
      rows[i] = to;
      const size_t r = first_row + i;
      if (r >= size_t(rows_)) {
        memset(to, 0, sizeof(float) * n_);
        continue;
      }
      if (c_.bias && !c_.BiasPerKey()) {
        const View& bias = c_.bias;
        const RowRef row = {&bias, bias.Offset(b_, c_.BroadcastHead(bias, Head(r)), Query(r))};
        WithRow(row, [&](const auto* p) {
          using T = std::remove_cv_t<std::remove_pointer_t<decltype(p)>>;
          if (bias.Stride(3) == 0) {
            T same[1] = {p[0]};
            kit::Widen(same, 1, float(kLog2E), to);
            for (size_t k = n_; k-- > 0;) to[k] = to[0];
          } else if (run) {
            kit::Widen(p + keys[0], n_, float(kLog2E), to);
          } else {
            T some[16];
            for (size_t k = 0; k < n_; k += 16) {
              const size_t n = n_ - k < 16 ? n_ - k : 16;
              for (size_t x = 0; x < n; x++) some[x] = p[keys[k + x]];
              kit::Widen(some, n, float(kLog2E), to + k);
            }
          }
        });
      } else {
        memset(to, 0, sizeof(float) * n_);
      }
      if (!c_.mask) continue;
      const View& mask = c_.mask;
      const uint8_t* shown = static_cast<const uint8_t*>(mask.Data()) +
                             mask.Offset(b_, c_.BroadcastHead(mask, Head(r)), Query(r));
      const int64_t step = mask.Stride(3);
      for (size_t k = 0; k < n_; k++) to[k] = shown[keys[k] * step] ? to[k] : -INFINITY;
    }
    kit::TransposeToPanel(rows, n_, added_panel_);
    // A masked score may be NaN: it is replaced, not added to.
    const auto none = hn::Set(d, -INFINITY);
    for (size_t k = 0; k < n_ * kPanel; k += kLanes) {
      const auto add = hn::LoadU(d, added_panel_ + k);
      hn::StoreU(hn::IfThenElse(hn::Eq(add, none), none, hn::Add(hn::LoadU(d, s + k), add)), d, s + k);
    }
  }

  const Problem& c_;
  const Selection& selection_;

 public:
  const size_t ld_q;  // distance of rows of keys

 private:
  bool elementwise_;
  size_t block_keys_;
  float *panels_, *row_buffer_, *added_, *added_panel_, *shift_;
  int32_t* t_;
  double *top_, *bias_;
  uint8_t* active_;
  KeyList list_;
  int64_t b_ = 0, head_ = 0, first_ = 0, rows_ = 0, begin_ = 0;
  size_t n_ = 0;
  double shifted_by_ = NAN;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace dma
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
