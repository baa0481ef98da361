#include "ph_udmabuf.h"
#include <errno.h>
#include <linux/udmabuf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

_Static_assert(sizeof(struct ph_udmabuf_item) == sizeof(struct udmabuf_create_item),
	       "layout of udmabuf_create_item");

const uint64_t ph_REQUEST_UDMABUF_CREATE = UDMABUF_CREATE;
const uint64_t ph_REQUEST_UDMABUF_CREATE_LIST = UDMABUF_CREATE_LIST;

int ph_udmabuf_create(int device, const struct ph_udmabuf_item *items, uint32_t count)
{
	struct udmabuf_create_list *list =
		malloc(sizeof *list + (size_t)count * sizeof list->list[0]);
	if (!list)
		return -ENOMEM;
	list->flags = UDMABUF_FLAGS_CLOEXEC;
	list->count = count;
	if (count)
		memcpy(list->list, items, (size_t)count * sizeof list->list[0]);
	int r;
	do
		r = ioctl(device, ph_REQUEST_UDMABUF_CREATE_LIST, list);
	while (r < 0 && errno == EINTR);
	int error = errno;
	free(list);
	return r < 0 ? -error : r;
}
