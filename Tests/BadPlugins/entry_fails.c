/* The entry function fails for another reason, with an endless sentence. */
#include <string.h>
#define ENTRY                                        \
  memset(n->error->message, 'a', sizeof n->error->message); \
  return ATTUNE_E_NOMEM;
#include "plugin.h"
