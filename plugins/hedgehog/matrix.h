// Small types that every kernel shares: matrices in a workspace, ranges of columns, the grid of key tiles.
#ifndef ATTUNE_HEDGEHOG_MATRIX_H_
#define ATTUNE_HEDGEHOG_MATRIX_H_
#include <string.h>

#include <type_traits>

#include "_kit/chunk_memory.h"
#include "_kit/parallel.h"
#include "hedgehog/problem.h"

namespace hedgehog {

constexpr int64_t kMaxChunk = 128;  // most rows of a tile

// Rows of f32, `ld` floats apart.
struct Matrix {
  float* p;
  size_t ld;
  float* Row(size_t i) const { return p + i * ld; }
  void Clear(size_t rows) const { memset(p, 0, sizeof(float) * rows * ld); }
};

// Columns [begin, end) of a row; empty when end <= begin.
struct Range {
  int begin, end;
};

// Hands out slices of a workspace of floats, 64-byte aligned if the workspace is.
class Floats {
 public:
  explicit Floats(float* at) : at_(at) {}
  float* Take(size_t n) {
    float* p = at_;
    at_ += (n + 15) / 16 * 16;
    return p;
  }
  Matrix Rows(size_t rows, size_t columns) {
    const size_t ld = attune_kit::ChunkStride(columns);
    return {Take(rows * ld), ld};
  }
  Range* Ranges(size_t n) { return reinterpret_cast<Range*>(Take(2 * n)); }

 private:
  float* at_;
};

inline int64_t Bytes(const View& v) {
  return v.DType() == ATTUNE_F32 ? 4 : 2;
}

// n rows of a tensor of rank 4, from an offset on.
inline void AddRows(const View& v, int64_t offset, size_t n, int64_t width, attune_kit::Ahead& ahead) {
  const int64_t size = Bytes(v);
  ahead.Add(static_cast<const char*>(v.Data()) + offset * size, v.Stride(2) * size, n, size_t(width * size));
}

// Keys in tiles of `size`. Terraced blocks end with the sequence, and so do the tiles then, so that a block border is a
// tile border wherever the sizes allow it.
struct Grid {
  int64_t size, shift, keys;

  Grid(const Problem& p, int64_t tile)
      : size(tile), shift(p.window_mode == kTerraced && p.Nk > p.window ? p.Lead() % tile : 0), keys(p.Nk) {}
  int64_t Count() const { return (keys + shift + size - 1) / size; }
  int64_t Begin(int64_t t) const { return t == 0 ? 0 : t * size - shift; }
  int64_t End(int64_t t) const { return (t + 1) * size - shift < keys ? (t + 1) * size - shift : keys; }
  int64_t Of(int64_t j) const { return (j + shift) / size; }

  // Queries in chunks that end where the key tile at their position does. Chunks are counted like tiles, so the first
  // one need not be 0.
  int64_t ChunkOf(const Problem& p, int64_t i) const { return Of(i + Offset(p)); }
  int64_t ChunkBegin(const Problem& p, int64_t c) const {
    const int64_t begin = c * size - shift - Offset(p);
    return begin > 0 ? begin : 0;
  }
  int64_t ChunkEnd(const Problem& p, int64_t c) const {
    const int64_t end = (c + 1) * size - shift - Offset(p);
    return end < p.Nq ? end : p.Nq;
  }

 private:
  static int64_t Offset(const Problem& p) { return p.causal ? p.Nk - p.Nq : 0; }
};

// Keys of tile t that a query meets through the features, and those in its window, counted from the tile's first.
inline int Within(int64_t j, int64_t begin, int64_t end) {
  return int((j < begin ? begin : j < end ? j : end) - begin);
}
inline Range LinearKeys(const Problem& p, const Grid& g, int64_t t, int64_t i) {
  return {0, Within(p.LinearEnd(i), g.Begin(t), g.End(t))};
}
inline Range WindowKeys(const Problem& p, const Grid& g, int64_t t, int64_t i) {
  return {Within(p.LinearEnd(i), g.Begin(t), g.End(t)), Within(p.VisibleEnd(i), g.Begin(t), g.End(t))};
}

// Which queries of a batch entry meet at most one key. Its weight is 1 or nearly so whatever the scores: gradients of
// those would be differences of equal numbers, nothing but rounding errors.
class SingleKeys {
 public:
  explicit SingleKeys(const Problem& p) : p_(p) {}
  void Begin(int64_t b) {
    int64_t real = 0;
    for (second_ = 0; second_ < p_.Nk; second_++) {
      if (p_.Real(b, second_) && ++real == 2) break;
    }
  }
  bool Row(int64_t i) const { return !p_.kv_state && p_.VisibleEnd(i) <= second_; }
  bool AllRows() const { return !p_.kv_state && second_ == p_.Nk; }

 private:
  const Problem& p_;
  int64_t second_ = 0;  // the second real key
};

using attune_kit::Cancelled;

}  // namespace hedgehog
#endif  // ATTUNE_HEDGEHOG_MATRIX_H_
