// The vector kernels, one copy per instruction set.
#ifndef ATTUNE_HEDGEHOG_KERNELS_H_
#define ATTUNE_HEDGEHOG_KERNELS_H_
#include "hedgehog/gradient_layout.h"

namespace hedgehog {

enum ChunkKnob { kChunk, kSegments };  // queries of a chunk and keys of a tile; pieces of a sequence

#define ATTUNE_HEDGEHOG_KERNELS(isa)                        \
  namespace isa {                                           \
  attune_status ColumnsForward(const attune_exec*);         \
  attune_status ColumnsStep(const attune_exec*);            \
  attune_status SplitForward(const attune_exec*);           \
  attune_status SplitStep(const attune_exec*);              \
  attune_status ChunkedForward(const attune_exec*);         \
  attune_status ChunkedStep(const attune_exec*);            \
  attune_status ChunkedBackward(const attune_exec*);        \
  attune_status ChunkedDistill(const attune_exec*);         \
  attune_status ChunkedDistillBackward(const attune_exec*); \
  }
ATTUNE_HEDGEHOG_KERNELS(N_SSE4)
ATTUNE_HEDGEHOG_KERNELS(N_AVX2)
ATTUNE_HEDGEHOG_KERNELS(N_AVX3)
ATTUNE_HEDGEHOG_KERNELS(N_NEON)
#undef ATTUNE_HEDGEHOG_KERNELS

// Workspace as expressions of the descriptor: a matrix of n columns has rows of less than n + 48 floats.
#define ATTUNE_HEDGEHOG_CHUNK \
  "k.chunk*(6*(D+48)+5*(2*F+48)+2*(F+48)+6*(Dv+48)+k.chunk+96)+2*F*(Dv+52)+64*(F+D+Dv+32)"
constexpr char kChunkedWorkspace[] =
    "4*$workers*(" ATTUNE_HEDGEHOG_CHUNK "+(1+Hq/Hkv)*(D+1)*(F+48))";
// A state, tokens in columns, a panel of rows, maps.
#define ATTUNE_HEDGEHOG_STATE "(2*F*(Dv+49)+48)"
#define ATTUNE_HEDGEHOG_COLUMNS \
  "k.chunk*(k.chunk+D+4*F+2*Dv+100)+33*(D+48)+(1+Hq/Hst)*((D+1)*F+16)+256"
constexpr char kColumnsWorkspace[] = "4*$workers*(" ATTUNE_HEDGEHOG_STATE "+" ATTUNE_HEDGEHOG_COLUMNS ")";
constexpr char kSplitWorkspace[] =
    "4*(B*Hst*k.segments*" ATTUNE_HEDGEHOG_STATE "+$workers*(" ATTUNE_HEDGEHOG_COLUMNS "))";
#undef ATTUNE_HEDGEHOG_STATE
#undef ATTUNE_HEDGEHOG_COLUMNS
// Less than 15 rows of each kind per token of a chunk; a map, its transpose and a state per head.
constexpr char kBackwardWorkspace[] =
    "4*(" ATTUNE_HEDGEHOG_SUMS "+$workers*(k.chunk*(15*(2*F+D+Dv+144)+2*k.chunk+200)"
    "+(1+Hq/Hkv)*((F+48)*(4*D+2*Dv+300)+5*Nq+16)))";
// Rows per token of a chunk as above; rows per key; two maps and their transposes.
#define ATTUNE_HEDGEHOG_PAIR "$workers*(k.chunk*(15*(2*F+D+Dv+144)+4*k.chunk+200)+4*(D+1)*(F+48)"
constexpr char kDistillWorkspace[] = "4*(4*B*Hq+16+" ATTUNE_HEDGEHOG_PAIR "+Nk*(2*F+48)))";
constexpr char kDistillBackwardWorkspace[] =
    "4*(" ATTUNE_HEDGEHOG_SUMS "+" ATTUNE_HEDGEHOG_PAIR "+4*F*48+Nk*(4*F+D+Dv+192)))";
#undef ATTUNE_HEDGEHOG_PAIR

}  // namespace hedgehog
#endif  // ATTUNE_HEDGEHOG_KERNELS_H_
