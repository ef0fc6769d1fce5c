// How a tile of keys meets a block of query rows: two ways to form scores and to add weighted values. Both give the
// softmax the same picture, so that one Attention serves both.
#if defined(ATTUNE_SOFTMAX_TILE_KEYS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_SOFTMAX_TILE_KEYS_INL_H_
#undef ATTUNE_SOFTMAX_TILE_KEYS_INL_H_
#else
#define ATTUNE_SOFTMAX_TILE_KEYS_INL_H_
#endif
#include "_kit/dot-inl.h"
#include "_kit/pack-inl.h"
#include "_kit/tile-inl.h"
#include "softmax/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace softmax {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace kit = attune_kit::HWY_NAMESPACE;
using kit::kLanes;
using kit::kPanel;
using kit::kTileRows;

// Keys of a group of kTileRows query rows within a key tile, counted from its first key: those that any row sees, and
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

// Memory of one worker for a tile of keys.
struct TileMemory {
  size_t keys, ld_q, ld_o;  // most keys of a tile; row lengths in floats
  float *k, *v;             // keys * ld_q, keys * ld_o
  float *rows, *zero;       // kPanel rows of max(ld_q, ld_o), and one row of zeros
};

// Keys transposed and values copied into panels: for many query rows, which repay the copy.
class PackedKeys {
 public:
  PackedKeys(const Problem& c, const Sequence& s, int64_t head, const TileMemory& m)
      : c_(c), s_(s), head_(head), m_(m) {}

  // Makes keys [begin, end) of the sequence the current tile.
  void Load(int64_t begin, int64_t end) {
    PackKeys(c_, s_, head_, begin, end, m_.ld_q, m_.rows, m_.zero, m_.k);
    PackValues(c_, s_, head_, begin, end, m_.keys, m_.rows, m_.v);
  }

  // Scores of each group's `any` keys; what lies between them and the borders of panels is overwritten too.
  void Scores(const Block& b) const {
    for (size_t panel = 0; panel < m_.keys; panel += kPanel) {
      for (size_t r = 0; r < b.rows; r += kTileRows) {
        const GroupKeys& g = b.groups[r / kTileRows];
        if (g.any_begin >= panel + kPanel || g.any_end <= panel) continue;
        kit::TileRows<2, false>(b.GroupRows(r), c_.D, b.q + r * b.ld_q, b.ld_q, m_.k + panel * c_.D, kPanel,
                                b.s + r * b.ld_s + panel, b.ld_s);
      }
    }
  }

  // o += weights * values over each group's `all` keys.
  void Add(const Block& b) const {
    for (size_t e = 0; e < size_t(c_.Dv); e += kPanel) {
      for (size_t r = 0; r < b.rows; r += kTileRows) {
        const GroupKeys& g = b.groups[r / kTileRows];
        AddPanel<kTileRows>(b.GroupRows(r), b.s + r * b.ld_s, b.ld_s, g.all_begin, g.all_end, e, b.o + r * b.ld_o,
                            b.ld_o);
      }
    }
  }

  // o[0, Dv) += weights p[begin, end) * values, for one row.
  void AddRow(const float* p, size_t begin, size_t end, float* o) const {
    for (size_t e = 0; e < size_t(c_.Dv); e += kPanel) AddPanel<1>(1, p, 0, begin, end, e, o, 0);
  }

 private:
  template <int kRows>
  void AddPanel(int rows, const float* p, size_t ld_p, size_t begin, size_t end, size_t e, float* o,
                size_t ld_o) const {
    if (begin >= end) return;
    const float* v = m_.v + e * m_.keys + begin * kPanel;
    if (c_.Dv - e > kLanes) {
      kit::TileRows<2, true, kRows>(rows, end - begin, p + begin, ld_p, v, kPanel, o + e, ld_o);
    } else {
      kit::TileRows<1, true, kRows>(rows, end - begin, p + begin, ld_p, v, kPanel, o + e, ld_o);
    }
  }

  const Problem& c_;
  const Sequence& s_;
  int64_t head_;
  const TileMemory& m_;
};

// Keys and values read where they are, in their own storage: for few query rows, as in decoding. Not for codes.
class KeysInPlace {
 public:
  KeysInPlace(const Problem& c, const Sequence& s, int64_t head, const TileMemory& m)
      : c_(c), s_(s), head_(head), m_(m) {}

  void Load(int64_t begin, int64_t end) {
    begin_ = begin;
    // The columns beyond the last whole vector are copied: reading them in place would go beyond the row.
    const size_t whole = c_.Dv / kLanes * kLanes, rest = c_.Dv - whole;
    if (rest == 0) return;
    for (int64_t j = begin; j < end; j++) {
      WithRow(c_, s_, head_, j, c_.v, c_.v_scale, c_.v_zero, c_.Dv, m_.rows,
              [&](const auto* p) { kit::Widen(p + whole, rest, 1.0f, m_.v + (j - begin) * kLanes); });
    }
  }

  void Scores(const Block& b) const {
    for (size_t r = 0; r < b.rows; r += kTileRows) {
      const GroupKeys& g = b.groups[r / kTileRows];
      ForEachRun(c_.k, g.any_begin, g.any_end, [&](const auto* k, size_t ld, size_t j, size_t n) {
        for (size_t i = 0; i < n; i += 4, k += 4 * ld) {
          const size_t keys = n - i < 4 ? n - i : 4;
          if (r == 0) Fetch(k + kAhead * ld, ld, keys, c_.D);
          kit::Dots(b.GroupRows(r), keys, c_.D, b.q + r * b.ld_q, b.ld_q, k, ld, b.s + r * b.ld_s + j + i, b.ld_s);
        }
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
  static constexpr size_t kAhead = 16;  // keys

  // Asks for rows in the order in which they lie in memory: what the products do, several rows at a time, looks to the
  // hardware like no stream that it could follow.
  template <class T>
  static HWY_INLINE void Fetch(const T* rows, size_t ld, size_t n, size_t width) {
    for (size_t j = 0; j < n; j++) {
      for (size_t e = 0; e < width; e += 64 / sizeof(T)) __builtin_prefetch(rows + j * ld + e, 0, 2);
    }
  }

  // Calls f(first row, distance of rows, its key in the tile, number) for stretches of [begin, end) whose rows are
  // equally far apart.
  template <class F>
  void ForEachRun(const KeyRows& rows, size_t begin, size_t end, F f) const {
    while (begin < end) {
      const int64_t j = begin_ + int64_t(begin);
      int64_t n = int64_t(end - begin);
      if (j < rows.split && rows.split - j < n) n = rows.split - j;
      if (c_.layout == kPaged && c_.page_size - j % c_.page_size < n) n = c_.page_size - j % c_.page_size;
      const int64_t ld = (j < rows.split ? rows.cached : rows.fresh).row;
      WithRow(c_, s_, head_, j, rows, rows, rows, 0, nullptr,
              [&](const auto* p) { f(p, size_t(ld), begin, size_t(n)); });
      begin += size_t(n);
    }
  }

  template <int kRows>
  void AddRows(int rows, const float* p, size_t ld_p, size_t begin, size_t end, float* o, size_t ld_o) const {
    const size_t whole = c_.Dv / kLanes * kLanes;
    ForEachRun(c_.v, begin, end, [&](const auto* v, size_t ld_v, size_t j, size_t n) {
      for (size_t i = 0; i < n; i += kAhead, v += kAhead * ld_v) {
        const size_t keys = n - i < kAhead ? n - i : kAhead;
        Fetch(v + kAhead * ld_v, ld_v, keys, whole);
        kit::TileColumns<kRows>(rows, whole, keys, p + j + i, ld_p, v, ld_v, o, ld_o);
      }
    });
    if (whole == size_t(c_.Dv) || begin >= end) return;
    kit::TileRows<1, true, kRows>(rows, end - begin, p + begin, ld_p, m_.v + begin * kLanes, kLanes, o + whole, ld_o);
  }

  const Problem& c_;
  const Sequence& s_;
  int64_t head_, begin_ = 0;
  const TileMemory& m_;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace softmax
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
