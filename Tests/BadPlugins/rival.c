/* Another plugin that offers the same operator in the same version. */
#define OP_ID "good"
#include "plugin.h"
