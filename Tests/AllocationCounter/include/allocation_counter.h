/* Counts a thread's heap allocations, for tests of paths that must not allocate. */
#ifndef ALLOCATION_COUNTER_H
#define ALLOCATION_COUNTER_H
#include <stdbool.h>
#include <stdint.h>

/* False under a sanitizer, which has its own allocator. */
bool allocation_counter_works(void);
/* Allocations of the calling thread so far. */
uint64_t allocation_count(void);
#endif
