/* epoll, eventfd, timerfd and signalfd: absent from Swift's Glibc module. */
#ifndef PH_EVENT_H
#define PH_EVENT_H
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>

/* Every ph_ function returns a value >= 0, or -errno. */
int ph_epoll_create(void);
int ph_epoll_ctl(int epfd, int op, int fd, uint32_t events, uint64_t data);
int ph_epoll_wait(int epfd, struct epoll_event *events, int max, int timeout_ms);
int ph_eventfd(unsigned int initial);
int ph_timerfd_create(void);
/* Nanoseconds from now and between expirations; both zero disarm. */
int ph_timerfd_settime(int fd, uint64_t first_ns, uint64_t interval_ns);
/* Blocks the signals in the calling thread and returns a signalfd for them. */
int ph_signalfd(const int *signals, int count);
/* The number of the next signal of a signalfd, 0 if there is none. */
int ph_signal(int fd);
/* Drains an eventfd or timerfd; returns the first word, 0 if empty. */
uint64_t ph_drain(int fd);
/* The same for a descriptor of unknown kind: 1 drained, 0 empty, -errno if it never can be. */
int ph_drain_kick(int fd);
int ph_eventfd_signal(int fd);
uint64_t ph_monotonic_ns(void);
void ph_ignore_sigpipe(void);

static const uint32_t ph_EPOLLIN = EPOLLIN;
static const uint32_t ph_EPOLLOUT = EPOLLOUT;
static const uint32_t ph_EPOLLERR = EPOLLERR;
static const uint32_t ph_EPOLLHUP = EPOLLHUP;
static const uint32_t ph_EPOLLRDHUP = EPOLLRDHUP;
static const uint32_t ph_EPOLLET = EPOLLET;
#endif
