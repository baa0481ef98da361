/*
 * LD_PRELOAD: lets Mesa's software renderer read imported dma-bufs on a node such as vgem's.
 *
 * It maps every buffer with DRM_IOCTL_MODE_MAP_DUMB, which the kernel refuses for imported ones.
 * Here such a buffer gets an offset of our own, and its mapping comes from the dma-buf itself.
 */
#define _GNU_SOURCE
#include <drm.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define OURS (1ull << 46)
#define MAX 4096

static int imported[MAX]; /* by handle: the dma-buf's descriptor plus 1 */

static int real_ioctl(int fd, unsigned long request, void *argument)
{
	return (int)syscall(SYS_ioctl, fd, request, argument);
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list list;
	va_start(list, request);
	void *argument = va_arg(list, void *);
	va_end(list);
	int result = real_ioctl(fd, request, argument);
	if (request == DRM_IOCTL_PRIME_FD_TO_HANDLE && result == 0) {
		struct drm_prime_handle *prime = argument;
		if (prime->handle < MAX) {
			if (imported[prime->handle])
				close(imported[prime->handle] - 1);
			imported[prime->handle] = fcntl(prime->fd, F_DUPFD_CLOEXEC, 100) + 1;
		}
	} else if (request == DRM_IOCTL_MODE_MAP_DUMB && result != 0) {
		struct drm_mode_map_dumb *map = argument;
		if (map->handle < MAX && imported[map->handle]) {
			map->offset = OURS + ((unsigned long long)map->handle << 20);
			return 0;
		}
	} else if (request == DRM_IOCTL_GEM_CLOSE && result == 0) {
		struct drm_gem_close *gone = argument;
		if (gone->handle < MAX && imported[gone->handle]) {
			close(imported[gone->handle] - 1);
			imported[gone->handle] = 0;
		}
	}
	return result;
}

void *mmap64(void *where, size_t count, int protection, int flags, int fd, off64_t offset)
{
	if ((unsigned long long)offset >= OURS) {
		fd = imported[((unsigned long long)offset - OURS) >> 20] - 1;
		offset = 0;
	}
	return (void *)syscall(SYS_mmap, where, count, protection, flags, fd, offset);
}

void *mmap(void *where, size_t count, int protection, int flags, int fd, off_t offset)
{
	return mmap64(where, count, protection, flags, fd, offset);
}
