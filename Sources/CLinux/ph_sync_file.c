#include "ph_sync_file.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/sync_file.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

const uint64_t ph_REQUEST_SYNC_FILE_INFO = SYNC_IOC_FILE_INFO;
const uint64_t ph_REQUEST_SYNC_MERGE = SYNC_IOC_MERGE;

static int repeat(int fd, unsigned long request, void *argument)
{
	int r;
	do
		r = ioctl(fd, request, argument);
	while (r < 0 && (errno == EINTR || errno == EAGAIN));
	return r < 0 ? -errno : r;
}

int ph_sync_file_status(int fd, int *status)
{
	struct sync_file_info info = { 0 };
	int r = repeat(fd, ph_REQUEST_SYNC_FILE_INFO, &info);
	*status = info.status;
	return r;
}

int ph_sync_file_merge(int a, int b)
{
	struct sync_merge_data data = { .name = "pinhole", .fd2 = b, .fence = -1 };
	int r = repeat(a, ph_REQUEST_SYNC_MERGE, &data);
	/* The kernel makes it close-on-exec. */
	return r < 0 ? r : data.fence;
}

int ph_poll_now(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };
	int r;
	do
		r = poll(&p, 1, 0);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return -errno;
	return r > 0 && p.revents & events ? 1 : 0;
}
