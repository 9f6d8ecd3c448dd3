// SPDX-License-Identifier: Apache-2.0
/* One TCP connection, both directions full of words that the other side can check. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../common/net.h"
#include "load.h"

#define WORDS 2048
#define CONNECT_PATIENCE_S 30
#define LISTENER_SEED 1
#define CONNECTOR_SEED 2

struct stream {
	int fd;
	uint64_t sendSeed, receiveSeed;
	double mbps;
	_Atomic uint64_t sentWords, receivedWords;
	_Atomic int stopping, ended;
};

static void keep_to_rate(const struct stream *s, uint64_t startNs)
{
	uint64_t dueNs = s->mbps > 0 ? startNs + (uint64_t)(s->sentWords * 64 * 1e3 / s->mbps) : 0, now = monotonic_ns();
	struct timespec pause;

	if (dueNs <= now)
		return;
	pause.tv_sec = (dueNs - now) / 1000000000u;
	pause.tv_nsec = (dueNs - now) % 1000000000u;
	nanosleep(&pause, NULL);
}

static void *send_all(void *argument)
{
	struct stream *s = argument;
	uint64_t words[WORDS], startNs = monotonic_ns();

	while (!s->stopping && !s->ended) {
		pattern_fill(s->sendSeed, s->sentWords, words, WORDS);
		if (write_full(s->fd, words, sizeof(words)) < 0) {
			/* A socket tells its error once: EPIPE means that the receiving thread was told, anything else that only we were. */
			if (errno != EPIPE && !s->stopping)
				report_wrong("connection lost: %s", strerror(errno));
			break;
		}
		s->sentWords += WORDS;
		keep_to_rate(s, startNs);
	}
	shutdown(s->fd, SHUT_WR);
	return NULL;
}

static void *receive_all(void *argument)
{
	struct stream *s = argument;
	uint64_t words[WORDS], expected;
	int got;

	while ((got = read_full(s->fd, words, sizeof(words))) == 1) {
		for (int i = 0; i < WORDS; i++) {
			expected = pattern_word(s->receiveSeed, s->receivedWords + i);
			if (words[i] != expected)
				report_wrong("word %llu is %016llx, not %016llx", (unsigned long long)(s->receivedWords + i), (unsigned long long)words[i],
					     (unsigned long long)expected);
		}
		s->receivedWords += WORDS;
	}
	/* An end between blocks is what the other side's shutdown makes; anything else is a lost connection. */
	if (got < 0 && !s->stopping)
		report_wrong("connection lost: %s", strerror(errno));
	s->ended = 1;
	return NULL;
}

static void open_stream(struct stream *s, const struct args *args)
{
	const char *listen = args_text(args, "--listen"), *connect = args_text(args, "--connect");

	if (!listen == !connect)
		fail("tcpstream: --listen or --connect");
	if (listen) {
		int listener = net_listen(listen, SOCK_STREAM);

		/* Who waits for this line knows that a connection will be taken. */
		printf("{\"ok\":true,\"count\":0,\"listening\":true}\n");
		s->fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		close(listener);
	} else {
		s->fd = net_connect(connect, CONNECT_PATIENCE_S);
	}
	if (s->fd < 0)
		fail("tcpstream: no connection: %s", strerror(errno));
	s->sendSeed = listen ? LISTENER_SEED : CONNECTOR_SEED;
	s->receiveSeed = listen ? CONNECTOR_SEED : LISTENER_SEED;
	s->mbps = args_number(args, "--mbps", 50);
}

static void print_line(const struct stream *s)
{
	printf("{\"ok\":true,\"count\":%llu,\"sentBytes\":%llu,\"ended\":%s}\n", (unsigned long long)(s->receivedWords * 8), (unsigned long long)(s->sentWords * 8),
	       s->ended ? "true" : "false");
}

int tcpstream_main(const struct args *args)
{
	static struct stream s;
	struct ticker ticker;
	pthread_t sender, receiver;

	open_stream(&s, args);
	ticker_start(&ticker, args_number(args, "--seconds", 0), LINE_MS);
	if (pthread_create(&sender, NULL, send_all, &s) != 0 || pthread_create(&receiver, NULL, receive_all, &s) != 0)
		fail("no threads");
	while (!ticker_over(&ticker) && !s.ended) {
		struct timespec pause = { 0, 100 * 1000 * 1000 };

		nanosleep(&pause, NULL);
		if (ticker_due(&ticker))
			print_line(&s);
	}
	s.stopping = 1;
	pthread_join(sender, NULL);
	/* The other side's last words: it ends when it sees our shutdown. */
	pthread_join(receiver, NULL);
	print_line(&s);
	return 0;
}
