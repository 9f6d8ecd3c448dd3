// SPDX-License-Identifier: Apache-2.0
#include "net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "args.h"
#include "ticker.h"

#define RETRY_MS 100

struct endpoint endpoint_parse(const char *text)
{
	struct endpoint e = { .length = 0 };
	struct sockaddr_in *v4 = (struct sockaddr_in *)&e.address;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&e.address;
	const char *colon = strrchr(text, ':');
	char host[64] = "";
	size_t length = colon ? (size_t)(colon - text) : 0;
	long port = strtol(colon ? colon + 1 : text, NULL, 10);

	if (port < 1 || port > 65535 || length >= sizeof(host))
		fail("not an address and port: %s", text);
	memcpy(host, text, length);
	if (host[0] == '[' && host[length - 1] == ']') {
		host[length - 1] = 0;
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(port);
		e.length = sizeof(*v6);
		if (inet_pton(AF_INET6, host + 1, &v6->sin6_addr) == 1)
			return e;
	} else {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
		e.length = sizeof(*v4);
		if (inet_pton(AF_INET, *host ? host : "0.0.0.0", &v4->sin_addr) == 1)
			return e;
	}
	fail("not a numeric address: %s", text);
}

int net_listen(const char *text, int type)
{
	struct endpoint e = endpoint_parse(text);
	int fd = socket(e.address.ss_family, type | SOCK_CLOEXEC, 0);
	int on = 1;

	/* FREEBIND: the NIC's address may come later than this program. */
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
		fail("socket: %s", strerror(errno));
	setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&e.address, e.length) < 0 || (type == SOCK_STREAM && listen(fd, 64) < 0))
		fail("%s: %s", text, strerror(errno));
	return fd;
}

void net_no_delay(int fd)
{
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

int net_connect(const char *text, double patienceS)
{
	struct endpoint e = endpoint_parse(text);
	uint64_t deadlineNs = monotonic_ns() + (uint64_t)(patienceS * 1e9);

	for (;;) {
		int fd = socket(e.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		struct timespec pause = { 0, RETRY_MS * 1000000L };

		if (fd < 0)
			fail("socket: %s", strerror(errno));
		if (connect(fd, (struct sockaddr *)&e.address, e.length) == 0) {
			net_no_delay(fd);
			return fd;
		}
		close(fd);
		if (monotonic_ns() >= deadlineNs)
			return -1;
		nanosleep(&pause, NULL);
	}
}

int read_full(int fd, void *data, size_t count)
{
	size_t have = 0;

	while (have < count) {
		ssize_t n = read(fd, (char *)data + have, count - have);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n == 0 && have == 0 ? 0 : -1;
		have += n;
	}
	return 1;
}

int write_full(int fd, const void *data, size_t count)
{
	for (size_t done = 0; done < count;) {
		ssize_t n = send(fd, (const char *)data + done, count - done, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		done += n;
	}
	return 0;
}
