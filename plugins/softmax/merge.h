#ifndef ATTUNE_SOFTMAX_MERGE_H_
#define ATTUNE_SOFTMAX_MERGE_H_
#include <attune/plugin.h>

namespace softmax {

// Merges partial results row by row, parts in ascending order. Task = (batch, head); workspace per worker: Dv floats,
// rounded up to 16.
namespace N_SSE4 {
attune_status MergeRows(const attune_exec* x);
}
namespace N_AVX2 {
attune_status MergeRows(const attune_exec* x);
}
namespace N_AVX3 {
attune_status MergeRows(const attune_exec* x);
}
namespace N_NEON {
attune_status MergeRows(const attune_exec* x);
}

}  // namespace softmax
#endif  // ATTUNE_SOFTMAX_MERGE_H_
