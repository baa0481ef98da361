#ifndef _GNU_SOURCE
#error "build with -D_GNU_SOURCE"
#endif
#include "ph_socket.h"
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int address(const char *path, struct sockaddr_un *sa)
{
	memset(sa, 0, sizeof *sa);
	sa->sun_family = AF_UNIX;
	if (strlen(path) >= sizeof sa->sun_path)
		return -ENAMETOOLONG;
	strcpy(sa->sun_path, path);
	return 0;
}

static int close_with(int fd, int error)
{
	close(fd);
	return -error;
}

/*
 * bind(2) takes the mode of the socket's own inode, less the umask, which belongs to all threads:
 * it is left alone, and what it took away is given back before listen(2).
 */
static int bind_with_mode(int fd, const struct sockaddr_un *sa, mode_t mode)
{
	if (fchmod(fd, mode) < 0 || bind(fd, (const struct sockaddr *)sa, sizeof *sa) < 0)
		return -errno;
	return 0;
}

/*
 * By descriptor, so that no link can be put in the path's place; chmod(2) of a path in /proc works
 * for O_PATH ones too.
 */
static int give(const char *path, mode_t mode, long group)
{
	char name[32];
	struct stat st;
	int r = 0, fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
	if (fstat(fd, &st) < 0)
		r = -errno;
	else if (!S_ISSOCK(st.st_mode) || st.st_uid != geteuid())
		r = -EADDRINUSE;
	else if ((st.st_mode & 0777) != mode && chmod(name, mode) < 0)
		r = -errno;
	else if (group >= 0 && st.st_gid != (gid_t)group &&
		 fchownat(fd, "", (uid_t)-1, (gid_t)group, AT_EMPTY_PATH) < 0)
		r = -errno;
	close(fd);
	return r;
}

int ph_unix_listen(const char *path, int type, int backlog, long group, unsigned int mode,
		   int takes_descriptors)
{
	struct sockaddr_un sa;
	int r = address(path, &sa);
	if (r < 0)
		return r;
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	r = bind_with_mode(fd, &sa, mode);
	if (r < 0)
		return close_with(fd, -r);
	/* Nobody can connect before listen(2). Older kernels do not know how to refuse. */
	if (!takes_descriptors)
		ph_refuse_descriptors(fd);
	r = give(path, mode, group);
	if (r == 0 && listen(fd, backlog) < 0)
		r = -errno;
	if (r < 0) {
		unlink(path);
		return close_with(fd, -r);
	}
	return fd;
}

int ph_unix_is_served(const char *path, int type)
{
	struct sockaddr_un sa;
	int r = address(path, &sa);
	if (r < 0)
		return r;
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* EAGAIN: somebody listens and has no room for more. */
	r = connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0 || errno == EAGAIN ? 1 : -errno;
	close(fd);
	return r == -ECONNREFUSED ? 0 : r;
}

/* How long calls on a socket that would have to send wait; 0 for ever. */
static int set_patience(int fd, unsigned int milliseconds)
{
	struct timeval t = { .tv_sec = milliseconds / 1000, .tv_usec = milliseconds % 1000 * 1000 };
	return setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
}

int ph_unix_connect(const char *path, int type, unsigned int milliseconds)
{
	struct sockaddr_un sa;
	int r = address(path, &sa);
	if (r < 0)
		return r;
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | (milliseconds ? 0 : SOCK_NONBLOCK), 0);
	if (fd < 0)
		return -errno;
	if (milliseconds && set_patience(fd, milliseconds) < 0)
		return close_with(fd, errno);
	/*
	 * A path is there from bind(2) on and refuses until listen(2): whoever waits for the path with
	 * `test -S` comes in between, so that the refusal of an abandoned one is told a little later.
	 */
	unsigned int refusals = milliseconds ? 50 : 0;
	do {
		r = connect(fd, (struct sockaddr *)&sa, sizeof sa);
		if (r < 0 && errno == ECONNREFUSED && refusals > 0) {
			refusals--;
			usleep(2000);
			errno = EINTR;
		}
	} while (r < 0 && errno == EINTR);
	if (r < 0)
		return close_with(fd, milliseconds && errno == EAGAIN ? ETIMEDOUT : errno);
	if (milliseconds && set_patience(fd, 0) < 0)
		return close_with(fd, errno);
	return fd;
}

int ph_unix_accept(int fd)
{
	int r;
	do
		r = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	while (r < 0 && (errno == EINTR || errno == ECONNABORTED));
	return r < 0 ? -errno : r;
}

int ph_unix_pair(int type, int fds[2])
{
	return socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds) < 0 ? -errno : 0;
}

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83 /* Linux 6.16 */
#endif

int ph_refuse_descriptors(int fd)
{
	int off = 0;
	return setsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, &off, sizeof off) < 0 ? -errno : 0;
}

void ph_do_not_linger(int fd)
{
	/* Reset instead of waiting for what was not sent; no effect on what is no socket. */
	struct linger now = { .l_onoff = 1, .l_linger = 0 };
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

void ph_shut_down(int fd) { shutdown(fd, SHUT_RDWR); }

static _Atomic rlim_t ordinary, all; /* 0: as it was */
static _Atomic int highest;  /* of the numbers that descriptors have had */

int ph_reserve_descriptors(unsigned int most, unsigned int reserve)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return -errno;
	rlim_t count = limit.rlim_max < most ? limit.rlim_max : most;
	if (count < limit.rlim_cur)
		count = limit.rlim_cur;
	limit.rlim_cur = count - (reserve < count / 2 ? reserve : count / 2);
	all = count;
	ordinary = limit.rlim_cur;
	return setrlimit(RLIMIT_NOFILE, &limit) < 0 ? -errno : (int)limit.rlim_cur;
}

int ph_ordinary_descriptors(void) { return (int)ordinary; }

void ph_saw_descriptor(int fd)
{
	int seen = atomic_load_explicit(&highest, memory_order_relaxed);
	while (fd > seen && !atomic_compare_exchange_weak_explicit(
				    &highest, &seen, fd, memory_order_relaxed, memory_order_relaxed))
		;
}

/*
 * The kernel gives the lowest free number. So all numbers above the highest one seen are free, but
 * for what libraries have opened since.
 */
static int has_room_for_message(void)
{
	return (rlim_t)atomic_load_explicit(&highest, memory_order_relaxed) + PH_MAX_FDS + 256 <
	       ordinary;
}

static void limit_descriptors(rlim_t soft)
{
	struct rlimit limit;
	if (soft && getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = soft;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

int ph_set_nonblocking(int fd, int on)
{
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0)
		return -errno;
	flags = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
	return fcntl(fd, F_SETFL, flags) < 0 ? -errno : 0;
}

int ph_set_send_buffer(int fd, int bytes)
{
	return setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes) < 0 ? -errno : 0;
}

int ph_send_buffer(int fd)
{
	int bytes = 0;
	socklen_t len = sizeof bytes;
	return getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, &len) < 0 ? -errno : bytes;
}

const uint64_t ph_REQUEST_SIOCOUTQ = SIOCOUTQ;

int ph_unread(int fd)
{
	int bytes = 0;
	return ioctl(fd, ph_REQUEST_SIOCOUTQ, &bytes) < 0 ? -errno : bytes;
}

int ph_is_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);
	return flags < 0 ? -errno : (flags & O_NONBLOCK) != 0;
}

ssize_t ph_sendfile(int fd, int file, uint64_t offset, size_t count)
{
	off_t at = (off_t)offset;
	ssize_t n = sendfile(fd, file, &at, count);
	return n < 0 ? -errno : n;
}

int ph_peer_credentials(int fd, int32_t *pid, uint32_t *uid, uint32_t *gid)
{
	struct ucred c;
	socklen_t len = sizeof c;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &len) < 0)
		return -errno;
	*pid = c.pid;
	*uid = c.uid;
	*gid = c.gid;
	return 0;
}

int ph_is_unix_socket(int fd, int *type)
{
	int domain = 0;
	socklen_t len = sizeof domain;
	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 || domain != AF_UNIX)
		return 0;
	len = sizeof *type;
	return getsockopt(fd, SOL_SOCKET, SO_TYPE, type, &len) == 0;
}

ssize_t ph_sendmsg(int fd, const struct iovec *iov, int iovcnt, const int *fds, int nfds,
		   int flags)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * PH_MAX_FDS)];
	} control;
	struct msghdr msg = { .msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)iovcnt };
	if (nfds > PH_MAX_FDS)
		return -EINVAL;
	if (nfds > 0) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)nfds);
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)nfds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)nfds);
	}
	ssize_t n;
	do
		n = sendmsg(fd, &msg, flags | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

ssize_t ph_recvmsg(int fd, const struct iovec *iov, int iovcnt, int *fds, int *nfds, int flags,
		   int *msg_flags)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * PH_MAX_FDS)];
	} control;
	struct msghdr msg = { .msg_iov = (struct iovec *)iov,
			      .msg_iovlen = (size_t)iovcnt,
			      .msg_control = control.bytes,
			      .msg_controllen = sizeof control.bytes };
	int room = *nfds;
	*nfds = 0;
	ssize_t n;
	/*
	 * The kernel closes what there is no number for, and a last close may wait: so there must
	 * always be numbers, and room for all that one message can carry.
	 */
	int needs_reserve = !has_room_for_message();
	if (needs_reserve)
		limit_descriptors(all);
	do
		n = recvmsg(fd, &msg, flags | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	int error = errno;
	if (needs_reserve)
		limit_descriptors(ordinary);
	if (n < 0)
		return -error;
	*msg_flags = msg.msg_flags;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int got;
			memcpy(&got, CMSG_DATA(c) + i * sizeof got, sizeof got);
			ph_saw_descriptor(got);
			if (*nfds < room) {
				fds[(*nfds)++] = got;
			} else {
				close(got);
				*msg_flags |= MSG_CTRUNC;
			}
		}
	}
	return n;
}
