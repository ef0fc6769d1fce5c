// The vector kernels of forward and step.
#ifndef ATTUNE_NSA_FORWARD_H_
#define ATTUNE_NSA_FORWARD_H_
#include <attune/plugin.h>

namespace nsa {

enum ForwardKnob { kTileRowsWanted };

// One call; it spreads its phases over the workers. Packed: keys are transposed, for many queries. Rows: they are read
// in place, for few.
#define ATTUNE_NSA_FORWARD(isa)                      \
  namespace isa {                                    \
  attune_status PackedForward(const attune_exec* x); \
  attune_status PackedStep(const attune_exec* x);    \
  attune_status RowsForward(const attune_exec* x);   \
  attune_status RowsStep(const attune_exec* x);      \
  }
ATTUNE_NSA_FORWARD(N_SSE4)
ATTUNE_NSA_FORWARD(N_AVX2)
ATTUNE_NSA_FORWARD(N_AVX3)
ATTUNE_NSA_FORWARD(N_NEON)
#undef ATTUNE_NSA_FORWARD

}  // namespace nsa
#endif  // ATTUNE_NSA_FORWARD_H_
