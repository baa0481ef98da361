/* memfd, seals, hole punching and stat facts behind _GNU_SOURCE. */
#ifndef PH_MEMORY_H
#define PH_MEMORY_H
#include <stddef.h>
#include <stdint.h>

/* huge_page_size: 0 for base pages, else a power of two such as 2 MiB. */
int ph_memfd_create(const char *name, uint64_t huge_page_size);
/* dup3(2), close-on-exec: `place`, which is open, becomes another descriptor of what `fd` is. */
int ph_duplicate_onto(int fd, int place);
int ph_add_seals(int fd, int seals);
/* The F_SEAL_* bits of fd, or -errno (EINVAL: the file cannot be sealed). */
int ph_get_seals(int fd);
int ph_ftruncate(int fd, uint64_t size);
int ph_punch_hole(int fd, uint64_t offset, uint64_t length);

struct ph_file_facts {
	uint64_t device;
	uint64_t inode;
	uint64_t size;
	uint64_t block_size;   /* the huge page size on hugetlbfs */
	uint64_t filesystem;   /* f_type of fstatfs(2); 0 for all but shmem and hugetlbfs */
	int64_t mtime_ns, ctime_ns;
	uint32_t is_regular;
	uint32_t is_on_disk;   /* on a block device, not on a server's or another program's word */
};
/* Never waits, whatever file it is. */
int ph_stat_file(int fd, struct ph_file_facts *facts);
/*
 * 1 for a file of the kernel's own without an inode of its own (an eventfd, a sync_file, ...), of
 * which one of ours is given to compare with. Never waits.
 */
int ph_is_anonymous(int fd, int of_ours);
/* 1 for a character device of this major number. Never waits. */
int ph_is_device(int fd, unsigned int major);
/* Only the times of fstat(2), in nanoseconds. */
int ph_stat_times(int fd, int64_t *mtime, int64_t *ctime);

enum {
	ph_SEAL_SEAL = 1,
	ph_SEAL_SHRINK = 2,
	ph_SEAL_GROW = 4,
	ph_SEAL_WRITE = 8,
	ph_SEAL_FUTURE_WRITE = 16,
};
static const uint64_t ph_TMPFS_MAGIC = 0x01021994;
static const uint64_t ph_HUGETLBFS_MAGIC = 0x958458f6;

/* Page-wise madvise(2) advice newer than glibc's headers. */
static const int ph_MADV_DONTDUMP = 16;
static const int ph_MADV_POPULATE_READ = 22;
static const int ph_MADV_POPULATE_WRITE = 23;
/* Maps the first `length` bytes of a file twice, one after the other, shared and writable; the
 * second piece begins where the first ends. NULL and an errno on failure. */
void *ph_map_twice(int fd, size_t length, int *error);
int ph_madvise(void *address, size_t length, int advice);
int ph_ioctl(int fd, unsigned long request, void *argument);
int ph_ioctl_int(int fd, unsigned long request, unsigned long argument);
int ph_set_thread_name(const char *name);
int ph_gettid(void);
#endif
