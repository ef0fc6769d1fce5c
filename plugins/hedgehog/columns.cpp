// forward and step without a window, tokens in columns. With fewer state heads than threads, in segments: their sums,
// the states between them, their outputs.
#include "hedgehog/kernels.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hedgehog/columns.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "hedgehog/columns-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hedgehog {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

// What one worker does for one state head at a time.
class Worker {
 public:
  Worker(const attune_exec& x, const Problem& p, hedgehog::Floats memory)
      : x_(x), p_(p), size_(x.knobs[kChunk]), columns_(p, size_, memory), key_map_(memory.Take(ColumnMap::Floats(p))),
        query_maps_(memory.Take(size_t(p.Hq / p.Hst) * ColumnMap::Floats(p))) {}

  // State head s of batch entry b.
  void Begin(int64_t b, int64_t s) {
    b_ = b, first_ = s * Heads();
    KeyMap().Pack();
    for (int64_t g = 0; g < Heads(); g++) QueryMap(g).Pack();
  }
  // Adds keys [begin, end) to the state; false when cancelled.
  bool Absorb(int64_t begin, int64_t end, State& state) {
    for (int64_t j = begin, next; j < end; j = next) {
      if (Cancelled(x_)) return false;
      next = j + size_ < end ? j + size_ : end;
      Load(j, next, end);
      columns_.Absorb(state, ahead_);
    }
    return true;
  }
  // Writes the causal rows at positions [begin, end), which the state does not know yet, and adds them to it; `last`:
  // nobody looks at it in the end.
  bool Causal(int64_t begin, int64_t end, State& state, bool last) {
    const int64_t offset = p_.Nk - p_.Nq, start = begin > offset ? begin : offset < end ? offset : end;
    if (!Absorb(begin, start, state)) return false;
    for (int64_t j = start, next; j < end; j = next) {
      if (Cancelled(x_)) return false;
      next = j + size_ < end ? j + size_ : end;
      Load(j, next, end);
      for (int64_t g = 0; g < Heads(); g++) Attend(state, g, j - offset, next - offset, end - offset, true);
      if (!last || next < end) columns_.Absorb(state, ahead_);
    }
    return true;
  }
  // Writes the rows of queries [begin, end), for which the state holds all keys.
  bool Rows(int64_t begin, int64_t end, const State& state) {
    for (int64_t g = 0; g < Heads(); g++) {
      for (int64_t i = begin, next; i < end; i = next) {
        if (Cancelled(x_)) return false;
        next = i + size_ < end ? i + size_ : end;
        Attend(state, g, i, next, end, false);
      }
    }
    return true;
  }

 private:
  int64_t Heads() const { return p_.Hq / p_.Hst; }
  int64_t KvHead() const { return first_ / p_.Group(); }
  ColumnMap KeyMap() const { return {p_, p_.w_k, p_.b_k, first_, key_map_}; }
  ColumnMap QueryMap(int64_t g) const {
    return {p_, p_.w_q, p_.b_q, first_ + g, query_maps_ + size_t(g) * ColumnMap::Floats(p_)};
  }

  // Keys [begin, end); those that follow, up to `stop`, are fetched meanwhile.
  void Load(int64_t begin, int64_t end, int64_t stop) {
    ahead_.Clear();
    Fetch(p_.k.fresh, KvHead(), end, stop, p_.D), Fetch(p_.v.fresh, KvHead(), end, stop, p_.Dv);
    columns_.LoadKeys(b_, KvHead(), begin, size_t(end - begin), KeyMap(), ahead_);
  }
  void Attend(const State& state, int64_t g, int64_t begin, int64_t end, int64_t stop, bool causal) {
    if (!causal || g > 0) ahead_.Clear();
    if (causal && g + 1 < Heads()) {
      Fetch(p_.q, first_ + g + 1, begin, end, p_.D);
    } else {
      Fetch(p_.q, causal ? first_ : first_ + g, end, stop, p_.D);
    }
    columns_.Attend(state, b_, first_ + g, begin, size_t(end - begin), QueryMap(g), causal, ahead_);
  }
  void Fetch(const View& rows, int64_t head, int64_t begin, int64_t stop, int64_t width) {
    const int64_t end = begin + size_ < stop ? begin + size_ : stop;
    if (begin < end) AddRows(rows, rows.Offset(b_, head, begin), size_t(end - begin), width, ahead_);
  }

  const attune_exec& x_;
  const Problem& p_;
  const int64_t size_;
  Columns columns_;
  float *key_map_, *query_maps_;
  attune_kit::Ahead ahead_;
  int64_t b_ = 0, first_ = 0;
};

// One call in segments of tokens. Segments and the order of all sums depend on the problem and the knobs alone.
class Split {
 public:
  Split(const attune_exec& x, const Problem& p)
      : x_(x), p_(p), segments_(x.knobs[kSegments]), keys_(Length(p.Nk)), queries_(Length(p.Nq)),
        slot_(State::Floats(p)) {
    hedgehog::Floats memory(static_cast<float*>(x.workspace));
    slots_ = memory.Take(size_t(p.B * p.Hst * segments_) * slot_);
    workers_ = memory.Take(0);
    const int64_t used = workers_ - static_cast<float*>(x.workspace);
    worker_ = (int64_t(x.workspace_bytes / 4) - used) / x.n_workers / 16 * 16;
  }

  attune_status Run() {
    const int64_t heads = p_.B * p_.Hst, summed = p_.causal ? segments_ - 1 : segments_;
    attune_status status = Each(heads * summed, [&](int64_t task, uint32_t worker) { Sum(task, summed, worker); });
    if (status == ATTUNE_OK) status = Each(heads, [&](int64_t head, uint32_t) { Scan(head); });
    if (status == ATTUNE_OK) status = Each(heads * segments_, [&](int64_t task, uint32_t worker) { Rows(task, worker); });
    return status;
  }

 private:
  // Tokens of all segments but the last ones: whole chunks.
  int64_t Length(int64_t n) const {
    const int64_t chunk = x_.knobs[kChunk], chunks = (n + chunk - 1) / chunk;
    return (chunks + segments_ - 1) / segments_ * chunk;
  }
  static int64_t Begin(int64_t segment, int64_t length, int64_t n) {
    return segment * length < n ? segment * length : n;
  }
  State Slot(int64_t head, int64_t segment) const {
    hedgehog::Floats memory(slots_ + size_t(head * segments_ + segment) * slot_);
    return State(p_, memory);
  }
  Worker WorkerOf(int64_t head, uint32_t worker) const {
    Worker w(x_, p_, hedgehog::Floats(workers_ + worker * worker_));
    w.Begin(head / p_.Hst, head % p_.Hst);
    return w;
  }
  template <class F>
  attune_status Each(int64_t n, F f) {
    if (n == 0) return ATTUNE_OK;
    const auto piece = [](void* context, int64_t begin, int64_t end, uint32_t worker) {
      for (int64_t i = begin; i < end; i++) (*static_cast<F*>(context))(i, worker);
    };
    const attune_status status = x_.host->parallel_for(&x_, n, 1, piece, &f);
    return status == ATTUNE_OK && Cancelled(x_) ? ATTUNE_E_CANCELLED : status;
  }

  // The sum over the keys of a segment, for the slot of the next one if causal.
  void Sum(int64_t task, int64_t summed, uint32_t worker) {
    const int64_t head = task / summed, segment = task % summed;
    State state = Slot(head, p_.causal ? segment + 1 : segment);
    WorkerOf(head, worker).Absorb(Begin(segment, keys_, p_.Nk), Begin(segment + 1, keys_, p_.Nk), state);
    if (!state.any) memset(state.s.p, 0, sizeof(float) * slot_);
  }
  // The state before each segment; that of all keys in the first slot if not causal.
  void Scan(int64_t head) {
    const int64_t b = head / p_.Hst, s = head % p_.Hst;
    State first = Slot(head, 0);
    if (p_.causal) {
      first.Load(p_, b, s);
      if (!first.any) memset(first.s.p, 0, sizeof(float) * slot_);
      for (int64_t i = 1; i < segments_; i++) kit::AddScaled(Slot(head, i - 1).s.p, slot_, 1.0f, Slot(head, i).s.p);
      return;
    }
    for (int64_t i = 1; i < segments_; i++) kit::AddScaled(Slot(head, i).s.p, slot_, 1.0f, first.s.p);
    State before = Slot(head, 1);
    before.Load(p_, b, s);
    if (before.any) kit::AddScaled(before.s.p, slot_, 1.0f, first.s.p);
    first.any = true;
    first.Store(p_, b, s);
  }
  void Rows(int64_t task, uint32_t worker) {
    const int64_t head = task / segments_, segment = task % segments_;
    Worker w = WorkerOf(head, worker);
    if (!p_.causal) {
      State all = Slot(head, 0);
      all.any = true;
      w.Rows(Begin(segment, queries_, p_.Nq), Begin(segment + 1, queries_, p_.Nq), all);
      return;
    }
    State state = Slot(head, segment);
    state.any = segment > 0 || p_.kv_state;
    const bool last = segment == segments_ - 1;
    const int64_t begin = Begin(segment, keys_, p_.Nk), end = Begin(segment + 1, keys_, p_.Nk);
    if (!last && end <= p_.Nk - p_.Nq) return;  // keys before the first query
    const bool done = w.Causal(begin, end, state, !last || !p_.WantsStates());
    if (last && done) state.Store(p_, head / p_.Hst, head % p_.Hst);
  }

  const attune_exec& x_;
  const Problem& p_;
  const int64_t segments_, keys_, queries_;  // the last two: tokens of a segment
  const size_t slot_;  // floats of a state
  float *slots_, *workers_;
  int64_t worker_;     // floats of a worker
};

// A state head per task.
attune_status Whole(const attune_exec& x, const Problem& p) {
  const size_t floats = x.workspace_bytes / 4 / x.n_workers / 16 * 16;
  hedgehog::Floats memory(static_cast<float*>(x.workspace) + x.worker * floats);
  State state(p, memory);
  Worker worker(x, p, memory);
  for (int64_t task = x.task_begin; task < x.task_end; task++) {
    const int64_t b = task / p.Hst, s = task % p.Hst;
    worker.Begin(b, s);
    state.Load(p, b, s);
    if (!(p.causal ? worker.Causal(0, p.Nk, state, !p.WantsStates())
                   : worker.Absorb(0, p.Nk, state) && worker.Rows(0, p.Nq, state))) {
      return ATTUNE_E_CANCELLED;
    }
    state.Store(p, b, s);
  }
  return ATTUNE_OK;
}

}  // namespace

attune_status ColumnsForward(const attune_exec* x) {
  return Whole(*x, ReadForward(*x));
}
attune_status ColumnsStep(const attune_exec* x) {
  return Whole(*x, ReadStep(*x));
}
attune_status SplitForward(const attune_exec* x) {
  const Problem p = ReadForward(*x);
  return Split(*x, p).Run();
}
attune_status SplitStep(const attune_exec* x) {
  const Problem p = ReadStep(*x);
  return Split(*x, p).Run();
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace hedgehog
HWY_AFTER_NAMESPACE();
