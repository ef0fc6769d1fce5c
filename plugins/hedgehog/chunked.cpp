// forward and step in chunks of queries: O(N) time, memory that does not depend on N.
#include "hedgehog/kernels.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hedgehog/chunked.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <math.h>

#include "hedgehog/chunk-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hedgehog {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

// One state head: the query heads that share it, from the first chunk to the last.
class Forward {
 public:
  Forward(const attune_exec& x, const Problem& p)
      : x_(x),
        p_(p),
        grid_(p, x.knobs[kChunk]),
        memory_(static_cast<float*>(x.workspace) + x.worker * (x.workspace_bytes / 4 / x.n_workers / 16 * 16)),
        keys_(p, grid_, memory_),
        chunk_(p, grid_, memory_),
        state_(p, memory_),
        maps_(memory_) {}

  // False when cancelled.
  bool Run(int64_t b, int64_t s) {
    const int64_t heads = p_.Hq / p_.Hst, first = s * heads;
    hedgehog::Floats memory = maps_;
    const Map key_map(p_, p_.w_k, p_.b_k, first, memory.Take(Map::Floats(p_)));
    key_map.Pack();
    float* const packed = memory.Take(size_t(heads) * Map::Floats(p_));
    const auto query_map = [&](int64_t g) {
      return Map(p_, p_.w_q, p_.b_q, first + g, packed + size_t(g) * Map::Floats(p_));
    };
    for (int64_t g = 0; g < heads; g++) query_map(g).Pack();
    keys_.Begin(b, first / p_.Group(), &key_map, &ahead_);
    state_.Load(p_, b, s);
    int64_t next = 0, end;
    for (int64_t i = 0; i < p_.Nq; i = end) {
      if (Cancelled(x_)) return false;
      end = grid_.ChunkEnd(p_, grid_.ChunkOf(p_, i));
      for (; next < grid_.Count() && grid_.End(next) <= p_.LinearEnd(i); next++) Absorb(next, grid_.End(next));
      for (int64_t g = 0; g < heads; g++) {
        ahead_.Clear();
        if (g + 1 < heads) {
          FetchQueries(b, first + g + 1, i, end);
        } else {
          FetchQueries(b, first, end, end + grid_.size);
          if (p_.causal) keys_.FetchLater(grid_.ChunkOf(p_, i) + 1);
        }
        Rows(b, first + g, i, end, next, query_map(g));
      }
    }
    if (!p_.WantsStates()) return true;
    for (; next < grid_.Count() && grid_.Begin(next) < p_.pushed; next++) Absorb(next, p_.pushed);
    state_.Store(p_, b, s);
    return true;
  }

 private:
  void Absorb(int64_t t, int64_t end) {
    if (!p_.causal) {
      ahead_.Clear();
      keys_.FetchLater(t + 1);
    }
    const size_t n = size_t((end < grid_.End(t) ? end : grid_.End(t)) - grid_.Begin(t));
    state_.Add(p_, keys_.Get(t, kFeatures | kValues, n), n, &ahead_);
  }
  void FetchQueries(int64_t b, int64_t h, int64_t begin, int64_t end) {
    if (end > p_.Nq) end = p_.Nq;
    if (begin < end) AddRows(p_.q, p_.q.Offset(b, h, begin), size_t(end - begin), p_.D, ahead_);
  }

  void Rows(int64_t b, int64_t h, int64_t begin, int64_t end, int64_t next, const Map& map) {
    chunk_.Load(b, h, begin, end);
    map.Logits(chunk_.n, chunk_.q, chunk_.z, &ahead_);
    for (size_t r = 0; r < chunk_.n; r++) map.Features(chunk_.z.Row(r), chunk_.phi.Row(r));
    chunk_.Linear(state_, keys_, next, &ahead_);
    const bool window = p_.window_mode != kNoWindow;
    if (window) chunk_.template Window<true>(keys_);
    const float gamma = window ? float(p_.Gamma(h)) : 0, linear = float(p_.Linear(h));
    for (size_t r = 0; r < chunk_.n; r++) Store(b, h, begin + int64_t(r), r, window, gamma, linear);
  }

  // Mixes both parts of row r and normalises.
  void Store(int64_t b, int64_t h, int64_t i, size_t r, bool window, float gamma, float linear) {
    float* o = chunk_.o_linear.Row(r);
    float den = linear * chunk_.den[r];
    if (window) {
      const hn::ScalableTag<float> d;
      const auto a = hn::Set(d, gamma), c = hn::Set(d, linear);
      den += gamma * chunk_.WindowSum(r);
      for (int64_t e = 0; e < p_.Dv; e += kLanes) {
        const auto other = hn::Mul(a, hn::LoadU(d, chunk_.o_window.Row(r) + e));
        hn::StoreU(hn::MulAdd(c, hn::LoadU(d, o + e), other), d, o + e);
      }
    } else {
      den += float(p_.norm_eps);
    }
    StoreRow(o, p_.Dv, den == 0 ? 0 : 1 / den, p_.o, p_.o.Offset(b, h, i));
  }

  const attune_exec& x_;
  const Problem& p_;
  const Grid grid_;
  hedgehog::Floats memory_;
  KeyTiles keys_;
  Chunk chunk_;
  State state_;
  const hedgehog::Floats maps_;
  attune_kit::Ahead ahead_;
};

}  // namespace

attune_status ChunkedForward(const attune_exec* x) {
  const Problem p = ReadForward(*x);
  Forward forward(*x, p);
  for (int64_t task = x->task_begin; task < x->task_end; task++) {
    if (!forward.Run(task / p.Hst, task % p.Hst)) return ATTUNE_E_CANCELLED;
  }
  return ATTUNE_OK;
}

attune_status ChunkedStep(const attune_exec* x) {
  const Problem p = ReadStep(*x);
  Forward forward(*x, p);
  for (int64_t task = x->task_begin; task < x->task_end; task++) {
    const int64_t b = task / p.Hkv, head = task % p.Hkv, states = p.Hst / p.Hkv;
    for (int64_t s = head * states; s < (head + 1) * states; s++) {
      if (!forward.Run(b, s)) return ATTUNE_E_CANCELLED;
    }
    if (!p.k_cache_out) continue;
    WriteCache(p.k, p.Nk, p.k_cache_out, b, head, p.D);
    WriteCache(p.v, p.Nk, p.v_cache_out, b, head, p.Dv);
  }
  return ATTUNE_OK;
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace hedgehog
HWY_AFTER_NAMESPACE();
