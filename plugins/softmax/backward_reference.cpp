// The gradients as loops over (sequence, head, query), in double.
#include <math.h>

#include "softmax/reference.h"
#include "softmax/visible.h"

namespace softmax {
namespace {

// Double sums of everything that more than one row adds to, and one row's scratch. plugin.cpp reserves exactly this.
struct Sums {
  int64_t keys, bias_size, slope_size;
  double *dk, *dv;                  // [keys of all sequences, Hkv, D or Dv]
  double *dbias, *dsinks, *dslopes;  // as the tensors, packed
  double *p, *dp, *dq;              // of one row: weights, their gradients, gradient of the query

  Sums(const attune_exec& x, const Problem& c, const Gradients& g) {
    keys = c.cu_k ? c.k.cached.view.Dim(0) : c.B * c.Nk;
    bias_size = g.dbias ? g.dbias.Dim(0) * g.dbias.Dim(1) * g.dbias.Dim(2) * g.dbias.Dim(3) : 0;
    slope_size = c.B * c.Hq;
    dk = static_cast<double*>(x.workspace);
    dv = dk + keys * c.Hkv * c.D;
    dbias = dv + keys * c.Hkv * c.Dv;
    dsinks = dbias + bias_size;
    dslopes = dsinks + c.Hq;
    p = dslopes + slope_size;
    dp = p + keys;
    dq = dp + keys;
    for (double* at = dk; at < p; at++) *at = 0;
  }

  int64_t BiasAt(const View& t, int64_t b, int64_t h, int64_t i, int64_t j) const {
    const auto in = [&](int dim, int64_t index) { return t.Dim(dim) > 1 ? index : 0; };
    return ((in(0, b) * t.Dim(1) + h) * t.Dim(2) + in(2, i)) * t.Dim(3) + in(3, j);
  }
};

double Load(const View& t, int64_t at) {
  return attune_kit::LoadScalar(t.Data(), at, t.DType());
}

// sum of a[at_a + d] * b[at_b + d]
double Dot(const View& a, int64_t at_a, const View& b, int64_t at_b, int64_t n) {
  double sum = 0;
  for (int64_t d = 0; d < n; d++) sum += Load(a, at_a + d) * Load(b, at_b + d);
  return sum;
}

// p[j] = the weight of every visible key, 0 for the others. Returns lse.
double Weights(const Problem& c, const Sequence& s, int64_t h, int64_t i, int64_t position, double* p) {
  const double sink = c.sinks ? c.sinks.Get(h) : -INFINITY;
  double m = sink;
  for (int64_t j = s.key_start; j < s.key_end; j++) {
    p[j] = Score(c, s, h, i, position, j);
    m = fmax(m, p[j]);
  }
  double lse = -INFINITY;
  if (c.lse.view) {
    lse = Load(c.lse.view, c.QueryAt(c.lse, s, h, i));
  } else if (!c.sigmoid && m > -INFINITY) {
    double z = sink == -INFINITY ? 0 : exp(sink - m);
    for (int64_t j = s.key_start; j < s.key_end; j++) z += exp(p[j] - m);
    lse = m + log(z);
  }
  for (int64_t j = s.key_start; j < s.key_end; j++) {
    if (c.sigmoid) {
      p[j] = p[j] == -INFINITY ? 0 : 1 / (1 + exp(-(p[j] + c.sigmoid_bias)));
    } else {
      p[j] = lse == -INFINITY ? 0 : exp(p[j] - lse);
    }
  }
  return lse;
}

// Adds what query i of head h contributes, and stores its own gradient.
void Row(const Problem& c, const Gradients& g, const Sums& sums, const Sequence& s, int64_t h, int64_t i) {
  const int64_t position = SaturatingAdd(s.q_offset, i), head = h / c.Group();
  const int64_t first_key = c.cu_k ? s.k_begin : s.b * c.Nk;
  const double lse = Weights(c, s, h, i, position, sums.p);
  const View &q = c.q.view, &d_o = g.d_o.view;
  const int64_t q_at = c.QueryAt(c.q, s, h, i), do_at = c.QueryAt(g.d_o, s, h, i);

  double delta = 0;
  for (int64_t j = s.key_start; j < s.key_end; j++) {
    sums.dp[j] = 0;
    if (sums.p[j] == 0) continue;  // nothing of a hidden key is read
    const RowRef value = c.KeyAt(c.v, s, head, j);
    if (d_o) sums.dp[j] = Dot(d_o, do_at, *value.view, value.offset, c.Dv);
    delta += sums.p[j] * sums.dp[j];  // <do, o> with o = sum of p v
  }
  if (c.o.view) delta = d_o ? Dot(d_o, do_at, c.o.view, c.QueryAt(c.o, s, h, i), c.Dv) : 0;
  if (g.d_lse.view) delta -= Load(g.d_lse.view, c.QueryAt(g.d_lse, s, h, i));
  if (g.dsinks && lse > -INFINITY) sums.dsinks[h] -= exp(c.sinks.Get(h) - lse) * delta;

  for (int64_t d = 0; d < c.D; d++) sums.dq[d] = 0;
  for (int64_t j = s.key_start; j < s.key_end; j++) {
    const double p = sums.p[j], ds = c.sigmoid ? p * (1 - p) * sums.dp[j] : p * (sums.dp[j] - delta);
    if (p == 0) continue;
    if (g.dbias) sums.dbias[sums.BiasAt(g.dbias, s.b, c.BroadcastHead(c.bias, h), i, j)] += ds;
    sums.dslopes[s.b * c.Hq + h] -= ds * fabs(double(position) - double(j));

    const RowRef key = c.KeyAt(c.k, s, head, j);
    double dr = c.scale * ds;
    if (c.softcap > 0) {
      const double t = tanh(c.scale * Dot(q, q_at, *key.view, key.offset, c.D) / c.softcap);
      dr *= 1 - t * t;
    }
    const int64_t row = (first_key + j) * c.Hkv + head;
    for (int64_t d = 0; d < c.D; d++) {
      sums.dq[d] += dr * Load(*key.view, key.offset + d);
      sums.dk[row * c.D + d] += dr * Load(q, q_at + d);
    }
    for (int64_t e = 0; e < c.Dv && d_o; e++) sums.dv[row * c.Dv + e] += p * Load(d_o, do_at + e);
  }
  if (!g.dq.view) return;
  const int64_t at = c.QueryAt(g.dq, s, h, i);
  for (int64_t d = 0; d < c.D; d++) attune_kit::StoreScalar(g.dq.view.Data(), at + d, g.dq.view.DType(), sums.dq[d]);
}

// The gradient of keys or values: `width` sums for every key, those of invisible keys too.
void StoreKeys(const Problem& c, const Axes& out, const double* sums, int64_t width) {
  if (!out.view) return;
  for (int64_t b = 0; b < c.B; b++) {
    const Sequence s = c.At(b);
    const int64_t first = c.cu_k ? s.k_begin : b * c.Nk, count = c.cu_k ? s.key_end : c.Nk;
    for (int64_t j = 0; j < count; j++) {
      for (int64_t h = 0; h < c.Hkv; h++) {
        const double* row = sums + ((first + j) * c.Hkv + h) * width;
        const int64_t at = out.At(b, h, s.k_begin + j);
        for (int64_t d = 0; d < width; d++) attune_kit::StoreScalar(out.view.Data(), at + d, out.view.DType(), row[d]);
      }
    }
  }
}

}  // namespace

attune_status ReferenceBackward(const attune_exec* x) {
  const Problem c = ReadBackward(*x);
  const Gradients g = ReadGradients(*x);
  const Sums sums(*x, c, g);
  for (int64_t b = 0; b < c.B; b++) {
    const Sequence s = c.At(b);
    for (int64_t h = 0; h < c.Hq; h++) {
      for (int64_t i = 0; i < s.nq; i++) {
        if (x->cancel && __atomic_load_n(x->cancel, __ATOMIC_RELAXED)) return ATTUNE_E_CANCELLED;
        Row(c, g, sums, s, h, i);
      }
    }
  }

  StoreKeys(c, g.dk, sums.dk, c.D);
  StoreKeys(c, g.dv, sums.dv, c.Dv);
  const double* at = sums.dbias;
  for (int64_t n = 0; n < sums.bias_size; n++) {
    const int64_t keys = g.dbias.Dim(3), queries = g.dbias.Dim(2), heads = g.dbias.Dim(1);
    g.dbias.Put(at[n], n / keys / queries / heads, n / keys / queries % heads, n / keys % queries, n % keys);
  }
  for (int64_t h = 0; h < c.Hq && g.dsinks; h++) g.dsinks.Put(sums.dsinks[h], h);
  for (int64_t h = 0; h < c.Hq && g.dslopes; h++) {
    double sum = 0;
    for (int64_t b = 0; b < c.B; b++) {
      if (g.dslopes.Rank() == 2) g.dslopes.Put(sums.dslopes[b * c.Hq + h], b, h);
      sum += sums.dslopes[b * c.Hq + h];
    }
    if (g.dslopes.Rank() == 1) g.dslopes.Put(sum, h);
  }
  return ATTUNE_OK;
}

}  // namespace softmax
