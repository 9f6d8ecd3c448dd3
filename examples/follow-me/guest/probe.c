// SPDX-License-Identifier: Apache-2.0
/* Probes a fixed time apart, and the longest silence between their answers: the downtime that a peer sees. */
#include "blockcopy.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define LINE_MS 200
#define MAX_DATAGRAM 2048

static void echo_stream(int fd)
{
	char bytes[4096];
	ssize_t count;

	while ((count = read(fd, bytes, sizeof(bytes))) > 0)
		if (write_full(fd, bytes, count) < 0)
			break;
}

static void *echo_streams(void *listener)
{
	serve_connections(*(int *)listener, echo_stream);
}

int echo_main(const struct args *args)
{
	const char *listen = needed(args, "--listen");
	int datagrams = net_listen(listen, SOCK_DGRAM), streams = net_listen(listen, SOCK_STREAM);
	pthread_t thread;

	if (pthread_create(&thread, NULL, echo_streams, &streams) != 0)
		fail("no thread");
	for (;;) {
		char bytes[MAX_DATAGRAM];
		struct endpoint from = { .length = sizeof(from.address) };
		ssize_t count = recvfrom(datagrams, bytes, sizeof(bytes), 0, (struct sockaddr *)&from.address, &from.length);

		/* A send may fail while the asker is unreachable; the next one may not. */
		if (count >= 0)
			sendto(datagrams, bytes, count, 0, (struct sockaddr *)&from.address, from.length);
	}
}

struct probe {
	int socket, timer;
	uint64_t sent, received, lastHeardNs, maxGapNs;
};

static void send_due(struct probe *p)
{
	uint64_t expirations;

	if (read(p->timer, &expirations, sizeof(expirations)) != sizeof(expirations))
		return;
	/* One only, also after a long stop: a burst would hide nothing and help nobody. */
	p->sent++;
	if (send(p->socket, &p->sent, sizeof(p->sent), MSG_DONTWAIT) < 0)
		return;
}

static void note_gap(struct probe *p, uint64_t now)
{
	if (now - p->lastHeardNs > p->maxGapNs)
		p->maxGapNs = now - p->lastHeardNs;
}

static void receive_all(struct probe *p)
{
	uint64_t number;

	while (recv(p->socket, &number, sizeof(number), MSG_DONTWAIT) == sizeof(number)) {
		uint64_t now = monotonic_ns();

		p->received++;
		note_gap(p, now);
		p->lastHeardNs = now;
	}
}

static struct probe open_probe(const char *to, double intervalMs)
{
	struct probe p = { .timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC) };
	struct endpoint e = endpoint_parse(to);
	struct itimerspec period;

	period.it_interval.tv_sec = intervalMs / 1000;
	period.it_interval.tv_nsec = (long)(intervalMs * 1e6) % 1000000000L;
	period.it_value = period.it_interval;
	p.socket = socket(e.address.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (p.socket < 0 || connect(p.socket, (struct sockaddr *)&e.address, e.length) < 0)
		fail("%s: %s", to, strerror(errno));
	if (p.timer < 0 || timerfd_settime(p.timer, 0, &period, NULL) < 0)
		fail("timer: %s", strerror(errno));
	return p;
}

int probe_main(const struct args *args)
{
	const char *to = args_plain(args, NULL);
	struct ticker ticker;
	struct probe p;

	if (!to)
		fail("probe whom?");
	p = open_probe(to, args_number(args, "--interval-ms", 1));
	ticker_start(&ticker, args_number(args, "--seconds", 0), LINE_MS);
	p.lastHeardNs = monotonic_ns();
	while (!ticker_over(&ticker)) {
		struct pollfd wait[2] = { { .fd = p.socket, .events = POLLIN }, { .fd = p.timer, .events = POLLIN } };

		if (poll(wait, 2, LINE_MS) < 0 && errno != EINTR)
			fail("poll: %s", strerror(errno));
		/* Hear first: answers that lay there must not count as silence. */
		receive_all(&p);
		if (wait[1].revents)
			send_due(&p);
		if (!ticker_due(&ticker))
			continue;
		note_gap(&p, monotonic_ns());
		if (printf("{\"t\":%.0f,\"sent\":%llu,\"received\":%llu,\"maxGapMs\":%.3f}\n", ticker_seconds(&ticker) * 1e3, (unsigned long long)p.sent,
			   (unsigned long long)p.received, p.maxGapNs / 1e6) < 0)
			break;
		p.maxGapNs = 0;
	}
	return 0;
}
