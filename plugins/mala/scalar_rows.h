// Single elements and rows in double, for code that must be right before it is fast.
#ifndef ATTUNE_MALA_SCALAR_ROWS_H_
#define ATTUNE_MALA_SCALAR_ROWS_H_
#include <math.h>

#include "mala/problem.h"

namespace mala {

inline double Load(const Rows& rows, int64_t b, int64_t h, int64_t i, int64_t d) {
  return attune_kit::LoadScalar(rows.view.Data(), rows.At(b, h, i) + d, rows.view.DType());
}
inline void Store(double x, const Rows& rows, int64_t b, int64_t h, int64_t i, int64_t d) {
  attune_kit::StoreScalar(rows.view.Data(), rows.At(b, h, i) + d, rows.view.DType(), x);
}

inline double FeatureMap(double x) {
  return x > 0 ? x + 1 : exp(x);
}
inline double FeatureMapSlope(double x) {
  return x > 0 ? 1 : exp(x);
}

inline double Dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
  return sum;
}

// y = x rotated by row i of the tables: pairs (2m, 2m+1) of channels. Without tables y = x.
inline void Rotate(const Problem& c, const double* x, int64_t i, double* y) {
  for (int64_t d = 0; d < c.D; d++) {
    const double partner = !c.sin ? 0 : d % 2 ? x[d - 1] : -x[d + 1];
    y[d] = c.sin ? x[d] * c.cos.Get(i, d) + partner * c.sin.Get(i, d) : x[d];
  }
}
// The transposed matrix, for gradients.
inline void RotateBack(const Problem& c, const double* y, int64_t i, double* x) {
  for (int64_t d = 0; d < c.D; d++) {
    const double partner = !c.sin ? 0 : d % 2 ? -y[d - 1] * c.sin.Get(i, d - 1) : y[d + 1] * c.sin.Get(i, d + 1);
    x[d] = c.sin ? y[d] * c.cos.Get(i, d) + partner : y[d];
  }
}
// A row of q or k mapped, and rotated as well.
inline void LoadMapped(const Problem& c, const Rows& rows, int64_t b, int64_t h, int64_t i, double* mapped,
                       double* rotated) {
  for (int64_t d = 0; d < c.D; d++) mapped[d] = FeatureMap(Load(rows, b, h, i, d));
  Rotate(c, mapped, i, rotated);
}

}  // namespace mala
#endif  // ATTUNE_MALA_SCALAR_ROWS_H_
