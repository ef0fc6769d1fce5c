// The definition of the operator as scalar loops in double, and the pieces that its gradients share.
#ifndef ATTUNE_DMA_REFERENCE_H_
#define ATTUNE_DMA_REFERENCE_H_
#include "dma/problem.h"

namespace dma {

// Each in one call. Workspaces: ReferenceMemory, for backward followed by what backward_reference.cpp says.
attune_status ReferenceForward(const attune_exec* x);
attune_status ReferenceStep(const attune_exec* x);
attune_status ReferenceBackward(const attune_exec* x);

// What one (batch, kv head) needs: 5 * Nk + Dv doubles.
struct ReferenceMemory {
  double *dt, *bias;  // of every key
  int32_t* death;     // of every key
  int32_t* kept;      // scratch of the selection
  double *p, *out;    // weights of a row, a row of o
  double* end;
  ReferenceMemory(const Problem& c, void* workspace);
};

// dt and bias of every key; nothing when the bias is not one per key.
void BiasRow(const Problem& c, int64_t b, int64_t head, const ReferenceMemory& m);
// death of every key, from the biases.
void KeptSets(const Problem& c, int64_t b, const ReferenceMemory& m);
// m.p[j] = softmax weight of key j for query i of head h, 0 for keys it does not keep. Returns lse.
double Weights(const Problem& c, int64_t b, int64_t h, int64_t i, const ReferenceMemory& m);

// f(j) for every key that query i of head h keeps.
template <class F>
void ForEachKept(const Problem& c, int64_t b, int64_t h, int64_t i, const ReferenceMemory& m, F f) {
  const int64_t t = c.Position(i);
  for (int64_t j = 0; j < c.Nk && j <= t; j++) {
    if (t < m.death[j] && !c.Masked(b, h, i, j)) f(j);
  }
}

}  // namespace dma
#endif  // ATTUNE_DMA_REFERENCE_H_
