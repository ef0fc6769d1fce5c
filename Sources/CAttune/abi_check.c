/* Layout assertions of the ABI, compiled with every build. */
#include <attune/attune.h>
#include <attune/plugin.h>
