#ifndef _GNU_SOURCE
#error "build with -D_GNU_SOURCE"
#endif
#include "ph_event.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static int result(int r) { return r < 0 ? -errno : r; }

int ph_epoll_create(void) { return result(epoll_create1(EPOLL_CLOEXEC)); }

int ph_epoll_ctl(int epfd, int op, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event ev = { .events = events, .data.u64 = data };
	return result(epoll_ctl(epfd, op, fd, &ev));
}

int ph_epoll_wait(int epfd, struct epoll_event *events, int max, int timeout_ms)
{
	int r = epoll_wait(epfd, events, max, timeout_ms);
	if (r < 0 && errno == EINTR)
		return 0;
	return result(r);
}

int ph_eventfd(unsigned int initial)
{
	return result(eventfd(initial, EFD_CLOEXEC | EFD_NONBLOCK));
}

int ph_semaphore(void) { return result(eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE)); }

int ph_semaphore_wait(int fd)
{
	uint64_t one;
	ssize_t n;
	do
		n = read(fd, &one, sizeof one);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

int ph_signalfd(const int *signals, int count)
{
	sigset_t set;
	sigemptyset(&set);
	for (int i = 0; i < count; i++)
		sigaddset(&set, signals[i]);
	int r = pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (r)
		return -r;
	return result(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
}

int ph_signal(int fd)
{
	struct signalfd_siginfo info;
	ssize_t n;
	do
		n = read(fd, &info, sizeof info);
	while (n < 0 && errno == EINTR);
	return n == (ssize_t)sizeof info ? (int)info.ssi_signo : 0;
}

uint64_t ph_drain(int fd)
{
	uint64_t count = 0;
	ssize_t n;
	do
		n = read(fd, &count, sizeof count);
	while (n < 0 && errno == EINTR);
	return n > 0 ? count : 0;
}

int ph_foreign_event_drain(int fd, uint64_t *count)
{
	struct iovec one = { count, sizeof *count };
	*count = 0;
	/* By this call's flag: the file's own is its other owner's, who may change it at any time. */
	ssize_t n = preadv2(fd, &one, 1, -1, RWF_NOWAIT);
	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	return n == (ssize_t)sizeof *count ? 1 : -EINVAL;
}

int ph_foreign_event_signal(int fd)
{
	struct pollfd room = { .fd = fd, .events = POLLOUT };
	uint64_t one = 1;
	/* A full counter: whoever reads it is awake. No flag makes a single write not wait. */
	if (poll(&room, 1, 0) < 1 || !(room.revents & POLLOUT))
		return 0;
	/* Not again after EINTR: the watchdog interrupts what an owner made wait on purpose. */
	return write(fd, &one, sizeof one) < 0 ? -errno : 0;
}

int ph_eventfd_signal(int fd)
{
	uint64_t one = 1;
	ssize_t n;
	do
		n = write(fd, &one, sizeof one);
	while (n < 0 && errno == EINTR);
	/* EAGAIN: the counter is at its maximum, so the reader is awake anyway. */
	return n < 0 && errno != EAGAIN ? -errno : 0;
}

uint64_t ph_thread_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t ph_monotonic_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void ph_ignore_sigpipe(void) { signal(SIGPIPE, SIG_IGN); }

static _Thread_local volatile uint32_t pokes;

static void count_poke(int number)
{
	(void)number;
	pokes++;
}

uint32_t ph_pokes(void) { return pokes; }

int ph_prepare_poke(void)
{
	struct sigaction action = { .sa_handler = count_poke };
	sigset_t set;
	sigemptyset(&action.sa_mask);
	sigemptyset(&set);
	sigaddset(&set, SIGURG);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	return result(sigaction(SIGURG, &action, NULL));
}

int ph_poke(int thread) { return result(tgkill(getpid(), thread, SIGURG)); }

int ph_is_pending(int signal)
{
	sigset_t set;
	return sigpending(&set) == 0 && sigismember(&set, signal) == 1;
}
