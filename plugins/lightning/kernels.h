// The vector kernels, one copy per instruction set.
#ifndef ATTUNE_LIGHTNING_KERNELS_H_
#define ATTUNE_LIGHTNING_KERNELS_H_
#include <attune/plugin.h>

namespace lightning {

enum ChunkedKnob { kChunk, kSegments };  // tokens per chunk, a multiple of 32; pieces of a sequence (split only)

// Chunked: a task is a (sequence, query head), in the backward pass a (sequence, head) of one gradient. Split: one
// sequence per head cut into segments, for few heads and many tokens. Recurrent: token by token, state read and written
// in place, for few tokens.
#define ATTUNE_LIGHTNING_KERNELS(isa)                \
  namespace isa {                                    \
  attune_status ChunkedForward(const attune_exec* x);  \
  attune_status ChunkedBackward(const attune_exec* x); \
  attune_status SplitForward(const attune_exec* x);    \
  attune_status Recurrent(const attune_exec* x);       \
  }
ATTUNE_LIGHTNING_KERNELS(N_SSE4)
ATTUNE_LIGHTNING_KERNELS(N_AVX2)
ATTUNE_LIGHTNING_KERNELS(N_AVX3)
ATTUNE_LIGHTNING_KERNELS(N_NEON)
#undef ATTUNE_LIGHTNING_KERNELS

}  // namespace lightning
#endif  // ATTUNE_LIGHTNING_KERNELS_H_
