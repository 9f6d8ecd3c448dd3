// SPDX-License-Identifier: Apache-2.0
/* What each frame does, and what sessions say of themselves. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "channel.h"
#include "configure.h"
#include "session.h"

#define VERSION 1
#define CHUNK_BYTES (32 * 1024)
#define OUTPUT_HEAD_BYTES 8

static void say_hello(void)
{
	struct buffer text = { 0 };
	char bootId[64] = "";
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	const char *comma = "";

	if (fd >= 0) {
		if (read(fd, bootId, sizeof(bootId) - 1) < 0)
			bootId[0] = 0;
		close(fd);
	}
	bootId[strcspn(bootId, "\n")] = 0;
	buffer_printf(&text, "{\"version\":%d,\"bootId\":\"%s\",\"sessions\":[", VERSION, bootId);
	for (struct session *s = session_first(); s; s = s->next) {
		buffer_printf(&text, "%s{\"id\":%u,\"received\":%llu,\"sent\":%llu}", comma, s->id, (unsigned long long)s->inputTaken, (unsigned long long)s->output.first);
		comma = ",";
	}
	buffer_printf(&text, "]}");
	channel_send(FRAME_HELLO, 0, NULL, 0, buffer_bytes(&text), text.length);
	buffer_free(&text);
}

static void configure_from(const uint8_t *payload, size_t length)
{
	struct json *wanted = json_parse((const char *)payload, length);
	struct buffer result = { 0 };

	configure(wanted, &result);
	channel_send(FRAME_RESULT, 0, NULL, 0, buffer_bytes(&result), result.length);
	buffer_free(&result);
	json_free(wanted);
}

static void open_from(uint32_t id, const uint8_t *payload, size_t length)
{
	struct session *s = session_find(id);
	struct json *request;

	if (s) {
		/* Said again by a host that could not know whether it had arrived. */
		session_attach(s, 0);
		return;
	}
	request = json_parse((const char *)payload, length);
	session_open(id, request);
	json_free(request);
}

static void send_no_session(uint32_t id)
{
	static const char text[] = "{\"error\":\"no such session\"}";

	channel_send(FRAME_EXIT, id, NULL, 0, text, sizeof(text) - 1);
}

static void session_frame(uint8_t type, struct session *s, const uint8_t *payload, size_t length)
{
	switch (type) {
	case FRAME_STDIN:
		if (length >= 8)
			session_input(s, get_u64(payload), payload + 8, length - 8);
		break;
	case FRAME_ACK:
		if (length == 8)
			session_output_acked(s, get_u64(payload));
		break;
	case FRAME_RESIZE:
		if (length == 4)
			session_resize(s, payload[0] << 8 | payload[1], payload[2] << 8 | payload[3]);
		break;
	case FRAME_SIGNAL:
		if (length == 1)
			session_signal(s, payload[0]);
		break;
	case FRAME_CLOSE:
		session_close(s);
		break;
	case FRAME_ATTACH:
		if (length == 8)
			session_attach(s, get_u64(payload));
		break;
	default:
		/* Of a later version: not for us. */
		break;
	}
}

void dispatch_frame(uint8_t type, uint32_t session, const uint8_t *payload, size_t length)
{
	struct session *s;

	if (type == FRAME_HELLO) {
		/* Also in the middle of a stream: whoever says it begins anew. */
		dispatch_stream_reset();
		say_hello();
	} else if (type == FRAME_CONFIGURE) {
		configure_from(payload, length);
	} else if (session && type == FRAME_OPEN) {
		open_from(session, payload, length);
	} else if (session) {
		s = session_find(session);
		if (s)
			session_frame(type, s, payload, length);
		else if (type == FRAME_ATTACH)
			send_no_session(session);
	}
}

void dispatch_stream_reset(void)
{
	for (struct session *s = session_first(); s; s = s->next)
		s->attached = 0;
}

static int send_output(struct session *s)
{
	size_t room = channel_room(), count;
	const uint8_t *bytes;
	int isStderr;
	uint8_t offset[OUTPUT_HEAD_BYTES];

	if (!room)
		return 0;
	count = ring_run(&s->output, s->sent, room < CHUNK_BYTES ? room : CHUNK_BYTES, &bytes, &isStderr);
	if (!count)
		return 0;
	put_u64(offset, s->sent);
	channel_send(isStderr ? FRAME_STDERR : FRAME_STDOUT, s->id, offset, sizeof(offset), bytes, count);
	s->sent += count;
	return 1;
}

static int send_ack(struct session *s)
{
	uint8_t offset[8];

	if (s->inputAcked == s->inputTaken)
		return 0;
	s->inputAcked = s->inputTaken;
	put_u64(offset, s->inputTaken);
	channel_send(FRAME_ACK, s->id, NULL, 0, offset, sizeof(offset));
	return 1;
}

static int send_exit(struct session *s)
{
	if (!session_is_over(s) || s->exitSent || s->sent != s->output.end)
		return 0;
	s->exitSent = 1;
	channel_send(FRAME_EXIT, s->id, NULL, 0, buffer_bytes(&s->exit), s->exit.length);
	return 1;
}

int dispatch_fill(void)
{
	int any = 0;

	if (!channel_greeted())
		return 0;
	for (struct session *s = session_first(); s; s = s->next)
		if (s->attached)
			any |= send_ack(s) | send_output(s) | send_exit(s);
	return any;
}
