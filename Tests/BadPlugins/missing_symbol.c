/* Needs a function that nobody has. */
#include <attune/plugin.h>
extern attune_status nowhere_to_be_found(void);
#define ENTRY return nowhere_to_be_found();
#include "plugin.h"
