// The vector kernels of forward and step.
#ifndef ATTUNE_DMA_FORWARD_H_
#define ATTUNE_DMA_FORWARD_H_
#include <attune/plugin.h>

namespace dma {

enum ForwardKnob { kTileRowsWanted, kBlockKeys };

// One call; it spreads its phases over the workers. Rows: for few queries, keys are read in place; not
// for a mask or a bias that differs from query to query.
#define ATTUNE_DMA_FORWARD(isa)                     \
  namespace isa {                                   \
  attune_status TiledForward(const attune_exec* x); \
  attune_status TiledStep(const attune_exec* x);    \
  attune_status RowsForward(const attune_exec* x);  \
  attune_status RowsStep(const attune_exec* x);     \
  }
ATTUNE_DMA_FORWARD(N_SSE4)
ATTUNE_DMA_FORWARD(N_AVX2)
ATTUNE_DMA_FORWARD(N_AVX3)
ATTUNE_DMA_FORWARD(N_NEON)
#undef ATTUNE_DMA_FORWARD

}  // namespace dma
#endif  // ATTUNE_DMA_FORWARD_H_
