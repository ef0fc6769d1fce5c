// The tiled gradients: scores are computed again tile by tile, nothing of size Nq * Nk is ever stored.
#ifndef ATTUNE_SOFTMAX_BACKWARD_H_
#define ATTUNE_SOFTMAX_BACKWARD_H_
#include <attune/plugin.h>

namespace softmax {

enum BackwardKnob { kBwdQueryRows, kBwdKeyRows, kBwdSlices };
constexpr int kMaxTile = 256;  // of both kinds of rows

// One call; it spreads its own phases over the workers.
#define ATTUNE_SOFTMAX_BACKWARD(isa)                 \
  namespace isa {                                    \
  attune_status TiledBackward(const attune_exec* x); \
  }
ATTUNE_SOFTMAX_BACKWARD(N_SSE4)
ATTUNE_SOFTMAX_BACKWARD(N_AVX2)
ATTUNE_SOFTMAX_BACKWARD(N_AVX3)
ATTUNE_SOFTMAX_BACKWARD(N_NEON)
#undef ATTUNE_SOFTMAX_BACKWARD

}  // namespace softmax
#endif  // ATTUNE_SOFTMAX_BACKWARD_H_
