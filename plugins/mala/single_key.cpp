#include "mala/single_key.h"

#include "mala/scalar_rows.h"

namespace mala {

int64_t SingleKey(const Problem& c, int64_t batch) {
  if (c.in.kv) return -1;
  if (c.causal) return c.Nk == 1 ? 0 : -1;
  int64_t key = -1;
  for (int64_t j = 0; j < c.Nk; j++) {
    if (!c.Visible(batch, j)) continue;
    if (key >= 0) return -1;
    key = j;
  }
  return key;
}

// With b the mapped key, B the rotated one and a, A the same of a query: o = (beta s - z) v, where z = scale <a, b>,
// s = scale <A, B>, beta = 1 + 1/(z + norm_eps).
void SingleKeyBackward(const Problem& c, int64_t batch, int64_t head, int64_t j, double* scratch) {
  double *b = scratch, *br = b + c.D, *a = br + c.D, *ar = a + c.D, *db = ar + c.D, *dbr = db + c.D;
  double *v = dbr + c.D, *dv = v + c.Dv;
  LoadMapped(c, c.k, batch, head, j, b, br);
  for (int64_t e = 0; e < c.Dv; e++) v[e] = Load(c.v, batch, head, j, e), dv[e] = 0;
  for (int64_t d = 0; d < c.D; d++) db[d] = dbr[d] = 0;

  for (int64_t g = head * c.Group(); g < (head + 1) * c.Group(); g++) {
    for (int64_t i = 0; i < c.Nq; i++) {
      LoadMapped(c, c.q, batch, g, i, a, ar);
      const double z = c.scale * Dot(a, b, c.D), s = c.scale * Dot(ar, br, c.D), sum = z + c.norm_eps;
      const double beta = 1 + 1 / sum;
      double do_v = 0;
      for (int64_t e = 0; e < c.Dv; e++) {
        const double d_o = Load(c.d_o, batch, g, i, e);
        do_v += d_o * v[e];
        dv[e] += (beta * s - z) * d_o;
      }
      const double ds = c.scale * beta * do_v, dz = -c.scale * (s / (sum * sum) + 1) * do_v;
      for (int64_t d = 0; d < c.D; d++) db[d] += dz * a[d], dbr[d] += ds * ar[d];
      if (!c.dq) continue;
      // The query is not needed any more: a, ar hold its gradient before and after the rotation back.
      for (int64_t d = 0; d < c.D; d++) ar[d] = ds * br[d];
      RotateBack(c, ar, i, a);
      for (int64_t d = 0; d < c.D; d++) {
        Store(FeatureMapSlope(Load(c.q, batch, g, i, d)) * (a[d] + dz * b[d]), c.dq, batch, g, i, d);
      }
    }
  }

  RotateBack(c, dbr, j, a);
  for (int64_t n = 0; n < c.Nk; n++) {  // padded keys have no gradient
    for (int64_t d = 0; c.dk && d < c.D; d++) {
      const double dk = n == j ? FeatureMapSlope(Load(c.k, batch, head, n, d)) * (a[d] + db[d]) : 0;
      Store(dk, c.dk, batch, head, n, d);
    }
    for (int64_t e = 0; c.dv && e < c.Dv; e++) Store(n == j ? dv[e] : 0, c.dv, batch, head, n, e);
  }
}

}  // namespace mala
