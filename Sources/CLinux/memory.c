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
#include <sys/sysmacros.h>
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

int ph_duplicate_onto(int fd, int place) { return result(dup3(fd, place, O_CLOEXEC)); }

int ph_add_seals(int fd, int seals) { return result(fcntl(fd, F_ADD_SEALS, seals)); }
int ph_get_seals(int fd) { return result(fcntl(fd, F_GET_SEALS)); }
int ph_ftruncate(int fd, uint64_t size) { return result(ftruncate(fd, (off_t)size)); }

int ph_punch_hole(int fd, uint64_t offset, uint64_t length)
{
	return result(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
				(off_t)length));
}

static int64_t stamp(struct statx_timestamp t) { return t.tv_sec * 1000000000LL + t.tv_nsec; }

/* What is in memory already: fstat(2) would wait for the server of a FUSE or network file. */
static int stat_unsynced(int fd, struct statx *st)
{
	return statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS, st);
}

int ph_stat_file(int fd, struct ph_file_facts *facts)
{
	struct statx st;
	struct statfs fs = { 0 };
	if (stat_unsynced(fd, &st) < 0)
		return -errno;
	/* Only shmem and hugetlbfs have seals, and only those answer fstatfs(2) by themselves. */
	if (S_ISREG(st.stx_mode) && fcntl(fd, F_GET_SEALS) >= 0 && fstatfs(fd, &fs) < 0)
		return -errno;
	*facts = (struct ph_file_facts){
		.device = makedev(st.stx_dev_major, st.stx_dev_minor),
		.inode = st.stx_ino,
		.size = st.stx_size,
		.block_size = st.stx_blksize,
		.filesystem = (uint64_t)(uint32_t)fs.f_type,
		.mtime_ns = stamp(st.stx_mtime),
		.ctime_ns = stamp(st.stx_ctime),
		.is_regular = S_ISREG(st.stx_mode),
		.is_on_disk = S_ISREG(st.stx_mode) && st.stx_dev_major != 0,
	};
	return 0;
}

int ph_is_anonymous(int fd, int of_ours)
{
	struct statx theirs, ours;
	if (stat_unsynced(fd, &theirs) < 0 || stat_unsynced(of_ours, &ours) < 0)
		return 0;
	return theirs.stx_ino == ours.stx_ino && theirs.stx_dev_major == ours.stx_dev_major &&
	       theirs.stx_dev_minor == ours.stx_dev_minor;
}

int ph_is_device(int fd, unsigned int major)
{
	struct statx st;
	return stat_unsynced(fd, &st) == 0 && S_ISCHR(st.stx_mode) && st.stx_rdev_major == major;
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

void *ph_map_twice(int fd, size_t length, int *error)
{
	char *base = mmap(NULL, 2 * length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			  -1, 0);
	if (base == MAP_FAILED) {
		*error = errno;
		return NULL;
	}
	for (int half = 0; half < 2; half++) {
		void *at = base + (size_t)half * length;
		if (mmap(at, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) !=
		    MAP_FAILED)
			continue;
		*error = errno;
		munmap(base, 2 * length);
		return NULL;
	}
	return base;
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
