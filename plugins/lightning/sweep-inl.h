// One sweep over a sequence in chunks. Forward pass and gradients are the same sweep with other tensors in the roles of
// queries, keys and values:
//        queries keys values   direction      state     late
//   o    q       k    v        first to last  S         1
//   dq   do      v    k        first to last  S^T       1
//   dk   v       do   q        last to first  G^T       0       summed over the heads of a group
//   dv   k       q    do       last to first  G         0       likewise
// G, the gradient of the state, has already decayed when it meets a token from the other side; that is what late = 0
// means.
#if defined(ATTUNE_LIGHTNING_SWEEP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_LIGHTNING_SWEEP_INL_H_
#undef ATTUNE_LIGHTNING_SWEEP_INL_H_
#else
#define ATTUNE_LIGHTNING_SWEEP_INL_H_
#endif
#include <algorithm>

#include "lightning/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lightning {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
using attune_kit::ChunkMemory;
using attune_kit::Decay;

// What one query head brings to a sweep.
struct Stream {
  Rows q, k, v;
  float q_factor, k_factor;
  Decay decay;
  float* state;      // features x columns of the chunk memory
  bool empty, last;  // the state is 0 at first; nobody looks at it in the end
};

// Loads tokens [begin, begin + n) of the stream and adds what they give to m.o (`first`: sets it), if outputs are
// wanted, and to the state. empty: the state is 0; last: it is not needed any more.
template <int kLate>
void AddChunk(ChunkMemory m, const Stream& s, int64_t begin, size_t n, bool outputs, bool first, bool empty,
              bool last) {
  if (float* v = s.v.InPlace(begin)) {
    m.v = v, m.ld_v = s.v.width;
  } else {
    s.v.Load(begin, n, 1, m.v, m.ld_columns);
  }
  const float* powers = s.decay.any ? s.decay.forward : nullptr;
  if (outputs) {
    ChunkMemory rows = m;
    float *q = s.q.InPlace(begin), *k = s.k.InPlace(begin);
    if (q && k && s.q_factor == 1 && s.k_factor == 1) {
      rows.q = q, rows.k = k, rows.ld_features = m.features;
    } else {
      s.q.Load(begin, n, s.q_factor, m.q, m.ld_features);
      s.k.Load(begin, n, s.k_factor, m.k, m.ld_features);
    }
    kit::TransposeQueries(rows, n);
    kit::Scores(rows, n);
    if (powers) kit::DecayScores(m, n, powers);
    const float *state = empty ? nullptr : s.state, *factors = powers ? powers + kLate : nullptr;
    first ? kit::Outputs<kit::Start::kZero>(m, n, state, factors)
          : kit::Outputs<kit::Start::kKeep>(m, n, state, factors);
  }
  if (last) return;
  s.k.Load(begin, n, s.k_factor, m.k, m.ld_features, powers ? powers + n - kLate : nullptr);
  kit::UpdateState(m, n, s.decay.forward[n], s.state);
}

// Sweeps over `tokens` tokens, from row `begin` of the streams on; out gets the sum over the streams, unless it is
// absent. The states go on from what they are.
template <int kLate>
attune_status Sweep(const attune_exec& x, ChunkMemory m, int64_t begin, int64_t tokens, const Stream* streams,
                    int64_t count, const Rows& out) {
  const int64_t end = begin + tokens;
  attune_kit::Ahead ahead;
  m.ahead = &ahead;
  for (int64_t t = begin; t < end; t += int64_t(m.rows)) {
    if (Cancelled(x)) return ATTUNE_E_CANCELLED;
    const size_t n = size_t(std::min(end - t, int64_t(m.rows)));
    const int64_t next = t + int64_t(n);
    const size_t then = size_t(std::min(end - next, int64_t(m.rows)));
    ChunkMemory chunk = m;
    float* direct = out.InPlace(t);
    if (direct) chunk.o = direct, chunk.ld_o = out.width;
    for (int64_t g = 0; g < count; g++) {
      const Stream& s = streams[g];
      ahead.Clear();
      if (g == 0) out.Announce(ahead, t, n);
      if (out.data) s.q.Announce(ahead, next, then);
      s.k.Announce(ahead, next, then);
      s.v.Announce(ahead, next, then);
      AddChunk<kLate>(chunk, s, t, n, out.data != nullptr, g == 0, s.empty && t == begin, s.last && next == end);
    }
    if (out.data && !direct) out.Store(t, n, m.o, m.ld_columns);
  }
  return ATTUNE_OK;
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace lightning
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
