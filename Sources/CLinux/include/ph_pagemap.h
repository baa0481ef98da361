/* /proc/PID/pagemap: PAGEMAP_SCAN (Linux 6.7, linux/fs.h) and the entries themselves. */
#ifndef PH_PAGEMAP_H
#define PH_PAGEMAP_H
#include <stddef.h>
#include <stdint.h>

extern const uint64_t ph_REQUEST_PAGEMAP_SCAN;

struct ph_page_region {
	uint64_t start, end;
	uint64_t categories;
};

/*
 * Finds runs of pages in [start, end) that have no page table entry. Returns how many runs it
 * wrote, or -errno (ENOTTY or EINVAL: the kernel has no PAGEMAP_SCAN). *walked gets where the
 * scan ended: short of `end` only when `regions` is full.
 */
int ph_pagemap_scan_absent(int fd, uint64_t start, uint64_t end, struct ph_page_region *regions,
			   int max, uint64_t *walked);
/* Reads entries of consecutive pages from `address` on; returns how many, or -errno. */
int ph_pagemap_read(int fd, uint64_t address, uint64_t *entries, int count);
static const uint64_t ph_PAGEMAP_PRESENT = (uint64_t)1 << 63;
#endif
