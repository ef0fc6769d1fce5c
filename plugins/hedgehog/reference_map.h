// The feature map and its derivative, one token at a time in double.
#ifndef ATTUNE_HEDGEHOG_REFERENCE_MAP_H_
#define ATTUNE_HEDGEHOG_REFERENCE_MAP_H_
#include <math.h>

#include "hedgehog/problem.h"

namespace hedgehog {

// The map of queries or of keys. `raw` are the 2F features before the clamp: F of z, then F of -z.
class ReferenceMap {
 public:
  static ReferenceMap OfQueries(const Problem& p) {
    ReferenceMap m(p, p.w_q, p.b_q);
    m.x_.fresh = p.q, m.group_ = 1;
    return m;
  }
  static ReferenceMap OfKeys(const Problem& p) {
    ReferenceMap m(p, p.w_k, p.b_k);
    m.x_ = p.k, m.group_ = p.Group();
    return m;
  }

  // z = x w + b (+ x), F numbers, of token n for query head h.
  void Logits(int64_t b, int64_t h, int64_t n, double* z) const {
    const int64_t head = p_.MapHead(w_, h);
    for (int64_t f = 0; f < p_.F; f++) z[f] = b_ ? b_.Get(p_.MapHead(b_, h), f) : 0;
    for (int64_t d = 0; d < p_.D; d++) {
      const double x = x_.Get(b, h / group_, n, d);
      for (int64_t f = 0; f < p_.F; f++) z[f] += x * w_.Get(head, d, f);
      if (p_.skip) z[d] += x;
    }
  }

  void Raw(const double* z, double* raw) const {
    const int64_t F = p_.F;
    double top = z[0], bottom = z[0];
    for (int64_t f = 0; f < F; f++) top = fmax(top, z[f]), bottom = fmin(bottom, z[f]);
    double *positive = raw, *negative = raw + F;
    if (p_.map == kJointMap) {
      const double m = fmax(top, -bottom);
      for (int64_t f = 0; f < F; f++) positive[f] = exp(2 * (z[f] - m)), negative[f] = exp(2 * (-z[f] - m));
      Normalise(raw, 2 * F);
      return;
    }
    // The shift is part of hedgehog_exp; in hedgehog_softmax it cancels.
    for (int64_t f = 0; f < F; f++) positive[f] = exp(z[f] - top), negative[f] = exp(bottom - z[f]);
    if (p_.map == kSoftmaxMap) Normalise(positive, F), Normalise(negative, F);
  }

  double Clamp(double raw) const { return raw < p_.map_eps ? p_.map_eps : raw; }

  // The 2F features of a token.
  void Features(int64_t b, int64_t h, int64_t n, double* z, double* phi) const {
    Logits(b, h, n, z);
    Raw(z, phi);
    for (int64_t e = 0; e < p_.E(); e++) phi[e] = Clamp(phi[e]);
  }

  // dz of dphi, which is overwritten.
  void LogitGradient(const double* z, const double* raw, double* dphi, double* dz) const {
    const int64_t F = p_.F;
    double* t = dphi;
    double sum_positive = 0, sum_negative = 0;
    for (int64_t e = 0; e < 2 * F; e++) {
      t[e] = raw[e] < p_.map_eps ? 0 : raw[e] * dphi[e];
      (e < F ? sum_positive : sum_negative) += t[e];
    }
    if (p_.map == kJointMap) {
      const double sum = sum_positive + sum_negative;
      for (int64_t f = 0; f < F; f++) dz[f] = 2 * (t[f] - raw[f] * sum) - 2 * (t[F + f] - raw[F + f] * sum);
      return;
    }
    double top = z[0], bottom = z[0], tops = 0, bottoms = 0;
    for (int64_t f = 0; f < F; f++) top = fmax(top, z[f]), bottom = fmin(bottom, z[f]);
    for (int64_t f = 0; f < F; f++) tops += z[f] == top, bottoms += z[f] == bottom;
    for (int64_t f = 0; f < F; f++) {
      dz[f] = t[f] - t[F + f];
      if (p_.map == kSoftmaxMap) {
        dz[f] += raw[F + f] * sum_negative - raw[f] * sum_positive;
      } else {  // the shifts by maximum and minimum are differentiated, ties share
        if (z[f] == top) dz[f] -= sum_positive / tops;
        if (z[f] == bottom) dz[f] += sum_negative / bottoms;
      }
    }
  }

  // Adds what dz of token n gives to dx (D numbers), dw (D x F) and db (F).
  void AddGradients(int64_t b, int64_t h, int64_t n, const double* dz, double* dx, double* dw, double* db) const {
    const int64_t head = p_.MapHead(w_, h);
    for (int64_t d = 0; d < p_.D; d++) {
      const double x = x_.Get(b, h / group_, n, d);
      double sum = p_.skip ? dz[d] : 0;
      for (int64_t f = 0; f < p_.F; f++) {
        sum += w_.Get(head, d, f) * dz[f];
        dw[d * p_.F + f] += x * dz[f];
      }
      dx[d] += sum;
    }
    for (int64_t f = 0; f < p_.F; f++) db[f] += dz[f];
  }

 private:
  ReferenceMap(const Problem& p, const View& w, const View& b) : p_(p), w_(w), b_(b) {}

  static void Normalise(double* x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    for (int64_t i = 0; i < n; i++) x[i] /= sum;
  }

  const Problem& p_;
  const View &w_, &b_;
  Rows x_;
  int64_t group_ = 1;
};

}  // namespace hedgehog
#endif  // ATTUNE_HEDGEHOG_REFERENCE_MAP_H_
