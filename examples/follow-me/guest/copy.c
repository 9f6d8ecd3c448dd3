// SPDX-License-Identifier: Apache-2.0
/* The client: copies over one connection, which it never makes anew. */
#include "blockcopy.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../../uml-kernel/guest/common/sha256.h"

#define CONNECT_PATIENCE_S 30
#define PROGRESS_MS 500

struct copy {
	int connection, out;
	uint32_t blockBytes;
	/* How much to copy; 0: the file, once. More than the file: it begins anew at its start. */
	uint64_t wantedBytes;
	double paceUs;
	int untilLine;
	uint64_t bytes, roundTrips;
	/* The longest that a block was waited for since the last line of progress. */
	uint64_t maxTripNs;
	struct sha256 sum;
};

static volatile sig_atomic_t hurry;

static void on_hurry(int signo)
{
	(void)signo;
	hurry = 1;
}

/*
 * Keeps to the pace, which is lifted by SIGUSR1 or, with --pace-until-line, by a line
 * (or the end) of stdin: so that who moves the handler decides how long the copy lasts.
 * Until that line comes the pauses grow with the part that is done, so that the copy is
 * under way for many times as long, however slow the machine is on which it is shown.
 */
static void keep_pace(const struct copy *c, double grown)
{
	double pauseUs = c->untilLine ? c->paceUs * grown : c->paceUs;
	struct timespec pause = { pauseUs / 1e6, (long)(pauseUs * 1e3) % 1000000000L };
	struct pollfd input = { .fd = c->untilLine ? STDIN_FILENO : -1, .events = POLLIN };
	sigset_t none;

	if (hurry || c->paceUs <= 0)
		return;
	/* The signal is let in only here, so that it can't fall between the question and the wait. */
	sigemptyset(&none);
	if (ppoll(&input, 1, &pause, &none) > 0)
		hurry = 1;
}

static void take_block(struct copy *c, const char *block, size_t count)
{
	sha256_add(&c->sum, block, count);
	c->bytes += count;
	for (size_t done = 0; c->out >= 0 && done < count;) {
		ssize_t n = write(c->out, block + done, count - done);

		if (n < 0)
			fail("writing: %s", strerror(errno));
		done += n;
	}
}

static long fetch(struct copy *c, uint64_t offset, char *block, uint64_t bytes, uint64_t *fileBytes)
{
	uint64_t asked = monotonic_ns(), tripNs;
	long count = block_fetch(c->connection, offset, block, bytes, fileBytes);

	tripNs = monotonic_ns() - asked;
	if (tripNs > c->maxTripNs)
		c->maxTripNs = tripNs;
	c->roundTrips++;
	return count;
}

static void copy_all(struct copy *c, struct ticker *ticker)
{
	char *block = malloc(c->blockBytes);
	uint64_t offset = 0, fileBytes;

	while (block && (!c->wantedBytes || c->bytes < c->wantedBytes)) {
		uint64_t left = c->wantedBytes ? c->wantedBytes - c->bytes : c->blockBytes;
		long count = fetch(c, offset, block, left < c->blockBytes ? left : c->blockBytes, &fileBytes);

		if (count < 0)
			fail("connection lost after %llu bytes: %s", (unsigned long long)c->bytes, strerror(errno));
		take_block(c, block, count);
		offset += count;
		if (offset >= fileBytes || !count) {
			if (!c->wantedBytes || !fileBytes)
				break;
			offset = 0;
		}
		if (ticker_due(ticker)) {
			printf("{\"bytes\":%llu,\"maxTripMs\":%.3f}\n", (unsigned long long)c->bytes, c->maxTripNs / 1e6);
			c->maxTripNs = 0;
		}
		if (ticker_stopped)
			fail("stopped after %llu bytes", (unsigned long long)c->bytes);
		keep_pace(c, (double)fileBytes / (fileBytes - offset));
	}
	free(block);
}

static void take_hurry_signal(void)
{
	sigset_t mask;

	signal(SIGUSR1, on_hurry);
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigprocmask(SIG_BLOCK, &mask, NULL);
}

int copy_main(const struct args *args)
{
	struct copy c = { .out = -1, .blockBytes = args_number(args, "--block", 4096), .paceUs = args_number(args, "--pace-us", 0), .untilLine = args_flag(args, "--pace-until-line") };
	const char *out = args_text(args, "--out"), *from = needed(args, "--from");
	struct ticker ticker;
	char hex[65];
	double seconds;

	take_hurry_signal();
	c.wantedBytes = args_number(args, "--mib", 0) * (1 << 20);
	if (c.blockBytes < 1 || c.blockBytes > MAX_BLOCK_BYTES)
		fail("--block: 1 to %d", MAX_BLOCK_BYTES);
	if (out && (c.out = open(out, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) < 0)
		fail("%s: %s", out, strerror(errno));
	c.connection = net_connect(from, CONNECT_PATIENCE_S);
	if (c.connection < 0)
		fail("%s does not answer", from);
	ticker_start(&ticker, 0, PROGRESS_MS);
	sha256_start(&c.sum);
	copy_all(&c, &ticker);
	seconds = ticker_seconds(&ticker);
	sha256_end(&c.sum, hex);
	printf("{\"bytes\":%llu,\"seconds\":%.3f,\"mbps\":%.3f,\"sha256\":\"%s\",\"connections\":1,\"reconnects\":0,\"roundTrips\":%llu}\n",
	       (unsigned long long)c.bytes, seconds, c.bytes * 8 / seconds / 1e6, hex, (unsigned long long)c.roundTrips);
	return 0;
}
