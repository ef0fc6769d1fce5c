/* One of two operators has a shape that cannot be read. */
#define MORE_TABLES                                                                                    \
  static const attune_tensor_spec broken_tensors[] = {TENSOR("q", ATTUNE_IN, "N+", "normal"),         \
                                                      TENSOR("o", ATTUNE_OUT, "N", "zeros")};         \
  static const attune_entry broken_entries[] = ENTRIES(broken_tensors);
#define MORE_OPS OP("broken", broken_entries)
#include "plugin.h"
