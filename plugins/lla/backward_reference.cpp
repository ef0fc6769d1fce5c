#include "lla/reference.h"

namespace lla {
namespace {

class ReferenceGradients {
 public:
  ReferenceGradients(const Problem& c, double* memory) : c_(c), r_(c, memory) {
    double* at = memory + r_.Size();
    const auto take = [&](int64_t n) {
      double* p = at;
      at += n;
      return p;
    };
    h_ = take(c.D), gamma_ = take(c.Nk), t_ = take(c.Nk), u_ = take(c.Nk), logit_ = take(c.Nk);
    dk_ = take(c.Nk * c.D), dv_ = take(c.Nk * c.Dv), dridge_ = take(Ridges());
  }

  attune_status Run(const attune_exec& x) {
    for (int64_t n = 0; n < Ridges(); n++) dridge_[n] = 0;
    for (int64_t b = 0; b < c_.B; b++) {
      for (int64_t head = 0; head < c_.Hkv; head++) {
        for (int64_t n = 0; n < c_.Nk * c_.D; n++) dk_[n] = 0;
        for (int64_t n = 0; n < c_.Nk * c_.Dv; n++) dv_[n] = 0;
        for (int64_t h = head * c_.Group(); h < (head + 1) * c_.Group(); h++) {
          for (int64_t i = 0; i < c_.Nq; i++) {
            if (Cancelled(x)) return ATTUNE_E_CANCELLED;
            Query(b, h, i);
          }
        }
        for (int64_t j = 0; j < c_.Nk; j++) {
          for (int64_t e = 0; e < c_.D && c_.dk; e++) c_.dk.Put(dk_[j * c_.D + e], b, head, j, e);
          for (int64_t e = 0; e < c_.Dv && c_.dv; e++) c_.dv.Put(dv_[j * c_.Dv + e], b, head, j, e);
        }
      }
    }
    for (int64_t n = 0; n < Ridges(); n++) {
      const int64_t heads = c_.ridge.Dim(1), rows = c_.ridge.Dim(2);
      c_.dridge.Put(dridge_[n], n / rows / heads, n / rows % heads, n % rows);
    }
    return ATTUNE_OK;
  }

 private:
  int64_t Ridges() const { return c_.dridge ? c_.ridge.Dim(0) * c_.ridge.Dim(1) * c_.ridge.Dim(2) : 0; }
  double& RidgeGradient(int64_t b, int64_t h, int64_t i) {
    const auto at = [&](int axis, int64_t n) { return c_.ridge.Dim(axis) > 1 ? n : 0; };
    return dridge_[(at(0, b) * c_.ridge.Dim(1) + at(1, h)) * c_.ridge.Dim(2) + at(2, i)];
  }

  // What query i of head h gives to every gradient; g is its row of `do`.
  void Query(int64_t b, int64_t h, int64_t i) {
    r_.Fit(b, h, i);
    const double* p = r_.p;
    double gbar = 0, ebar = 0, hy = 0;
    for (int64_t j = 0; j < r_.n; j++) {
      gamma_[j] = 0;
      for (int64_t e = 0; e < c_.Dv; e++) gamma_[j] += c_.d_o.Get(b, h, i, e) * r_.Value(j, e);
      gbar += p[j] * gamma_[j];
    }
    // h = A^-1 b with b = sum of p_j (gamma_j - gbar)(k_j - kbar)
    for (int64_t e = 0; e < c_.D; e++) {
      h_[e] = 0;
      for (int64_t j = 0; j < r_.n; j++) h_[e] += p[j] * (gamma_[j] - gbar) * (r_.Key(j, e) - r_.kbar[e]);
    }
    r_.Solve(h_);
    for (int64_t e = 0; e < c_.D; e++) hy += h_[e] * r_.y[e];
    for (int64_t j = 0; j < r_.n; j++) {
      t_[j] = r_.Tilt(j, r_.y), u_[j] = r_.Tilt(j, h_);
      logit_[j] = (1 + t_[j]) * (gamma_[j] - u_[j]) - gbar * t_[j];
      ebar += p[j] * logit_[j];
    }
    for (int64_t j = 0; j < r_.n; j++) logit_[j] = p[j] * (logit_[j] - ebar);

    for (int64_t e = 0; e < c_.D; e++) {
      double sum = 0;
      for (int64_t j = 0; j < r_.n; j++) sum += logit_[j] * r_.Key(j, e);
      if (c_.dq) c_.dq.Put(h_[e] + c_.scale * sum, b, h, i, e);
    }
    for (int64_t j = 0; j < r_.n; j++) {
      const double tilted = p[j] * (1 + t_[j]), rest = p[j] * (gamma_[j] - gbar - u_[j]);
      for (int64_t e = 0; e < c_.D; e++) {
        dk_[j * c_.D + e] += rest * r_.y[e] - tilted * h_[e] + c_.scale * logit_[j] * c_.q.Get(b, h, i, e);
      }
      for (int64_t e = 0; e < c_.Dv; e++) dv_[j * c_.Dv + e] += tilted * c_.d_o.Get(b, h, i, e);
    }
    if (c_.dridge) RidgeGradient(b, h, i) -= hy;
  }

  const Problem& c_;
  Regression r_;
  double *h_, *gamma_, *t_, *u_, *logit_, *dk_, *dv_, *dridge_;
};

}  // namespace

attune_status ReferenceBackward(const attune_exec* x) {
  const Problem c = ReadBackward(*x);
  return ReferenceGradients(c, static_cast<double*>(x->workspace)).Run(*x);
}

}  // namespace lla
