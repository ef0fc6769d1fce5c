// The definition of the operator, as scalar loops in double.
#ifndef ATTUNE_HEDGEHOG_REFERENCE_H_
#define ATTUNE_HEDGEHOG_REFERENCE_H_
#include <attune/plugin.h>

namespace hedgehog {

// Task = (batch, kv head).
attune_status ReferenceForward(const attune_exec* x);
attune_status ReferenceStep(const attune_exec* x);
// One call each: gradients of weights are sums over the batch and the heads.
attune_status ReferenceBackward(const attune_exec* x);
attune_status ReferenceDistill(const attune_exec* x);
attune_status ReferenceDistillBackward(const attune_exec* x);

// Bytes of workspace, as expressions of the descriptor.
constexpr char kReferenceForwardWorkspace[] = "8*$workers*(2*F*(Dv+3)+F+Dv)";
#define ATTUNE_HEDGEHOG_GRADIENTS \
  "Nk*(7*F+D+Dv)+(dim(w_q,0)+dim(w_k,0))*D*F+2*Hq*F+8*F+D"
constexpr char kReferenceBackwardWorkspace[] = "8*(" ATTUNE_HEDGEHOG_GRADIENTS "+4*Nk+2*Dv+Hq+1)";
constexpr char kReferenceDistillWorkspace[] = "8*((Nk+1)*2*F+F+4*Nk+2*Dv+1)";
constexpr char kReferenceDistillBackwardWorkspace[] = "8*(" ATTUNE_HEDGEHOG_GRADIENTS "+6*Nk+3*Dv+1)";
#undef ATTUNE_HEDGEHOG_GRADIENTS

}  // namespace hedgehog
#endif  // ATTUNE_HEDGEHOG_REFERENCE_H_
