#ifndef _GNU_SOURCE
#error "build with -D_GNU_SOURCE"
#endif
#include "ph_event.h"
#include <errno.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
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

int ph_timerfd_create(void)
{
	return result(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
}

static struct timespec timespec_of(uint64_t ns)
{
	return (struct timespec){ .tv_sec = ns / 1000000000u, .tv_nsec = ns % 1000000000u };
}

int ph_timerfd_settime(int fd, uint64_t first_ns, uint64_t interval_ns)
{
	struct itimerspec its = { .it_value = timespec_of(first_ns),
				  .it_interval = timespec_of(interval_ns) };
	return result(timerfd_settime(fd, 0, &its, NULL));
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

int ph_drain_kick(int fd)
{
	uint64_t count;
	ssize_t n;
	do
		n = read(fd, &count, sizeof count);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	return n > 0 ? 1 : -EPIPE;
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

uint64_t ph_monotonic_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void ph_ignore_sigpipe(void) { signal(SIGPIPE, SIG_IGN); }
