/* Two kernels say that they decide. */
#define MORE_KERNELS KERNEL("second", ATTUNE_REFERENCE | ATTUNE_INVARIANT)
#include "plugin.h"
