// The phases that forward and backward share: sums over the keys of each segment, and from them the sums before each
// segment.
#if defined(ATTUNE_MALA_SUMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_MALA_SUMS_INL_H_
#undef ATTUNE_MALA_SUMS_INL_H_
#else
#define ATTUNE_MALA_SUMS_INL_H_
#endif
#include "mala/chunk-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mala {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// Runs f(i, worker) for i in [0, n) on the host's threads.
template <class F>
attune_status ParallelFor(const attune_exec& x, int64_t n, F f) {
  if (n == 0) return ATTUNE_OK;
  const auto piece = [](void* context, int64_t begin, int64_t end, uint32_t worker) {
    for (int64_t i = begin; i < end; i++) (*static_cast<F*>(context))(i, worker);
  };
  return x.host->parallel_for(&x, n, 1, piece, &f);
}

inline bool Cancelled(const attune_exec& x) {
  return x.cancel && __atomic_load_n(x.cancel, __ATOMIC_RELAXED);
}

inline void ClearSlot(const Layout& w, const Slot& s) {
  memset(s.p, 0, sizeof(float) * w.slot_floats);
}
HWY_INLINE void AddSlot(const Layout& w, const Slot& from, const Slot& to) {
  const hn::ScalableTag<float> d;
  for (int64_t i = 0; i < w.slot_floats - 16; i += kLanes) {
    hn::StoreU(hn::Add(hn::LoadU(d, to.p + i), hn::LoadU(d, from.p + i)), d, to.p + i);
  }
}

// One row of a state tensor.
inline const float* StateRow(const View& t, int64_t b, int64_t h, int64_t d = 0) {
  return static_cast<const float*>(t.Data()) + t.Offset(b, h, d);
}
inline float* StateRowOut(const View& t, int64_t b, int64_t h, int64_t d = 0) {
  return static_cast<float*>(t.Data()) + t.Offset(b, h, d);
}
inline void AddStates(const Problem& c, const Layout& w, int64_t b, int64_t h, const Slot& s) {
  if (!c.in.kv) return;
  for (int64_t d = 0; d < c.D; d++) kit::AddScaled(StateRow(c.in.kv, b, h, d), c.Dv, 1.0f, s.p + d * w.ld_v);
  kit::AddScaled(StateRow(c.in.k, b, h), c.D, 1.0f, s.z);
  kit::AddScaled(StateRow(c.in.v, b, h), c.Dv, 1.0f, s.v);
}
inline void StoreStates(const Problem& c, const Layout& w, int64_t b, int64_t h, const Slot& s) {
  for (int64_t d = 0; c.out.kv && d < c.D; d++) {
    memcpy(StateRowOut(c.out.kv, b, h, d), s.p + d * w.ld_v, sizeof(float) * c.Dv);
  }
  if (c.out.k) memcpy(StateRowOut(c.out.k, b, h), s.z, sizeof(float) * c.D);
  if (c.out.v) memcpy(StateRowOut(c.out.v, b, h), s.v, sizeof(float) * c.Dv);
}

// Tokens that all queries of batch entry b see, in the bidirectional form.
inline int64_t CountKeys(const Problem& c, int64_t b) {
  if (!c.key_mask) return c.Nk;
  int64_t n = 0;
  for (int64_t j = 0; j < c.Nk; j++) n += c.Visible(b, j);
  return n;
}

// In the causal form slot i becomes the sum of `start` and the slots before it, or behind it with `backwards`.
template <class GetSlot, class Begin>
void ScanSlots(const Layout& w, bool backwards, GetSlot slot, Begin begin) {
  const int64_t last = w.segments - 1;
  const auto at = [&](int64_t i) { return slot(backwards ? last - i : i); };
  for (int64_t i = last; i >= 0; i--) {
    ClearSlot(w, at(i));
    begin(at(i));
    for (int64_t j = 0; j < i; j++) AddSlot(w, at(j), at(i));
  }
}

// Fills the slots of sums. Bidirectional: slot 0 of each head holds the sums over all keys. Causal: slot i holds the
// sums over the state and the tokens before segment i.
inline attune_status SumKeys(const attune_exec& x, const Problem& c, const Layout& w) {
  // In the causal form nothing comes after the last segment.
  const int64_t summed = c.causal ? w.segments - 1 : w.segments;
  const attune_status status = ParallelFor(x, w.heads * summed, [&](int64_t task, uint32_t worker) HWY_ATTR {
    const int64_t head = task / summed, i = task % summed, batch = head / c.Hkv;
    const Slot sums = w.Sums(head, i);
    Arena arena(w, worker);
    Chunk chunk(c, w, arena);
    Tokens t;
    ClearSlot(w, sums);
    for (Range left = Range::Piece(i, w.key_segment, c.Nk); left.begin < left.end && !Cancelled(x);) {
      t.TakeKeys(c, batch, w.chunk, &left);
      chunk.LoadKeysOnce(batch, head % c.Hkv, t);
      chunk.FetchLater({{c.k, batch, head % c.Hkv, c.D}, {c.v, batch, head % c.Hkv, c.Dv}}, left);
      chunk.Absorb(t, sums);
    }
  });
  if (status != ATTUNE_OK) return status;
  return ParallelFor(x, w.heads, [&](int64_t head, uint32_t) HWY_ATTR {
    if (c.causal) {
      return ScanSlots(w, false, [&](int64_t i) { return w.Sums(head, i); },
                       [&](const Slot& s) { AddStates(c, w, head / c.Hkv, head % c.Hkv, s); });
    }
    for (int64_t i = 1; i < w.segments; i++) AddSlot(w, w.Sums(head, i), w.Sums(head, 0));
    *w.Sums(head, 0).n = CountKeys(c, head / c.Hkv);
  });
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace mala
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
