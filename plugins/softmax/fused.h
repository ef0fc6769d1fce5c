// The vector kernels: one pass over the keys per tile of query rows, scores never stored beyond a tile.
#ifndef ATTUNE_SOFTMAX_FUSED_H_
#define ATTUNE_SOFTMAX_FUSED_H_
#include <attune/plugin.h>

namespace softmax {

// A row is (query, head of the group), heads of one query next to each other, so that a group shares its keys.
//
// Fused: keys and values are packed, for many rows. Task = (sequence, kv head, tile of query rows).
enum FusedKnob { kQueryRows, kKeyRows };
constexpr int64_t kMaxQueryRows = 512;  // largest value of the first
// Rows: keys and values are read in place, for few rows; no codes. Called once, shares out its work itself: long keys
// are cut into chunks whose results are merged.
enum RowsKnob { kRowsKeyRows, kRowsChunk };
constexpr int64_t kFewRows = 32;  // of a tile

#define ATTUNE_SOFTMAX_KERNELS(isa)                 \
  namespace isa {                                   \
  attune_status FusedForward(const attune_exec* x); \
  attune_status FusedStep(const attune_exec* x);    \
  attune_status RowsForward(const attune_exec* x);  \
  attune_status RowsStep(const attune_exec* x);     \
  }
ATTUNE_SOFTMAX_KERNELS(N_SSE4)
ATTUNE_SOFTMAX_KERNELS(N_AVX2)
ATTUNE_SOFTMAX_KERNELS(N_AVX3)
ATTUNE_SOFTMAX_KERNELS(N_NEON)
#undef ATTUNE_SOFTMAX_KERNELS

}  // namespace softmax
#endif  // ATTUNE_SOFTMAX_FUSED_H_
