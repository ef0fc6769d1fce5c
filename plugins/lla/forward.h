// The fast kernels, one copy per instruction set. Each spreads its own phases over the workers.
#ifndef ATTUNE_LLA_FORWARD_H_
#define ATTUNE_LLA_FORWARD_H_
#include <attune/plugin.h>

namespace lla {

enum KnobId { kTileRowsWanted };
constexpr int kMostRows = 128;  // the largest value of that knob

// Keys packed: many query rows. Keys as rows: few of them.
#define ATTUNE_LLA_FAST(isa)                           \
  namespace isa {                                      \
  attune_status PackedForward(const attune_exec* x);   \
  attune_status PackedStep(const attune_exec* x);      \
  attune_status RowsForward(const attune_exec* x);     \
  attune_status RowsStep(const attune_exec* x);        \
  attune_status PackedBackward(const attune_exec* x);  \
  }
ATTUNE_LLA_FAST(N_SSE4)
ATTUNE_LLA_FAST(N_AVX2)
ATTUNE_LLA_FAST(N_AVX3)
ATTUNE_LLA_FAST(N_NEON)
#undef ATTUNE_LLA_FAST

}  // namespace lla
#endif  // ATTUNE_LLA_FORWARD_H_
