#include "dma/reference.h"

#include <math.h>

#include "_kit/top_k.h"

namespace dma {

ReferenceMemory::ReferenceMemory(const Problem& c, void* workspace) {
  dt = static_cast<double*>(workspace);
  bias = dt + c.Nk;
  p = bias + c.Nk;
  out = p + c.Nk;
  end = out + c.Dv + c.Nk;
  death = reinterpret_cast<int32_t*>(out + c.Dv);
  kept = death + c.Nk;
}

void BiasRow(const Problem& c, int64_t b, int64_t head, const ReferenceMemory& m) {
  for (int64_t j = 0; j < c.Nk && c.BiasPerKey(); j++) {
    if (j < c.Cached()) {
      m.bias[j] = c.key_bias_state.Get(b, head, j);
    } else if (!c.Sampled()) {
      m.bias[j] = c.GivenBias(b, head * c.Group(), 0, j);
    } else {
      m.dt[j] = c.b_dt ? c.b_dt.Get(head) : 0;
      for (int64_t g = 0; g < c.Hkv; g++) {
        for (int64_t e = 0; e < c.Dv; e++) m.dt[j] += c.w_dt.Get(head, g * c.Dv + e) * c.v.Get(b, g, j, e);
      }
      m.bias[j] = c.BiasOf(m.dt[j], head);
    }
  }
}

void KeptSets(const Problem& c, int64_t b, const ReferenceMemory& m) {
  // Biases are compared in f32, of equals the lower key wins.
  const auto worse = [&](int32_t x, int32_t y) {
    return attune_kit::Worse(float(m.bias[x]), x, float(m.bias[y]), y);
  };
  int64_t n = 0;  // of kept
  for (int64_t j = 0; j < c.Nk; j++) {
    m.death[j] = kNever;
    if (!c.Real(b, j)) {
      m.death[j] = int32_t(j);
      continue;
    }
    if (!c.Selects()) continue;
    m.kept[n++] = int32_t(j);
    if (n <= c.top_w) continue;
    int64_t worst = 0;
    for (int64_t s = 1; s < n; s++) {
      if (worse(m.kept[s], m.kept[worst])) worst = s;
    }
    const int32_t gone = m.kept[worst];
    m.death[gone] = c.causal && c.mask_mode == kPerQuery ? int32_t(j) : gone;
    m.kept[worst] = m.kept[--n];
  }
}

double Weights(const Problem& c, int64_t b, int64_t h, int64_t i, const ReferenceMemory& m) {
  double top = -INFINITY, z = 0;
  for (int64_t j = 0; j < c.Nk; j++) m.p[j] = 0;
  ForEachKept(c, b, h, i, m, [&](int64_t j) {
    double dot = 0;
    for (int64_t e = 0; e < c.D; e++) dot += c.q.Get(b, h, i, e) * c.k.Get(b, h / c.Group(), j, e);
    m.p[j] = c.scale * dot;
    if (c.BiasPerKey()) {
      m.p[j] += m.bias[j];
    } else if (c.bias) {
      m.p[j] += c.GivenBias(b, h, i, j);
    }
    top = fmax(top, m.p[j]);
  });
  const double shift = top == -INFINITY ? 0 : top;  // never exp(-inf - -inf)
  ForEachKept(c, b, h, i, m, [&](int64_t j) {
    m.p[j] = exp(m.p[j] - shift);
    z += m.p[j];
  });
  if (z == 0) return -INFINITY;
  ForEachKept(c, b, h, i, m, [&](int64_t j) { m.p[j] /= z; });
  return top + log(z);
}

namespace {

void Attend(const Problem& c, int64_t b, int64_t h, int64_t i, const ReferenceMemory& m) {
  const double lse = Weights(c, b, h, i, m);
  for (int64_t e = 0; e < c.Dv; e++) m.out[e] = 0;
  if (lse != -INFINITY) {
    ForEachKept(c, b, h, i, m, [&](int64_t j) {
      for (int64_t e = 0; e < c.Dv; e++) m.out[e] += m.p[j] * c.v.Get(b, h / c.Group(), j, e);
    });
  }
  for (int64_t e = 0; e < c.Dv; e++) c.o.Put(m.out[e], b, h, i, e);
  if (c.lse) c.lse.Put(lse, b, h, i);
}

void StoreKeyRows(const Problem& c, int64_t b, int64_t head, const ReferenceMemory& m) {
  for (int64_t j = c.Cached(); j < c.Nk && c.key_bias; j++) c.key_bias.Put(m.bias[j], b, head, j - c.Cached());
  for (int64_t j = 0; j < c.Nk && c.death; j++) {
    static_cast<int32_t*>(c.death.Data())[c.death.Offset(b, head, j)] = m.death[j];
  }
}

// The keys that are never dropped, in their order. A slot is never behind the key it takes, so this works in place.
void StoreState(const Problem& c, int64_t b, int64_t head, const ReferenceMemory& m) {
  int64_t slot = 0;
  for (int64_t j = 0; j < c.Nk; j++) {
    if (m.death[j] != kNever) continue;
    for (int64_t e = 0; e < c.D; e++) c.k_out.Put(c.k.Get(b, head, j, e), b, head, slot, e);
    for (int64_t e = 0; e < c.Dv; e++) c.v_out.Put(c.v.Get(b, head, j, e), b, head, slot, e);
    c.key_bias_out.Put(m.bias[j], b, head, slot++);
  }
}

attune_status Run(const attune_exec& x, const Problem& c) {
  const ReferenceMemory m(c, x.workspace);
  for (int64_t b = 0; b < c.B; b++) {
    for (int64_t head = 0; head < c.Hkv; head++) {
      BiasRow(c, b, head, m);
      KeptSets(c, b, m);
      StoreKeyRows(c, b, head, m);
      for (int64_t row = 0; row < c.Group() * c.Nq; row++) {
        if (Cancelled(x)) return ATTUNE_E_CANCELLED;
        Attend(c, b, head * c.Group() + row / c.Nq, row % c.Nq, m);
      }
      if (c.k_out) StoreState(c, b, head, m);
    }
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

}  // namespace dma
