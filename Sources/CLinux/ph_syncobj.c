#include "ph_syncobj.h"
#include "ph_memory.h"
#include <errno.h>
#include <sys/ioctl.h>

/* As in Linux 6.6; a later kernel takes a shorter struct for one with zeros behind it. */
struct syncobj_destroy {
	uint32_t handle, pad;
};
struct syncobj_handle {
	uint32_t handle, flags;
	int32_t fd;
	uint32_t pad;
};
struct syncobj_eventfd {
	uint32_t handle, flags;
	uint64_t point;
	int32_t fd;
	uint32_t pad;
};
const uint64_t ph_REQUEST_SYNCOBJ_DESTROY = _IOWR('d', 0xc0, struct syncobj_destroy);
const uint64_t ph_REQUEST_SYNCOBJ_FD_TO_HANDLE = _IOWR('d', 0xc2, struct syncobj_handle);
const uint64_t ph_REQUEST_SYNCOBJ_EVENTFD = _IOWR('d', 0xcf, struct syncobj_eventfd);

enum { DRM_MAJOR = 226 };

static int ask(int node, unsigned long request, void *argument)
{
	int r;
	do
		r = ioctl(node, request, argument);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

int ph_drm_is_node(int fd) { return ph_is_device(fd, DRM_MAJOR); }

int ph_syncobj_has_eventfd(int node)
{
	/* There is no handle 0, which is the last thing that is looked at. */
	struct syncobj_eventfd a = { .fd = -1 };
	int r = ask(node, ph_REQUEST_SYNCOBJ_EVENTFD, &a);
	return r == -ENOENT ? 0 : r < 0 ? r : -EINVAL;
}

int ph_syncobj_import(int node, int fd, uint32_t *handle)
{
	struct syncobj_handle a = { .fd = fd };
	int r = ask(node, ph_REQUEST_SYNCOBJ_FD_TO_HANDLE, &a);
	*handle = a.handle;
	return r;
}

int ph_syncobj_destroy(int node, uint32_t handle)
{
	struct syncobj_destroy a = { .handle = handle };
	return ask(node, ph_REQUEST_SYNCOBJ_DESTROY, &a);
}

int ph_syncobj_eventfd(int node, uint32_t handle, uint64_t point, int eventfd)
{
	struct syncobj_eventfd a = { .handle = handle, .point = point, .fd = eventfd };
	return ask(node, ph_REQUEST_SYNCOBJ_EVENTFD, &a);
}
