// SPDX-License-Identifier: Apache-2.0
#include "session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "spawn.h"

#define MAX_SESSIONS 64
#define READ_BYTES 16384
/* What a terminal takes for the end of input (VEOF's default). */
#define TERMINAL_END "\004"

static struct session *sessions;

struct session *session_find(uint32_t id)
{
	struct session *s = sessions;

	while (s && s->id != id)
		s = s->next;
	return s;
}

struct session *session_first(void)
{
	return sessions;
}

static void move_output(struct watch *watch, uint32_t events);
static void move_input(struct watch *watch, uint32_t events);

static void watch_output(struct session *s)
{
	uint32_t events = ring_space(&s->output) ? EPOLLIN : 0;

	/* A full ring: the program's output stays in its pipe, and the program waits. */
	if (s->out.fd >= 0)
		watch_events(&s->out, events);
	if (s->err.fd >= 0)
		watch_events(&s->err, events);
}

static struct session *make_session(uint32_t id)
{
	struct session *s = calloc(1, sizeof(*s));

	if (!s)
		die("out of memory");
	s->id = id;
	s->pid = -1;
	s->attached = 1;
	s->in = (struct watch){ .fd = -1, .fn = move_input, .owner = s };
	s->out = (struct watch){ .fd = -1, .fn = move_output, .owner = s };
	s->err = s->out;
	ring_make(&s->output);
	s->next = sessions;
	sessions = s;
	return s;
}

static void fail(struct session *s, const char *fault)
{
	s->exited = 1;
	buffer_printf(&s->exit, "{\"error\":");
	buffer_json_string(&s->exit, fault);
	buffer_printf(&s->exit, "}");
}

/*
 * Room for one more: a host that went away without closing leaves ended sessions
 * behind; the oldest of those (the list begins with the newest) gives way.
 */
static int make_space(void)
{
	struct session *oldestEnded = NULL;
	int count = 0;

	for (struct session *s = sessions; s; s = s->next) {
		count++;
		if (s->exited)
			oldestEnded = s;
	}
	if (count < MAX_SESSIONS)
		return 1;
	if (oldestEnded)
		session_close(oldestEnded);
	return oldestEnded != NULL;
}

void session_open(uint32_t id, const struct json *request)
{
	char fault[256];
	struct spawned started;
	int space = make_space();
	struct session *s = make_session(id);

	if (!space) {
		fail(s, "too many sessions run already");
		return;
	}
	if (spawn(request, &started, fault, sizeof(fault)) < 0) {
		fail(s, fault);
		return;
	}
	s->pid = started.pid;
	s->hasPty = started.hasPty;
	s->in.fd = started.inputFd;
	s->out.fd = started.outputFd;
	s->err.fd = started.errorFd;
	watch_output(s);
}

/* Reads until the ring is full or nothing is there; at the end of an ended program's output closes the descriptor. */
static void drain_output(struct session *s, struct watch *watch)
{
	static uint8_t bytes[READ_BYTES];

	while (watch->fd >= 0 && ring_space(&s->output)) {
		size_t room = ring_space(&s->output);
		ssize_t count = read(watch->fd, bytes, room < sizeof(bytes) ? room : sizeof(bytes));

		if (count > 0) {
			ring_put(&s->output, watch == &s->err, bytes, count);
		} else if (count < 0 && errno == EINTR) {
			continue;
		} else if (count < 0 && errno == EAGAIN) {
			/*
			 * The program itself is gone: what it wrote was all there before. Descendants
			 * that still hold the stream do not keep the session open.
			 */
			if (s->exited)
				watch_close(watch);
			return;
		} else {
			/* The end; EIO is a terminal's. A terminal may be opened anew while the program lives. */
			watch_close(watch);
		}
	}
}

static void move_output(struct watch *watch, uint32_t events)
{
	struct session *s = watch->owner;

	(void)events;
	drain_output(s, watch);
	watch_output(s);
}

static void move_input(struct watch *watch, uint32_t events)
{
	struct session *s = watch->owner;

	(void)events;
	while (s->input.length && watch->fd >= 0) {
		ssize_t count = write(watch->fd, buffer_bytes(&s->input), s->input.length);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0 && errno == EAGAIN)
			break;
		if (count < 0)
			watch_close(watch);
		else {
			buffer_drop(&s->input, count);
			s->inputTaken += count;
		}
	}
	if (watch->fd < 0) {
		/* Nobody reads it any more: it is taken all the same, so that the host does not wait. */
		s->inputTaken += s->input.length;
		buffer_drop(&s->input, s->input.length);
		return;
	}
	if (!s->input.length && s->inputEnds && !s->inputEndDone) {
		if (!s->hasPty) {
			s->inputEndDone = 1;
			watch_close(watch);
			return;
		}
		s->inputEndDone = write(watch->fd, TERMINAL_END, 1) == 1 || errno != EAGAIN;
	}
	watch_events(watch, s->input.length || (s->inputEnds && !s->inputEndDone) ? EPOLLOUT : 0);
}

void session_input(struct session *s, uint64_t offset, const uint8_t *bytes, size_t count)
{
	uint64_t have = s->inputTaken + s->input.length;
	size_t room = SESSION_INPUT_BYTES - s->input.length;

	/* A gap: bytes were lost with a stream; the host sends them again from where we say. */
	if (offset > have || s->inputEnds)
		return;
	if (!count) {
		s->inputEnds = offset == have;
	} else if (offset + count > have) {
		/* What overlaps came before. */
		bytes += have - offset;
		count -= have - offset;
		buffer_append(&s->input, bytes, count < room ? count : room);
	}
	move_input(&s->in, 0);
}

void session_output_acked(struct session *s, uint64_t offset)
{
	ring_ack(&s->output, offset);
	if (s->sent < s->output.first)
		s->sent = s->output.first;
	/* There is room again, and an ended program's descriptors may have more. */
	drain_output(s, &s->out);
	drain_output(s, &s->err);
	watch_output(s);
}

void session_attach(struct session *s, uint64_t outputOffset)
{
	s->attached = 1;
	s->exitSent = 0;
	s->inputAcked = UINT64_MAX;
	s->sent = s->output.first;
	if (outputOffset > s->output.end)
		outputOffset = s->output.end;
	if (outputOffset > s->sent)
		s->sent = outputOffset;
	session_output_acked(s, outputOffset);
}

void session_resize(struct session *s, unsigned rows, unsigned columns)
{
	struct winsize size = { .ws_row = rows, .ws_col = columns };

	if (s->hasPty && s->out.fd >= 0)
		ioctl(s->out.fd, TIOCSWINSZ, &size);
}

void session_signal(struct session *s, int signo)
{
	pid_t group = 0;

	if (s->exited || signo < 1 || signo >= NSIG)
		return;
	/* With a terminal it is for whom a key stroke would be for: the foreground group. */
	if (s->hasPty && s->out.fd >= 0 && ioctl(s->out.fd, TIOCGPGRP, &group) < 0)
		group = 0;
	if (group <= 1 || killpg(group, signo) < 0)
		killpg(s->pid, signo);
}

void session_close(struct session *s)
{
	struct session **link = &sessions;

	if (!s->exited && s->pid > 0)
		killpg(s->pid, SIGHUP);
	while (*link != s)
		link = &(*link)->next;
	*link = s->next;
	watch_close(&s->in);
	watch_close(&s->out);
	watch_close(&s->err);
	ring_free(&s->output);
	buffer_free(&s->input);
	buffer_free(&s->exit);
	free(s);
}

void session_child_ended(pid_t pid, int status)
{
	struct session *s = sessions;

	while (s && (s->pid != pid || s->exited))
		s = s->next;
	if (!s)
		return;
	s->exited = 1;
	if (WIFSIGNALED(status))
		buffer_printf(&s->exit, "{\"signal\":%d}", WTERMSIG(status));
	else
		buffer_printf(&s->exit, "{\"code\":%d}", WEXITSTATUS(status));
	drain_output(s, &s->out);
	drain_output(s, &s->err);
	watch_output(s);
}

int session_is_over(const struct session *s)
{
	return s->exited && s->out.fd < 0 && s->err.fd < 0;
}
