#include "lla/reference.h"

#include <math.h>

namespace lla {

Regression::Regression(const Problem& c, double* memory) : c_(c) {
  p = memory, kbar = p + c.Nk, y = kbar + c.D, centred_ = y + c.D, l_ = centred_ + c.D;
}

double Regression::Tilt(int64_t j, const double* x) const {
  double sum = 0;
  for (int64_t e = 0; e < c_.D; e++) sum += (Key(j, e) - kbar[e]) * x[e];
  return sum;
}

void Regression::Fit(int64_t b, int64_t h, int64_t i) {
  b_ = b, head_ = h / c_.Group(), n = c_.Visible(i), lambda = c_.Ridge(b, h, i);
  double top = -INFINITY, omega = 0;
  for (int64_t j = 0; j < n; j++) {
    double dot = 0;
    for (int64_t e = 0; e < c_.D; e++) dot += c_.q.Get(b, h, i, e) * Key(j, e);
    p[j] = c_.scale * dot;
    top = fmax(top, p[j]);
  }
  for (int64_t j = 0; j < n; j++) omega += p[j] = exp(p[j] - top);
  for (int64_t j = 0; j < n; j++) p[j] /= omega;
  lse = n > 0 ? top + log(omega) : -INFINITY;
  for (int64_t e = 0; e < c_.D; e++) {
    kbar[e] = 0;
    for (int64_t j = 0; j < n; j++) kbar[e] += p[j] * Key(j, e);
  }

  // A = sum of p_j (k_j - kbar)(k_j - kbar)^T + lambda I, its lower triangle in place of L.
  for (int64_t a = 0; a < c_.D; a++) {
    for (int64_t e = 0; e <= a; e++) l_[a * c_.D + e] = a == e ? lambda : 0;
  }
  for (int64_t j = 0; j < n; j++) {
    for (int64_t e = 0; e < c_.D; e++) centred_[e] = Key(j, e) - kbar[e];
    for (int64_t a = 0; a < c_.D; a++) {
      for (int64_t e = 0; e <= a; e++) l_[a * c_.D + e] += p[j] * centred_[a] * centred_[e];
    }
  }
  for (int64_t a = 0; a < c_.D; a++) {
    for (int64_t e = 0; e <= a; e++) {
      double sum = l_[a * c_.D + e];
      for (int64_t m = 0; m < e; m++) sum -= l_[a * c_.D + m] * l_[e * c_.D + m];
      l_[a * c_.D + e] = a == e ? sqrt(sum) : sum / l_[e * c_.D + e];
    }
  }
  for (int64_t e = 0; e < c_.D; e++) y[e] = c_.q.Get(b, h, i, e) - kbar[e];
  Solve(y);
}

void Regression::Solve(double* x) const {
  for (int64_t a = 0; a < c_.D; a++) {
    for (int64_t m = 0; m < a; m++) x[a] -= l_[a * c_.D + m] * x[m];
    x[a] /= l_[a * c_.D + a];
  }
  for (int64_t a = c_.D; a-- > 0;) {
    for (int64_t m = a + 1; m < c_.D; m++) x[a] -= l_[m * c_.D + a] * x[m];
    x[a] /= l_[a * c_.D + a];
  }
}

namespace {

attune_status Run(const attune_exec& x, const Problem& c) {
  double* const memory = static_cast<double*>(x.workspace);
  const int64_t size = Regression(c, nullptr).Size() + c.Dv;
  Regression r(c, memory + int64_t(x.worker) * size);
  double* const out = memory + int64_t(x.worker) * size + r.Size();
  for (int64_t task = x.task_begin; task < x.task_end; task++) {
    const int64_t b = task / c.Hkv, head = task % c.Hkv;
    if (c.k_new) WriteCaches(c, b, head);
    for (int64_t h = head * c.Group(); h < (head + 1) * c.Group(); h++) {
      for (int64_t i = 0; i < c.Nq; i++) {
        if (Cancelled(x)) return ATTUNE_E_CANCELLED;
        r.Fit(b, h, i);
        for (int64_t e = 0; e < c.Dv; e++) out[e] = 0;
        for (int64_t j = 0; j < r.n; j++) {
          const double weight = r.p[j] * (1 + r.Tilt(j, r.y));
          for (int64_t e = 0; e < c.Dv; e++) out[e] += weight * r.Value(j, e);
        }
        for (int64_t e = 0; e < c.Dv; e++) c.o.Put(out[e], b, h, i, e);
        if (c.lse) c.lse.Put(r.lse, b, h, i);
        for (int64_t e = 0; e < c.D && c.ridge_y; e++) c.ridge_y.Put(r.y[e], b, h, i, e);
        for (int64_t e = 0; e < c.D && c.kbar; e++) c.kbar.Put(r.kbar[e], b, h, i, e);
      }
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

}  // namespace lla
