// The gradients as loops over tokens and heads, in double.
#include <math.h>

#include "moh/reference.h"
#include "moh/routing.h"

namespace moh {
namespace {

// Sums of what more than one row adds to, and one token's scratch. plugin.cpp reserves exactly this.
struct Sums {
  int64_t bias_size, weight_size;
  double *dk, *dv;            // [Nk, Hkv, D or Dv] of one batch entry
  double *dbias, *dw_o, *db_o;
  double *share, *balance;    // of every routed head: share of the tokens; what its probability is sent by the loss
  double *p, *dp;             // of one row: weights of the keys and their gradients
  double *a, *d_o, *dq, *dg;  // of one token: attention outputs and upstream gradients [Hq, Dv], one query, [Hq]
  double *router, *end;
  float* norms;

  Sums(const attune_exec& x, const Problem& c, const Gradients& g) {
    bias_size = g.dbias ? g.dbias.Dim(0) * g.dbias.Dim(1) * g.dbias.Dim(2) * g.dbias.Dim(3) : 0;
    weight_size = g.dw_o ? c.Cout * c.Hq * c.Dv : 0;
    double* at = static_cast<double*>(x.workspace);
    const auto take = [&](int64_t n) {
      double* from = at;
      at += n;
      return from;
    };
    dk = take(c.Nk * c.Hkv * c.D), dv = take(c.Nk * c.Hkv * c.Dv);
    dbias = take(bias_size), dw_o = take(weight_size), db_o = take(g.db_o ? c.Cout : 0);
    share = take(c.E), balance = take(c.E), p = take(c.Nk), dp = take(c.Nk);
    a = take(c.Hq * c.Dv), d_o = take(c.Hq * c.Dv), dq = take(c.D), dg = take(c.Hq);
    end = at, router = take(Router::Doubles(c.Hq)), norms = reinterpret_cast<float*>(at);
    for (double* i = dk; i < end; i++) *i = 0;
  }

  // Where element (b, h, i, j) of the scores is summed in dbias.
  double& BiasAt(const View& t, int64_t b, int64_t h, int64_t i, int64_t j) const {
    const auto in = [&](int dim, int64_t index) { return t.Dim(dim) > 1 ? index : 0; };
    return dbias[((in(0, b) * t.Dim(1) + h) * t.Dim(2) + in(2, i)) * t.Dim(3) + in(3, j)];
  }
};

double At(const RowRef& row, int64_t d) {
  return attune_kit::LoadScalar(row.view->Data(), row.offset + d, row.view->DType());
}

void Route(const Problem& c, Router* router, const Sums& w, int64_t b, int64_t t) {
  for (int64_t e = 0; e < c.E && c.mode == kQNorm; e++) w.norms[e] = Norm(c, b, c.n_shared + e, t);
  router->Token(b, t, w.norms);
}

// Adds what query t of an active head contributes, and stores its own gradient. w.p, w.a and w.dg are ready.
void Head(const Problem& c, const Gradients& g, const Sums& w, float gate, int64_t b, int64_t h, int64_t t) {
  const int64_t head = h / c.Group();
  const Interval seen = c.Visible(b, t);
  const double* d_o = w.d_o + h * c.Dv;
  const double delta = gate * w.dg[h];
  for (int64_t j = seen.begin; j < seen.end; j++) {
    if (w.p[j] == 0) continue;  // nothing of a hidden key is read
    const RowRef key = c.Key(b, head, j), value = c.Value(b, head, j);
    double dp = 0;
    for (int64_t e = 0; e < c.Dv; e++) {
      dp += gate * d_o[e] * At(value, e);
      w.dv[(j * c.Hkv + head) * c.Dv + e] += w.p[j] * gate * d_o[e];
    }
    const double ds = w.p[j] * (dp - delta);
    if (g.dbias) w.BiasAt(g.dbias, b, c.BiasHead(h), t, j) += ds;
    for (int64_t d = 0; d < c.D; d++) {
      w.dq[d] += c.scale * ds * At(key, d);
      w.dk[(j * c.Hkv + head) * c.D + d] += c.scale * ds * c.q.Get(b, h, t, d);
    }
  }
}

void Token(const Problem& c, const Gradients& g, const Sums& w, const Router& router, int64_t b, int64_t t) {
  for (int64_t n = 0; n < c.Hq * c.Dv; n++) {  // of o = what is sent to it, and what comes through the projection
    w.d_o[n] = g.d_o ? g.d_o.Get(b, n / c.Dv, t, n % c.Dv) : 0;
    for (int64_t i = 0; i < c.Cout && g.dy; i++) w.d_o[n] += g.dy.Get(b, t, i) * c.w_o.Get(i, n);
  }
  for (int64_t h = 0; h < c.Hq; h++) {
    const float gate = router.Gate(h);
    const bool active = Active(gate);
    double* a = w.a + h * c.Dv;
    w.dg[h] = 0;
    for (int64_t e = 0; e < c.Dv; e++) a[e] = 0;
    for (int64_t d = 0; d < c.D; d++) w.dq[d] = 0;
    // A gate that was given as 0 has a gradient too, for who asks for it.
    if (active || g.dg_head) {
      Weights(c, b, h, t, w.p);
      Attend(c, b, h, t, w.p, a);
      for (int64_t e = 0; e < c.Dv; e++) w.dg[h] += w.d_o[h * c.Dv + e] * a[e];
    }
    if (active) Head(c, g, w, gate, b, h, t);
    for (int64_t d = 0; d < c.D && g.dq; d++) g.dq.Put(w.dq[d], b, h, t, d);
    for (int64_t e = 0; e < c.Dv; e++) a[e] = active ? gate * a[e] : 0;  // from here on: o
  }
  for (int64_t i = 0; i < c.Cout && g.dy; i++) {
    const double dy = g.dy.Get(b, t, i);
    for (int64_t n = 0; n < c.Hq * c.Dv && g.dw_o; n++) w.dw_o[i * c.Hq * c.Dv + n] += dy * w.a[n];
    if (g.db_o) w.db_o[i] += dy;
  }
}

// Gradients of the new keys or values of a batch entry, those that nobody sees too.
void StoreKeys(const Problem& c, const View& out, int64_t b, const double* sums, int64_t width) {
  for (int64_t j = c.Np; j < c.Nk && out; j++) {
    for (int64_t h = 0; h < c.Hkv; h++) {
      for (int64_t d = 0; d < width; d++) out.Put(sums[(j * c.Hkv + h) * width + d], b, h, j - c.Np, d);
    }
  }
}

}  // namespace

attune_status ReferenceBackward(const attune_exec* x) {
  const Problem c = ReadBackward(*x);
  const Gradients g = ReadGradients(*x);
  const Sums w(*x, c, g);
  Router router(c, true, w.router);
  const double tokens = double(c.Tokens());
  if (g.dl_aux && g.dlogits_r) {
    for (int64_t n = 0; n < c.Tokens(); n++) {
      router.Token(n / c.Nq, n % c.Nq, nullptr);
      for (int64_t e = 0; e < c.E; e++) w.share[e] += double(router.Chosen(e)) / tokens;
    }
    for (int64_t e = 0; e < c.E; e++) w.balance[e] = g.dl_aux.Get(0) * double(c.E) * w.share[e] / tokens;
  }

  for (int64_t b = 0; b < c.B; b++) {
    for (int64_t n = 0; n < c.Nk * c.Hkv * c.D; n++) w.dk[n] = 0;
    for (int64_t n = 0; n < c.Nk * c.Hkv * c.Dv; n++) w.dv[n] = 0;
    for (int64_t t = 0; t < c.Nq; t++) {
      if (Cancelled(*x)) return ATTUNE_E_CANCELLED;
      Route(c, &router, w, b, t);
      Token(c, g, w, router, b, t);
      router.StoreGradients(g, b, t, w.dg, g.dl_aux ? w.balance : nullptr);
    }
    StoreKeys(c, g.dk, b, w.dk, c.D);
    StoreKeys(c, g.dv, b, w.dv, c.Dv);
  }

  for (int64_t n = 0; n < w.bias_size; n++) {
    const int64_t keys = g.dbias.Dim(3), queries = g.dbias.Dim(2), heads = g.dbias.Dim(1);
    g.dbias.Put(w.dbias[n], n / keys / queries / heads, n / keys / queries % heads, n / keys % queries, n % keys);
  }
  for (int64_t n = 0; n < w.weight_size; n++) g.dw_o.Put(w.dw_o[n], n / (c.Hq * c.Dv), n % (c.Hq * c.Dv));
  for (int64_t i = 0; i < c.Cout && g.db_o; i++) g.db_o.Put(w.db_o[i], i);
  return ATTUNE_OK;
}

}  // namespace moh
