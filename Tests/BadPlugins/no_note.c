/* No note: only for attune_load. */
#define NOTE
#include "plugin.h"
