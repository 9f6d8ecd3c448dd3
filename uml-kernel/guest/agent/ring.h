// SPDX-License-Identifier: Apache-2.0
/*
 * A session's output that the host has not acknowledged: bytes of stdout and stderr
 * under one count of offsets, with one bit per byte that says which of them it is.
 */
#ifndef MOBI_RING_H
#define MOBI_RING_H

#include <stddef.h>
#include <stdint.h>

#define RING_BYTES (256 * 1024)

struct ring {
	uint8_t *data, *isStderr;
	/* Offsets of the oldest byte held, and after the newest. */
	uint64_t first, end;
};

void ring_make(struct ring *ring);
void ring_free(struct ring *ring);
size_t ring_space(const struct ring *ring);
/* At most ring_space() bytes. */
void ring_put(struct ring *ring, int isStderr, const uint8_t *bytes, size_t count);
/* The longest run of one stream from `offset` on, at most `max`; 0 if there is nothing. */
size_t ring_run(const struct ring *ring, uint64_t offset, size_t max, const uint8_t **bytes, int *isStderr);
/* All below `offset` may be forgotten. */
void ring_ack(struct ring *ring, uint64_t offset);

#endif
