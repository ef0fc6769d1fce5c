#ifndef ATTUNE_MALA_REFERENCE_H_
#define ATTUNE_MALA_REFERENCE_H_
#include <attune/plugin.h>

namespace mala {

// The definition of the operator, as scalar loops in double. One task = one batch entry: its heads share n_state, which
// may be updated in place.
constexpr char kReferenceTasks[] = "B";
constexpr char kReferenceWorkspace[] = "8*$workers*(D*Dv+5*D+3*Dv)";
constexpr char kReferenceBackwardWorkspace[] = "8*$workers*(2*D*Dv+8*D+5*Dv+2*(Hq/Hkv)*Nq)";
attune_status ReferenceForward(const attune_exec* x);
attune_status ReferenceStep(const attune_exec* x);
attune_status ReferenceBackward(const attune_exec* x);

}  // namespace mala
#endif  // ATTUNE_MALA_REFERENCE_H_
