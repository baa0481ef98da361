#include "allocation_counter.h"
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

#ifdef SANITIZED
bool allocation_counter_works(void) { return false; }
uint64_t allocation_count(void) { return 0; }
#else
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static __thread uint64_t count;

bool allocation_counter_works(void)
{
	uint64_t before = count;
	void *volatile p = malloc(1);
	free(p);
	return count != before;
}

uint64_t allocation_count(void) { return count; }

void *malloc(size_t size)
{
	count++;
	return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
	count++;
	return __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
	count++;
	return __libc_realloc(p, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
	count++;
	return __libc_memalign(alignment, size);
}

int posix_memalign(void **p, size_t alignment, size_t size)
{
	count++;
	*p = __libc_memalign(alignment, size);
	return *p ? 0 : ENOMEM;
}
#endif
