#ifndef _GNU_SOURCE
#error "build with -D_GNU_SOURCE"
#endif
#include "ph_dmabuf.h"
#include <linux/magic.h>
#include <sys/vfs.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Both are of Linux 6.0; older headers lack them. */
struct sync_file_argument {
	uint32_t flags;
	int32_t fd;
};
const uint64_t ph_REQUEST_DMA_BUF_EXPORT_SYNC_FILE = _IOWR('b', 2, struct sync_file_argument);
const uint64_t ph_REQUEST_DMA_BUF_IMPORT_SYNC_FILE = _IOW('b', 3, struct sync_file_argument);
const uint64_t ph_REQUEST_DMA_BUF_SYNC = DMA_BUF_IOCTL_SYNC;

static int repeat(int fd, unsigned long request, void *argument)
{
	int r;
	do
		r = ioctl(fd, request, argument);
	while (r < 0 && (errno == EINTR || errno == EAGAIN));
	return r < 0 ? -errno : r;
}

static int sync_read(int fd, uint64_t edge)
{
	struct dma_buf_sync s = { .flags = edge | DMA_BUF_SYNC_READ };
	return repeat(fd, ph_REQUEST_DMA_BUF_SYNC, &s);
}

int ph_dmabuf_begin_read(int fd) { return sync_read(fd, DMA_BUF_SYNC_START); }
int ph_dmabuf_end_read(int fd) { return sync_read(fd, DMA_BUF_SYNC_END); }

int64_t ph_dmabuf_size(int fd)
{
	off_t end = lseek(fd, 0, SEEK_END);
	return end < 0 ? -errno : end;
}

static uint32_t direction(int write) { return write ? DMA_BUF_SYNC_WRITE : DMA_BUF_SYNC_READ; }

int ph_dmabuf_export_sync_file(int fd, int write)
{
	struct sync_file_argument a = { .flags = direction(write), .fd = -1 };
	int r = repeat(fd, ph_REQUEST_DMA_BUF_EXPORT_SYNC_FILE, &a);
	return r < 0 ? r : a.fd;
}

int ph_dmabuf_import_sync_file(int fd, int sync_file, int write)
{
	struct sync_file_argument a = { .flags = direction(write), .fd = sync_file };
	return repeat(fd, ph_REQUEST_DMA_BUF_IMPORT_SYNC_FILE, &a);
}

int ph_is_dmabuf(int fd)
{
	struct statx st;
	struct statfs facts;
	/*
	 * fstatfs(2) asks whoever serves a file on FUSE, and lasts as long as that takes. Such files
	 * have a type; the kernel's own files without a name (alloc_anon_inode) have none, and answer
	 * by themselves.
	 */
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st) < 0 ||
	    (st.stx_mode & S_IFMT) != 0)
		return 0;
	return fstatfs(fd, &facts) == 0 && facts.f_type == DMA_BUF_MAGIC;
}
