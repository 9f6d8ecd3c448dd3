// SPDX-License-Identifier: Apache-2.0
/*
 * The protocol handler: answers small blocks to clients from larger ones that it
 * asks the contents for; with a cache each of those is asked for once only.
 */
#include "blockcopy.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define UPSTREAM_PATIENCE_S 30
#define CACHE_MAX_BLOCKS 65536

struct block {
	uint64_t index, fileBytes;
	long bytes;
	char *data;
};

static const char *upstream_address;
static uint32_t upstream_block_bytes;
static int with_cache;
static struct block *cache[CACHE_MAX_BLOCKS];
static pthread_mutex_t cache_lock = PTHREAD_MUTEX_INITIALIZER;

static struct block *find_cached(uint64_t index)
{
	struct block *found = NULL;

	if (!with_cache || index >= CACHE_MAX_BLOCKS)
		return NULL;
	pthread_mutex_lock(&cache_lock);
	found = cache[index];
	pthread_mutex_unlock(&cache_lock);
	return found;
}

static void keep_in_cache(const struct block *block)
{
	struct block *copy;

	if (!with_cache || block->index >= CACHE_MAX_BLOCKS)
		return;
	copy = malloc(sizeof(*copy));
	if (!copy)
		return;
	*copy = *block;
	copy->data = malloc(block->bytes ? block->bytes : 1);
	if (!copy->data) {
		free(copy);
		return;
	}
	memcpy(copy->data, block->data, block->bytes);
	pthread_mutex_lock(&cache_lock);
	/* Another client's thread was faster: cached blocks are never freed, since others may be reading them. */
	if (!cache[block->index]) {
		cache[block->index] = copy;
		copy = NULL;
	}
	pthread_mutex_unlock(&cache_lock);
	if (copy) {
		free(copy->data);
		free(copy);
	}
}

/* The block that `offset` lies in: the one at hand, a cached one or a new one in `hand`. NULL: upstream is lost. */
static const struct block *find_block(int *upstream, struct block *hand, uint64_t offset)
{
	uint64_t index = offset / upstream_block_bytes;
	const struct block *cached = find_cached(index);

	if (cached)
		return cached;
	if (hand->bytes >= 0 && hand->index == index)
		return hand;
	if (*upstream < 0)
		*upstream = net_connect(upstream_address, UPSTREAM_PATIENCE_S);
	if (*upstream < 0)
		return NULL;
	hand->index = index;
	hand->bytes = block_fetch(*upstream, index * upstream_block_bytes, hand->data, upstream_block_bytes, &hand->fileBytes);
	if (hand->bytes < 0)
		return NULL;
	keep_in_cache(hand);
	return hand;
}

static void handle_client(int fd)
{
	struct block hand = { .bytes = -1, .data = malloc(upstream_block_bytes) };
	struct request request;
	int upstream = -1;

	while (hand.data && request_receive(fd, &request) == 1) {
		const struct block *block = find_block(&upstream, &hand, request.offset);
		uint64_t within = request.offset % upstream_block_bytes, count;

		/* Without upstream there is no honest answer: the client sees its connection end. */
		if (!block)
			break;
		count = within < (uint64_t)block->bytes ? block->bytes - within : 0;
		if (count > request.bytes)
			count = request.bytes;
		if (answer_send(fd, 0, block->fileBytes, block->data + (count ? within : 0), count) < 0)
			break;
	}
	free(hand.data);
	if (upstream >= 0)
		close(upstream);
}

int handle_main(const struct args *args)
{
	upstream_address = needed(args, "--from");
	upstream_block_bytes = args_number(args, "--upstream-block", 65536);
	with_cache = args_flag(args, "--cache");
	if (upstream_block_bytes < 512 || upstream_block_bytes > MAX_BLOCK_BYTES)
		fail("--upstream-block: 512 to %d", MAX_BLOCK_BYTES);
	serve_connections(net_listen(needed(args, "--listen"), SOCK_STREAM), handle_client);
}
