// The definition of the operator as scalar loops in double, and the pieces that its gradients share.
#ifndef ATTUNE_NSA_REFERENCE_H_
#define ATTUNE_NSA_REFERENCE_H_
#include "nsa/problem.h"

namespace nsa {

// Each in one call. Workspaces: see ReferenceMemory and backward_reference.cpp.
attune_status ReferenceForward(const attune_exec* x);
attune_status ReferenceStep(const attune_exec* x);
attune_status ReferenceBackward(const attune_exec* x);

// Keys or values of a branch for one kv head: `known` rows of a tensor, then those of an array made before.
struct Rows {
  const View* view;
  const double* made;
  int64_t b, head, width, known;
  double At(int64_t j, int64_t e) const {
    return j < known ? view->Get(b, head, j, e) : made[(j - known) * width + e];
  }
};

// What one branch of one query attends to, for every head of the group.
struct Attended {
  const View* q;
  Rows k, v;
  const Range* spans;
  int64_t n_spans;
};

// Scratch of one (batch, kv head).
struct ReferenceMemory {
  double *k_cmp, *v_cmp;  // the compressed rows that are not known
  double *p, *group, *score, *out;
  Range* spans;
  int32_t* blocks;
  double* end;
  ReferenceMemory(const Problem& c, void* workspace);
};

// Entry c, component e of the compression of kv head `head`.
double CompressedAt(const Problem& p, const Compression& c, int64_t b, int64_t head, int64_t entry, int64_t e);
// Fills k_cmp and v_cmp, as far as anything uses them. Then CompressedRows are the keys or the values.
void CompressAll(const Problem& c, int64_t b, int64_t head, bool keys, bool values, const ReferenceMemory& w);

Rows CompressedRows(const Problem& c, bool keys, int64_t b, int64_t head, const ReferenceMemory& m);

// What branch `id` of query i attends to. For kSlc the blocks must have been chosen: m.blocks[0, n_blocks).
Attended Attend(const Problem& c, BranchId id, int64_t b, int64_t head, int64_t i, int64_t n_blocks,
                const ReferenceMemory& m);
// p[j] = softmax weight of key j for query head h; only the keys in the spans are written. Returns lse.
double Weights(const Problem& c, const Attended& a, int64_t b, int64_t h, int64_t i, double* p);
// Chooses the blocks of query i into m.blocks, given or selected. Returns their number.
int64_t ChooseBlocks(const Problem& c, int64_t b, int64_t head, int64_t i, const ReferenceMemory& m);

template <class F>
void ForEachKey(const Attended& a, F f) {
  for (int64_t s = 0; s < a.n_spans; s++) {
    for (int64_t j = a.spans[s].begin; j < a.spans[s].end; j++) f(j);
  }
}

}  // namespace nsa
#endif  // ATTUNE_NSA_REFERENCE_H_
