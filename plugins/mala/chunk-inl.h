// A chunk of tokens in one worker's memory: its keys, its queries, and the sums that its rows see.
#if defined(ATTUNE_MALA_CHUNK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_MALA_CHUNK_INL_H_
#undef ATTUNE_MALA_CHUNK_INL_H_
#else
#define ATTUNE_MALA_CHUNK_INL_H_
#endif
#include <initializer_list>

#include "_kit/chunked-inl.h"
#include "mala/layout.h"
#include "mala/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mala {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
using attune_kit::ChunkMemory;
using kit::Order;
using kit::Start;
using kit::Terms;

// Which tokens a chunk holds. Padded keys are left out, so the tokens need not follow each other.
struct Tokens {
  size_t n = 0;
  int64_t at[kMaxChunk];

  // The next visible keys of `range`, as many as fit; `range` begins behind them afterwards.
  void TakeKeys(const Problem& c, int64_t batch, size_t most, Range* range) {
    for (n = 0; range->begin < range->end && n < most; range->begin++) {
      if (c.Visible(batch, range->begin)) at[n++] = range->begin;
    }
  }
  // The next tokens of `range`.
  void Take(size_t most, Range* range) {
    for (n = 0; range->begin < range->end && n < most; range->begin++) at[n++] = range->begin;
  }
  // The last tokens of `range`, the last one first.
  void TakeBackwards(size_t most, Range* range) {
    for (n = 0; range->begin < range->end && n < most; range->end--) at[n++] = range->end - 1;
  }
};

// m holds the rotated queries and keys (q, k) and the values; a and b are the queries and keys before the rotation,
// which are the same memory without tables.
class Chunk {
 public:
  Chunk(const Problem& c, const Layout& w, Arena& arena)
      : m(arena.Take(ChunkMemory::Floats(w.chunk, c.D, c.Dv, w.long_row)), w.chunk, c.D, c.Dv, w.long_row),
        c_(c), w_(w) {
    a = c.sin ? arena.Take(w.chunk * w.ld_d) : m.q, b = c.sin ? arena.Take(w.chunk * w.ld_d) : m.k;
    m.ahead = &ahead_;
    values_ = m.v, outputs_ = m.o;
    sin_ = arena.Take(w.ld_d), cos_ = arena.Take(w.ld_d);
  }

  ChunkMemory m;
  float *a, *b;

  void LoadKeys(int64_t batch, int64_t head, const Tokens& t) {
    LoadMapped(c_.k, batch, head, t.at, t.n, b, m.k);
    LoadPlain(c_.v, batch, head, t, m.v);
  }
  // The same for Absorb and Outputs alone, which take values where they are if they can.
  void LoadKeysOnce(int64_t batch, int64_t head, const Tokens& t) {
    LoadMapped(c_.k, batch, head, t.at, t.n, b, m.k);
    m.v = InPlace(c_.v, batch, head, t), m.ld_v = c_.Dv;
    if (m.v) return;
    m.v = values_, m.ld_v = w_.ld_v;
    LoadPlain(c_.v, batch, head, t, m.v);
  }
  // Writes the outputs of the chunk's queries.
  template <kit::Parts kParts>
  void WriteOutputs(int64_t batch, int64_t head, const Tokens& t, const float* state, const kit::Combination& end) {
    float* direct = InPlace(c_.o, batch, head, t);
    m.o = direct ? direct : outputs_, m.ld_o = direct ? size_t(c_.Dv) : w_.ld_v;
    kit::Outputs<Start::kZero, kParts>(m, t.n, state, nullptr, &end);
    if (direct) return;
    WithRow(c_.o, batch, head, 0, [&](auto* p) HWY_ATTR {
      for (size_t r = 0; r < t.n; r++) kit::Narrow(m.o + r * m.ld_o, c_.Dv, 1.0f, p + t.at[r] * c_.o.row);
    });
  }
  void LoadQueries(int64_t batch, int64_t head, const Tokens& t) {
    LoadMapped(c_.q, batch, head, t.at, t.n, a, m.q);
  }
  // The queries as Scores and Outputs want them, transposed, and z[r] = <row r of a, sum>. Without tables they are
  // mapped in columns: no row of a or m.q is made, and no sum runs across a vector. z may change up to whole vectors.
  void TransposeQueries(int64_t batch, int64_t head, const Tokens& t, const float* sum, float* z) {
    if (c_.sin) {
      LoadQueries(batch, head, t);
      kit::TransposeQueries(m, t.n);
      return kit::Dots(1, t.n, c_.D, sum, 0, a, w_.ld_d, z, 0);
    }
    WithRow(c_.q, batch, head, 0, [&](const auto* p) HWY_ATTR {
      for (size_t r = 0; r < t.n; r += kit::kPanel) {
        const float* rows[kit::kPanel];  // beyond the last one any row will do
        for (size_t i = 0; i < kit::kPanel; i++) {
          rows[i] = AsFloats(p + t.at[r + i < t.n ? r + i : t.n - 1] * c_.q.row, c_.D, m.q + i * w_.ld_d);
        }
        kit::TransposeToPanel(rows, c_.D, m.qt + r, m.ld_a);
      }
    });
    for (size_t r = 0; r < t.n; r += kLanes) MapColumn(m.qt + r, m.ld_a, c_.D, sum, z + r);
  }
  // One query into row r.
  void LoadQuery(int64_t batch, int64_t head, int64_t token, size_t r) {
    LoadMapped(c_.q, batch, head, &token, 1, a + r * w_.ld_d, m.q + r * w_.ld_d);
  }
  // Rows of Dv elements as they are.
  void LoadPlain(const Rows& rows, int64_t batch, int64_t head, const Tokens& t, float* to) const {
    WithRow(rows, batch, head, 0, [&](const auto* p) HWY_ATTR {
      for (size_t r = 0; r < t.n; r++) kit::Widen(p + t.at[r] * rows.row, c_.Dv, 1.0f, to + r * w_.ld_v);
    });
  }

  // Rows of a head that the next chunk of `left` will read, or write: a store waits for its cache line too.
  struct Next {
    const Rows& rows;
    int64_t batch, head, length;
  };
  void FetchLater(std::initializer_list<Next> next, const Range& left) {
    const int64_t n = left.end - left.begin < w_.chunk ? left.end - left.begin : w_.chunk;
    ahead_.Clear();
    for (const Next& x : next) {
      const int64_t size = x.rows.view.DType() == ATTUNE_F32 ? 4 : 2;
      const char* first = static_cast<const char*>(x.rows.view.Data()) + x.rows.At(x.batch, x.head, left.begin) * size;
      ahead_.Add(first, x.rows.row * size, n, x.length * size);
    }
  }

  // The transposed rotation of a row, in place: what a gradient needs.
  void RotateBack(float* row, int64_t token) const {
    if (c_.sin) RotateRowBack(row, Table(c_.sin, token, sin_), Table(c_.cos, token, cos_), c_.D);
  }

  // Adds the keys of the chunk to the sums.
  void Absorb(const Tokens& t, const Slot& sums) const {
    kit::UpdateState(m, t.n, 1.0f, sums.p);
    AddColumns(b, w_.ld_d, t.n, nullptr, c_.D, sums.z);
    AddColumns(m.v, m.ld_v, t.n, nullptr, c_.Dv, sums.v);
  }

 private:
  // Rows of Dv elements where they are, if products can use them so: f32 in whole vectors, one behind the other (rows
  // further apart may share few sets of a cache).
  float* InPlace(const Rows& rows, int64_t batch, int64_t head, const Tokens& t) const {
    const bool fits = rows.view.DType() == ATTUNE_F32 && rows.row == c_.Dv && c_.Dv % kLanes == 0 && t.n > 0 &&
                      t.at[t.n - 1] - t.at[0] == int64_t(t.n) - 1;
    return fits ? static_cast<float*>(rows.view.Data()) + rows.At(batch, head, t.at[0]) : nullptr;
  }
  // The rows `at`, mapped, and rotated as well where there are tables.
  void LoadMapped(const Rows& rows, int64_t batch, int64_t head, const int64_t* at, size_t n, float* mapped,
                  float* rotated) {
    WithRow(rows, batch, head, 0, [&](const auto* p) HWY_ATTR {
      for (size_t r = 0; r < n; r++) MapRow(p + at[r] * rows.row, c_.D, mapped + r * w_.ld_d);
    });
    for (size_t r = 0; c_.sin && r < n; r++) {
      RotateRow(mapped + r * w_.ld_d, Table(c_.sin, at[r], sin_), Table(c_.cos, at[r], cos_), c_.D,
                rotated + r * w_.ld_d);
    }
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
  float *values_, *outputs_;  // memory for rows that are not used in place
  attune_kit::Ahead ahead_;
};

// What the rows of a chunk see: the sums over the tokens before it, and the sums of keys and values up to each row. In
// the bidirectional form all rows see the same, and `step` is 0.
struct Seen {
  Slot before;
  const float *z, *v;  // up to row r: r * step rows further
  int64_t step, n;     // row r sees n + r * step tokens

  double Share(size_t r) const {  // 1 / their number; 0 if there is none
    const double count = double(n) + double(int64_t(r) * step);
    return count > 0 ? 1 / count : 0;
  }
};
inline Seen SeenByAll(const Slot& sums) {
  return {sums, sums.z, sums.v, 0, *sums.n};
}

// Sums up to each row of a chunk, for the causal form.
struct Prefix {
  float *z, *v;

  Prefix(const Layout& w, Arena& arena) : z(arena.Take(w.chunk * w.ld_d)), v(arena.Take(w.chunk * w.ld_v)) {}
  // `n`: tokens of `before`.
  Seen Of(const Problem& c, const Layout& w, const Chunk& chunk, const Tokens& t, const Slot& before, int64_t n) const {
    PrefixRows(before.z, chunk.b, w.ld_d, t.n, c.D, z);
    PrefixRows(before.v, chunk.m.v, w.ld_v, t.n, c.Dv, v);
    return {before, z, v, 1, n + 1};
  }
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace mala
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
