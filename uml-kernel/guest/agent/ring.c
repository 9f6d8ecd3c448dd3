// SPDX-License-Identifier: Apache-2.0
#include "ring.h"

#include <sys/mman.h>

#include "agent.h"

#define BITS_BYTES (RING_BYTES / 8)

void ring_make(struct ring *ring)
{
	/* mmap: pages that no output ever reaches cost nothing. */
	ring->data = mmap(NULL, RING_BYTES + BITS_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ring->data == MAP_FAILED)
		die("out of memory");
	ring->isStderr = ring->data + RING_BYTES;
	ring->first = ring->end = 0;
}

void ring_free(struct ring *ring)
{
	munmap(ring->data, RING_BYTES + BITS_BYTES);
}

size_t ring_space(const struct ring *ring)
{
	return RING_BYTES - (ring->end - ring->first);
}

static int stream_of(const struct ring *ring, uint64_t offset)
{
	size_t at = offset % RING_BYTES;

	return ring->isStderr[at / 8] >> (at % 8) & 1;
}

void ring_put(struct ring *ring, int isStderr, const uint8_t *bytes, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		size_t at = (ring->end + i) % RING_BYTES;

		ring->data[at] = bytes[i];
		if (isStderr)
			ring->isStderr[at / 8] |= 1 << (at % 8);
		else
			ring->isStderr[at / 8] &= ~(1 << (at % 8));
	}
	ring->end += count;
}

size_t ring_run(const struct ring *ring, uint64_t offset, size_t max, const uint8_t **bytes, int *isStderr)
{
	size_t at = offset % RING_BYTES, count = 0;

	if (offset < ring->first || offset >= ring->end)
		return 0;
	if (max > ring->end - offset)
		max = ring->end - offset;
	if (max > RING_BYTES - at)
		max = RING_BYTES - at;
	*bytes = ring->data + at;
	*isStderr = stream_of(ring, offset);
	while (count < max && stream_of(ring, offset + count) == *isStderr)
		count++;
	return count;
}

void ring_ack(struct ring *ring, uint64_t offset)
{
	if (offset > ring->end)
		offset = ring->end;
	if (offset > ring->first)
		ring->first = offset;
}
