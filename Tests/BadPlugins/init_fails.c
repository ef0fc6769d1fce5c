/* init refuses. */
#define INIT start
#include <attune/plugin.h>
static attune_status start(const attune_host *host, void **instance, attune_error *error) {
  (void)host, (void)instance;
  return attune_fail(error, ATTUNE_E_UNSUPPORTED, "blas", "no licence was found");
}
#include "plugin.h"
