#ifndef ATTUNE_SOFTMAX_REFERENCE_H_
#define ATTUNE_SOFTMAX_REFERENCE_H_
#include <attune/plugin.h>

namespace softmax {

// The definition of the operator, as scalar loops in double. One task = one query head of one sequence. Workspace per
// worker: one double per key and per value column.
attune_status ReferenceForward(const attune_exec* x);
// The same over cache and new tokens; also writes the caches.
attune_status ReferenceStep(const attune_exec* x);
// One task = one (batch, head).
attune_status ReferenceMerge(const attune_exec* x);

// Index data that may not be trusted: see the sentences in descriptor.cpp.
attune_status CheckForward(const attune_exec* x);
attune_status CheckStep(const attune_exec* x);

}  // namespace softmax
#endif  // ATTUNE_SOFTMAX_REFERENCE_H_
