/* Kernels of a later version: larger, and one of them uses the new field. */
#include <attune/plugin.h>
typedef struct { attune_kernel known; uint64_t added; } later_kernel;
#define KERNELS {later_kernels, 3, sizeof(later_kernel)}
#define LATER(name_, flags_, value)                                                                                 \
  {                                                                                                                 \
    {.struct_size = sizeof(later_kernel), .flags = (flags_), .revision = 1, .name = name_, .run = copy, .doc = ""}, \
        value                                                                                                       \
  }
static attune_status copy(const attune_exec *x);
static const later_kernel later_kernels[] = {
    LATER("reference", ATTUNE_REFERENCE | ATTUNE_INVARIANT, 0),
    LATER("same", ATTUNE_INVARIANT, 0),
    LATER("later", ATTUNE_INVARIANT, 1),
};
#include "plugin.h"
