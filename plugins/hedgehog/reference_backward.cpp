#include "hedgehog/reference.h"
#include "hedgehog/reference_gradients.h"
#include "hedgehog/reference_map.h"
#include "hedgehog/reference_row.h"

namespace hedgehog {
namespace {

// Adds what the rows of one query head give.
void Head(const Problem& p, const View& upstream, int64_t b, int64_t h, Doubles memory, KeyGradients& keys,
          MapGradients& maps, double* dwindow_factor) {
  const int64_t E = p.E();
  double *phi_q = memory.Take(E), *dphi_q = memory.TakeZeros(E), *o = memory.Take(p.Dv), *g = memory.Take(p.Dv);
  ReferenceRow row = {memory.Take(p.Nk), memory.Take(p.Nk), memory.TakeFlags(p.Nk)};
  double* dw = memory.Take(p.Nk);  // gradient of a
  const double gamma = p.window_mode == kNoWindow ? 0 : p.Gamma(h), linear = p.Linear(h);
  double dgamma = 0;
  keys.MapKeys(p, b, h);
  for (int64_t i = 0; i < p.Nq; i++) {
    maps.MapQuery(p, b, h, i, phi_q);
    row.Fill(p, b, h, i, phi_q, keys.phi);
    row.Output(p, b, h, i, phi_q, o);
    if (row.den == 0) row.den = 1;
    double product = 0;
    for (int64_t c = 0; c < p.Dv; c++) g[c] = upstream.Get(b, h, i, c) / row.den, product += g[c] * o[c];

    double window_sum = 0;  // what flows into the window's maximum
    for (int64_t j = 0; j < p.VisibleEnd(i); j++) {
      if (!p.Real(b, j)) continue;
      dw[j] = -product;
      for (int64_t c = 0; c < p.Dv; c++) {
        dw[j] += g[c] * p.v.Get(b, h / p.Group(), j, c);
        keys.dv[j * p.Dv + c] += row.a[j] * g[c];
      }
      if (j >= p.LinearEnd(i)) window_sum += row.a[j] * dw[j], dgamma += row.base[j] * dw[j];
    }
    for (int64_t e = 0; e < E; e++) dphi_q[e] = 0;
    for (int64_t j = 0; j < p.VisibleEnd(i); j++) {
      if (!p.Real(b, j)) continue;
      if (j < p.LinearEnd(i)) {
        for (int64_t e = 0; e < E; e++) {
          dphi_q[e] += linear * dw[j] * keys.phi[j * E + e];
          keys.dphi[j * E + e] += linear * dw[j] * phi_q[e];
        }
        if (p.one_minus_gamma) dgamma -= row.base[j] * dw[j];
        continue;
      }
      const double du = row.a[j] * dw[j] - (row.top[j] ? window_sum / row.tops : 0);
      maps.AddScore(p, b, h, i, j, du, keys.dk);
    }
    if (p.kv_state) {
      for (int64_t e = 0; e < E; e++) {
        double sum = -product * p.k_state.Get(b, p.StateHead(h), e);
        for (int64_t c = 0; c < p.Dv; c++) sum += g[c] * p.kv_state.Get(b, p.StateHead(h), e, c);
        dphi_q[e] += linear * sum;
        if (p.one_minus_gamma) dgamma -= phi_q[e] * sum;
      }
    }
    maps.FinishQuery(p, b, h, i, dphi_q);
  }
  maps.FinishKeys(p, b, h, keys);
  dwindow_factor[h] += gamma * (1 - gamma) * dgamma;
}

}  // namespace

attune_status ReferenceBackward(const attune_exec* x) {
  const Problem p = ReadForward(*x, true);
  Doubles memory(x->workspace);
  KeyGradients keys(p, memory);
  MapGradients maps(p, memory);
  double* dwindow_factor = memory.TakeZeros(p.Hq);
  const View upstream(x->tensors[kBwdDo]);
  maps.dq = View(x->tensors[kBwdDq]);
  for (int64_t b = 0; b < p.B; b++) {
    for (int64_t head = 0; head < p.Hkv; head++) {
      keys.Clear(p);
      for (int64_t h = head * p.Group(); h < (head + 1) * p.Group(); h++) {
        Head(p, upstream, b, h, memory, keys, maps, dwindow_factor);
      }
      keys.Store(p, b, head, View(x->tensors[kBwdDk]), View(x->tensors[kBwdDv]));
    }
  }
  maps.Store(p, x->tensors + kBwdDwq);
  const View out(x->tensors[kBwdDwindowFactor]);
  for (int64_t h = 0; out && h < p.Hq; h++) out.Put(dwindow_factor[h], h);
  return ATTUNE_OK;
}

}  // namespace hedgehog
