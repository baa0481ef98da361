#ifndef _GNU_SOURCE
#error "build with -D_GNU_SOURCE"
#endif
#include "ph_memory.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

_Static_assert(ph_SEAL_SEAL == F_SEAL_SEAL && ph_SEAL_SHRINK == F_SEAL_SHRINK &&
		       ph_SEAL_GROW == F_SEAL_GROW && ph_SEAL_WRITE == F_SEAL_WRITE &&
		       ph_SEAL_FUTURE_WRITE == F_SEAL_FUTURE_WRITE,
	       "seal bits");

static int result(int r) { return r < 0 ? -errno : r; }

int ph_memfd_create(const char *name, uint64_t huge_page_size)
{
	unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	if (huge_page_size)
		flags |= MFD_HUGETLB | (unsigned int)(__builtin_ctzll(huge_page_size) << 26);
	return result(memfd_create(name, flags));
}

int ph_add_seals(int fd, int seals) { return result(fcntl(fd, F_ADD_SEALS, seals)); }
int ph_get_seals(int fd) { return result(fcntl(fd, F_GET_SEALS)); }
int ph_ftruncate(int fd, uint64_t size) { return result(ftruncate(fd, (off_t)size)); }

int ph_punch_hole(int fd, uint64_t offset, uint64_t length)
{
	return result(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
				(off_t)length));
}

static int64_t nanoseconds(struct timespec t) { return t.tv_sec * 1000000000LL + t.tv_nsec; }

int ph_stat_file(int fd, struct ph_file_facts *facts)
{
	struct stat st;
	struct statfs fs;
	if (fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0)
		return -errno;
	*facts = (struct ph_file_facts){
		.device = st.st_dev,
		.inode = st.st_ino,
		.size = (uint64_t)st.st_size,
		.block_size = (uint64_t)st.st_blksize,
		.filesystem = (uint64_t)(uint32_t)fs.f_type,
		.mtime_ns = nanoseconds(st.st_mtim),
		.ctime_ns = nanoseconds(st.st_ctim),
		.is_regular = S_ISREG(st.st_mode),
	};
	return 0;
}

int ph_stat_times(int fd, int64_t *mtime, int64_t *ctime)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return -errno;
	*mtime = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
	*ctime = (int64_t)st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec;
	return 0;
}

int ph_madvise(void *address, size_t length, int advice)
{
	return result(madvise(address, length, advice));
}

int ph_ioctl(int fd, unsigned long request, void *argument)
{
	int r;
	do
		r = ioctl(fd, request, argument);
	while (r < 0 && errno == EINTR);
	return result(r);
}

int ph_ioctl_int(int fd, unsigned long request, unsigned long argument)
{
	int r;
	do
		r = ioctl(fd, request, argument);
	while (r < 0 && errno == EINTR);
	return result(r);
}

int ph_set_thread_name(const char *name) { return -pthread_setname_np(pthread_self(), name); }
int ph_gettid(void) { return gettid(); }
