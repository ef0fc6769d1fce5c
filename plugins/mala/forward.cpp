#include "_kit/isa.h"
#include "mala/chunked.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mala/forward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "mala/sums-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mala {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

constexpr int64_t kTileChunks = 8;  // chunks of queries per task, bidirectional form

// Memory for the rows of one chunk of outputs.
class OutputRows {
 public:
  OutputRows(const Problem& c, const Layout& w, Arena& arena)
      : c_(c), w_(w), y_(arena.Take(w.rows * w.ld_v)), scores_(arena.Take(w.rows * w.ld_s)) {}

  // Writes the outputs of the chunk's queries. `keys`: the chunk's own keys transposed, causal form only.
  void Write(const Chunk& k, int64_t batch, int64_t head, const Tokens& t, const Seen& seen, const float* keys) {
    Multiply<Stored::kRows, Terms::kAll, false>(t.n, c_.Dv, c_.D, k.ar, w_.ld_d, Right::Rows(seen.before.p, w_.ld_v),
                                                y_, w_.ld_v);
    if (keys) {
      MultiplyToLower(t.n, c_.D, k.ar, w_.ld_d, Right::Panels(keys, c_.D), scores_, w_.ld_s);
      Multiply<Stored::kRows, Terms::kLower, true>(t.n, c_.Dv, 0, scores_, w_.ld_s, Right::Rows(k.v, w_.ld_v), y_,
                                                   w_.ld_v);
    }
    for (size_t r = 0; r < t.n; r++) {
      const double n = seen.Count(r), share = n > 0 ? 1 / n : 0;
      const double z = c_.scale * share * DotRow(k.a + r * w_.ld_d, seen.z + r * seen.step * w_.ld_d, c_.D);
      const double beta = 1 + 1 / (z + c_.norm_eps);
      float* y = y_ + r * w_.ld_v;
      CombineRows(float(beta * c_.scale * share), y, float(-z * share), seen.v + r * seen.step * w_.ld_v, c_.Dv, y);
      WithRow(c_.o, batch, head, t.at[r], [&](auto* p) HWY_ATTR { kit::Narrow(y, c_.Dv, 1.0f, p); });
    }
  }

 private:
  const Problem& c_;
  const Layout& w_;
  float *y_, *scores_;
};

// Task = a few chunks of queries of one head.
attune_status Bidirectional(const attune_exec& x, const Problem& c, const Layout& w) {
  const int64_t tile = kTileChunks * w.chunk, tiles = (c.Nq + tile - 1) / tile;
  return ParallelFor(x, c.B * c.Hq * tiles, [&](int64_t task, uint32_t worker) HWY_ATTR {
    const int64_t batch = task / tiles / c.Hq, head = task / tiles % c.Hq;
    const Slot sums = w.Sums(batch * c.Hkv + head / c.Group(), 0);
    const Seen seen = {sums, sums.z, sums.v, 0, *sums.n};
    Arena arena = WorkerArena(w, worker);
    Chunk chunk(c, w, arena);
    OutputRows rows(c, w, arena);
    Tokens t;
    const int64_t begin = task % tiles * tile, end = begin + tile < c.Nq ? begin + tile : c.Nq;
    for (int64_t i = begin; i < end;) {
      for (t.n = 0; i < end && t.n < size_t(w.chunk); i++) t.at[t.n++] = i;
      chunk.LoadQueries(batch, head, t);
      rows.Write(chunk, batch, head, t, seen, nullptr);
    }
  });
}

// Task = one segment of tokens of one kv head, with all query heads of its group.
attune_status Causal(const attune_exec& x, const Problem& c, const Layout& w) {
  return ParallelFor(x, w.heads * w.segments, [&](int64_t task, uint32_t worker) HWY_ATTR {
    const int64_t head = task / w.segments, i = task % w.segments, batch = head / c.Hkv, shared = head % c.Hkv;
    const Slot sums = w.Sums(head, i);  // runs along
    Arena arena = WorkerArena(w, worker);
    Chunk chunk(c, w, arena);
    Prefix prefix(w, arena);
    OutputRows rows(c, w, arena);
    float* keys = arena.Take(w.rows * w.ld_d);
    Tokens t;
    int64_t first = i * w.key_segment, n = c.in.Count(batch) + (first < c.Nk ? first : c.Nk);
    const int64_t end = first + w.key_segment < c.Nk ? first + w.key_segment : c.Nk;
    while (first < end && !Cancelled(x)) {
      chunk.Gather(batch, &first, end, &t);
      chunk.LoadKeys(batch, shared, t);
      TransposeRows(chunk.br, w.ld_d, t.n, c.D, chunk.zero, keys);
      const Seen seen = prefix.Of(c, w, chunk, t, sums, n);
      for (int64_t g = shared * c.Group(); g < (shared + 1) * c.Group(); g++) {
        chunk.LoadQueries(batch, g, t);
        rows.Write(chunk, batch, g, t, seen, keys);
      }
      chunk.Absorb(t, sums);
      n += int64_t(t.n);
    }
    if (i == w.segments - 1) StoreStates(c, w, batch, shared, sums);
  });
}

attune_status Forward(const attune_exec& x, Call call) {
  const Problem c = Read(x, call);
  const Layout w(x, c, false);
  attune_status status = SumKeys(x, c, w);
  if (status == ATTUNE_OK) status = c.causal ? Causal(x, c, w) : Bidirectional(x, c, w);
  if (status == ATTUNE_OK && Cancelled(x)) status = ATTUNE_E_CANCELLED;
  for (int64_t b = 0; status == ATTUNE_OK && b < c.B; b++) c.StoreCount(b);
  return status;
}

}  // namespace

attune_status ChunkedForward(const attune_exec* x) {
  return Forward(*x, kForward);
}
attune_status ChunkedStep(const attune_exec* x) {
  return Forward(*x, kStep);
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace mala
HWY_AFTER_NAMESPACE();
