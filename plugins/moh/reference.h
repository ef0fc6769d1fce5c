// The definition of the operator, as scalar loops in double. Each is one call without tasks.
#ifndef ATTUNE_MOH_REFERENCE_H_
#define ATTUNE_MOH_REFERENCE_H_
#include "moh/problem.h"

namespace moh {

// Workspace: 7 * Hq + Nk + Hq * Dv + 2 * E doubles, and E floats.
attune_status ReferenceForward(const attune_exec* x);
// The same over cache and new tokens; also writes the caches.
attune_status ReferenceStep(const attune_exec* x);
// All gradients. Workspace: see backward_reference.cpp.
attune_status ReferenceBackward(const attune_exec* x);

// p[j] = softmax weight of every key j that query t of head h sees; 0 for those that a bias of -inf hides. Keys outside
// c.Visible(b, t) are neither read nor written. Returns lse: -inf when there is nothing to see.
double Weights(const Problem& c, int64_t b, int64_t h, int64_t t, double* p);
// out[0, Dv) = sum of p[j] * value j over the same keys.
void Attend(const Problem& c, int64_t b, int64_t h, int64_t t, const double* p, double* out);

}  // namespace moh
#endif  // ATTUNE_MOH_REFERENCE_H_
