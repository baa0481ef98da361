/* UDMABUF_CREATE_LIST of linux/udmabuf.h: its list is a flexible array member. */
#ifndef PH_UDMABUF_H
#define PH_UDMABUF_H
#include <stdint.h>

extern const uint64_t ph_REQUEST_UDMABUF_CREATE_LIST;
/* What Mesa asks for in its place. */
extern const uint64_t ph_REQUEST_UDMABUF_CREATE;

struct ph_udmabuf_item {
	int32_t memfd;
	uint32_t reserved;
	uint64_t offset, size; /* bytes, multiples of the base page size */
};
/*
 * Returns a dma-buf over the items' pages in their order, close-on-exec, or -errno
 * (EINVAL also for an empty list, whose items may be NULL).
 */
int ph_udmabuf_create(int device, const struct ph_udmabuf_item *items, uint32_t count);
#endif
