#ifndef _GNU_SOURCE
#error "build with -D_GNU_SOURCE"
#endif
#include "ph_uffd.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW /* Linux 6.1 */
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef UFFD_USER_MODE_ONLY /* Linux 5.11 */
#define UFFD_USER_MODE_ONLY 1
#endif

_Static_assert(UFFD_FEATURE_EVENT_REMOVE == 1 << 3 && UFFD_FEATURE_MISSING_HUGETLBFS == 1 << 4 &&
		       UFFD_FEATURE_MISSING_SHMEM == 1 << 5 &&
		       UFFD_FEATURE_MINOR_HUGETLBFS == 1 << 9 &&
		       UFFD_FEATURE_MINOR_SHMEM == 1 << 10,
	       "userfaultfd features");

const uint64_t ph_REQUEST_UFFDIO_REGISTER = UFFDIO_REGISTER;
const uint64_t ph_REQUEST_UFFDIO_UNREGISTER = UFFDIO_UNREGISTER;
const uint64_t ph_REQUEST_UFFDIO_CONTINUE = UFFDIO_CONTINUE;
const uint64_t ph_REQUEST_UFFDIO_ZEROPAGE = UFFDIO_ZEROPAGE;
const uint64_t ph_REQUEST_UFFDIO_COPY = UFFDIO_COPY;
const uint64_t ph_REQUEST_UFFDIO_WAKE = UFFDIO_WAKE;

static const int new_flags = O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY;

static int result(int r) { return r < 0 ? -errno : r; }

int ph_uffd_from_device(int device)
{
	return result(ioctl(device, USERFAULTFD_IOC_NEW, new_flags));
}

int ph_uffd_from_syscall(void) { return result((int)syscall(SYS_userfaultfd, new_flags)); }

int ph_uffd_api(int fd, uint64_t wanted, uint64_t *features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = wanted };
	int r = result(ioctl(fd, UFFDIO_API, &api));
	*features = api.features;
	return r;
}

static struct uffdio_range range(void *start, uint64_t length)
{
	return (struct uffdio_range){ .start = (uintptr_t)start, .len = length };
}

int ph_uffd_register(int fd, void *start, uint64_t length, uint64_t mode)
{
	struct uffdio_register r = { .range = range(start, length), .mode = mode };
	return result(ioctl(fd, ph_REQUEST_UFFDIO_REGISTER, &r));
}

int ph_uffd_unregister(int fd, void *start, uint64_t length)
{
	struct uffdio_range r = range(start, length);
	return result(ioctl(fd, ph_REQUEST_UFFDIO_UNREGISTER, &r));
}

/* A partial success is reported as EAGAIN with the bytes that were mapped. */
static int64_t mapped(int r, int64_t bytes, uint64_t length)
{
	if (r == 0)
		return (int64_t)length;
	return bytes > 0 ? bytes : -errno;
}

int64_t ph_uffd_continue(int fd, void *start, uint64_t length)
{
	struct uffdio_continue c = { .range = range(start, length) };
	int r = ioctl(fd, ph_REQUEST_UFFDIO_CONTINUE, &c);
	return mapped(r, c.mapped, length);
}

int64_t ph_uffd_zeropage(int fd, void *start, uint64_t length)
{
	struct uffdio_zeropage z = { .range = range(start, length) };
	int r = ioctl(fd, ph_REQUEST_UFFDIO_ZEROPAGE, &z);
	return mapped(r, z.zeropage, length);
}

int64_t ph_uffd_copy(int fd, void *start, const void *source, uint64_t length)
{
	struct uffdio_copy c = { .dst = (uintptr_t)start,
				 .src = (uintptr_t)source,
				 .len = length };
	int r = ioctl(fd, ph_REQUEST_UFFDIO_COPY, &c);
	return mapped(r, c.copy, length);
}

int ph_uffd_wake(int fd, void *start, uint64_t length)
{
	struct uffdio_range r = range(start, length);
	return result(ioctl(fd, ph_REQUEST_UFFDIO_WAKE, &r));
}

int ph_uffd_read(int fd, struct ph_uffd_event *events, int max)
{
	struct uffd_msg messages[16];
	if (max > 16)
		max = 16;
	ssize_t n;
	do
		n = read(fd, messages, sizeof messages[0] * (size_t)max);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	int count = (int)((size_t)n / sizeof messages[0]);
	for (int i = 0; i < count; i++) {
		const struct uffd_msg *m = &messages[i];
		switch (m->event) {
		case UFFD_EVENT_PAGEFAULT:
			events[i] = (struct ph_uffd_event){
				.kind = ph_UFFD_FAULT,
				.minor = !!(m->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR),
				.start = m->arg.pagefault.address,
			};
			break;
		case UFFD_EVENT_REMOVE:
			events[i] = (struct ph_uffd_event){ .kind = ph_UFFD_REMOVE,
							    .start = m->arg.remove.start,
							    .end = m->arg.remove.end };
			break;
		default:
			events[i] = (struct ph_uffd_event){ .kind = ph_UFFD_OTHER };
		}
	}
	return count;
}

void *ph_map_witness(int fd, uint64_t length, int *error)
{
	void *p = mmap(NULL, length, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (p == MAP_FAILED) {
		*error = errno;
		return NULL;
	}
	/* Both are kindnesses: no guest RAM in core dumps, nothing for khugepaged to do here. */
	madvise(p, length, MADV_DONTDUMP);
	madvise(p, length, MADV_NOHUGEPAGE);
	return p;
}

void *ph_map_zeros(uint64_t length)
{
	void *p = mmap(NULL, length, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

void ph_unmap(void *start, uint64_t length) { munmap(start, length); }

int ph_poll2(int first, int second, int timeout_ms)
{
	struct pollfd fds[2] = { { .fd = first, .events = POLLIN },
				 { .fd = second, .events = POLLIN } };
	int r = poll(fds, 2, timeout_ms);
	if (r < 0)
		return errno == EINTR ? 0 : -errno;
	return (fds[0].revents ? 1 : 0) | (fds[1].revents ? 2 : 0);
}
