/* Uses what the host lends, and says so in the log. */
#define INIT start
#define SHUTDOWN stop
#include <attune/plugin.h>
static const attune_host *lent; /* of the one context in the test */
static attune_status start(const attune_host *host, void **instance, attune_error *error) {
  (void)error;
  lent = host;
  *instance = (void *)host->get_extension(host->ctx, "attune.blas/1");
  host->log(host->ctx, ATTUNE_LOG_INFO, host->abi_minor == 0 ? "init under minor 0" : "init");
  if (host->get_extension(host->ctx, "attune.unheard-of/1")) host->log(host->ctx, ATTUNE_LOG_ERROR, "surprise");
  return ATTUNE_OK;
}
static void stop(void *instance) {
  (void)instance;
  lent->log(lent->ctx, 99, "shutdown \xff");
}
#include "plugin.h"
