/* The entry symbol is missing. */
#define NO_ENTRY
#include "plugin.h"
__attribute__((used)) static const attune_op *keep = ops;
