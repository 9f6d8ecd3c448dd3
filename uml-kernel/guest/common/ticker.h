// SPDX-License-Identifier: Apache-2.0
/* Programs that run until --seconds are over or a signal comes, and print a line of JSON now and then. */
#ifndef GUEST_TICKER_H
#define GUEST_TICKER_H

#include <signal.h>
#include <stdint.h>

struct ticker {
	uint64_t startNs, nextNs, periodNs, endNs;
};

uint64_t monotonic_ns(void);
/* secondsToRun 0: without end. SIGTERM and SIGINT set ticker_stopped from now on. */
void ticker_start(struct ticker *t, double secondsToRun, uint64_t periodMs);
/* Has the time for the next line come? Then it is set to the one after. */
int ticker_due(struct ticker *t);
/* Time to end in order? */
int ticker_over(const struct ticker *t);
double ticker_seconds(const struct ticker *t);
extern volatile sig_atomic_t ticker_stopped;

/* {"ok":false,"why":...} on stdout, exit code 1. */
void report_wrong(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Pseudo-random words that only depend on (seed, index): what is written can be checked anywhere. */
uint64_t pattern_word(uint64_t seed, uint64_t index);
void pattern_fill(uint64_t seed, uint64_t firstWord, uint64_t *words, uint64_t count);

#endif
