#ifndef _GNU_SOURCE
#error "build with -D_GNU_SOURCE"
#endif
#include "ph_tcp.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int ph_loopback_listen(const char *address, uint16_t port, int backlog)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	const struct sockaddr *sa;
	socklen_t len;
	int one = 1;

	if (inet_pton(AF_INET, address, &v4.sin_addr) == 1) {
		if (ntohl(v4.sin_addr.s_addr) >> 24 != 127)
			return -EADDRNOTAVAIL;
		sa = (const struct sockaddr *)&v4;
		len = sizeof v4;
	} else if (inet_pton(AF_INET6, address, &v6.sin6_addr) == 1) {
		if (!IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr))
			return -EADDRNOTAVAIL;
		sa = (const struct sockaddr *)&v6;
		len = sizeof v6;
	} else {
		return -EINVAL;
	}
	int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
	    bind(fd, sa, len) < 0 || listen(fd, backlog) < 0) {
		int error = errno;
		close(fd);
		return -error;
	}
	return fd;
}

int ph_tcp_port(int fd)
{
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} sa;
	socklen_t len = sizeof sa;

	if (getsockname(fd, &sa.any, &len) < 0)
		return -errno;
	if (sa.any.sa_family == AF_INET)
		return ntohs(sa.v4.sin_port);
	return sa.any.sa_family == AF_INET6 ? ntohs(sa.v6.sin6_port) : -EAFNOSUPPORT;
}

int ph_tcp_prepare(int fd)
{
	int one = 1, unsent = 256 << 10;

	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent) < 0)
		return -errno;
	return 0;
}
