#ifndef _GNU_SOURCE
#error "build with -D_GNU_SOURCE"
#endif
#include "ph_socket.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
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

int ph_unix_listen(const char *path, int type, int backlog)
{
	struct sockaddr_un sa;
	int r = address(path, &sa);
	if (r < 0)
		return r;
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* Mode bits before bind: connect needs write permission on the inode. */
	if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&sa, sizeof sa) < 0 ||
	    listen(fd, backlog) < 0)
		return close_with(fd, errno);
	return fd;
}

int ph_unix_connect(const char *path, int type)
{
	struct sockaddr_un sa;
	int r = address(path, &sa);
	if (r < 0)
		return r;
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&sa, sizeof sa) < 0)
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
	do
		n = recvmsg(fd, &msg, flags | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	*msg_flags = msg.msg_flags;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int got;
			memcpy(&got, CMSG_DATA(c) + i * sizeof got, sizeof got);
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
