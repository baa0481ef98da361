/* Unix sockets with descriptor passing: CMSG_* are macros Swift cannot import. */
#ifndef PH_SOCKET_H
#define PH_SOCKET_H
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

enum { PH_MAX_FDS = 253 }; /* SCM_MAX_FD of the kernel */

/* type: SOCK_STREAM or SOCK_SEQPACKET. All sockets are close-on-exec. */
int ph_unix_listen(const char *path, int type, int backlog);
int ph_unix_connect(const char *path, int type);
int ph_unix_accept(int fd);
int ph_unix_pair(int type, int fds[2]);
int ph_set_nonblocking(int fd, int on);
int ph_set_send_buffer(int fd, int bytes);
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
