/* Nothing is wrong. */
#include "plugin.h"
