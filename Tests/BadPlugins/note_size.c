/* A note that says it is shorter than it is. */
#define NOTE                                                                                            \
  __attribute__((used, section(".note.attune"), aligned(4))) static const attune_note note = { \
      7, 96, 1, "ATTUNE", 1, 0, 0, 0, {0, 0, 0, 0}, PLUGIN_ID, "1.0.0"};
#include "plugin.h"
