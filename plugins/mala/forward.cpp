#include "_kit/isa.h"
#include "mala/chunked.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mala/forward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "_kit/dot-inl.h"
#include "mala/sums-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mala {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

constexpr int64_t kTileChunks = 8;  // chunks of queries per task, bidirectional form

// Writes the outputs of the queries of a chunk.
void WriteRows(const Problem& c, const Layout& w, const Chunk& k, int64_t batch, int64_t head, const Tokens& t,
               const Seen& seen) {
  if (c.causal) {
    kit::Scores(k.m, t.n);
    kit::Outputs(k.m, t.n, seen.before.p);
  } else {
    kit::ChunkProduct<Start::kZero, Terms::kAll, Order::kRows>(t.n, c.Dv, c.D, k.m.q, w.ld_d, seen.before.p, w.ld_v, 0,
                                                               k.m.o, w.ld_v, k.m.ahead);
  }
  float z[kMaxChunk], f[kMaxChunk], g[kMaxChunk];
  if (seen.step == 0) {
    kit::Dots(1, t.n, c.D, seen.z, 0, k.a, w.ld_d, z, 0);
  } else {
    DotPairs(k.a, seen.z, w.ld_d, t.n, c.D, z);
  }
  for (size_t r = 0; r < t.n; r++) {
    const double share = seen.Share(r), mean = c.scale * share * z[r], beta = 1 + 1 / (mean + c.norm_eps);
    f[r] = float(beta * c.scale * share), g[r] = float(-mean * share);
  }
  WithRow(c.o, batch, head, 0, [&](auto* p) HWY_ATTR {
    for (size_t r = 0; r < t.n; r++) {
      const float* v = seen.v + int64_t(r) * seen.step * w.ld_v;
      StoreCombined(f[r], k.m.o + r * w.ld_v, g[r], v, c.Dv, p + t.at[r] * c.o.row);
    }
  });
}

// Task = a few chunks of queries of one head.
attune_status Bidirectional(const attune_exec& x, const Problem& c, const Layout& w) {
  const int64_t tile = kTileChunks * w.chunk, tiles = (c.Nq + tile - 1) / tile;
  return ParallelFor(x, c.B * c.Hq * tiles, [&](int64_t task, uint32_t worker) HWY_ATTR {
    const int64_t batch = task / tiles / c.Hq, head = task / tiles % c.Hq;
    const Seen seen = SeenByAll(w.Sums(batch * c.Hkv + head / c.Group(), 0));
    Arena arena(w, worker);
    Chunk chunk(c, w, arena);
    Tokens t;
    for (Range left = Range::Piece(task % tiles, tile, c.Nq); left.begin < left.end;) {
      t.Take(w.chunk, &left);
      chunk.LoadQueries(batch, head, t);
      chunk.FetchLater({{c.q, batch, head, c.D}}, left);
      WriteRows(c, w, chunk, batch, head, t, seen);
    }
  });
}

// Task = one segment of tokens of one kv head, with all query heads of its group.
attune_status Causal(const attune_exec& x, const Problem& c, const Layout& w) {
  return ParallelFor(x, w.heads * w.segments, [&](int64_t task, uint32_t worker) HWY_ATTR {
    const int64_t head = task / w.segments, i = task % w.segments, batch = head / c.Hkv, shared = head % c.Hkv;
    const Slot sums = w.Sums(head, i);  // runs along
    Arena arena(w, worker);
    Chunk chunk(c, w, arena);
    const Prefix prefix(w, arena);
    Tokens t;
    for (Range left = Range::Piece(i, w.key_segment, c.Nk); left.begin < left.end && !Cancelled(x);) {
      const int64_t n = c.in.Count(batch) + left.begin;
      t.Take(w.chunk, &left);
      chunk.LoadKeys(batch, shared, t);
      chunk.FetchLater({{c.k, batch, shared, c.D}, {c.v, batch, shared, c.Dv}}, left);
      const Seen seen = prefix.Of(c, w, chunk, t, sums, n);
      for (int64_t g = shared * c.Group(); g < (shared + 1) * c.Group(); g++) {
        chunk.LoadQueries(batch, g, t);
        WriteRows(c, w, chunk, batch, g, t, seen);
      }
      chunk.Absorb(t, sums);
    }
    if (i == w.segments - 1) StoreStates(c, w, batch, shared, sums);
  });
}

attune_status Forward(const attune_exec& x, Call call) {
  const Problem c = Read(x, call);
  const Layout w(x, c, x.knobs[kChunk], x.knobs[kSplit], false);
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
