#ifndef ATTUNE_SOFTMAX_REFERENCE_H_
#define ATTUNE_SOFTMAX_REFERENCE_H_
#include "softmax/problem.h"

namespace softmax {

// The definition of the operator, as scalar loops in double. One task = one query head of one sequence. Workspace per
// worker: one double per key and per value column.
attune_status ReferenceForward(const attune_exec* x);
// The same over cache and new tokens; also writes the caches.
attune_status ReferenceStep(const attune_exec* x);
// One task = one (batch, head).
attune_status ReferenceMerge(const attune_exec* x);
// All gradients, in one call. Workspace: double sums, see backward_reference.cpp.
attune_status ReferenceBackward(const attune_exec* x);

// The score of query i of head h (position p) and key j; -inf when it is not visible. Nothing of an invisible key is
// read.
double Score(const Problem& c, const Sequence& s, int64_t h, int64_t i, int64_t p, int64_t j);

// Index data that may not be trusted: see check.cpp.
attune_status CheckForward(const attune_exec* x);
attune_status CheckStep(const attune_exec* x);
attune_status CheckBackward(const attune_exec* x);

}  // namespace softmax
#endif  // ATTUNE_SOFTMAX_REFERENCE_H_
