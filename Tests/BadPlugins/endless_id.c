/* The id of the second operator has no end within a page. */
#define MORE_TABLES static const char endless[4096] = {[0 ... 4095] = 'a'};
#define MORE_OPS OP(endless, entries)
#include "plugin.h"
