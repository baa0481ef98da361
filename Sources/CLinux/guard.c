#ifndef _GNU_SOURCE
#error "build with -D_GNU_SOURCE"
#endif
#include "ph_guard.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SLOTS = 512 };

/* The handler reads these without a lock: length is set last and cleared first. */
struct slot {
	atomic_uintptr_t base;
	atomic_size_t length;
	atomic_int lost;
	int taken;
};

static struct slot slots[SLOTS];
static atomic_uint_fast64_t losses;
static pthread_mutex_t table = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction before;
static int installed;
/*
 * Zeros for mappings that cannot be private: with vm.overcommit_memory=2 the kernel wants memory
 * for every page of those that can be written to, for these only once it was written to. As long
 * as the largest mapping; whoever writes to one is not the last to do so, but its mapping is lost.
 */
static atomic_int spare = -1;
static size_t spare_length;

static struct slot *find(uintptr_t address)
{
	for (int i = 0; i < SLOTS; i++) {
		size_t length = atomic_load_explicit(&slots[i].length, memory_order_acquire);
		uintptr_t base = atomic_load_explicit(&slots[i].base, memory_order_relaxed);
		if (length && address >= base && address - base < length)
			return &slots[i];
	}
	return NULL;
}

static void pass_on(int number, siginfo_t *info, void *context)
{
	if (before.sa_flags & SA_SIGINFO) {
		before.sa_sigaction(number, info, context);
	} else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
		before.sa_handler(number);
	} else {
		/* The access is repeated on return, and ends the process this time. */
		signal(SIGBUS, SIG_DFL);
		if (info->si_code <= 0)
			raise(SIGBUS);
	}
}

static void bus_error(int number, siginfo_t *info, void *context)
{
	int saved = errno;
	struct slot *slot = info->si_code > 0 ? find((uintptr_t)info->si_addr) : NULL;
	if (!slot) {
		pass_on(number, info, context);
		errno = saved;
		return;
	}
	/* All of it at once: page by page, a long loop would run into the limit of mappings. */
	void *base = (void *)atomic_load_explicit(&slot->base, memory_order_relaxed);
	size_t length = atomic_load_explicit(&slot->length, memory_order_relaxed);
	void *zeros = mmap(base, length, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
	if (zeros == MAP_FAILED)
		zeros = mmap(base, length, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_NORESERVE | MAP_FIXED, atomic_load(&spare), 0);
	if (zeros == MAP_FAILED) {
		pass_on(number, info, context);
	} else if (!atomic_exchange(&slot->lost, 1)) {
		atomic_fetch_add(&losses, 1);
	}
	errno = saved;
}

static int install(void)
{
	if (installed)
		return 0;
	struct sigaction action = { .sa_sigaction = bus_error, .sa_flags = SA_SIGINFO };
	sigemptyset(&action.sa_mask);
	if (sigaction(SIGBUS, &action, &before) < 0)
		return -errno;
	installed = 1;
	return 0;
}

/* Makes the spare zeros long enough. */
static int lengthen(size_t length)
{
	if (atomic_load(&spare) < 0) {
		int fd = memfd_create("pinhole-zeros", MFD_CLOEXEC);
		if (fd < 0)
			return -errno;
		atomic_store(&spare, fd);
	}
	if (length <= spare_length)
		return 0;
	if (ftruncate(atomic_load(&spare), (off_t)length) < 0)
		return -errno;
	spare_length = length;
	return 0;
}

int ph_guard_prepare(void)
{
	pthread_mutex_lock(&table);
	int r = install();
	if (r == 0)
		r = lengthen(0);
	pthread_mutex_unlock(&table);
	return r;
}

int ph_guard_add(void *base, size_t length)
{
	pthread_mutex_lock(&table);
	int r = install();
	if (r == 0)
		r = lengthen(length);
	for (int i = 0; r == 0 && i < SLOTS; i++) {
		if (slots[i].taken)
			continue;
		slots[i].taken = 1;
		atomic_store_explicit(&slots[i].lost, 0, memory_order_relaxed);
		atomic_store_explicit(&slots[i].base, (uintptr_t)base, memory_order_relaxed);
		atomic_store_explicit(&slots[i].length, length, memory_order_release);
		pthread_mutex_unlock(&table);
		return i;
	}
	pthread_mutex_unlock(&table);
	return r < 0 ? r : -ENOSPC;
}

void ph_guard_remove(int slot)
{
	pthread_mutex_lock(&table);
	atomic_store_explicit(&slots[slot].length, 0, memory_order_release);
	slots[slot].taken = 0;
	/* What was written to the zeros goes with the mapping. */
	if (atomic_load_explicit(&slots[slot].lost, memory_order_relaxed)) {
		int r = ftruncate(atomic_load(&spare), 0);
		spare_length = 0;
		for (int i = 0; i < SLOTS; i++) {
			if (slots[i].taken && slots[i].length > spare_length)
				spare_length = slots[i].length;
		}
		if (r == 0 && ftruncate(atomic_load(&spare), (off_t)spare_length) < 0)
			spare_length = 0;
	}
	pthread_mutex_unlock(&table);
}

int ph_guard_is_lost(int slot) { return atomic_load(&slots[slot].lost); }
uint64_t ph_guard_losses(void) { return atomic_load(&losses); }
