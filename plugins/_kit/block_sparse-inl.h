// Attention of rows of queries over chosen pieces of the keys: which pieces is the caller's business (selected blocks,
// a window, all of them); this takes in one piece at a time with an online softmax. Scores are in units of log2.
//
// Keys are a class with
//   void Scores(int rows, const float* q, size_t ld_q, int64_t first, size_t begin, size_t end, float* s, size_t ld_s)
//       s[r][j] = <q_r, key first + j> for begin <= j < end; may write the rest of kPanel-aligned groups of s too
//   template <int kRows> void Add(int rows, const float* p, size_t ld_p, int64_t first, size_t begin, size_t end,
//                                 float* o, size_t ld_o)
//       o_r += sum of p[r][j] * value first + j over begin <= j < end, for rows <= kRows <= kTileRows
// where `first` is a multiple of kPanel. Only what lies in [begin, end) is read.
#if defined(ATTUNE_KIT_BLOCK_SPARSE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_KIT_BLOCK_SPARSE_INL_H_
#undef ATTUNE_KIT_BLOCK_SPARSE_INL_H_
#else
#define ATTUNE_KIT_BLOCK_SPARSE_INL_H_
#endif
#include <hwy/cache_control.h>
#include <hwy/highway.h>
#include <string.h>

#include <type_traits>

#include "_kit/dot-inl.h"
#include "_kit/lane_dot-inl.h"
#include "_kit/online_softmax-inl.h"
#include "_kit/pack-inl.h"
#include "_kit/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attune_kit {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;

constexpr size_t kPieceKeys = 64;             // keys of a piece; a multiple of every kPanel
constexpr size_t kPieceStride = kPieceKeys + 16;  // floats between rows of scores: no power of two
constexpr size_t kPieceRows = 4 * kTileRows;  // rows whose scores are kept at a time
constexpr size_t kPieceFloats = 32 * kPieceStride;

// Keys of a piece that a row sees, counted from the first of the piece; empty when end <= begin.
struct KeyRange {
  int32_t begin, end;
};

// Keys transposed into panels of kPanel keys, values as rows of f32: for many rows, which repay the copy.
class PackedKeys {
 public:
  // panels: panel p holds keys p * kPanel ..., its row d their component d. values: rows of ld_v floats, a multiple of
  // kLanes, with room behind the last column.
  PackedKeys(const float* panels, const float* values, size_t depth, size_t width, size_t ld_v)
      : panels_(panels), values_(values), depth_(depth), width_(width), ld_v_(ld_v) {}

  HWY_INLINE void Scores(int rows, const float* q, size_t ld_q, int64_t first, size_t begin, size_t end, float* s,
                         size_t ld_s) const {
    for (size_t j = begin / kPanel * kPanel; j < end; j += kPanel) {
      const float* panel = panels_ + (size_t(first) + j) * depth_;
      for (int r = 0; r < rows; r += kTileRows) {
        TileRows<2, false>(rows - r, depth_, q + r * ld_q, ld_q, panel, kPanel, s + r * ld_s + j, ld_s);
      }
    }
  }
  template <int kRows>
  HWY_INLINE void Add(int rows, const float* p, size_t ld_p, int64_t first, size_t begin, size_t end, float* o,
                      size_t ld_o) const {
    const float* v = values_ + (size_t(first) + begin) * ld_v_;
    for (size_t e = 0; e < width_; e += kPanel) {
      if (width_ - e > kLanes) {
        TileRows<2, true, kRows>(rows, end - begin, p + begin, ld_p, v + e, ld_v_, o + e, ld_o);
      } else {
        TileRows<1, true, kRows>(rows, end - begin, p + begin, ld_p, v + e, ld_v_, o + e, ld_o);
      }
    }
  }

 private:
  const float *panels_, *values_;
  size_t depth_, width_, ld_v_;
};

// Rows that lie equally far apart in their own storage.
struct StoredRows {
  const void* data;
  int dtype;
  int64_t stride;  // elements
  template <class F>
  HWY_INLINE void With(int64_t row, F f) const {
    const int64_t size = dtype == ATTUNE_F32 ? 4 : 2;
    WithFloatType(dtype, static_cast<const char*>(data) + row * stride * size, f);
  }
};

// Keys and values read where they are: for few rows, as in decoding. Those from `split` on lie elsewhere, as f32. Of one
// thread at a time, because it remembers what to look ahead for.
class KeysInPlace {
 public:
  KeysInPlace(StoredRows k, StoredRows v, size_t depth, size_t width, int64_t split = INT64_MAX, StoredRows k2 = {},
              StoredRows v2 = {})
      : k_(k), v_(v), k2_(k2), v2_(v2), depth_(depth), width_(width), split_(split) {}

  HWY_INLINE void Scores(int rows, const float* q, size_t ld_q, int64_t first, size_t begin, size_t end, float* s,
                         size_t ld_s) const {
    ForEachPart(first, begin, end, k_, k2_, [&](const StoredRows& k, int64_t row, size_t j, size_t n) {
      k.With(row, [&](const auto* p) { Dots(rows, n, depth_, q, ld_q, p, size_t(k.stride), s + j, ld_s); });
    });
  }
  // The same for rows that are a panel, see LaneDots: for more than a few. `buffer`: kPieceKeys rows of ld_buffer floats.
  HWY_INLINE void PanelScores(int rows, const float* panel, int64_t first, size_t begin, size_t end, float* s,
                              size_t ld_s, float* buffer, size_t ld_buffer) const {
    ForEachPart(first, begin, end, k_, k2_, [&](const StoredRows& k, int64_t row, size_t j, size_t n) {
      k.With(row, [&](const auto* p) {
        using T = std::remove_cv_t<std::remove_pointer_t<decltype(p)>>;
        if constexpr (sizeof(T) == sizeof(float)) {
          LaneDots(rows, n, depth_, panel, p, size_t(k.stride), s + j, ld_s, &ahead_);
        } else {
          for (size_t i = 0; i < n; i++) Widen(p + int64_t(i) * k.stride, depth_, 1.0f, buffer + i * ld_buffer);
          LaneDots(rows, n, depth_, panel, buffer, ld_buffer, s + j, ld_s, &ahead_);
        }
      });
    });
  }
  // Products from now on ask for rows [first + begin, first + end) of the keys or values ahead of their use.
  HWY_INLINE void LookAhead(bool values, int64_t first, size_t begin, size_t end) const {
    const int64_t j = first + int64_t(begin);
    const StoredRows& x = j < split_ ? (values ? v_ : k_) : (values ? v2_ : k2_);
    const int64_t row = j < split_ ? j : j - split_, size = x.dtype == ATTUNE_F32 ? 4 : 2;
    ahead_ = RowsAhead(static_cast<const char*>(x.data) + row * x.stride * size, x.stride * size,
                       (values ? width_ : depth_) * size_t(size), end - begin);
  }
  template <int kRows>
  HWY_INLINE void Add(int rows, const float* p, size_t ld_p, int64_t first, size_t begin, size_t end, float* o,
                      size_t ld_o) const {
    const size_t whole = width_ / kLanes * kLanes;
    ForEachPart(first, begin, end, v_, v2_, [&](const StoredRows& values, int64_t row, size_t j, size_t n) {
      values.With(row, [&](const auto* v) {
        const size_t ld_v = size_t(values.stride);
        size_t e = 0;
        for (; e + kPanel <= whole; e += kPanel) {
          TileRows<2, true, kRows>(rows, n, p + j, ld_p, v + e, ld_v, o + e, ld_o, &ahead_);
        }
        if (e < whole) TileRows<1, true, kRows>(rows, n, p + j, ld_p, v + e, ld_v, o + e, ld_o, &ahead_);
        if (whole == width_) return;
        // The columns beyond the last whole vector are copied: reading them in place would go beyond the row.
        HWY_ALIGN float tail[kPieceKeys * kLanes];
        for (size_t i = 0; i < n; i++) Widen(v + i * ld_v + whole, width_ - whole, 1.0f, tail + i * kLanes);
        TileRows<1, true, kRows>(rows, n, p + j, ld_p, tail, kLanes, o + whole, ld_o);
      });
    });
  }

 private:
  // f(rows, row, its key in the piece, number) for the parts of [begin, end) before and behind the split; at most
  // kPieceKeys keys at a time.
  template <class F>
  HWY_INLINE void ForEachPart(int64_t first, size_t begin, size_t end, const StoredRows& a, const StoredRows& b,
                              F f) const {
    while (begin < end) {
      const int64_t j = first + int64_t(begin);
      size_t n = end - begin < kPieceKeys ? end - begin : kPieceKeys;
      if (j < split_ && split_ - j < int64_t(n)) n = size_t(split_ - j);
      j < split_ ? f(a, j, begin, n) : f(b, j - split_, begin, n);
      begin += n;
    }
  }

  StoredRows k_, v_, k2_, v2_;
  size_t depth_, width_;
  int64_t split_;
  mutable RowsAhead ahead_;
};

// Query rows and what they have accumulated. Row lengths are multiples of 32, q is scaled to units of log2.
struct SoftmaxRows {
  size_t ld_q, ld_o;
  const float* q;
  float *o, *m, *sum;  // sum: kLanes partial sums per row
  float* s;            // kPieceFloats of scratch
};

HWY_INLINE void ClearRows(const SoftmaxRows& x, size_t rows) {
  for (size_t r = 0; r < rows; r++) x.m[r] = -INFINITY;
  memset(x.sum, 0, sizeof(float) * rows * kLanes);
  memset(x.o, 0, sizeof(float) * rows * x.ld_o);
}

// o_r += sum of p[r][j] * value j over each row's own range. Rows that see different keys share the product over their
// common ones; the rest is added row by row, because 0 * NaN is not 0. A row's sum is formed in an order that depends
// on its own range and on those of its group of kTileRows.
template <class Keys>
HWY_INLINE void AddRanges(const Keys& keys, int64_t first, size_t rows, const KeyRange* range, const float* p,
                          size_t ld_p, float* o, size_t ld_o) {
  for (size_t r = 0; r < rows; r += kTileRows) {
    const int n = rows - r < size_t(kTileRows) ? int(rows - r) : kTileRows;
    KeyRange all = range[r];
    for (int i = 1; i < n; i++) {
      const KeyRange own = range[r + i];
      if (own.begin > all.begin) all.begin = own.begin;
      if (own.end < all.end) all.end = own.end;
    }
    const bool shared = all.end > all.begin;
    if (shared) {
      keys.template Add<kTileRows>(n, p + r * ld_p, ld_p, first, size_t(all.begin), size_t(all.end), o + r * ld_o,
                                   ld_o);
    }
    for (int i = 0; i < n; i++) {
      const KeyRange own = range[r + i];
      const auto add = [&](int32_t begin, int32_t end) {
        if (begin >= end) return;
        keys.template Add<1>(1, p + (r + i) * ld_p, ld_p, first, size_t(begin), size_t(end), o + (r + i) * ld_o, ld_o);
      };
      if (shared) {
        add(own.begin, all.begin), add(all.end, own.end);
      } else {
        add(own.begin, own.end);
      }
    }
  }
}

// Takes keys first + range[r] into rows x[0, rows).
template <class Keys>
HWY_NOINLINE void AttendPiece(const Keys& keys, int64_t first, const SoftmaxRows& x, size_t rows,
                              const KeyRange* range) {
  for (size_t r = 0; r < rows; r += kPieceRows) {
    const size_t n = rows - r < kPieceRows ? rows - r : kPieceRows;
    KeyRange any = {int32_t(kPieceKeys), 0};
    for (size_t i = r; i < r + n; i++) {
      if (range[i].end <= range[i].begin) continue;
      if (range[i].begin < any.begin) any.begin = range[i].begin;
      if (range[i].end > any.end) any.end = range[i].end;
    }
    if (any.end <= any.begin) continue;
    keys.Scores(int(n), x.q + r * x.ld_q, x.ld_q, first, size_t(any.begin), size_t(any.end), x.s, kPieceStride);
    for (size_t i = 0; i < n; i++) {
      const KeyRange own = range[r + i];
      if (own.end <= own.begin) continue;
      const float factor = OnlineSoftmax<true>(x.s + i * kPieceStride, size_t(own.begin), size_t(own.end), x.m + r + i,
                                               x.sum + (r + i) * kLanes);
      if (factor != 1) ScaleRow(x.o + (r + i) * x.ld_o, x.ld_o, factor);
    }
    AddRanges(keys, first, n, range + r, x.s, kPieceStride, x.o + r * x.ld_o, x.ld_o);
  }
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace attune_kit
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
