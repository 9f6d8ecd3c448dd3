// SPDX-License-Identifier: Apache-2.0
#include "blockcopy.h"

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

struct wire_request {
	uint32_t bytes, zero;
	uint64_t offset;
};

struct wire_answer {
	uint32_t bytes, status;
	uint64_t fileBytes;
};

int request_receive(int fd, struct request *request)
{
	struct wire_request wire;
	int got = read_full(fd, &wire, sizeof(wire));

	if (got <= 0)
		return got;
	request->bytes = be32toh(wire.bytes);
	request->offset = be64toh(wire.offset);
	return wire.zero || request->bytes > MAX_BLOCK_BYTES ? -1 : 1;
}

int answer_send(int fd, uint32_t status, uint64_t fileBytes, const void *data, uint32_t bytes)
{
	struct wire_answer wire = { htobe32(bytes), htobe32(status), htobe64(fileBytes) };
	struct iovec parts[2] = { { &wire, sizeof(wire) }, { (void *)data, bytes } };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };
	ssize_t sent;

	/* Head and bytes in one call: one segment where they fit. */
	do
		sent = sendmsg(fd, &message, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	if (sent < 0)
		return -1;
	if ((size_t)sent < sizeof(wire)) {
		if (write_full(fd, (char *)&wire + sent, sizeof(wire) - sent) < 0)
			return -1;
		sent = sizeof(wire);
	}
	sent -= sizeof(wire);
	return write_full(fd, (const char *)data + sent, bytes - sent);
}

long block_fetch(int fd, uint64_t offset, void *data, uint32_t bytes, uint64_t *fileBytes)
{
	struct wire_request request = { htobe32(bytes), 0, htobe64(offset) };
	struct wire_answer answer;
	uint32_t got;

	if (write_full(fd, &request, sizeof(request)) < 0 || read_full(fd, &answer, sizeof(answer)) != 1)
		return -1;
	got = be32toh(answer.bytes);
	*fileBytes = be64toh(answer.fileBytes);
	if (answer.status || got > bytes)
		return -1;
	return got && read_full(fd, data, got) != 1 ? -1 : (long)got;
}

struct connection {
	void (*fn)(int fd);
	int fd;
};

static void *serve_one(void *argument)
{
	struct connection connection = *(struct connection *)argument;

	free(argument);
	net_no_delay(connection.fd);
	connection.fn(connection.fd);
	close(connection.fd);
	return NULL;
}

void serve_connections(int listener, void (*fn)(int fd))
{
	pthread_attr_t detached;

	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&detached, 256 * 1024);
	for (;;) {
		struct connection *connection;
		pthread_t thread;
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0) {
			if (errno == EINTR || errno == ECONNABORTED)
				continue;
			fail("accept: %s", strerror(errno));
		}
		connection = malloc(sizeof(*connection));
		if (!connection)
			fail("out of memory");
		*connection = (struct connection){ fn, fd };
		if (pthread_create(&thread, &detached, serve_one, connection) != 0) {
			free(connection);
			close(fd);
		}
	}
}
