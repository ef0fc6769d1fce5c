// The gradients as loops over (batch, kv head, query), in double; the block map is a constant.
#include <math.h>

#include "sla/reference.h"

namespace sla {
namespace {

// Double sums: of one kv head, of one row, and over the whole call.
struct Sums {
  double *dk, *dk_mapped, *dv, *dp, *da;    // [Nk x D], [Nk x D], [Nk x Dv], [Nk], [Nk]
  double *x, *dq, *dq_mapped, *d_o, *d_ol;  // of a row
  double *dw, *db;
  Sums(const Problem& c, double* at) {
    const auto take = [&](int64_t n) {
      double* p = at;
      at += n;
      return p;
    };
    dk = take(c.Nk * c.D), dk_mapped = take(c.Nk * c.D), dv = take(c.Nk * c.Dv), dp = take(c.Nk), da = take(c.Nk);
    x = take(c.D), dq = take(c.D), dq_mapped = take(c.D), d_o = take(c.Dv), d_ol = take(c.Dv);
    dw = take(c.Dv * c.Dv), db = take(c.Dv);
  }
};

void Clear(double* p, int64_t n) {
  for (int64_t i = 0; i < n; i++) p[i] = 0;
}

// Adds what a row gives through the sparse branch.
void SparseRow(const Problem& c, int64_t b, int64_t h, int64_t row, const ReferenceMemory& m, const Sums& s) {
  const int64_t head = h / c.Group();
  double delta = 0;
  ForEachCriticalKey(c, m, [&](int64_t j) {
    s.dp[j] = 0;
    for (int64_t e = 0; e < c.Dv; e++) s.dp[j] += s.d_o[e] * c.v.Get(b, head, j, e);
    delta += m.p[j] * s.dp[j];
  });
  ForEachCriticalKey(c, m, [&](int64_t j) {
    const double ds = c.scale * m.p[j] * (s.dp[j] - delta);
    for (int64_t e = 0; e < c.D; e++) {
      s.dq[e] += ds * c.k.Get(b, head, j, e);
      s.dk[j * c.D + e] += ds * c.q.Get(b, h, row, e);
    }
    for (int64_t e = 0; e < c.Dv; e++) s.dv[j * c.Dv + e] += m.p[j] * s.d_o[e];
  });
}

// The same through the linear branch: a_j = <phi(q), phi(k_j)>, o_l = sum a_j v_j / denominator.
void LinearRow(const Problem& c, int64_t b, int64_t head, double denominator, const ReferenceMemory& m, const Sums& s) {
  double through_denominator = 0;
  for (int64_t e = 0; e < c.Dv; e++) through_denominator -= s.d_ol[e] * m.o_l[e] / denominator;
  ForEachLinearKey(c, m, [&](int64_t j) {
    double da = through_denominator;
    for (int64_t e = 0; e < c.Dv; e++) {
      da += s.d_ol[e] / denominator * c.v.Get(b, head, j, e);
      s.dv[j * c.Dv + e] += m.a[j] * s.d_ol[e] / denominator;
    }
    for (int64_t e = 0; e < c.D; e++) {
      s.dq_mapped[e] += da * m.k_mapped[j * c.D + e];
      s.dk_mapped[j * c.D + e] += da * m.q_mapped[e];
    }
  });
}

void Row(const Problem& c, int64_t b, int64_t h, int64_t row, const ReferenceMemory& m, const Sums& s) {
  const double denominator = ComputeRow(c, b, h, row, m).denominator;
  Clear(s.dq, c.D), Clear(s.dq_mapped, c.D), Clear(s.d_ol, c.Dv);
  for (int64_t e = 0; e < c.Dv; e++) {
    s.d_o[e] = c.d_o.Get(b, h, row, e);
    s.db[e] += s.d_o[e];
    for (int64_t n = 0; n < c.Dv && c.w_proj; n++) {
      s.dw[e * c.Dv + n] += s.d_o[e] * m.o_l[n];
      s.d_ol[n] += s.d_o[e] * c.w_proj.Get(e, n);
    }
  }
  SparseRow(c, b, h, row, m, s);
  if (denominator != 0) LinearRow(c, b, h / c.Group(), denominator, m, s);
  for (int64_t e = 0; e < c.D; e++) s.x[e] = c.q.Get(b, h, row, e);
  MapFeaturesBackward(c.map, s.x, m.q_mapped, s.dq_mapped, c.D, s.dq);
  for (int64_t e = 0; e < c.D && c.dq; e++) c.dq.Put(s.dq[e], b, h, row, e);
}

void StoreKeys(const Problem& c, int64_t b, int64_t head, const ReferenceMemory& m, const Sums& s) {
  for (int64_t j = 0; j < c.Nk; j++) {
    double* dk = s.dk + j * c.D;
    for (int64_t e = 0; e < c.D; e++) s.x[e] = c.k.Get(b, head, j, e);
    MapFeaturesBackward(c.map, s.x, m.k_mapped + j * c.D, s.dk_mapped + j * c.D, c.D, dk);
    for (int64_t e = 0; e < c.D && c.dk; e++) c.dk.Put(dk[e], b, head, j, e);
    for (int64_t e = 0; e < c.Dv && c.dv; e++) c.dv.Put(s.dv[j * c.Dv + e], b, head, j, e);
  }
}

}  // namespace

attune_status ReferenceBackward(const attune_exec* x) {
  const Problem c = ReadBackward(*x);
  const ReferenceMemory m(c, x->workspace);
  const Sums s(c, m.end);
  Clear(s.dw, c.Dv * c.Dv), Clear(s.db, c.Dv);
  for (int64_t b = 0; b < c.B; b++) {
    for (int64_t head = 0; head < c.Hkv; head++) {
      Clear(s.dk, c.Nk * (2 * c.D + c.Dv));
      PrepareKeys(c, b, head * c.Group(), m);
      for (int64_t h = head * c.Group(); h < (head + 1) * c.Group(); h++) {
        for (int64_t i = 0; i < c.Mb; i++) {
          if (Cancelled(*x)) return ATTUNE_E_CANCELLED;
          ClassifyBlocks(c, b, h, i, m);
          const Range rows = c.Queries(i);
          for (int64_t row = rows.begin; row < rows.end; row++) Row(c, b, h, row, m, s);
        }
      }
      StoreKeys(c, b, head, m, s);
    }
  }
  for (int64_t e = 0; e < c.Dv; e++) {
    for (int64_t n = 0; n < c.Dv && c.dw_proj; n++) c.dw_proj.Put(s.dw[e * c.Dv + n], e, n);
    if (c.db_proj) c.db_proj.Put(s.db[e], e);
  }
  return ATTUNE_OK;
}

}  // namespace sla
