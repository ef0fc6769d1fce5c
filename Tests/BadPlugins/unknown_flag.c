/* One kernel has a flag of a later version. */
#define MORE_KERNELS KERNEL("later", 0x40000000)
#include "plugin.h"
