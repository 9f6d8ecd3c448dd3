// SPDX-License-Identifier: Apache-2.0
#include "channel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent.h"
#include "buffer.h"

/* Output of sessions waits in their own rings, where an ACK frees it; here only as much as keeps the pipe busy. */
#define BACKLOG_BYTES (128 * 1024)
/* Answers may go beyond that; from here on nothing more is read, so that a host that never reads can't fill our memory. */
#define STOP_READING_BYTES (256 * 1024)
#define READ_BYTES 16384
/* So that one busy side can't keep the loop from the others. */
#define PUMP_TURNS 32

static const uint8_t host_hello[] = "\0\0\0\x0a\0\0\0\0\x01\0\0\0MOBIGUEST1";
#define HOST_HELLO_BYTES (sizeof(host_hello) - 1)

static void on_pipe(struct watch *watch, uint32_t events);
static void on_listener(struct watch *watch, uint32_t events);

static struct watch pipe_watch = { .fd = -1, .fn = on_pipe };
static struct watch listener = { .fd = -1, .fn = on_listener };
static int is_device, readable, writable, greeted, unfinished;
static struct buffer input, output;

void channel_open_device(const char *path)
{
	is_device = 1;
	pipe_watch.fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (pipe_watch.fd < 0)
		die("%s: %s", path, strerror(errno));
	/* Edge-triggered: without a client the device reports EPOLLHUP, for as long as that lasts. */
	watch_events(&pipe_watch, EPOLLIN | EPOLLOUT | EPOLLET);
	readable = writable = 1;
}

void channel_open_socket(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int length = snprintf(address.sun_path, sizeof(address.sun_path), "%s.new", path);

	if (length >= (int)sizeof(address.sun_path))
		die("%s: too long for a socket's name", path);
	listener.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (listener.fd < 0 || bind(listener.fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(listener.fd, 4) < 0 ||
	    rename(address.sun_path, path) < 0)
		die("%s: %s", path, strerror(errno));
	/* The name is there only now, when it can be connected to. */
	watch_events(&listener, EPOLLIN);
}

static void reset_stream(void)
{
	greeted = 0;
	buffer_drop(&input, input.length);
	buffer_drop(&output, output.length);
	dispatch_stream_reset();
}

static void on_listener(struct watch *watch, uint32_t events)
{
	int fd = accept4(watch->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	(void)events;
	if (fd < 0)
		return;
	watch_close(&pipe_watch);
	reset_stream();
	pipe_watch.fd = fd;
	watch_events(&pipe_watch, EPOLLIN | EPOLLOUT | EPOLLET);
	readable = writable = 1;
}

static void on_pipe(struct watch *watch, uint32_t events)
{
	(void)watch;
	(void)events;
	/* Whatever it was, trying tells more than the event's bits: the device may have changed its client since. */
	readable = writable = 1;
}

int channel_greeted(void)
{
	return greeted;
}

size_t channel_room(void)
{
	return !greeted || output.length >= BACKLOG_BYTES ? 0 : BACKLOG_BYTES - output.length;
}

void channel_send(enum frame_type type, uint32_t session, const void *head, size_t headBytes, const void *body, size_t bodyBytes)
{
	uint8_t header[FRAME_HEADER_BYTES] = { 0 };

	if (!greeted)
		return;
	put_u32(header, headBytes + bodyBytes);
	put_u32(header + 4, session);
	header[8] = type;
	buffer_append(&output, header, sizeof(header));
	buffer_append(&output, head, headBytes);
	buffer_append(&output, body, bodyBytes);
}

/* Drops input up to the host's HELLO, or to what may become one when more comes. */
static void scan_for_hello(void)
{
	uint8_t *start = buffer_bytes(&input);
	size_t length = input.length;

	while (length) {
		size_t count = length < HOST_HELLO_BYTES ? length : HOST_HELLO_BYTES;

		if (memcmp(start, host_hello, count) == 0)
			break;
		start++;
		length--;
	}
	buffer_drop(&input, input.length - length);
	if (length >= HOST_HELLO_BYTES)
		greeted = 1;
}

static void take_frames(void)
{
	for (;;) {
		const uint8_t *frame;
		uint32_t length;

		if (!greeted) {
			scan_for_hello();
			if (!greeted)
				return;
		}
		if (input.length < FRAME_HEADER_BYTES)
			return;
		frame = buffer_bytes(&input);
		length = get_u32(frame);
		if (length > FRAME_MAX_PAYLOAD || frame[9] || frame[10] || frame[11]) {
			/* Out of step: only a new HELLO can say where frames begin. */
			warn_about("malformed frame, waiting for a new HELLO");
			greeted = 0;
			buffer_drop(&output, output.length);
			dispatch_stream_reset();
			buffer_drop(&input, 1);
			continue;
		}
		if (input.length < FRAME_HEADER_BYTES + length)
			return;
		dispatch_frame(frame[8], get_u32(frame + 4), frame + FRAME_HEADER_BYTES, length);
		buffer_drop(&input, FRAME_HEADER_BYTES + length);
	}
}

static int read_some(void)
{
	static uint8_t bytes[READ_BYTES];
	ssize_t count;

	if (!readable || pipe_watch.fd < 0 || output.length >= STOP_READING_BYTES)
		return 0;
	count = read(pipe_watch.fd, bytes, sizeof(bytes));
	if (count > 0) {
		buffer_append(&input, bytes, count);
		take_frames();
		return 1;
	}
	if (count < 0 && errno == EINTR)
		return 1;
	if (count < 0 && errno == EAGAIN) {
		readable = 0;
		return 0;
	}
	reset_stream();
	if (is_device) {
		/* 0: the end of one stream, the next one may be there already. A fault: wait for an event. */
		readable = count == 0;
		return readable;
	}
	watch_close(&pipe_watch);
	return 0;
}

static int write_some(void)
{
	ssize_t count;

	if (!writable || pipe_watch.fd < 0 || !greeted || !output.length)
		return 0;
	count = write(pipe_watch.fd, buffer_bytes(&output), output.length);
	if (count > 0) {
		buffer_drop(&output, count);
		return 1;
	}
	if (count < 0 && errno == EINTR)
		return 1;
	/* EAGAIN, or a stream that is gone: then read() says so. */
	writable = 0;
	if (count < 0 && errno != EAGAIN)
		readable = 1;
	return 0;
}

void channel_pump(void)
{
	unfinished = 0;
	for (int turn = 0; turn < PUMP_TURNS; turn++) {
		int more = read_some();

		more |= dispatch_fill();
		more |= write_some();
		if (!more)
			return;
	}
	unfinished = 1;
}

int channel_wants_turn(void)
{
	return unfinished;
}
