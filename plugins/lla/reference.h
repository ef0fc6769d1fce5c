// The definition of the operator as scalar loops in double. It always solves directly: solver and cg_* say how others
// may do it.
#ifndef ATTUNE_LLA_REFERENCE_H_
#define ATTUNE_LLA_REFERENCE_H_
#include "lla/problem.h"

namespace lla {

attune_status ReferenceForward(const attune_exec* x);   // tasks: (batch, kv head)
attune_status ReferenceStep(const attune_exec* x);      // tasks: (batch, kv head)
attune_status ReferenceBackward(const attune_exec* x);  // in one call

// The regression of one query, in double. Workspace: 8 * (Nk + D * D + 3 * D) bytes.
class Regression {
 public:
  Regression(const Problem& c, double* memory);
  int64_t Size() const { return c_.Nk + c_.D * c_.D + 3 * c_.D; }

  // Query i of head h: weights, kbar, A = L L^T and y.
  void Fit(int64_t b, int64_t h, int64_t i);
  // x = A^-1 x.
  void Solve(double* x) const;
  // (k_j - kbar) . x
  double Tilt(int64_t j, const double* x) const;
  double Key(int64_t j, int64_t e) const { return c_.k.Get(b_, head_, j, e); }
  double Value(int64_t j, int64_t e) const { return c_.v.Get(b_, head_, j, e); }

  int64_t n = 0;                     // keys that the query sees
  double lambda = 0, lse = 0;
  double *p, *kbar, *y;              // weights of sum 1; mean key; y = A^-1 (q - kbar)

 private:
  const Problem& c_;
  double *l_, *centred_;
  int64_t b_ = 0, head_ = 0;
};

}  // namespace lla
#endif  // ATTUNE_LLA_REFERENCE_H_
