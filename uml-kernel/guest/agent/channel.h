// SPDX-License-Identifier: Apache-2.0
/*
 * The byte pipe to the host's agent and the frames on it. Each stream (one client
 * of guest.sock) is independent: nothing is said in a stream before the host's HELLO.
 */
#ifndef MOBI_CHANNEL_H
#define MOBI_CHANNEL_H

#include <stddef.h>
#include <stdint.h>

enum frame_type {
	FRAME_HELLO = 1,
	FRAME_CONFIGURE = 2,
	FRAME_RESULT = 3,
	FRAME_OPEN = 10,
	FRAME_STDIN = 11,
	FRAME_STDOUT = 12,
	FRAME_STDERR = 13,
	FRAME_ACK = 14,
	FRAME_RESIZE = 15,
	FRAME_SIGNAL = 16,
	FRAME_EXIT = 17,
	FRAME_CLOSE = 18,
	FRAME_ATTACH = 19,
};

#define FRAME_HEADER_BYTES 12
#define FRAME_MAX_PAYLOAD 65536

/* The device, or, for tests, a Unix socket that it listens on (one client at a time, as the device has it). */
void channel_open_device(const char *path);
void channel_open_socket(const char *path);

/* Reads, writes and fills until nothing more can be done now. */
void channel_pump(void);
/* Did the last pump stop for fairness only? */
int channel_wants_turn(void);
/* Has the host said HELLO in this stream? */
int channel_greeted(void);
/* Room for output of sessions: beyond some 128 KiB of backlog there is none. */
size_t channel_room(void);
/* Queues a frame; dropped when the stream is not greeted. `head` and `body` are joined. */
void channel_send(enum frame_type type, uint32_t session, const void *head, size_t headBytes, const void *body, size_t bodyBytes);

/* dispatch.c: a whole frame of a greeted stream (HELLO itself too). */
void dispatch_frame(uint8_t type, uint32_t session, const uint8_t *payload, size_t length);
/* dispatch.c: the stream is over or new; sessions wait to be attached again. */
void dispatch_stream_reset(void);
/* dispatch.c: puts what sessions have to say into the channel; non-zero if anything was. */
int dispatch_fill(void);

static inline void put_u32(uint8_t *out, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		out[i] = v >> (24 - 8 * i);
}

static inline void put_u64(uint8_t *out, uint64_t v)
{
	put_u32(out, v >> 32);
	put_u32(out + 4, v);
}

static inline uint32_t get_u32(const uint8_t *in)
{
	return (uint32_t)in[0] << 24 | in[1] << 16 | in[2] << 8 | in[3];
}

static inline uint64_t get_u64(const uint8_t *in)
{
	return (uint64_t)get_u32(in) << 32 | get_u32(in + 4);
}

#endif
