/* Operators that all lie in one place. */
#define OPS {ops, 1, 0}
#include "plugin.h"
