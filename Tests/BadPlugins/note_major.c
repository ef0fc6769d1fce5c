/* A note of another major version. */
#define NOTE                                                                                            \
  __attribute__((used, section(".note.attune"), aligned(4))) static const attune_note note = { \
      7, 112, 1, "ATTUNE", 2, 0, 0, 0, {0, 0, 0, 0}, PLUGIN_ID, "1.0.0"};
#include "plugin.h"
