/* Heap use of this process since it started. */
#ifndef MALLOC_COUNT_H
#define MALLOC_COUNT_H
#include <stdlib.h>
long heap_calls(void); /* allocations ever made */
long heap_live(void);  /* allocations not yet freed */
#endif
