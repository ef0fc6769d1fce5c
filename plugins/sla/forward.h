// The vector kernels of forward.
#ifndef ATTUNE_SLA_FORWARD_H_
#define ATTUNE_SLA_FORWARD_H_
#include <attune/plugin.h>

namespace sla {

enum ForwardKnob { kTileRowsWanted };

// One call; it spreads its phases over the workers.
#define ATTUNE_SLA_FORWARD(isa)                     \
  namespace isa {                                   \
  attune_status TiledForward(const attune_exec* x); \
  }
ATTUNE_SLA_FORWARD(N_SSE4)
ATTUNE_SLA_FORWARD(N_AVX2)
ATTUNE_SLA_FORWARD(N_AVX3)
ATTUNE_SLA_FORWARD(N_NEON)
#undef ATTUNE_SLA_FORWARD

}  // namespace sla
#endif  // ATTUNE_SLA_FORWARD_H_
