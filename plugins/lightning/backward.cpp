#include "lightning/kernels.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lightning/backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "lightning/slope_gradient-inl.h"
#include "lightning/sweep-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lightning {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

// A worker's memory: a chunk, and for each head of a group (at least two) a state, tables of decay and a stream. The
// expression in plugin.cpp reserves exactly this.
class Scratch {
 public:
  Scratch(const attune_exec& x, const Problem& p)
      : rows(size_t(x.knobs[kChunk])), D_(size_t(p.D)), Dv_(size_t(p.Dv)),
        state_(attune_kit::ChunkStride(D_) * attune_kit::ChunkStride(Dv_)),
        head_(state_ + 3 * Decay::Floats(rows) + 64) {
    const size_t heads = size_t(std::max<int64_t>(2, p.Group()));
    const size_t chunk = ChunkMemory::Floats(rows, std::max(D_, Dv_), std::min(D_, Dv_));
    chunk_ = static_cast<float*>(x.workspace) + x.worker * (chunk + heads * head_);
    heads_ = chunk_ + chunk;
    streams = reinterpret_cast<Stream*>(heads_ + heads * (head_ - 64));
  }
  ChunkMemory Chunk(bool values_first) const {
    return {chunk_, rows, values_first ? Dv_ : D_, values_first ? D_ : Dv_};
  }
  // Of the g-th head of a group. Powers: three tables of Decay.
  float* State(int64_t g) const { return heads_ + size_t(g) * (head_ - 64); }
  float* Powers(int64_t g) const { return State(g) + state_; }

  size_t rows;
  Stream* streams;

 private:
  static_assert(sizeof(Stream) <= 64 * sizeof(float), "the workspace has room for 64 floats per stream");
  size_t D_, Dv_, state_, head_;
  float *chunk_, *heads_;
};

// dq of one query head.
attune_status QueryGradient(const attune_exec& x, const Problem& p, const Scratch& w, const Sequence& s, int64_t h) {
  if (!p.dq) return ATTUNE_OK;
  const size_t D = size_t(p.D), Dv = size_t(p.Dv);
  const int64_t kv = h / p.Group();
  const StateRows before(p, p.kv_state, s.index, h, true);
  before.Load(w.State(0));
  const Stream stream = {Rows(p.d_o, s, h, false, Dv), Rows(p.v, s, kv, false, Dv),
                         Rows(p.k, s, kv, false, D),   float(p.scale),
                         1,                            Decay(w.Powers(0), w.rows, p.Slope(h)),
                         w.State(0),                   !before.Given(),
                         true};
  return Sweep<1>(x, w.Chunk(true), 0, s.length, &stream, 1, Rows(p.dq, s, h, false, D));
}

// dk of one kv head (`keys`), or dv and dkv_state: the sweep from the last token to the first, over the heads of the
// group.
attune_status KeyOrValueGradient(const attune_exec& x, const Problem& p, const Scratch& w, const Sequence& s,
                                 int64_t kv, bool keys) {
  if (keys ? !p.dk : !p.dv && !p.dkv_state) return ATTUNE_OK;
  const size_t D = size_t(p.D), Dv = size_t(p.Dv);
  const Rows k(p.k, s, kv, true, D), v(p.v, s, kv, true, Dv);
  for (int64_t g = 0; g < p.Group(); g++) {
    const int64_t h = kv * p.Group() + g;
    const Rows q(p.q, s, h, true, D), d_o(p.d_o, s, h, true, Dv);
    const StateRows after(p, p.dkv_state_out, s.index, h, keys);
    after.Load(w.State(g));
    const Decay decay(w.Powers(g), w.rows, p.Slope(h));
    const bool empty = !after.Given(), last = keys || !p.dkv_state;
    w.streams[g] = keys ? Stream{v, d_o, q, 1, float(p.scale), decay, w.State(g), empty, last}
                        : Stream{k, q, d_o, 1, float(p.scale), decay, w.State(g), empty, last};
  }
  const Rows out(keys ? p.dk : p.dv, s, kv, true, keys ? D : Dv);
  const attune_status status = Sweep<0>(x, w.Chunk(keys), 0, s.length, w.streams, p.Group(), out);
  for (int64_t g = 0; g < p.Group() && !keys && status == ATTUNE_OK; g++) {
    StateRows(p, p.dkv_state, s.index, kv * p.Group() + g, false).Store(w.State(g));
  }
  return status;
}

// dslopes of one query head, over all sequences.
attune_status SlopeGradient(const attune_exec& x, const Problem& p, const Scratch& w, int64_t h) {
  if (!p.dslopes) return ATTUNE_OK;
  const size_t D = size_t(p.D), Dv = size_t(p.Dv);
  const int64_t kv = h / p.Group();
  SlopeSweep sweep(w.Chunk(false), w.Powers(0), w.Powers(1), p.Slope(h), w.State(0), w.State(1));
  double sum = 0;
  for (int64_t i = 0; i < p.sequences; i++) {
    const Sequence s = p.At(i);
    StateRows(p, p.kv_state, i, h, false).Load(w.State(0));
    memset(w.State(1), 0, attune_kit::StateFloats(D, Dv) * sizeof(float));
    const Rows q(p.q, s, h, false, D), k(p.k, s, kv, false, D), v(p.v, s, kv, false, Dv), d_o(p.d_o, s, h, false, Dv);
    for (int64_t t = 0; t < s.length; t += int64_t(w.rows)) {
      if (Cancelled(x)) return ATTUNE_E_CANCELLED;
      sum += sweep.AddChunk(q, k, v, d_o, float(p.scale), t, size_t(std::min(s.length - t, int64_t(w.rows))));
    }
    sum += StateRows(p, p.dkv_state_out, i, h, false).Dot(w.State(1));
  }
  p.dslopes.Put(-sum, h);
  return ATTUNE_OK;
}

}  // namespace

attune_status ChunkedBackward(const attune_exec* x) {
  const Problem p = ReadBackward(*x);
  const Scratch w(*x, p);
  const int64_t per_sequence = p.Hq + 2 * p.Hkv;
  for (int64_t task = x->task_begin; task < x->task_end; task++) {
    attune_status status;
    if (task < p.sequences * per_sequence) {
      const Sequence s = p.At(task / per_sequence);
      const int64_t i = task % per_sequence;
      status = i < p.Hq             ? QueryGradient(*x, p, w, s, i)
               : i < p.Hq + p.Hkv ? KeyOrValueGradient(*x, p, w, s, i - p.Hq, true)
                                    : KeyOrValueGradient(*x, p, w, s, i - p.Hq - p.Hkv, false);
    } else {
      status = SlopeGradient(*x, p, w, task - p.sequences * per_sequence);
    }
    if (status != ATTUNE_OK) return status;
  }
  return ATTUNE_OK;
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace lightning
HWY_AFTER_NAMESPACE();
