/* Note and table name different plugins. */
#define NOTE ATTUNE_NOTE("org.example.other", "1.0.0");
#include "plugin.h"
