/* The entry function succeeds without a table. */
#define ENTRY return ATTUNE_OK;
#include "plugin.h"
