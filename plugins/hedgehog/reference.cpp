#include "hedgehog/reference.h"

#include <string.h>

#include "hedgehog/problem.h"
#include "hedgehog/reference_map.h"
#include "hedgehog/reference_row.h"

namespace hedgehog {
namespace {

// The rows of one query head.
void Attend(const Problem& p, int64_t b, int64_t h, Doubles memory) {
  const int64_t E = p.E();
  double *phi_k = memory.Take(p.Nk * E), *phi_q = memory.Take(E), *z = memory.Take(p.F), *o = memory.Take(p.Dv);
  ReferenceRow row = {memory.Take(p.Nk), memory.Take(p.Nk), memory.TakeFlags(p.Nk)};
  const ReferenceMap keys = ReferenceMap::OfKeys(p), queries = ReferenceMap::OfQueries(p);
  for (int64_t j = 0; j < p.Nk; j++) {
    if (p.Real(b, j)) keys.Features(b, h, j, z, phi_k + j * E);
  }
  for (int64_t i = 0; i < p.Nq; i++) {
    queries.Features(b, h, i, z, phi_q);
    row.Fill(p, b, h, i, phi_q, phi_k);
    row.Output(p, b, h, i, phi_q, o);
    for (int64_t c = 0; c < p.Dv; c++) p.o.Put(o[c], b, h, i, c);
  }
}

// State of head s: the old one plus the keys [0, pushed), features of query head h.
void Push(const Problem& p, int64_t b, int64_t s, int64_t h, Doubles memory) {
  const int64_t E = p.E();
  double *phi = memory.Take(p.Nk * E), *z = memory.Take(p.F);
  const ReferenceMap keys = ReferenceMap::OfKeys(p);
  for (int64_t j = 0; j < p.pushed; j++) {
    if (p.Real(b, j)) keys.Features(b, h, j, z, phi + j * E);
  }
  for (int64_t e = 0; e < E; e++) {
    if (p.k_state_out) {
      double sum = p.k_state ? p.k_state.Get(b, s, e) : 0;
      for (int64_t j = 0; j < p.pushed; j++) sum += p.Real(b, j) ? phi[j * E + e] : 0;
      p.k_state_out.Put(sum, b, s, e);
    }
    for (int64_t c = 0; p.kv_state_out && c < p.Dv; c++) {
      double sum = p.kv_state ? p.kv_state.Get(b, s, e, c) : 0;
      for (int64_t j = 0; j < p.pushed; j++) {
        if (p.Real(b, j)) sum += phi[j * E + e] * p.v.Get(b, h / p.Group(), j, c);
      }
      p.kv_state_out.Put(sum, b, s, e, c);
    }
  }
}

// Every (batch, kv head): first all rows, then what may be written over a state that they read.
attune_status Run(const attune_exec& x, const Problem& p) {
  const int64_t doubles = (p.Nk + 1) * p.E() + p.F + 3 * p.Nk + p.Dv + 1;
  const Doubles memory(static_cast<double*>(x.workspace) + x.worker * doubles);
  for (int64_t task = x.task_begin; task < x.task_end; task++) {
    const int64_t b = task / p.Hkv, head = task % p.Hkv, first = head * p.Group();
    for (int64_t g = 0; g < p.Group(); g++) Attend(p, b, first + g, memory);
    const int64_t states = p.Hst == p.Hq ? p.Group() : 1;
    for (int64_t g = 0; g < states; g++) Push(p, b, p.StateHead(first + g), first + g, memory);
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
