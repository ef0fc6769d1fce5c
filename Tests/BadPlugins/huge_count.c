/* 2^32-1 operators. */
#define OPS {ops, 0xffffffffu, sizeof(attune_op)}
#include "plugin.h"
