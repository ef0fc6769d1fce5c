#include "lightning/reference.h"

#include <math.h>

#include "lightning/problem.h"

namespace lightning {
namespace {

// A matrix [D x Dv] in double.
struct State {
  double* data;
  int64_t features, columns;
  double& operator()(int64_t d, int64_t e) const { return data[d * columns + e]; }

  void Load(const View& from, int64_t index, int64_t h) const {
    for (int64_t d = 0; d < features; d++) {
      for (int64_t e = 0; e < columns; e++) (*this)(d, e) = from ? from.Get(index, h, d, e) : 0;
    }
  }
  void Store(const View& to, int64_t index, int64_t h) const {
    for (int64_t d = 0; d < features; d++) {
      for (int64_t e = 0; e < columns; e++) to.Put((*this)(d, e), index, h, d, e);
    }
  }
};

// One state for each head of a group.
struct States {
  double* data;
  int64_t features, columns;
  State operator[](int64_t g) const { return {data + g * features * columns, features, columns}; }
};

// S_t = lambda S_{t-1} + k_t v_t^T
void Recur(const Problem& p, const Sequence& s, int64_t h, int64_t t, double lambda, const State& S) {
  const int64_t kv = h / p.Group(), n = s.begin + t;
  for (int64_t d = 0; d < p.D; d++) {
    for (int64_t e = 0; e < p.Dv; e++) S(d, e) = lambda * S(d, e) + p.k.Get(s.b, kv, n, d) * p.v.Get(s.b, kv, n, e);
  }
}

// G_t = scale q_t do_t^T + lambda G_{t+1}; the caller has multiplied by lambda.
void RecurBack(const Problem& p, const Sequence& s, int64_t h, int64_t t, const State& G) {
  if (!p.d_o) return;
  const int64_t n = s.begin + t;
  for (int64_t d = 0; d < p.D; d++) {
    for (int64_t e = 0; e < p.Dv; e++) G(d, e) += p.scale * p.q.Get(s.b, h, n, d) * p.d_o.Get(s.b, h, n, e);
  }
}

// dq_t = scale S_t do_t over the sequence. Returns the part of dslopes that S gives:
// - sum_t (t + 1) <q_t, dq_t> - length <S_last, dkv_state_out>.
double SweepForward(const Problem& p, const Sequence& s, int64_t h, const State& S) {
  const double lambda = exp(-p.Slope(h));
  double dslope = 0;
  S.Load(p.kv_state, s.index, h);
  for (int64_t t = 0; t < s.length; t++) {
    Recur(p, s, h, t, lambda, S);
    for (int64_t d = 0; d < p.D; d++) {
      double dq = 0;
      for (int64_t e = 0; e < p.Dv && p.d_o; e++) dq += p.scale * S(d, e) * p.d_o.Get(s.b, h, s.begin + t, e);
      dslope -= double(t + 1) * p.q.Get(s.b, h, s.begin + t, d) * dq;
      if (p.dq) p.dq.Put(dq, s.b, h, s.begin + t, d);
    }
  }
  for (int64_t d = 0; d < p.D && p.dkv_state_out; d++) {
    for (int64_t e = 0; e < p.Dv; e++) dslope -= double(s.length) * S(d, e) * p.dkv_state_out.Get(s.index, h, d, e);
  }
  return dslope;
}

// dk_t = G_t v_t, dv_t = G_t^T k_t, summed over the heads of a group, and dkv_state = lambda G_0. Adds
// sum_t (t + 1) <k_t, dk_t> of each head to dslope.
void SweepBack(const Problem& p, const Sequence& s, int64_t kv, const States& G, double* dslope) {
  const int64_t first = kv * p.Group();
  for (int64_t g = 0; g < p.Group(); g++) G[g].Load(p.dkv_state_out, s.index, first + g);
  for (int64_t t = s.length - 1; t >= 0; t--) {
    const int64_t n = s.begin + t;
    for (int64_t g = 0; g < p.Group(); g++) RecurBack(p, s, first + g, t, G[g]);
    for (int64_t d = 0; d < p.D; d++) {
      double dk = 0;
      for (int64_t g = 0; g < p.Group(); g++) {
        double own = 0;
        for (int64_t e = 0; e < p.Dv; e++) own += G[g](d, e) * p.v.Get(s.b, kv, n, e);
        dslope[g] += double(t + 1) * p.k.Get(s.b, kv, n, d) * own;
        dk += own;
      }
      if (p.dk) p.dk.Put(dk, s.b, kv, n, d);
    }
    for (int64_t e = 0; e < p.Dv && p.dv; e++) {
      double dv = 0;
      for (int64_t g = 0; g < p.Group(); g++) {
        for (int64_t d = 0; d < p.D; d++) dv += G[g](d, e) * p.k.Get(s.b, kv, n, d);
      }
      p.dv.Put(dv, s.b, kv, n, e);
    }
    for (int64_t g = 0; g < p.Group(); g++) {
      const double lambda = exp(-p.Slope(first + g));
      for (int64_t i = 0; i < p.D * p.Dv; i++) G[g].data[i] *= lambda;
    }
  }
  for (int64_t g = 0; g < p.Group() && p.dkv_state; g++) G[g].Store(p.dkv_state, s.index, first + g);
}

}  // namespace

attune_status ReferenceForward(const attune_exec* x) {
  const Problem p = ReadForward(*x);
  const State S = {static_cast<double*>(x->workspace) + x->worker * p.D * p.Dv, p.D, p.Dv};
  for (int64_t task = x->task_begin; task < x->task_end; task++) {
    if (Cancelled(*x)) return ATTUNE_E_CANCELLED;
    const Sequence s = p.At(task / p.Hq);
    const int64_t h = task % p.Hq;
    const double lambda = exp(-p.Slope(h));
    S.Load(p.kv_state, s.index, h);
    for (int64_t t = 0; t < s.length; t++) {
      Recur(p, s, h, t, lambda, S);
      for (int64_t e = 0; e < p.Dv; e++) {
        double o = 0;
        for (int64_t d = 0; d < p.D; d++) o += p.scale * p.q.Get(s.b, h, s.begin + t, d) * S(d, e);
        p.o.Put(o, s.b, h, s.begin + t, e);
      }
    }
    if (p.kv_state_out) S.Store(p.kv_state_out, s.index, h);
  }
  return ATTUNE_OK;
}

attune_status ReferenceBackward(const attune_exec* x) {
  const Problem p = ReadBackward(*x);
  const int64_t group = p.Group(), size = p.D * p.Dv;
  double* memory = static_cast<double*>(x->workspace) + x->worker * group * (size + 1);
  const States states = {memory, p.D, p.Dv};
  double* dslope = memory + group * size;
  for (int64_t kv = x->task_begin; kv < x->task_end; kv++) {
    for (int64_t g = 0; g < group; g++) dslope[g] = 0;
    for (int64_t i = 0; i < p.sequences; i++) {
      if (Cancelled(*x)) return ATTUNE_E_CANCELLED;
      const Sequence s = p.At(i);
      for (int64_t g = 0; g < group; g++) dslope[g] += SweepForward(p, s, kv * group + g, states[0]);
      SweepBack(p, s, kv, states, dslope);
    }
    for (int64_t g = 0; g < group && p.dslopes; g++) p.dslopes.Put(dslope[g], kv * group + g);
  }
  return ATTUNE_OK;
}

}  // namespace lightning
