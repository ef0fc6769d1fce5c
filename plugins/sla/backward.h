// The vector kernels of backward.
#ifndef ATTUNE_SLA_BACKWARD_H_
#define ATTUNE_SLA_BACKWARD_H_
#include <attune/plugin.h>

namespace sla {

// One call; it spreads its phases over the workers.
#define ATTUNE_SLA_BACKWARD(isa)                     \
  namespace isa {                                    \
  attune_status TiledBackward(const attune_exec* x); \
  }
ATTUNE_SLA_BACKWARD(N_SSE4)
ATTUNE_SLA_BACKWARD(N_AVX2)
ATTUNE_SLA_BACKWARD(N_AVX3)
ATTUNE_SLA_BACKWARD(N_NEON)
#undef ATTUNE_SLA_BACKWARD

}  // namespace sla
#endif  // ATTUNE_SLA_BACKWARD_H_
