// The vector kernels. All own their threads: the count of tokens of a batch entry is one number for all of its heads
// and may be updated in place, so it is written when every head is done; and sums come before rows.
#ifndef ATTUNE_MALA_CHUNKED_H_
#define ATTUNE_MALA_CHUNKED_H_
#include <attune/plugin.h>

namespace mala {

// Chunked: tokens in chunks, register-tile products. Tokens: one token after the other, for few of them.
#define ATTUNE_MALA_KERNELS(isa)                       \
  namespace isa {                                      \
  attune_status ChunkedForward(const attune_exec* x);  \
  attune_status ChunkedStep(const attune_exec* x);     \
  attune_status ChunkedBackward(const attune_exec* x); \
  attune_status TokensStep(const attune_exec* x);      \
  }
ATTUNE_MALA_KERNELS(N_SSE4)
ATTUNE_MALA_KERNELS(N_AVX2)
ATTUNE_MALA_KERNELS(N_AVX3)
ATTUNE_MALA_KERNELS(N_NEON)
#undef ATTUNE_MALA_KERNELS

}  // namespace mala
#endif  // ATTUNE_MALA_CHUNKED_H_
