/* The whole file needs a feature that no CPU has. */
#define NOTE                                                                                            \
  __attribute__((used, section(".note.attune"), aligned(4))) static const attune_note note = { \
      7, 112, 1, "ATTUNE", 1, 0, 0, 0, {0, 0x80000000, 0, 0}, PLUGIN_ID, "1.0.0"};
#include "plugin.h"
