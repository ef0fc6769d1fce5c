// The vector kernels of backward.
#ifndef ATTUNE_DMA_BACKWARD_H_
#define ATTUNE_DMA_BACKWARD_H_
#include <attune/plugin.h>

namespace dma {

enum BackwardKnob { kBwdRows, kBwdSlices };

// One call; it spreads its phases over the workers.
#define ATTUNE_DMA_BACKWARD(isa)                     \
  namespace isa {                                    \
  attune_status TiledBackward(const attune_exec* x); \
  }
ATTUNE_DMA_BACKWARD(N_SSE4)
ATTUNE_DMA_BACKWARD(N_AVX2)
ATTUNE_DMA_BACKWARD(N_AVX3)
ATTUNE_DMA_BACKWARD(N_NEON)
#undef ATTUNE_DMA_BACKWARD

}  // namespace dma
#endif  // ATTUNE_DMA_BACKWARD_H_
