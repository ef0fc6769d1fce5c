// A chunk of tokens in one worker's memory: its keys, its queries, and what rows of outputs are made of.
#if defined(ATTUNE_MALA_CHUNK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_MALA_CHUNK_INL_H_
#undef ATTUNE_MALA_CHUNK_INL_H_
#else
#define ATTUNE_MALA_CHUNK_INL_H_
#endif
#include "mala/layout.h"
#include "mala/products-inl.h"
#include "mala/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mala {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// Hands out the memory of one worker in whole cache lines.
class Arena {
 public:
  explicit Arena(float* at) : at_(at) {}
  float* Take(size_t floats) {
    float* p = at_;
    at_ += (floats + 15) / 16 * 16;
    return p;
  }

 private:
  float* at_;
};

// Which tokens a chunk holds. Padded keys are left out, so the tokens need not follow each other.
struct Tokens {
  size_t n = 0;
  int64_t at[kMaxChunk];
};

class Chunk {
 public:
  Chunk(const Problem& c, const Layout& w, Arena& arena) : c_(c), w_(w) {
    a = arena.Take(w.rows * w.ld_d), b = arena.Take(w.rows * w.ld_d), v = arena.Take(w.rows * w.ld_v);
    ar = c.sin ? arena.Take(w.rows * w.ld_d) : a, br = c.sin ? arena.Take(w.rows * w.ld_d) : b;
    zero = arena.Take(w.ld_d + w.ld_v), sin_ = arena.Take(w.ld_d), cos_ = arena.Take(w.ld_d);
    memset(zero, 0, sizeof(float) * (w.ld_d + w.ld_v));
  }

  float *a, *ar;  // queries: mapped, and rotated as well
  float *b, *br;  // keys, alike
  float* v;       // values
  float* zero;    // a row of zeros, long enough for any
  // Rows beyond the last token are 0 up to a whole tile.

  // The next tokens from `first` on, at most a chunk, below `end`; `first` moves behind them.
  void Gather(int64_t batch, int64_t* first, int64_t end, Tokens* t) const {
    t->n = 0;
    for (; *first < end && t->n < size_t(w_.chunk); ++*first) {
      if (c_.Visible(batch, *first)) t->at[t->n++] = *first;
    }
  }

  void LoadKeys(int64_t batch, int64_t head, const Tokens& t) {
    LoadMapped(c_.k, batch, head, t, b, br);
    LoadValues(c_.v, batch, head, t, v);
  }
  void LoadQueries(int64_t batch, int64_t head, const Tokens& t) { LoadMapped(c_.q, batch, head, t, a, ar); }
  // One query into row r.
  void LoadQuery(int64_t batch, int64_t head, int64_t token, size_t r) {
    LoadMappedRow(c_.q, batch, head, token, a + r * w_.ld_d, ar + r * w_.ld_d);
  }
  void LoadValues(const Rows& rows, int64_t batch, int64_t head, const Tokens& t, float* to) const {
    for (size_t r = 0; r < t.n; r++) {
      WithRow(rows, batch, head, t.at[r], [&](const auto* p) HWY_ATTR { kit::Widen(p, c_.Dv, 1.0f, to + r * w_.ld_v); });
      ClearTail(to + r * w_.ld_v, c_.Dv);
    }
    ClearRows(to, w_.ld_v, t.n);
  }

  // A rotated row back to what it was rotated from, in place.
  void RotateBack(float* row, int64_t token) const {
    if (c_.sin) RotateRowBack(row, Table(c_.sin, token, sin_), Table(c_.cos, token, cos_), c_.D);
  }

  // Adds the keys of the chunk to the sums.
  void Absorb(const Tokens& t, const Slot& sums) const {
    Multiply<Stored::kColumns, Terms::kAll, true>(c_.D, c_.Dv, t.n, br, w_.ld_d, Right::Rows(v, w_.ld_v), sums.p,
                                                  w_.ld_v);
    AddColumns(b, w_.ld_d, t.n, nullptr, c_.D, sums.z);
    AddColumns(v, w_.ld_v, t.n, nullptr, c_.Dv, sums.v);
  }

 private:
  void ClearRows(float* x, size_t ld, size_t n) const {
    const size_t padded = (n + kTileRows - 1) / kTileRows * kTileRows;
    memset(x + n * ld, 0, sizeof(float) * (padded - n) * ld);
  }

  void LoadMapped(const Rows& rows, int64_t batch, int64_t head, const Tokens& t, float* mapped, float* rotated) {
    for (size_t r = 0; r < t.n; r++) {
      LoadMappedRow(rows, batch, head, t.at[r], mapped + r * w_.ld_d, rotated + r * w_.ld_d);
    }
    ClearRows(mapped, w_.ld_d, t.n);
    if (c_.sin) ClearRows(rotated, w_.ld_d, t.n);
  }

  void LoadMappedRow(const Rows& rows, int64_t batch, int64_t head, int64_t token, float* mapped, float* rotated) {
    WithRow(rows, batch, head, token, [&](const auto* p) HWY_ATTR { MapRow(p, c_.D, mapped); });
    if (c_.sin) RotateRow(mapped, Table(c_.sin, token, sin_), Table(c_.cos, token, cos_), c_.D, rotated);
  }

  // Row `token` of a table, readable as whole vectors.
  const float* Table(const View& table, int64_t token, float* buffer) const {
    const float* row = static_cast<const float*>(table.Data()) + table.Offset(token);
    if (c_.D % kLanes == 0) return row;
    kit::Widen(row, c_.D, 1.0f, buffer);
    return buffer;
  }

  const Problem& c_;
  const Layout& w_;
  float *sin_, *cos_;
};

// What the rows of a chunk see: sums of the tokens before it, and sums up to each row. In the bidirectional form these
// are the same for all rows, and `step` is 0.
struct Seen {
  Slot before;
  const float *z, *v;  // sums of keys and of values up to row r at r * step * ld
  size_t step;
  int64_t n;  // tokens seen by row 0; row r sees r * step more

  double Count(size_t r) const { return double(n) + double(r * step); }
};

// The sums up to each row of a chunk, for the causal form.
struct Prefix {
  float *z, *v;

  Prefix(const Layout& w, Arena& arena) : z(arena.Take(w.rows * w.ld_d)), v(arena.Take(w.rows * w.ld_v)) {}

  Seen Of(const Problem& c, const Layout& w, const Chunk& chunk, const Tokens& t, const Slot& before, int64_t n) {
    PrefixRows(before.z, chunk.b, w.ld_d, t.n, c.D, z);
    PrefixRows(before.v, chunk.v, w.ld_v, t.n, c.Dv, v);
    return {before, z, v, 1, n + 1};
  }
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace mala
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
