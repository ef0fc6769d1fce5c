/* A later version of the good plugin. */
#define PLUGIN_ID "org.example.good"
#define OP_ID "good"
#define VERSION {1, 1, 0, 0}
#define NOTE ATTUNE_NOTE(PLUGIN_ID, "1.1.0");
#include "plugin.h"
