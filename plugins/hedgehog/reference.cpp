#include "hedgehog/reference.h"

#include "hedgehog/problem.h"
#include "hedgehog/reference_map.h"
#include "hedgehog/reference_row.h"

namespace hedgehog {
namespace {

// Sums over the keys that every later row meets through the features, so that memory does not grow with their number.
struct ReferenceSums {
  double *s, *z;     // of features x values, [2F, Dv], and of features, [2F]
  int64_t next = 0;  // the first key that is not in them

  static int64_t Doubles(const Problem& p) { return p.E() * (p.Dv + 1); }
  explicit ReferenceSums(double* at, const Problem& p) : s(at), z(at + p.E() * p.Dv) {}

  void Load(const Problem& p, int64_t b, int64_t state) {
    next = 0;
    for (int64_t e = 0; e < p.E(); e++) {
      z[e] = p.k_state ? p.k_state.Get(b, state, e) : 0;
      for (int64_t c = 0; c < p.Dv; c++) s[e * p.Dv + c] = p.kv_state ? p.kv_state.Get(b, state, e, c) : 0;
    }
  }
  // Takes in the keys before `end`, mapped as query head h sees them. phi, logits: 2F and F numbers of memory.
  void Absorb(const Problem& p, int64_t b, int64_t h, int64_t end, double* logits, double* phi) {
    const ReferenceMap keys = ReferenceMap::OfKeys(p);
    for (; next < end; next++) {
      if (!p.Real(b, next)) continue;
      keys.Features(b, h, next, logits, phi);
      for (int64_t e = 0; e < p.E(); e++) z[e] += phi[e];
      for (int64_t c = 0; c < p.Dv; c++) {
        const double v = p.v.Get(b, h / p.Group(), next, c);
        for (int64_t e = 0; e < p.E(); e++) s[e * p.Dv + c] += phi[e] * v;
      }
    }
  }
  void Store(const Problem& p, int64_t b, int64_t state) const {
    for (int64_t e = 0; e < p.E(); e++) {
      if (p.k_state_out) p.k_state_out.Put(z[e], b, state, e);
      for (int64_t c = 0; p.kv_state_out && c < p.Dv; c++) p.kv_state_out.Put(s[e * p.Dv + c], b, state, e, c);
    }
  }
};

// The rows of one query head. Leaves in the sums every key that goes into the states.
void Attend(const Problem& p, int64_t b, int64_t h, ReferenceSums& sums, Doubles memory) {
  double *phi_q = memory.Take(p.E()), *phi_k = memory.Take(p.E()), *z = memory.Take(p.F), *o = memory.Take(p.Dv);
  const ReferenceMap queries = ReferenceMap::OfQueries(p);
  const bool window = p.window_mode != kNoWindow;
  const double gamma = window ? p.Gamma(h) : 0, linear = p.Linear(h);
  sums.Load(p, b, p.StateHead(h));
  for (int64_t i = 0; i < p.Nq; i++) {
    sums.Absorb(p, b, h, p.LinearEnd(i), z, phi_k);
    queries.Features(b, h, i, z, phi_q);
    double den = linear * Dot(phi_q, sums.z, p.E()) + (window ? 0 : p.norm_eps);
    for (int64_t c = 0; c < p.Dv; c++) o[c] = 0;
    for (int64_t e = 0; e < p.E(); e++) {
      for (int64_t c = 0; c < p.Dv; c++) o[c] += linear * phi_q[e] * sums.s[e * p.Dv + c];
    }
    // The exact maximum of the window: part of the definition, because the linear part is not divided by it.
    double m = -INFINITY;
    for (int64_t j = p.LinearEnd(i); j < p.VisibleEnd(i); j++) {
      if (p.Real(b, j)) m = fmax(m, Score(p, b, h, i, j));
    }
    for (int64_t j = p.LinearEnd(i); j < p.VisibleEnd(i); j++) {
      if (!p.Real(b, j)) continue;
      const double a = gamma * exp(Score(p, b, h, i, j) - m);
      den += a;
      for (int64_t c = 0; c < p.Dv; c++) o[c] += a * p.v.Get(b, h / p.Group(), j, c);
    }
    for (int64_t c = 0; c < p.Dv; c++) p.o.Put(den == 0 ? 0 : o[c] / den, b, h, i, c);
  }
  sums.Absorb(p, b, h, p.pushed, z, phi_k);
}

// Every (batch, kv head). A state may be written over the one that was read: heads that share it come first.
attune_status Run(const attune_exec& x, const Problem& p) {
  const int64_t doubles = ReferenceSums::Doubles(p) + 2 * p.E() + p.F + p.Dv;
  for (int64_t task = x.task_begin; task < x.task_end; task++) {
    const int64_t b = task / p.Hkv, head = task % p.Hkv, first = head * p.Group();
    for (int64_t g = 0; g < p.Group(); g++) {
      Doubles memory(static_cast<double*>(x.workspace) + x.worker * doubles);
      ReferenceSums sums(memory.Take(ReferenceSums::Doubles(p)), p);
      Attend(p, b, first + g, sums, memory);
      if (p.Hst == p.Hq || g == p.Group() - 1) sums.Store(p, b, p.StateHead(first + g));
    }
    if (!p.k_cache_out) continue;
    WriteCache(p.k, p.Nk, p.k_cache_out, b, head, p.D);
    WriteCache(p.v, p.Nk, p.v_cache_out, b, head, p.Dv);
  }
  return ATTUNE_OK;
}

}  // namespace

attune_status ReferenceForward(const attune_exec* x) {
  return Run(*x, ReadForward(*x));
}
attune_status ReferenceStep(const attune_exec* x) {
  return Run(*x, ReadStep(*x));
}

}  // namespace hedgehog
