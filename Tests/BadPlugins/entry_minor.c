/* The plugin chooses a minor that was not offered. */
#define ENTRY n->plugin = &plugin; n->used_minor = 7; return ATTUNE_OK;
#include "plugin.h"
