#include <attune/attune.h>
