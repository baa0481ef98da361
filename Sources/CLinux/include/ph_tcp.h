/* TCP on this machine's own addresses, tcp(7). */
#ifndef PH_TCP_H
#define PH_TCP_H
#include <stdint.h>

/*
 * Listens on a numeric address of 127.0.0.0/8 or on ::1; nonblocking. -EINVAL for what is no
 * address, -EADDRNOTAVAIL for one that others can reach.
 */
int ph_loopback_listen(const char *address, uint16_t port, int backlog);
/* The port that a socket is bound to. */
int ph_tcp_port(int fd);
/* Sends at once, holds little that was not sent yet, and notices a peer whose machine is gone. */
int ph_tcp_prepare(int fd);
#endif
