#include "lightning/kernels.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lightning/recurrent.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "lightning/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lightning {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

constexpr int kBlock = 4;  // vectors of state columns that pass through the registers together

// One token of one head.
struct Token {
  size_t features;
  float decay;
  const float *q, *k, *v;  // q times scale
  float* o;
  const float* from;  // state before the token, its rows from_step apart; null: zero
  float* to;          // state after it; null: not wanted. May be `from`
  int64_t from_step, to_step;
};

// A vector of which only the first n floats exist; n = kLanes is a plain one.
template <bool kWhole, class D>
HWY_INLINE hn::Vec<D> LoadFirst(D d, const float* p, size_t n) {
  if constexpr (kWhole) return hn::LoadU(d, p);
  HWY_ALIGN float buffer[kLanes] = {};
  memcpy(buffer, p, n * sizeof(float));
  return hn::Load(d, buffer);
}
template <bool kWhole, class D>
HWY_INLINE void StoreFirst(D d, hn::Vec<D> x, float* p, size_t n) {
  if constexpr (kWhole) return hn::StoreU(x, d, p);
  HWY_ALIGN float buffer[kLanes];
  hn::Store(x, d, buffer);
  memcpy(p, buffer, n * sizeof(float));
}

// S = decay S + k v^T and o = q^T S in one pass over kVectors vectors of columns from e on, of which the last one has n
// columns.
template <int kVectors, bool kWhole>
HWY_INLINE void Columns(const Token& t, size_t e, size_t n) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const V decay = hn::Set(d, t.decay);
  V v[kVectors], o[kVectors];
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; i++) v[i] = hn::LoadU(d, t.v + e + i * kLanes), o[i] = hn::Zero(d);
  for (size_t f = 0; f < t.features; f++) {
    const V k = hn::Set(d, t.k[f]), q = hn::Set(d, t.q[f]);
    const float* from = t.from + int64_t(f) * t.from_step + e;
    float* to = t.to + int64_t(f) * t.to_step + e;
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; i++) {
      V s = hn::Mul(k, v[i]);
      if (t.from) s = hn::MulAdd(decay, LoadFirst<kWhole>(d, from + i * kLanes, n), s);
      o[i] = hn::MulAdd(q, s, o[i]);
      if (t.to) StoreFirst<kWhole>(d, s, to + i * kLanes, n);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; i++) hn::StoreU(o[i], d, t.o + e + i * kLanes);
}

HWY_NOINLINE void Advance(const Token& t, size_t columns) {
  size_t e = 0;
  for (; e + kBlock * kLanes <= columns; e += kBlock * kLanes) Columns<kBlock, true>(t, e, kLanes);
  for (; e + kLanes <= columns; e += kLanes) Columns<1, true>(t, e, kLanes);
  if (e < columns) Columns<1, false>(t, e, columns - e);
}

}  // namespace

attune_status Recurrent(const attune_exec* x) {
  const Problem p = ReadForward(*x);
  const size_t features = size_t(p.D), columns = size_t(p.Dv);
  const size_t ld_f = attune_kit::ChunkStride(features), ld_c = attune_kit::ChunkStride(columns);
  const size_t floats = 2 * ld_f + 2 * ld_c + attune_kit::StateFloats(features, columns);
  float* q = static_cast<float*>(x->workspace) + x->worker * floats;
  float *k = q + ld_f, *v = k + ld_f, *o = v + ld_c, *own = o + ld_c;
  for (int64_t task = x->task_begin; task < x->task_end; task++) {
    if (Cancelled(*x)) return ATTUNE_E_CANCELLED;
    const Sequence s = p.At(task / p.Hq);
    const int64_t h = task % p.Hq, kv = h / p.Group();
    const Rows q_rows(p.q, s, h, false, features), k_rows(p.k, s, kv, false, features);
    const Rows v_rows(p.v, s, kv, false, columns), o_rows(p.o, s, h, false, columns);
    const StateRows before(p, p.kv_state, s.index, h, false), after(p, p.kv_state_out, s.index, h, false);
    if (s.length == 0 && after.data) {  // nothing happens to the state
      before.Load(own);
      after.Store(own);
    }
    Token t = {features, float(exp(-p.Slope(h))), q, k, v, o, before.data, after.data, before.row, after.row};
    if (t.decay < 0x1p-126f) t.decay = 0;
    for (int64_t i = 0; i < s.length; i++) {
      q_rows.Load(i, 1, float(p.scale), q, ld_f);
      k_rows.Load(i, 1, 1, k, ld_f);
      v_rows.Load(i, 1, 1, v, ld_c);
      if (!after.data) {  // the state lives here, and no longer than it is needed
        t.to = i + 1 < s.length ? own : nullptr;
        t.to_step = int64_t(ld_c);
      }
      Advance(t, columns);
      t.from = t.to, t.from_step = t.to_step;
      o_rows.Store(i, 1, o, ld_c);
    }
  }
  return ATTUNE_OK;
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace lightning
HWY_AFTER_NAMESPACE();
