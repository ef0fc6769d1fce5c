#include "lightning/kernels.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lightning/forward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "lightning/sweep-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lightning {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

// A worker's memory. The expressions in plugin.cpp reserve exactly this.
struct Scratch {
  size_t rows, features, columns;
  float *chunk, *powers, *state;

  static size_t Floats(size_t rows, size_t features, size_t columns) {
    return ChunkMemory::Floats(rows, features, columns) + Decay::Floats(rows) +
           attune_kit::StateFloats(features, columns);
  }
  Scratch(const attune_exec& x, const Problem& p, float* base, uint32_t worker)
      : rows(size_t(x.knobs[kChunk])), features(size_t(p.D)), columns(size_t(p.Dv)) {
    chunk = base + worker * Floats(rows, features, columns);
    powers = chunk + ChunkMemory::Floats(rows, features, columns), state = powers + Decay::Floats(rows);
  }
  ChunkMemory Chunk() const { return {chunk, rows, features, columns}; }
};

// empty, last: of the state, as in Stream.
Stream StreamOf(const Problem& p, const Scratch& w, const Sequence& s, int64_t h, bool empty, bool last) {
  const size_t features = size_t(p.D), columns = size_t(p.Dv);
  const int64_t kv = h / p.Group();
  return {Rows(p.q, s, h, false, features),  Rows(p.k, s, kv, false, features),
          Rows(p.v, s, kv, false, columns),  float(p.scale),
          1,                                 Decay(w.powers, w.rows, p.Slope(h)),
          w.state,                           empty,
          last};
}

// A call of SplitForward.
struct Split {
  const attune_exec& x;
  const Problem p;
  float* states;       // [sequences * Hq, segments]: first each segment's own sum, then the state before it
  float* scratch;
  int64_t segments, length;  // length: tokens of all segments but the last ones
  size_t state_floats;
  int32_t failed = ATTUNE_OK;

  explicit Split(const attune_exec& exec)
      : x(exec), p(ReadForward(exec)), states(static_cast<float*>(exec.workspace)), segments(exec.knobs[kSegments]),
        state_floats(attune_kit::StateFloats(size_t(p.D), size_t(p.Dv))) {
    const int64_t chunk = x.knobs[kChunk], chunks = (p.N + chunk - 1) / chunk;
    length = (chunks + segments - 1) / segments * chunk;
    scratch = states + size_t(p.sequences * p.Hq * segments) * state_floats;
  }
  float* State(int64_t head, int64_t segment) const {
    return states + size_t(head * segments + segment) * state_floats;
  }
  int64_t Begin(int64_t segment) const { return std::min(segment * length, p.N); }
  int64_t Tokens(int64_t segment) const { return Begin(segment + 1) - Begin(segment); }

  // Sweeps over one segment from the state w.state.
  void Run(const Scratch& w, int64_t head, int64_t segment, bool outputs) {
    const Sequence s = p.At(head / p.Hq);
    const bool last = segment == segments - 1 && !p.kv_state_out;
    const Stream stream = StreamOf(p, w, s, head % p.Hq, !outputs || (segment == 0 && !p.kv_state), last);
    const Rows out = outputs ? Rows(p.o, s, head % p.Hq, false, size_t(p.Dv)) : Rows();
    const attune_status status = Sweep<1>(x, w.Chunk(), Begin(segment), Tokens(segment), &stream, 1, out);
    if (status != ATTUNE_OK) __atomic_store_n(&failed, status, __ATOMIC_RELAXED);
  }

  // 1: the state that each segment but the last would leave, had it begun with nothing.
  static void Sums(void* arg, int64_t begin, int64_t end, uint32_t worker) {
    Split& c = *static_cast<Split*>(arg);
    Scratch w(c.x, c.p, c.scratch, worker);
    for (int64_t i = begin; i < end; i++) {
      const int64_t head = i / (c.segments - 1), segment = i % (c.segments - 1);
      w.state = c.State(head, segment + 1);
      memset(w.state, 0, c.state_floats * sizeof(float));
      c.Run(w, head, segment, false);
    }
  }
  // 2: the state before each segment: what came before, decayed, plus the sum of the segment between.
  static void Scan(void* arg, int64_t begin, int64_t end, uint32_t) {
    Split& c = *static_cast<Split*>(arg);
    for (int64_t head = begin; head < end; head++) {
      const double slope = c.p.Slope(head % c.p.Hq);
      StateRows(c.p, c.p.kv_state, head / c.p.Hq, head % c.p.Hq, false).Load(c.State(head, 0));
      for (int64_t segment = 1; segment < c.segments; segment++) {
        const double exponent = -slope * double(c.Tokens(segment - 1));
        const float factor = exponent < -87 ? 0 : float(exp(exponent));
        kit::AddScaled(c.State(head, segment - 1), c.state_floats, factor, c.State(head, segment));
      }
    }
  }
  // 3: the outputs of each segment, and from the last one the state.
  static void Rest(void* arg, int64_t begin, int64_t end, uint32_t worker) {
    Split& c = *static_cast<Split*>(arg);
    Scratch w(c.x, c.p, c.scratch, worker);
    for (int64_t i = begin; i < end; i++) {
      const int64_t head = i / c.segments, segment = i % c.segments;
      w.state = c.State(head, segment);
      c.Run(w, head, segment, true);
      if (segment != c.segments - 1) continue;
      StateRows(c.p, c.p.kv_state_out, head / c.p.Hq, head % c.p.Hq, false).Store(w.state);
    }
  }
};

}  // namespace

attune_status ChunkedForward(const attune_exec* x) {
  const Problem p = ReadForward(*x);
  const Scratch w(*x, p, static_cast<float*>(x->workspace), x->worker);
  for (int64_t task = x->task_begin; task < x->task_end; task++) {
    const Sequence s = p.At(task / p.Hq);
    const int64_t h = task % p.Hq;
    const StateRows before(p, p.kv_state, s.index, h, false), after(p, p.kv_state_out, s.index, h, false);
    before.Load(w.state);
    const Stream stream = StreamOf(p, w, s, h, !before.Given(), !after.Given());
    const Rows out(p.o, s, h, false, size_t(p.Dv));
    const attune_status status = Sweep<1>(*x, w.Chunk(), 0, s.length, &stream, 1, out);
    if (status != ATTUNE_OK) return status;
    after.Store(w.state);
  }
  return ATTUNE_OK;
}

attune_status SplitForward(const attune_exec* x) {
  Split c(*x);
  const int64_t heads = c.p.sequences * c.p.Hq;
  const auto phase = [&](int64_t n, attune_task_fn fn) {
    const attune_status status = n > 0 ? x->host->parallel_for(x, n, 1, fn, &c) : ATTUNE_OK;
    return status != ATTUNE_OK ? status : attune_status(c.failed);
  };
  attune_status status = phase(heads * (c.segments - 1), Split::Sums);
  if (status == ATTUNE_OK) status = phase(heads, Split::Scan);
  if (status == ATTUNE_OK) status = phase(heads * c.segments, Split::Rest);
  return status;
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace lightning
HWY_AFTER_NAMESPACE();
