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

// Rows of outputs are made of two sums over the tokens j that row r sees: o_r = f_r A_r (sum of B_j v_j^T)
// + g_r (sum of v_j). h_r = g_r / f_r.
struct Factors {
  float f[kMaxChunk], g[kMaxChunk], h[kMaxChunk];

  // z: <a_r, sum of b_j>. Row r sees first + r * step tokens.
  Factors(const Problem& c, const float* z, size_t rows, int64_t first, int64_t step) {
    for (size_t r = 0; r < rows; r++) {
      const double count = double(first) + double(int64_t(r) * step), share = count > 0 ? 1 / count : 0;
      const double mean = c.scale * share * z[r], beta = 1 + 1 / (mean + c.norm_eps);
      f[r] = float(beta * c.scale * share), g[r] = float(-mean * share), h[r] = float(-share * z[r] / beta);
    }
  }
};

// Outputs of the queries of a chunk, all of which see the same keys.
void WriteBidirectional(const Problem& c, const Layout& w, Chunk& k, int64_t batch, int64_t head, const Tokens& t,
                        const Slot& sums) {
  float z[kMaxChunk];
  k.TransposeQueries(batch, head, t, sums.z, z);
  const Factors by(c, z, t.n, *sums.n, 0);
  k.WriteOutputs<kit::Parts::kState>(batch, head, t, sums.p, {by.f, by.g, sums.v});
}

// The same for a chunk whose keys are loaded. before: the sums over the n tokens before the chunk; prefix:
// memory. The two sums over the tokens of the chunk become one, of <A_r, B_j> + h_r times v_j.
void WriteCausal(const Problem& c, const Layout& w, Chunk& k, int64_t batch, int64_t head, const Tokens& t,
                 const Slot& before, int64_t n, const Prefix& prefix) {
  float z[kMaxChunk];
  k.TransposeQueries(batch, head, t, before.z, z);
  kit::Scores(k.m, t.n);
  if (c.sin) {  // scores are of rotated rows, z is not
    PrefixRows(before.z, k.b, w.ld_d, t.n, c.D, prefix.z);
    DotPairs(k.a, prefix.z, w.ld_d, t.n, c.D, z);
  } else {
    kit::AddScoreSums(k.m, t.n, z);
  }
  const Factors by(c, z, t.n, n + 1, 1);
  kit::AddToScores(k.m, t.n, by.h);
  k.WriteOutputs<kit::Parts::kAll>(batch, head, t, before.p, {by.f, by.g, before.v});
}

// Task = a few chunks of queries of one head.
attune_status Bidirectional(const attune_exec& x, const Problem& c, const Layout& w) {
  const int64_t tile = kTileChunks * w.chunk, tiles = (c.Nq + tile - 1) / tile;
  return ParallelFor(x, c.B * c.Hq * tiles, [&](int64_t task, uint32_t worker) HWY_ATTR {
    const int64_t batch = task / tiles / c.Hq, head = task / tiles % c.Hq;
    const Slot sums = w.Sums(batch * c.Hkv + head / c.Group(), 0);
    Arena arena(w, worker);
    Chunk chunk(c, w, arena);
    Tokens t;
    for (Range left = Range::Piece(task % tiles, tile, c.Nq); left.begin < left.end;) {
      t.Take(w.chunk, &left);
      chunk.FetchLater({{c.q, batch, head, c.D}, {c.o, batch, head, c.Dv}}, left);
      WriteBidirectional(c, w, chunk, batch, head, t, sums);
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
      chunk.LoadKeysOnce(batch, shared, t);
      const int64_t first = shared * c.Group();
      chunk.FetchLater({{c.k, batch, shared, c.D}, {c.v, batch, shared, c.Dv}, {c.q, batch, first, c.D},
                        {c.o, batch, first, c.Dv}}, left);
      for (int64_t g = first; g < first + c.Group(); g++) WriteCausal(c, w, chunk, batch, g, t, sums, n, prefix);
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
