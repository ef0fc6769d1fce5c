// The query rows of a call cut into tiles: which sequence and which of its rows a tile is.
#ifndef ATTUNE_SOFTMAX_ROW_TILES_H_
#define ATTUNE_SOFTMAX_ROW_TILES_H_
#include "softmax/problem.h"

namespace softmax {

// Tiles of `size` rows of one kv head of a sequence.
inline int64_t TilesOf(const Problem& c, const Sequence& s, int64_t size) {
  return (s.nq * c.Group() + size - 1) / size;
}

struct RowTile {
  Sequence s;
  int64_t first;  // row of the sequence
  size_t rows;
};

// What a task works on: a tile of query rows of one kv head.
struct HeadTile {
  int64_t head;
  RowTile t;
};

// Tile `tile` of sequence s; false when the sequence has fewer.
inline bool TileOf(const Problem& c, const Sequence& s, int64_t size, int64_t tile, RowTile* out) {
  const int64_t first = tile * size, rows = s.nq * c.Group() - first;
  if (rows <= 0) return false;
  *out = {s, first, size_t(rows < size ? rows : size)};
  return true;
}

// Packed layouts: tile `tile` of all sequences in order; false behind the last.
inline bool PackedTile(const Problem& c, int64_t size, int64_t tile, RowTile* out) {
  for (int64_t b = 0; b < c.B; b++) {
    const Sequence s = c.At(b);
    const int64_t count = TilesOf(c, s, size);
    if (tile < count) return TileOf(c, s, size, tile, out);
    tile -= count;
  }
  return false;
}

}  // namespace softmax
#endif  // ATTUNE_SOFTMAX_ROW_TILES_H_
