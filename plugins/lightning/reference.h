// The definition in scalar double precision, and the check of index data.
#ifndef ATTUNE_LIGHTNING_REFERENCE_H_
#define ATTUNE_LIGHTNING_REFERENCE_H_
#include <attune/plugin.h>

namespace lightning {

// Task = (sequence, query head). Workspace: one state in double per worker.
attune_status ReferenceForward(const attune_exec* x);
// Task = kv head, because dk and dv sum over its group and dslopes over the sequences. Workspace per worker: a state in
// double and a number for each head of a group.
attune_status ReferenceBackward(const attune_exec* x);

// cu_seqlens and slopes; the same tensors in every entry.
attune_status Check(const attune_exec* x);

}  // namespace lightning
#endif  // ATTUNE_LIGHTNING_REFERENCE_H_
