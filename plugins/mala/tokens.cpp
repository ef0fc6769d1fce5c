// A few tokens, one after the other: the states are read and written once per token, in place if the call says so.
#include "_kit/isa.h"
#include "mala/chunked.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mala/tokens.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "_kit/dot-inl.h"
#include "mala/sums-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mala {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

constexpr int kHeads = kFewTokens;  // query heads that share one pass over the states

// The states of one kv head before a token and after it. `kv` null: nothing came before. Strides in floats.
struct State {
  const float *kv, *k, *v;
  int64_t row;
};
struct StateOut {
  float *kv, *k, *v;
  int64_t row;
};

// after[d] = before[d] + key[d] * value (kUpdate), y[h] = sum over d of query[h][d] * after[d], for kVectors vectors of
// columns. Queries are ld apart.
template <int kQueries, int kVectors, bool kUpdate>
HWY_INLINE void Columns(int64_t depth, const float* before, int64_t before_row, const float* key, const float* value,
                        float* after, int64_t after_row, const float* query, int64_t ld, float* y, int64_t ld_y) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  V sum[kQueries][kVectors], v[kVectors];
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; j++) {
    v[j] = kUpdate ? hn::LoadU(d, value + j * kLanes) : hn::Zero(d);
#pragma GCC unroll 4
    for (int h = 0; h < kQueries; h++) sum[h][j] = hn::Zero(d);
  }
  for (int64_t k = 0; k < depth; k++) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; j++) {
      float* to = after + k * after_row + j * kLanes;
      V p;
      if constexpr (kUpdate) {
        p = before ? hn::LoadU(d, before + k * before_row + j * kLanes) : hn::Zero(d);
        p = hn::MulAdd(hn::Set(d, key[k]), v[j], p);
        hn::StoreU(p, d, to);
      } else {
        p = hn::LoadU(d, to);
      }
#pragma GCC unroll 4
      for (int h = 0; h < kQueries; h++) sum[h][j] = hn::MulAdd(hn::Set(d, query[h * ld + k]), p, sum[h][j]);
    }
  }
#pragma GCC unroll 4
  for (int h = 0; h < kQueries; h++) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; j++) hn::StoreU(sum[h][j], d, y + h * ld_y + j * kLanes);
  }
}

// The same for all columns. The last ones, less than a vector, are scalar: the states have no room behind their rows.
template <int kQueries, bool kUpdate>
HWY_NOINLINE void AllColumns(const Problem& c, const State& s, const float* key, const float* value, const StateOut& o,
                             const float* query, int64_t ld, float* y, int64_t ld_y) {
  int64_t e = 0;
  const auto run = [&](auto vectors) HWY_ATTR {
    constexpr int kVectors = decltype(vectors)::value;
    for (; e + kVectors * int64_t(kLanes) <= c.Dv; e += kVectors * kLanes) {
      Columns<kQueries, kVectors, kUpdate>(c.D, s.kv ? s.kv + e : nullptr, s.row, key, value + e, o.kv + e, o.row, query,
                                           ld, y + e, ld_y);
    }
  };
  run(std::integral_constant<int, 4>());
  run(std::integral_constant<int, 1>());
  for (; e < c.Dv; e++) {
    float sum[kQueries] = {};
    for (int64_t k = 0; k < c.D; k++) {
      float* p = o.kv + k * o.row + e;
      if constexpr (kUpdate) *p = (s.kv ? s.kv[k * s.row + e] : 0) + key[k] * value[e];
      for (int h = 0; h < kQueries; h++) sum[h] += query[h * ld + k] * *p;
    }
    for (int h = 0; h < kQueries; h++) y[h * ld_y + e] = sum[h];
  }
}

// The output of query row (batch, head, token), whose y this changes. n: tokens seen.
void Finish(const Problem& c, int64_t batch, int64_t head, int64_t token, double n, const float* query,
            const StateOut& seen, float* y) {
  float dot;
  kit::DotTile<1, 1>(c.D, query, 0, seen.k, 0, &dot, 0);
  const double z = c.scale / n * dot, beta = 1 + 1 / (z + c.norm_eps);
  const float f = float(beta * c.scale / n), g = float(-z / n);
  for (int64_t e = 0; e < c.Dv; e++) y[e] = f * y[e] + g * seen.v[e];
  WithRow(c.o, batch, head, token, [&](auto* p) HWY_ATTR { kit::Narrow(y, c.Dv, 1.0f, p); });
}

// after = before + x; either may be absent.
void AddRow(const float* before, const float* x, int64_t n, float* after) {
  for (int64_t i = 0; i < n; i++) after[i] = (before ? before[i] : 0) + (x ? x[i] : 0);
}

// No token: the states are what they were.
void PassOn(const Problem& c, const State& s, const StateOut& o) {
  for (int64_t d = 0; d < c.D; d++) AddRow(s.kv ? s.kv + d * s.row : nullptr, nullptr, c.Dv, o.kv + d * o.row);
  AddRow(s.k, nullptr, c.D, o.k);
  AddRow(s.v, nullptr, c.Dv, o.v);
}

// Task = all tokens of one kv head.
attune_status Step(const attune_exec& x) {
  const Problem c = Read(x, kStep);
  const Layout w(x, c, kFewTokens, 1, false);
  const attune_status status = ParallelFor(x, w.heads, [&](int64_t head, uint32_t worker) HWY_ATTR {
    const int64_t batch = head / c.Hkv, shared = head % c.Hkv, end = (shared + 1) * c.Group();
    Arena arena(w, worker);
    Chunk chunk(c, w, arena);
    float* y = chunk.m.o;
    const Slot kept = w.Sums(head, 0);  // for states that the caller does not want
    State s = {};
    if (c.in.kv) {
      s = {StateRow(c.in.kv, batch, shared), StateRow(c.in.k, batch, shared), StateRow(c.in.v, batch, shared),
           c.in.kv.Stride(2)};
    }
    const StateOut o = {c.out.kv ? StateRowOut(c.out.kv, batch, shared) : kept.p,
                        c.out.k ? StateRowOut(c.out.k, batch, shared) : kept.z,
                        c.out.v ? StateRowOut(c.out.v, batch, shared) : kept.v,
                        c.out.kv ? c.out.kv.Stride(2) : w.ld_v};
    if (c.Nk == 0) PassOn(c, s, o);
    for (int64_t t = 0; t < c.Nk; t++) {
      const double n = double(c.in.Count(batch)) + double(t + 1);
      Tokens one;
      one.n = 1, one.at[0] = t;
      chunk.LoadKeys(batch, shared, one);
      AddRow(s.k, chunk.b, c.D, o.k);
      AddRow(s.v, chunk.m.v, c.Dv, o.v);
      for (int64_t g = end - c.Group(); g < end; g += kHeads) {
        const int64_t heads = end - g < kHeads ? end - g : kHeads;
        const bool update = g == end - c.Group();
        for (int64_t h = 0; h < heads; h++) chunk.LoadQuery(batch, g + h, t, h);
        const auto all = [&](auto queries, auto first) HWY_ATTR {
          AllColumns<decltype(queries)::value, decltype(first)::value>(c, s, chunk.m.k, chunk.m.v, o, chunk.m.q, w.ld_d, y,
                                                                       w.ld_v);
        };
        using std::integral_constant;
        if (heads == 1) {
          update ? all(integral_constant<int, 1>(), std::true_type()) : all(integral_constant<int, 1>(), std::false_type());
        } else {
          update ? all(integral_constant<int, 2>(), std::true_type()) : all(integral_constant<int, 2>(), std::false_type());
        }
        for (int64_t h = 0; h < heads; h++) Finish(c, batch, g + h, t, n, chunk.a + h * w.ld_d, o, y + h * w.ld_v);
      }
      s = {o.kv, o.k, o.v, o.row};
    }
  });
  if (status != ATTUNE_OK) return status;
  for (int64_t b = 0; b < c.B; b++) c.StoreCount(b);
  return ATTUNE_OK;
}

}  // namespace

attune_status TokensStep(const attune_exec* x) {
  return Step(*x);
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace mala
HWY_AFTER_NAMESPACE();
