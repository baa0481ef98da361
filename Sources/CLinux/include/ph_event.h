/* epoll, eventfd and signalfd: absent from Swift's Glibc module. */
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
/* An eventfd that counts what is to be done; each wait takes one and lasts until there is one. */
int ph_semaphore(void);
int ph_semaphore_wait(int fd);
/* Blocks the signals in the calling thread and returns a signalfd for them. */
int ph_signalfd(const int *signals, int count);
/* The number of the next signal of a signalfd, 0 if there is none. */
int ph_signal(int fd);
/* Drains an eventfd; returns the first word, 0 if empty. */
uint64_t ph_drain(int fd);
int ph_eventfd_signal(int fd);
/*
 * For eventfds that somebody else may write to, read and switch O_NONBLOCK of; neither waits but
 * where that owner fills the counter within the call, and then ends with EINTR at a signal.
 * drain: 1 and *count, 0 if it was zero, -errno (EINVAL: this is no eventfd).
 */
int ph_foreign_event_drain(int fd, uint64_t *count);
int ph_foreign_event_signal(int fd);
uint64_t ph_monotonic_ns(void);
/* Processor time of the calling thread. */
uint64_t ph_thread_ns(void);
void ph_ignore_sigpipe(void);
/* SIGURG does nothing from now on but end calls that wait, with EINTR. */
int ph_prepare_poke(void);
/* Sends it to a thread of this process. */
int ph_poke(int thread);
/* 1 if a signal that is blocked waits to be taken. */
/* How often the calling thread was poked. */
uint32_t ph_pokes(void);
int ph_is_pending(int signal);

static const uint32_t ph_EPOLLIN = EPOLLIN;
static const uint32_t ph_EPOLLOUT = EPOLLOUT;
static const uint32_t ph_EPOLLERR = EPOLLERR;
static const uint32_t ph_EPOLLHUP = EPOLLHUP;
static const uint32_t ph_EPOLLRDHUP = EPOLLRDHUP;
static const uint32_t ph_EPOLLET = EPOLLET;
#endif
