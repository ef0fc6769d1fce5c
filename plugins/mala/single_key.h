// Gradients of a batch entry whose queries all see one and the same single key. Its weight is z / (z + norm_eps) up to
// the rounding of the tables, so that the gradients of q and k are differences of nearly equal numbers: f32 would leave
// nothing but rounding errors of them.
#ifndef ATTUNE_MALA_SINGLE_KEY_H_
#define ATTUNE_MALA_SINGLE_KEY_H_
#include "mala/problem.h"

namespace mala {

// The key, or -1 if there is not exactly one.
int64_t SingleKey(const Problem& c, int64_t batch);

// dq, dk, dv of kv head `head` and its query heads, key j being the single one. Scratch: 6 D + 2 Dv doubles.
void SingleKeyBackward(const Problem& c, int64_t batch, int64_t head, int64_t j, double* scratch);

}  // namespace mala
#endif  // ATTUNE_MALA_SINGLE_KEY_H_
