// SPDX-License-Identifier: Apache-2.0
/* Sessions: a program with its streams. They live in this process, so they outlive any stream of the channel. */
#ifndef MOBI_SESSION_H
#define MOBI_SESSION_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent.h"
#include "buffer.h"
#include "json.h"
#include "ring.h"

#define SESSION_INPUT_BYTES (64 * 1024)

struct session {
	struct session *next;
	uint32_t id;
	pid_t pid;
	int hasPty;
	struct watch in, out, err;

	struct ring output;
	/* Output below this is in the channel already (of this stream). */
	uint64_t sent;
	/* Bytes of input that came and that the program has not taken yet. */
	struct buffer input;
	/* Input that the program has taken, and how much of that the host knows. */
	uint64_t inputTaken, inputAcked;
	int inputEnds, inputEndDone;

	/* This stream's host wants to hear of it. */
	int attached;
	int exited, exitSent;
	/* JSON of the EXIT frame, once it is known. */
	struct buffer exit;
};

struct session *session_find(uint32_t id);
struct session *session_first(void);
/* Starts one, or makes one that has only a fault to tell. */
void session_open(uint32_t id, const struct json *request);
void session_input(struct session *s, uint64_t offset, const uint8_t *bytes, size_t count);
void session_output_acked(struct session *s, uint64_t offset);
void session_attach(struct session *s, uint64_t outputOffset);
void session_resize(struct session *s, unsigned rows, unsigned columns);
void session_signal(struct session *s, int signo);
/* SIGHUP if it still runs; forgets it. */
void session_close(struct session *s);
/* A child of this process has ended: one of ours, or nobody's. */
void session_child_ended(pid_t pid, int status);
/* The program has ended and all its output is in the ring. */
int session_is_over(const struct session *s);

#endif
