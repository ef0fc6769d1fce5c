// Gradients by the formulas: dS = P (dP - sum P dP), everything else is a sum of it. The kept set is constant.
#include "dma/reference.h"

namespace dma {
namespace {

// Sums of one (batch, kv head), of the weights, and of dbias over all that it is broadcast over.
struct Sums {
  double *dp, *dq, *dk, *dkb;  // Nk, D, Nk * D, Nk
  double* dv;                  // B * Hkv * Nk * Dv: the bias of a key reads the values of all kv heads
  double *dw_dt, *db_dt, *dw_a;
  double* dbias;
  int64_t dbias_size;

  Sums(const Problem& c, const Gradients& g, double* at) {
    const auto take = [&](int64_t n) {
      double* p = at;
      at += n;
      return p;
    };
    dp = take(c.Nk), dq = take(c.D), dk = take(c.Nk * c.D), dkb = take(c.Nk);
    dv = take(c.B * c.Hkv * c.Nk * c.Dv);
    dw_dt = take(c.Hkv * c.Hkv * c.Dv), db_dt = take(c.Hkv), dw_a = take(c.Hkv);
    dbias_size = g.dbias ? c.bias.Dim(0) * c.bias.Dim(1) * c.bias.Dim(2) * c.bias.Dim(3) : 0;
    dbias = take(dbias_size);
  }
};

void Clear(double* p, int64_t n) {
  for (int64_t i = 0; i < n; i++) p[i] = 0;
}

double* BiasSum(const Problem& c, const Sums& s, int64_t b, int64_t h, int64_t i, int64_t j) {
  const int64_t d0 = c.bias.Dim(0), d1 = c.bias.Dim(1), d2 = c.bias.Dim(2), d3 = c.bias.Dim(3);
  const int64_t row = ((d0 > 1 ? b : 0) * d1 + c.BroadcastHead(c.bias, h)) * d2 + (d2 > 1 ? i : 0);
  return s.dbias + row * d3 + (d3 > 1 ? j : 0);
}

void Query(const Problem& c, const Gradients& g, int64_t b, int64_t h, int64_t i, const ReferenceMemory& m,
           const Sums& s) {
  const int64_t head = h / c.Group();
  Weights(c, b, h, i, m);
  Clear(s.dq, c.D);
  double* dv = s.dv + (b * c.Hkv + head) * c.Nk * c.Dv;
  double delta = 0;
  ForEachKept(c, b, h, i, m, [&](int64_t j) {
    s.dp[j] = 0;
    for (int64_t e = 0; e < c.Dv; e++) s.dp[j] += g.d_o.Get(b, h, i, e) * c.v.Get(b, head, j, e);
    delta += m.p[j] * s.dp[j];
  });
  ForEachKept(c, b, h, i, m, [&](int64_t j) {
    const double ds = m.p[j] * (s.dp[j] - delta);
    for (int64_t e = 0; e < c.D; e++) {
      s.dq[e] += c.scale * ds * c.k.Get(b, head, j, e);
      s.dk[j * c.D + e] += c.scale * ds * c.q.Get(b, h, i, e);
    }
    for (int64_t e = 0; e < c.Dv; e++) dv[j * c.Dv + e] += m.p[j] * g.d_o.Get(b, h, i, e);
    s.dkb[j] += ds;
    if (g.dbias) *BiasSum(c, s, b, h, i, j) += ds;
  });
  for (int64_t e = 0; e < c.D && g.dq; e++) g.dq.Put(s.dq[e], b, h, i, e);
}

// From the gradient of the key biases to those of what they are made of. Of keys that no query keeps it is 0, and they
// are not read.
void Sampling(const Problem& c, int64_t b, int64_t head, const ReferenceMemory& m, const Sums& s) {
  for (int64_t j = 0; j < c.Nk; j++) {
    if (s.dkb[j] == 0) continue;
    const double core = s.dkb[j] * (c.bias_mode == kExp ? m.bias[j] : 1);
    const double ddt = core * c.w_a.Get(head) * Sigmoid(m.dt[j]);
    s.dw_a[head] += core * Softplus(m.dt[j]);
    s.db_dt[head] += ddt;
    for (int64_t x = 0; x < c.Hkv; x++) {
      double* dv = s.dv + ((b * c.Hkv + x) * c.Nk + j) * c.Dv;
      for (int64_t e = 0; e < c.Dv; e++) {
        const int64_t column = x * c.Dv + e;
        s.dw_dt[head * c.Hkv * c.Dv + column] += ddt * c.v.Get(b, x, j, e);
        dv[e] += ddt * c.w_dt.Get(head, column);
      }
    }
  }
}

void Store(const Problem& c, const Gradients& g, const Sums& s) {
  for (int64_t row = 0; row < c.B * c.Hkv && g.dv; row++) {
    for (int64_t j = 0; j < c.Nk; j++) {
      for (int64_t e = 0; e < c.Dv; e++) g.dv.Put(s.dv[(row * c.Nk + j) * c.Dv + e], row / c.Hkv, row % c.Hkv, j, e);
    }
  }
  const int64_t columns = c.Hkv * c.Dv;
  for (int64_t head = 0; head < c.Hkv; head++) {
    for (int64_t x = 0; x < columns && g.dw_dt; x++) g.dw_dt.Put(s.dw_dt[head * columns + x], head, x);
    if (g.db_dt) g.db_dt.Put(s.db_dt[head], head);
    if (g.dw_a) g.dw_a.Put(s.dw_a[head], head);
  }
  for (int64_t n = 0; n < s.dbias_size; n++) {
    const int64_t d1 = c.bias.Dim(1), d2 = c.bias.Dim(2), d3 = c.bias.Dim(3);
    g.dbias.Put(s.dbias[n], n / d3 / d2 / d1, n / d3 / d2 % d1, n / d3 % d2, n % d3);
  }
}

}  // namespace

attune_status ReferenceBackward(const attune_exec* x) {
  const Problem c = ReadBackward(*x);
  const Gradients g = ReadGradients(*x);
  const ReferenceMemory m(c, x->workspace);
  const Sums s(c, g, m.end);
  Clear(s.dv, s.dbias + s.dbias_size - s.dv);
  for (int64_t b = 0; b < c.B; b++) {
    for (int64_t head = 0; head < c.Hkv; head++) {
      Clear(s.dk, c.Nk * c.D), Clear(s.dkb, c.Nk);
      BiasRow(c, b, head, m);
      KeptSets(c, b, m);
      for (int64_t row = 0; row < c.Group() * c.Nq; row++) {
        if (Cancelled(*x)) return ATTUNE_E_CANCELLED;
        Query(c, g, b, head * c.Group() + row / c.Nq, row % c.Nq, m, s);
      }
      for (int64_t j = 0; j < c.Nk && g.dk; j++) {
        for (int64_t e = 0; e < c.D; e++) g.dk.Put(s.dk[j * c.D + e], b, head, j, e);
      }
      if (c.Sampled()) Sampling(c, b, head, m, s);
    }
  }
  Store(c, g, s);
  return ATTUNE_OK;
}

}  // namespace dma
