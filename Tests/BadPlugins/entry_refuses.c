/* The plugin says that versions do not meet. */
#define ENTRY return attune_fail(n->error, ATTUNE_E_ABI, "", "needs minor 7 of the host");
#include "plugin.h"
