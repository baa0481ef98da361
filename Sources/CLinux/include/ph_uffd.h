/* userfaultfd(2): every request number is a macro that Swift cannot import. */
#ifndef PH_UFFD_H
#define PH_UFFD_H
#include <stddef.h>
#include <stdint.h>

/* Requests that are made once the process serves, for its filter of system calls. */
extern const uint64_t ph_REQUEST_UFFDIO_REGISTER, ph_REQUEST_UFFDIO_UNREGISTER;
extern const uint64_t ph_REQUEST_UFFDIO_CONTINUE, ph_REQUEST_UFFDIO_ZEROPAGE;
extern const uint64_t ph_REQUEST_UFFDIO_COPY, ph_REQUEST_UFFDIO_WAKE;

/* A userfaultfd for faults in user mode only: nonblocking, close-on-exec. */
int ph_uffd_from_device(int device);
int ph_uffd_from_syscall(void);
/* UFFDIO_API; *features gets all that the kernel has. Once per descriptor. */
int ph_uffd_api(int fd, uint64_t wanted, uint64_t *features);
int ph_uffd_register(int fd, void *start, uint64_t length, uint64_t mode);
int ph_uffd_unregister(int fd, void *start, uint64_t length);
/*
 * These return how many bytes they mapped, which may be fewer than asked for,
 * or -errno when not even the first page could be.
 */
int64_t ph_uffd_continue(int fd, void *start, uint64_t length);
int64_t ph_uffd_zeropage(int fd, void *start, uint64_t length);
int64_t ph_uffd_copy(int fd, void *start, const void *source, uint64_t length);
int ph_uffd_wake(int fd, void *start, uint64_t length);

enum { ph_UFFD_FAULT = 1, ph_UFFD_REMOVE = 2, ph_UFFD_OTHER = 3 };
struct ph_uffd_event {
	uint32_t kind;  /* ph_UFFD_* */
	uint32_t minor; /* a fault on a page that is in the page cache */
	uint64_t start; /* address of the fault, or of the first removed byte */
	uint64_t end;   /* one past the last removed byte */
};
/* Takes waiting events; returns how many, 0 if there are none, or -errno. */
int ph_uffd_read(int fd, struct ph_uffd_event *events, int max);

/* Feature bits and registration modes of linux/userfaultfd.h. */
static const uint64_t ph_UFFD_EVENT_REMOVE = 1 << 3;
static const uint64_t ph_UFFD_MISSING_HUGETLBFS = 1 << 4;
static const uint64_t ph_UFFD_MISSING_SHMEM = 1 << 5;
static const uint64_t ph_UFFD_MINOR_HUGETLBFS = 1 << 9;
static const uint64_t ph_UFFD_MINOR_SHMEM = 1 << 10;
static const uint64_t ph_UFFD_MODE_MISSING = 1 << 0;
static const uint64_t ph_UFFD_MODE_MINOR = 1 << 2;

/* A shared, read-only mapping that reserves no huge pages; NULL and *error on failure. */
void *ph_map_witness(int fd, uint64_t length, int *error);
/* Private zeros, as a source for ph_uffd_copy; NULL on failure. */
void *ph_map_zeros(uint64_t length);
void ph_unmap(void *start, uint64_t length);
/* Reads one byte, which the compiler cannot drop. */
static inline void ph_touch(const void *address) { (void)*(const volatile char *)address; }
/* Waits for either descriptor; bit 0: first is readable, bit 1: second. 0 on time-out. */
int ph_poll2(int first, int second, int timeout_ms);
#endif
