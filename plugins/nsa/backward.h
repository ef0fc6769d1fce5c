// The vector kernels of backward.
#ifndef ATTUNE_NSA_BACKWARD_H_
#define ATTUNE_NSA_BACKWARD_H_
#include <attune/plugin.h>

namespace nsa {

enum BackwardKnob { kBwdRows };

// One call; it spreads its phases over the workers.
#define ATTUNE_NSA_BACKWARD(isa)                     \
  namespace isa {                                    \
  attune_status TiledBackward(const attune_exec* x); \
  }
ATTUNE_NSA_BACKWARD(N_SSE4)
ATTUNE_NSA_BACKWARD(N_AVX2)
ATTUNE_NSA_BACKWARD(N_AVX3)
ATTUNE_NSA_BACKWARD(N_NEON)
#undef ATTUNE_NSA_BACKWARD

}  // namespace nsa
#endif  // ATTUNE_NSA_BACKWARD_H_
