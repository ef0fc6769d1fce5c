// The vector kernels of forward and step.
#ifndef ATTUNE_MOH_FORWARD_H_
#define ATTUNE_MOH_FORWARD_H_
#include <attune/plugin.h>

namespace moh {

enum PackedKnob { kQueryRows, kKeyRows };
enum InPlaceKnob { kInPlaceKeyRows, kChunk };
constexpr int64_t kFewRows = 32;  // per kv head, for keys in place

// One call; it spreads its phases over the workers. Lanes, Packed: for many queries; either queries or keys are
// transposed. InPlace: nothing is, for few. Lanes and Packed have the same knobs.
#define ATTUNE_MOH_FORWARD(isa)                       \
  namespace isa {                                     \
  attune_status PackedForward(const attune_exec* x);  \
  attune_status PackedStep(const attune_exec* x);     \
  attune_status LanesForward(const attune_exec* x);   \
  attune_status LanesStep(const attune_exec* x);      \
  attune_status InPlaceForward(const attune_exec* x); \
  attune_status InPlaceStep(const attune_exec* x);    \
  }
ATTUNE_MOH_FORWARD(N_SSE4)
ATTUNE_MOH_FORWARD(N_AVX2)
ATTUNE_MOH_FORWARD(N_AVX3)
ATTUNE_MOH_FORWARD(N_NEON)
#undef ATTUNE_MOH_FORWARD

}  // namespace moh
#endif  // ATTUNE_MOH_FORWARD_H_
