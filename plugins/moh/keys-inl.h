// How a tile of keys meets a block of query rows: two ways to form scores and to add weighted values. Both give the
// softmax the same picture, so that one Attention serves both.
#if defined(ATTUNE_MOH_KEYS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_MOH_KEYS_INL_H_
#undef ATTUNE_MOH_KEYS_INL_H_
#else
#define ATTUNE_MOH_KEYS_INL_H_
#endif
#include "_kit/dot-inl.h"
#include "moh/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moh {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// Keys of a group of kTileRows query rows within a tile of keys, counted from its first: those that any row sees, and
// those that all rows see. Only the latter may go through a product of several rows, because 0 * NaN is not 0; the rest
// is added row by row.
struct GroupKeys {
  size_t any_begin, any_end, all_begin, all_end;
};

// Some query rows against the current tile. Scores and, later, weights are s[row][key of the tile]; groups cover the
// rows in order.
struct Block {
  size_t rows, ld_q, ld_s, ld_o;
  const float* q;
  float *s, *o;
  const GroupKeys* groups;

  int GroupRows(size_t r) const { return rows - r < size_t(kTileRows) ? int(rows - r) : kTileRows; }
};

// Keys as panels of kPanel keys, values as panels of kPanel columns, made once per call: for many query rows.
class PackedKeys {
 public:
  // `rows`: of a panel of values.
  PackedKeys(const float* keys, const float* values, size_t rows, size_t depth, size_t width)
      : keys_(keys), values_(values), rows_(rows), depth_(depth), width_(width) {}

  // Makes keys [from, end) the current tile; they are counted from `begin`, a multiple of kPanel.
  void Load(int64_t begin, int64_t, int64_t) { begin_ = size_t(begin); }

  // Scores of each group's `any` keys; what lies between them and the borders of panels is overwritten too.
  void Scores(const Block& b, size_t tile_keys) const {
    for (size_t j = 0; j < tile_keys; j += kPanel) {
      for (size_t r = 0; r < b.rows; r += kTileRows) {
        const GroupKeys& g = b.groups[r / kTileRows];
        if (g.any_begin >= j + kPanel || g.any_end <= j) continue;
        kit::TileRows<2, false>(b.GroupRows(r), depth_, b.q + r * b.ld_q, b.ld_q, keys_ + (begin_ + j) * depth_, kPanel,
                                b.s + r * b.ld_s + j, b.ld_s);
      }
    }
  }

  // o += weights * values over each group's `all` keys.
  void Add(const Block& b) const {
    for (size_t e = 0; e < width_; e += kPanel) {
      for (size_t r = 0; r < b.rows; r += kTileRows) {
        const GroupKeys& g = b.groups[r / kTileRows];
        AddPanel<kTileRows>(b.GroupRows(r), b.s + r * b.ld_s, b.ld_s, g.all_begin, g.all_end, e, b.o + r * b.ld_o,
                            b.ld_o);
      }
    }
  }

  // o[0, width) += weights p[begin, end) * values, for one row.
  void AddRow(const float* p, size_t begin, size_t end, float* o) const {
    for (size_t e = 0; e < width_; e += kPanel) AddPanel<1>(1, p, 0, begin, end, e, o, 0);
  }

 private:
  template <int kRows>
  void AddPanel(int rows, const float* p, size_t ld_p, size_t begin, size_t end, size_t e, float* o,
                size_t ld_o) const {
    if (begin >= end) return;
    const float* v = values_ + e * rows_ + (begin_ + begin) * kPanel;
    if (width_ - e > kLanes) {
      kit::TileRows<2, true, kRows>(rows, end - begin, p + begin, ld_p, v, kPanel, o + e, ld_o);
    } else {
      kit::TileRows<1, true, kRows>(rows, end - begin, p + begin, ld_p, v, kPanel, o + e, ld_o);
    }
  }

  const float *keys_, *values_;
  size_t rows_, depth_, width_, begin_ = 0;
};

// Keys and values read where they are, in their own storage: for few query rows, as in decoding.
class KeysInPlace {
 public:
  // tail: room for kLanes floats per key of a tile.
  KeysInPlace(const Problem& c, int64_t b, int64_t head, float* tail) : c_(c), b_(b), head_(head), tail_(tail) {}

  void Load(int64_t begin, int64_t from, int64_t end) {
    begin_ = begin;
    // The columns beyond the last whole vector are copied: reading them in place would go beyond the row.
    const size_t whole = size_t(c_.Dv) / kLanes * kLanes, rest = size_t(c_.Dv) - whole;
    for (int64_t j = from; j < end && rest > 0; j++) {
      const RowRef row = c_.Value(b_, head_, j);
      LoadRow(*row.view, row.offset + int64_t(whole), rest, 1, tail_ + size_t(j - begin) * kLanes);
    }
  }

  void Scores(const Block& b, size_t) const {
    for (size_t r = 0; r < b.rows; r += kTileRows) {
      const GroupKeys& g = b.groups[r / kTileRows];
      ForEachRun(false, g.any_begin, g.any_end, [&](const auto* k, size_t ld, size_t j, size_t n) {
        kit::Dots(b.GroupRows(r), n, size_t(c_.D), b.q + r * b.ld_q, b.ld_q, k, ld, b.s + r * b.ld_s + j, b.ld_s);
      });
    }
  }

  void Add(const Block& b) const {
    for (size_t r = 0; r < b.rows; r += kTileRows) {
      const GroupKeys& g = b.groups[r / kTileRows];
      AddRows<kTileRows>(b.GroupRows(r), b.s + r * b.ld_s, b.ld_s, g.all_begin, g.all_end, b.o + r * b.ld_o, b.ld_o);
    }
  }

  void AddRow(const float* p, size_t begin, size_t end, float* o) const { AddRows<1>(1, p, 0, begin, end, o, 0); }

 private:
  // f(first row, distance of rows, its key in the tile, number) for the part of [begin, end) in the cache and for the
  // part among the new tokens.
  template <class F>
  void ForEachRun(bool values, size_t begin, size_t end, F f) const {
    while (begin < end) {
      const int64_t j = begin_ + int64_t(begin);
      int64_t n = int64_t(end - begin);
      if (j < c_.Np && c_.Np - j < n) n = c_.Np - j;
      const RowRef row = values ? c_.Value(b_, head_, j) : c_.Key(b_, head_, j);
      WithRow(*row.view, row.offset, [&](const auto* p) { f(p, size_t(row.view->Stride(2)), begin, size_t(n)); });
      begin += size_t(n);
    }
  }

  template <int kRows>
  void AddRows(int rows, const float* p, size_t ld_p, size_t begin, size_t end, float* o, size_t ld_o) const {
    const size_t whole = size_t(c_.Dv) / kLanes * kLanes;
    ForEachRun(true, begin, end, [&](const auto* v, size_t ld_v, size_t j, size_t n) {
      kit::TileColumns<kRows>(rows, whole, n, p + j, ld_p, v, ld_v, o, ld_o);
    });
    if (whole == size_t(c_.Dv) || begin >= end) return;
    kit::TileRows<1, true, kRows>(rows, end - begin, p + begin, ld_p, tail_ + begin * kLanes, kLanes, o + whole, ld_o);
  }

  const Problem& c_;
  int64_t b_, head_, begin_ = 0;
  float* tail_;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace moh
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
