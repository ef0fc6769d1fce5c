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

// One call in segments of tokens. They and the order of all sums depend on the problem and the knobs alone.
//
// Not causal: the sums over the keys of each segment, their sum, then the rows of each segment.
// Causal: a segment needs the state of all earlier ones, for which their keys are mapped a first time. Meanwhile half a
// segment at the beginning is done at once: adding keys takes about half as long as all there is to do.
class Split {
 public:
  Split(const attune_exec& x, const Problem& p)
      : x_(x), p_(p), segments_(x.knobs[kSegments]), keys_(Length(p.Nk)), queries_(Length(p.Nq)),
        slot_(State::Floats(p)) {
    slots_ = static_cast<float*>(x.workspace);
    workers_ = slots_ + size_t(p.B * p.Hst * segments_) * slot_;
    worker_ = (x.workspace_bytes / 4 - size_t(workers_ - slots_)) / x.n_workers / 16 * 16;
  }

  attune_status Run() const {
    const int64_t heads = p_.B * p_.Hst;
    attune_status status = Each(heads * segments_, [&](int64_t h, int64_t i, uint32_t worker) { Sum(h, i, worker); });
    if (status == ATTUNE_OK) {
      status = attune_kit::Parallel(x_, heads, [&](int64_t head, uint32_t) { Scan(head); });
    }
    if (status != ATTUNE_OK) return status;
    return Each(heads * segments_, [&](int64_t h, int64_t i, uint32_t worker) { Rows(h, i, worker); });
  }

 private:
  // f(head, segment, worker), where heads are state heads of the whole batch.
  template <class F>
  attune_status Each(int64_t tasks, const F& f) const {
    const attune_status status = attune_kit::Parallel(
        x_, tasks, [&](int64_t task, uint32_t worker) { f(task / segments_, task % segments_, worker); });
    return status == ATTUNE_OK && Cancelled(x_) ? ATTUNE_E_CANCELLED : status;
  }

  // Tokens of a segment, in whole chunks. Causal, there are half of one more.
  int64_t Length(int64_t n) const {
    const int64_t chunk = x_.knobs[kChunk], pieces = p_.causal ? 2 * segments_ + 1 : segments_;
    const int64_t piece = ((n + chunk - 1) / chunk + pieces - 1) / pieces * chunk;
    return p_.causal ? 2 * piece : piece;
  }
  // Where segment i begins; causal, behind the first half.
  int64_t Begin(int64_t i, int64_t length, int64_t n) const {
    const int64_t begin = i * length + (p_.causal ? length / 2 : 0);
    return begin < n ? begin : n;
  }
  State Slot(int64_t head, int64_t i) const {
    hedgehog::Floats memory(slots_ + size_t(head * segments_ + i) * slot_);
    return State(p_, memory);
  }
  Worker WorkerOf(int64_t head, uint32_t worker) const {
    Worker w(x_, p_, hedgehog::Floats(workers_ + worker * worker_));
    w.Begin(head / p_.Hst, head % p_.Hst);
    return w;
  }

  // Not causal: slot i = the sum over the keys of segment i. Causal: slot 0 = the state behind the first half segment,
  // whose rows are written; slot i = the sum over segment i - 1.
  void Sum(int64_t head, int64_t i, uint32_t worker) const {
    State state = Slot(head, i);
    Worker w = WorkerOf(head, worker);
    if (!p_.causal) {
      w.Absorb(Begin(i, keys_, p_.Nk), Begin(i + 1, keys_, p_.Nk), state);
    } else if (i > 0) {
      w.Absorb(Begin(i - 1, keys_, p_.Nk), Begin(i, keys_, p_.Nk), state);
    } else {
      state.Load(p_, head / p_.Hst, head % p_.Hst);
      w.Causal(0, Begin(0, keys_, p_.Nk), state, false);
    }
    if (!state.any) memset(state.s.p, 0, sizeof(float) * slot_);
  }
  // Not causal: slot 0 = the sum over all keys and the state. Causal: slot i = the state before segment i.
  void Scan(int64_t head) const {
    const auto add = [&](int64_t from, int64_t to) HWY_ATTR {
      kit::AddScaled(Slot(head, from).s.p, slot_, 1.0f, Slot(head, to).s.p);
    };
    for (int64_t i = 1; i < segments_; i++) {
      if (p_.causal) {
        add(i - 1, i);
      } else {
        add(i, 0);
      }
    }
    if (p_.causal) return;
    State before = Slot(head, 1), all = Slot(head, 0);
    before.Load(p_, head / p_.Hst, head % p_.Hst);
    if (before.any) add(1, 0);
    all.any = true;
    all.Store(p_, head / p_.Hst, head % p_.Hst);
  }
  void Rows(int64_t head, int64_t i, uint32_t worker) const {
    Worker w = WorkerOf(head, worker);
    State state = Slot(head, p_.causal ? i : 0);
    state.any = true;
    if (!p_.causal) {
      w.Rows(Begin(i, queries_, p_.Nq), Begin(i + 1, queries_, p_.Nq), state);
      return;
    }
    const bool last = i == segments_ - 1;
    const int64_t end = Begin(i + 1, keys_, p_.Nk);
    if (!last && end <= p_.Nk - p_.Nq) return;  // before the first query
    if (w.Causal(Begin(i, keys_, p_.Nk), end, state, !last || !p_.WantsStates()) && last) {
      state.Store(p_, head / p_.Hst, head % p_.Hst);
    }
  }

  const attune_exec& x_;
  const Problem& p_;
  const int64_t segments_, keys_, queries_;  // the last two: tokens of a segment
  const size_t slot_;                        // floats of a state
  size_t worker_;                            // floats of a worker
  float *slots_, *workers_;
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
