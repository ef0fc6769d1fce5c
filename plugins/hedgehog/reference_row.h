// The unnormalised weights of one query, in double.
#ifndef ATTUNE_HEDGEHOG_REFERENCE_ROW_H_
#define ATTUNE_HEDGEHOG_REFERENCE_ROW_H_
#include <math.h>

#include "hedgehog/problem.h"

namespace hedgehog {

inline double Dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
  return sum;
}

// scale q_i . k_j
inline double Score(const Problem& p, int64_t b, int64_t h, int64_t i, int64_t j) {
  double dot = 0;
  for (int64_t d = 0; d < p.D; d++) dot += p.q.Get(b, h, i, d) * p.k.Get(b, h / p.Group(), j, d);
  return p.scale * dot;
}

// phi_q . k_state of older keys.
inline double StateWeight(const Problem& p, int64_t b, int64_t h, const double* phi_q) {
  if (!p.k_state) return 0;
  double sum = 0;
  for (int64_t e = 0; e < p.E(); e++) sum += phi_q[e] * p.k_state.Get(b, p.StateHead(h), e);
  return sum;
}

// What each key of a row is: how it enters a, and which scores are the window's maximum.
struct ReferenceRow {
  double* a;        // Nk weights; 0 where the key is not visible
  double* base;     // Nk: exp(u - M) in the window, phi_q . phi_k before it
  bool* top;        // Nk: in the window and equal to its maximum
  double den = 0;   // sum of a, what the states give, norm_eps
  double tops = 0;  // number of top

  // phi_k: 2F features of every key. Nothing of a key that is not visible is read.
  void Fill(const Problem& p, int64_t b, int64_t h, int64_t i, const double* phi_q, const double* phi_k) {
    const int64_t window = p.LinearEnd(i), end = p.VisibleEnd(i), E = p.E();
    const double gamma = p.window_mode == kNoWindow ? 0 : p.Gamma(h), linear = p.Linear(h);
    double m = -INFINITY;
    for (int64_t j = 0; j < p.Nk; j++) a[j] = base[j] = 0, top[j] = false;
    for (int64_t j = window; j < end; j++) {
      if (p.Real(b, j)) base[j] = Score(p, b, h, i, j), m = fmax(m, base[j]);
    }
    den = p.window_mode == kNoWindow ? p.norm_eps : 0, tops = 0;
    for (int64_t j = 0; j < end; j++) {
      if (!p.Real(b, j)) continue;
      if (j < window) {
        base[j] = Dot(phi_q, phi_k + j * E, E);
        a[j] = linear * base[j];
      } else {  // the exact maximum of the window: part of the definition, because the linear part is not divided by it
        top[j] = base[j] == m;
        tops += top[j];
        base[j] = exp(base[j] - m);
        a[j] = gamma * base[j];
      }
      den += a[j];
    }
    den += linear * StateWeight(p, b, h, phi_q);
  }

  // o_i, Dv numbers.
  void Output(const Problem& p, int64_t b, int64_t h, int64_t i, const double* phi_q, double* o) const {
    for (int64_t c = 0; c < p.Dv; c++) o[c] = 0;
    for (int64_t j = 0; j < p.VisibleEnd(i); j++) {
      if (!p.Real(b, j)) continue;
      for (int64_t c = 0; c < p.Dv; c++) o[c] += a[j] * p.v.Get(b, h / p.Group(), j, c);
    }
    for (int64_t e = 0; p.kv_state && e < p.E(); e++) {
      const double weight = p.Linear(h) * phi_q[e];
      for (int64_t c = 0; c < p.Dv; c++) o[c] += weight * p.kv_state.Get(b, p.StateHead(h), e, c);
    }
    for (int64_t c = 0; c < p.Dv; c++) o[c] = den == 0 ? 0 : o[c] / den;
  }
};

// Hands out slices of a workspace.
class Doubles {
 public:
  explicit Doubles(void* at) : at_(static_cast<double*>(at)) {}
  double* Take(int64_t n) {
    double* p = at_;
    at_ += n;
    return p;
  }
  double* TakeZeros(int64_t n) {
    double* p = Take(n);
    for (int64_t i = 0; i < n; i++) p[i] = 0;
    return p;
  }
  bool* TakeFlags(int64_t n) { return reinterpret_cast<bool*>(Take((n + 7) / 8)); }

 private:
  double* at_;
};

}  // namespace hedgehog
#endif  // ATTUNE_HEDGEHOG_REFERENCE_ROW_H_
