// Blocks of keys cut into pieces that fit panels: what register tiles work on.
#if defined(ATTUNE_SLA_PIECES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_SLA_PIECES_INL_H_
#undef ATTUNE_SLA_PIECES_INL_H_
#else
#define ATTUNE_SLA_PIECES_INL_H_
#endif
#include "sla/prepare-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sla {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

constexpr size_t kPieceKeys = 64;  // most keys of a piece; a multiple of every kPanel

// Keys first + [begin, end), where `first` is a multiple of kPanel. Their scores take Columns() columns, of which those
// outside [begin, end) mean nothing.
struct Piece {
  int64_t first;
  size_t begin, end;
  size_t Columns() const { return (end + kPanel - 1) / kPanel * kPanel; }
  size_t Count() const { return end - begin; }
};

// Calls f(piece) for the pieces of a block, in order.
template <class F>
HWY_INLINE void ForEachPiece(const Range& block, F f) {
  constexpr int64_t kKeys = int64_t(kPieceKeys);
  for (int64_t j = block.begin / int64_t(kPanel) * int64_t(kPanel); j < block.end; j += kKeys) {
    const int64_t begin = block.begin > j ? block.begin - j : 0, end = block.end - j < kKeys ? block.end - j : kKeys;
    f(Piece{j, size_t(begin), size_t(end)});
  }
}
// Most pieces of a block.
inline int64_t PiecesPerBlock(const Problem& c) {
  const int64_t block = c.block_k < c.Nk ? c.block_k : c.Nk;
  return (block + int64_t(kPanel) - 2) / int64_t(kPieceKeys) + 1;
}

// s[r][j] = <a_r, key first + j> for the keys of a piece, n rows. panels: see HeadMemory. ahead: called between tiles.
template <class F>
HWY_INLINE void PieceScores(const Piece& p, size_t n, size_t depth, const float* a, size_t ld_a, const float* panels,
                            float* s, size_t ld_s, F ahead) {
  for (size_t j = p.begin / kPanel * kPanel; j < p.end; j += kPanel) {
    const float* panel = panels + (size_t(p.first) + j) * depth;
    for (size_t r = 0; r < n; r += kit::kTileRows) {
      ahead();
      kit::TileRows<2, false>(int(n - r), depth, a + r * ld_a, ld_a, panel, kPanel, s + r * ld_s + j, ld_s);
    }
  }
}

// o_r += sum of p[r][j] * row first + j of `rows` over the keys of a piece.
template <class F>
HWY_INLINE void AddPieceRows(const Piece& piece, size_t n, const float* p, size_t ld_p, const float* rows, size_t ld,
                             size_t width, float* o, size_t ld_o, F ahead) {
  const float* first = rows + (size_t(piece.first) + piece.begin) * ld;
  for (size_t r = 0; r < n; r += kit::kTileRows) {
    const float* weights = p + r * ld_p + piece.begin;
    float* to = o + r * ld_o;
    for (size_t e = 0; e < width; e += kPanel) {
      ahead();
      if (width - e > kLanes) {
        kit::TileRows<2, true>(int(n - r), piece.Count(), weights, ld_p, first + e, ld, to + e, ld_o);
      } else {
        kit::TileRows<1, true>(int(n - r), piece.Count(), weights, ld_p, first + e, ld, to + e, ld_o);
      }
    }
  }
}
struct NothingAhead {
  void operator()() const {}
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace sla
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
