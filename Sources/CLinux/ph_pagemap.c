#ifndef _GNU_SOURCE
#error "build with -D_GNU_SOURCE"
#endif
#include "ph_pagemap.h"
#include <errno.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* struct pm_scan_arg of linux/fs.h, which headers before Linux 6.7 lack. */
struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
_Static_assert(sizeof(struct scan_arg) == 96 && sizeof(struct ph_page_region) == 24,
	       "layout of PAGEMAP_SCAN");

const uint64_t ph_REQUEST_PAGEMAP_SCAN = _IOWR('f', 16, struct scan_arg);
/* Asking for any category that the running kernel does not know is EINVAL. */
#define CATEGORY_PRESENT ((uint64_t)1 << 3)

int ph_pagemap_scan_absent(int fd, uint64_t start, uint64_t end, struct ph_page_region *regions,
			   int max, uint64_t *walked)
{
	struct scan_arg arg = {
		.size = sizeof arg,
		.start = start,
		.end = end,
		.vec = (uintptr_t)regions,
		.vec_len = (uint64_t)max,
		.category_inverted = CATEGORY_PRESENT,
		.category_mask = CATEGORY_PRESENT,
		.return_mask = CATEGORY_PRESENT,
	};
	int r;
	do
		r = ioctl(fd, ph_REQUEST_PAGEMAP_SCAN, &arg);
	while (r < 0 && errno == EINTR);
	*walked = arg.walk_end;
	return r < 0 ? -errno : r;
}

int ph_pagemap_read(int fd, uint64_t address, uint64_t *entries, int count)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	ssize_t n;
	do
		n = pread(fd, entries, sizeof *entries * (size_t)count,
			  (off_t)(address / page * sizeof *entries));
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : (int)((size_t)n / sizeof *entries);
}
