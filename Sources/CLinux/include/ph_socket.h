/* Unix sockets with descriptor passing: CMSG_* are macros Swift cannot import. */
#ifndef PH_SOCKET_H
#define PH_SOCKET_H
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

enum { PH_MAX_FDS = 253 }; /* SCM_MAX_FD of the kernel */

/* type: SOCK_STREAM or SOCK_SEQPACKET. All sockets are close-on-exec. */
/*
 * group: who owns the socket's file beside us, -1 for our own; mode: of that file, exactly;
 * takes_descriptors: 0 as ph_refuse_descriptors, where the kernel can, before anybody connects.
 */
int ph_unix_listen(const char *path, int type, int backlog, long group, unsigned int mode,
		   int takes_descriptors);
/* 1 if somebody listens there, 0 if nobody does, -errno if there is no such socket; never waits. */
int ph_unix_is_served(const char *path, int type);
/*
 * Waits so long for room in the listener's backlog, then -ETIMEDOUT; with 0 it does not wait, which
 * is -EAGAIN where it would have to, and the socket does not block. A path that is bound and does
 * not listen yet is waited for too, a tenth of a second.
 */
int ph_unix_connect(const char *path, int type, unsigned int milliseconds);
int ph_unix_accept(int fd);
int ph_unix_pair(int type, int fds[2]);
/*
 * Whoever sends descriptors to this socket, or to one accepted from it, fails with EPERM
 * (SO_PASSRIGHTS, Linux 6.16); -ENOPROTOOPT on older kernels.
 */
int ph_refuse_descriptors(int fd);
/* A close of this socket will not wait for its peer (SO_LINGER); nothing for other files. */
void ph_do_not_linger(int fd);
/* The peer sees the end of the connection, whoever else holds the socket. */
void ph_shut_down(int fd);
/*
 * Raises the limit of open files to the hard one, or `most`, and keeps `reserve` of them for what
 * ph_recvmsg brings. Returns how many are left for all else, or -errno.
 */
int ph_reserve_descriptors(unsigned int most, unsigned int reserve);
/* The first number of the reserve; 0 if there is none. */
int ph_ordinary_descriptors(void);
/* A descriptor has this number: while all are far below the limit, ph_recvmsg needs no reserve. */
void ph_saw_descriptor(int fd);
int ph_set_nonblocking(int fd, int on);
int ph_set_send_buffer(int fd, int bytes);
/* Bytes that SO_SNDBUF lets wait in the socket, the kernel's own overhead included. */
int ph_send_buffer(int fd);
/* Bytes that the other side has not read, the kernel's own overhead included (SIOCOUTQ). */
extern const uint64_t ph_REQUEST_SIOCOUTQ;
int ph_unread(int fd);
/* Whether O_NONBLOCK is set. */
int ph_is_nonblocking(int fd);
/* One sendfile(2) from `offset` of `file`; not tried again after a signal. */
ssize_t ph_sendfile(int fd, int file, uint64_t offset, size_t count);
/* pid, uid and gid of the peer (SO_PEERCRED, socket(7)). */
int ph_peer_credentials(int fd, int32_t *pid, uint32_t *uid, uint32_t *gid);
/* 1 for a connected or connectable socket of AF_UNIX, else 0; *type gets SOCK_*. */
int ph_is_unix_socket(int fd, int *type);

/* sendmsg with up to PH_MAX_FDS descriptors; MSG_NOSIGNAL always. */
ssize_t ph_sendmsg(int fd, const struct iovec *iov, int iovcnt, const int *fds, int nfds,
		   int flags);
/*
 * recvmsg. *nfds: room for descriptors in, count received out (close-on-exec);
 * surplus ones are closed and set MSG_CTRUNC. *msg_flags gets MSG_TRUNC, MSG_CTRUNC.
 */
ssize_t ph_recvmsg(int fd, const struct iovec *iov, int iovcnt, int *fds, int *nfds, int flags,
		   int *msg_flags);

static const int ph_SOCK_STREAM = SOCK_STREAM;
static const int ph_SOCK_SEQPACKET = SOCK_SEQPACKET;
static const int ph_MSG_DONTWAIT = MSG_DONTWAIT;
static const int ph_MSG_TRUNC = MSG_TRUNC;
static const int ph_MSG_CTRUNC = MSG_CTRUNC;
#endif
