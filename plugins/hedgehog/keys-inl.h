// Tiles of keys as f32: features, raw keys and values of one state head, kept as long as the next chunks need them.
#if defined(ATTUNE_HEDGEHOG_KEYS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_HEDGEHOG_KEYS_INL_H_
#undef ATTUNE_HEDGEHOG_KEYS_INL_H_
#else
#define ATTUNE_HEDGEHOG_KEYS_INL_H_
#endif
#include "hedgehog/map-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hedgehog {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

enum KeyPart { kFeatures = 1, kRawKeys = 2, kValues = 4 };

struct KeyTile {
  int64_t tile = -1;
  int loaded = 0;     // KeyPart, without features
  size_t mapped = 0;  // keys that have features
  Matrix phi, k, v;
};

class KeyTiles {
 public:
  KeyTiles(const Problem& p, const Grid& grid, hedgehog::Floats& memory) : p_(p), grid_(grid) {
    const size_t n = size_t(grid.size);
    for (KeyTile& t : tiles_) t.phi = memory.Rows(n, p.E()), t.k = memory.Rows(n, p.D), t.v = memory.Rows(n, p.Dv);
    z_ = memory.Rows(n, p.F);
  }
  // Keys and values of kv head `head`, features by `map`. `ahead`: what to fetch meanwhile.
  void Begin(int64_t b, int64_t head, const Map* map, attune_kit::Ahead* ahead = nullptr) {
    const bool same = b == b_ && head == head_;
    b_ = b, head_ = head, map_ = map, ahead_ = ahead;
    for (KeyTile& t : tiles_) t.tile = same ? t.tile : -1, t.mapped = 0;
  }

  // Tile t with at least `parts`; features of its first `rows` keys. Padded keys are rows of 0. Valid until four other
  // tiles were asked for.
  const KeyTile& Get(int64_t t, int parts, size_t rows = SIZE_MAX) {
    KeyTile& tile = tiles_[t % kTiles];
    if (tile.tile != t) tile.tile = t, tile.loaded = 0, tile.mapped = 0;
    const size_t n = size_t(grid_.End(t) - grid_.Begin(t));
    if (parts & kFeatures) parts |= kRawKeys;
    const int missing = parts & ~tile.loaded;
    tile.loaded |= missing & ~kFeatures;
    if (missing & kRawKeys) LoadRows(p_.k, t, n, p_.D, tile.k);
    if (missing & kValues) LoadRows(p_.v, t, n, p_.Dv, tile.v);
    if (parts & kFeatures) MapRows(tile, rows < n ? rows : n);
    return tile;
  }

  // Has tile t fetched, if it exists.
  void FetchLater(int64_t t) const {
    if (!ahead_ || t >= grid_.Count() || grid_.Begin(t) < p_.k.split) return;
    const size_t n = size_t(grid_.End(t) - grid_.Begin(t));
    AddRows(p_.k.fresh, p_.k.Offset(b_, head_, grid_.Begin(t)), n, p_.D, *ahead_);
    AddRows(p_.v.fresh, p_.v.Offset(b_, head_, grid_.Begin(t)), n, p_.Dv, *ahead_);
  }

 private:
  static constexpr int kTiles = 4;

  void MapRows(KeyTile& tile, size_t n) {
    if (n <= tile.mapped) return;
    const size_t first = tile.mapped;
    map_->Logits(n - first, {tile.k.Row(first), tile.k.ld}, z_, ahead_);
    for (size_t r = first; r < n; r++) {
      if (p_.Real(b_, grid_.Begin(tile.tile) + int64_t(r))) {
        map_->Features(z_.Row(r - first), tile.phi.Row(r));
      } else {
        memset(tile.phi.Row(r), 0, sizeof(float) * tile.phi.ld);
      }
    }
    tile.mapped = n;
  }
  void LoadRows(const Rows& rows, int64_t t, size_t n, size_t width, Matrix to) const {
    for (size_t r = 0; r < n; r++) {
      const int64_t j = grid_.Begin(t) + int64_t(r);
      if (p_.Real(b_, j)) {
        LoadRow(rows.In(j), rows.Offset(b_, head_, j), width, 1, to.Row(r));
      } else {
        memset(to.Row(r), 0, sizeof(float) * to.ld);
      }
    }
  }

  const Problem& p_;
  const Grid& grid_;
  KeyTile tiles_[kTiles];
  Matrix z_;
  int64_t b_ = -1, head_ = -1;
  const Map* map_ = nullptr;
  attune_kit::Ahead* ahead_ = nullptr;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace hedgehog
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
