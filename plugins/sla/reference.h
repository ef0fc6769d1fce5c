// The definition of the operator as scalar loops in double, and the pieces that forward and its gradients share.
#ifndef ATTUNE_SLA_REFERENCE_H_
#define ATTUNE_SLA_REFERENCE_H_
#include "sla/problem.h"

namespace sla {

// Each in one call.
attune_status ReferenceForward(const attune_exec* x);
attune_status ReferenceBackward(const attune_exec* x);
constexpr char kReferenceWorkspace[] = "8*(Nb*(D+2)+Nk*(D+2)+2*D+2*Dv)";
constexpr char kReferenceBackwardWorkspace[] = "8*(Nb*(D+2)+Nk*(D+2)+2*D+2*Dv+Nk*(2*D+Dv+2)+3*D+2*Dv+Dv*(Dv+1))";

// Scratch of one (batch, query head).
struct ReferenceMemory {
  double *k_mean, *q_mean, *score;  // block means [Nb x D], [D], their products [Nb]
  double *k_mapped, *q_mapped;      // features [Nk x D], [D]
  double *p, *a;                    // weights of a row: sparse and linear branch [Nk]
  double *o_s, *o_l;                // of a row
  double* block_class;              // of a query block [Nb]
  double* end;                      // of this memory
  ReferenceMemory(const Problem& c, void* workspace);
};

// Both branches of one row.
struct ReferenceRow {
  double lse;          // of the sparse branch
  double denominator;  // of the linear branch; 0: the branch is 0 and so are its gradients
};

// y = phi(x), n channels. dx += the gradient for dy.
void MapFeatures(FeatureMap map, const double* x, int64_t n, double* y);
void MapFeaturesBackward(FeatureMap map, const double* x, const double* y, const double* dy, int64_t n, double* dx);

// What all query blocks of head h share: k_mean, k_mapped.
void PrepareKeys(const Problem& c, int64_t b, int64_t h, const ReferenceMemory& m);
// Fills block_class for query block i.
void ClassifyBlocks(const Problem& c, int64_t b, int64_t h, int64_t i, const ReferenceMemory& m);
// Fills q_mapped, o_s, o_l; p of the keys in critical blocks and a of the keys in scope, the latter not normalised.
ReferenceRow ComputeRow(const Problem& c, int64_t b, int64_t h, int64_t row, const ReferenceMemory& m);

// Calls f(key) for the keys of the blocks that the branch takes in.
template <class F>
void ForEachCriticalKey(const Problem& c, const ReferenceMemory& m, F f) {
  for (int64_t j = 0; j < c.Nk; j++) {
    if (m.block_class[j / c.block_k] == kCritical) f(j);
  }
}
template <class F>
void ForEachLinearKey(const Problem& c, const ReferenceMemory& m, F f) {
  for (int64_t j = 0; j < c.Nk; j++) {
    if (c.InScope(int(m.block_class[j / c.block_k]))) f(j);
  }
}

}  // namespace sla
#endif  // ATTUNE_SLA_REFERENCE_H_
