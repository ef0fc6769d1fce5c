// The tiled gradients: scores are computed again tile by tile, for active rows only.
#ifndef ATTUNE_MOH_BACKWARD_H_
#define ATTUNE_MOH_BACKWARD_H_
#include <attune/plugin.h>

namespace moh {

enum BackwardKnob { kBwdQueryRows, kBwdKeyRows, kBwdSlices };
constexpr int kMaxGradientTile = 128;  // of both kinds of rows

// One call; it spreads its own phases over the workers.
#define ATTUNE_MOH_BACKWARD(isa)                     \
  namespace isa {                                    \
  attune_status TiledBackward(const attune_exec* x); \
  }
ATTUNE_MOH_BACKWARD(N_SSE4)
ATTUNE_MOH_BACKWARD(N_AVX2)
ATTUNE_MOH_BACKWARD(N_AVX3)
ATTUNE_MOH_BACKWARD(N_NEON)
#undef ATTUNE_MOH_BACKWARD

}  // namespace moh
#endif  // ATTUNE_MOH_BACKWARD_H_
