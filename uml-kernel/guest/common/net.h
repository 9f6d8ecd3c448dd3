// SPDX-License-Identifier: Apache-2.0
/* Sockets by "host:port" with numeric addresses ("[v6]:port", ":port" for any). A fault ends the program. */
#ifndef GUEST_NET_H
#define GUEST_NET_H

#include <stddef.h>
#include <sys/socket.h>

struct endpoint {
	struct sockaddr_storage address;
	socklen_t length;
};

struct endpoint endpoint_parse(const char *text);
/* SOCK_STREAM sockets listen already. */
int net_listen(const char *text, int type);
/* Tries again for `patienceS` seconds while nobody answers; TCP_NODELAY is set. -1 when time is up. */
int net_connect(const char *text, double patienceS);
void net_no_delay(int fd);
/* 1, 0 at the end of the stream before the first byte, -1 on a fault or an end in the middle. */
int read_full(int fd, void *data, size_t count);
/* 0 or -1. */
int write_full(int fd, const void *data, size_t count);

#endif
