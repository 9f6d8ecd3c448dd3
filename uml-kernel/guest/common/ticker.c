// SPDX-License-Identifier: Apache-2.0
#include "ticker.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

volatile sig_atomic_t ticker_stopped;

static void on_stop(int signo)
{
	(void)signo;
	ticker_stopped = 1;
}

uint64_t monotonic_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

void ticker_start(struct ticker *t, double secondsToRun, uint64_t periodMs)
{
	/* No SA_RESTART: a wait ends at once. */
	struct sigaction action = { .sa_handler = on_stop };

	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	t->startNs = monotonic_ns();
	t->periodNs = periodMs * 1000000u;
	t->nextNs = t->startNs + t->periodNs;
	t->endNs = secondsToRun > 0 ? t->startNs + (uint64_t)(secondsToRun * 1e9) : UINT64_MAX;
}

int ticker_due(struct ticker *t)
{
	uint64_t now = monotonic_ns();

	if (now < t->nextNs)
		return 0;
	while (t->nextNs <= now)
		t->nextNs += t->periodNs;
	return 1;
}

int ticker_over(const struct ticker *t)
{
	return ticker_stopped || monotonic_ns() >= t->endNs;
}

double ticker_seconds(const struct ticker *t)
{
	return (monotonic_ns() - t->startNs) / 1e9;
}

void report_wrong(const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	printf("{\"ok\":false,\"why\":\"%s\"}\n", text);
	fflush(stdout);
	exit(1);
}

uint64_t pattern_word(uint64_t seed, uint64_t index)
{
	/* splitmix64's mixing steps (Steele, Lea, Flood, OOPSLA 2014). */
	uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

void pattern_fill(uint64_t seed, uint64_t firstWord, uint64_t *words, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		words[i] = pattern_word(seed, firstWord + i);
}
