// SPDX-License-Identifier: Apache-2.0
/* Clocks that must never go back, whatever host the guest is on. */
#include <stdio.h>
#include <time.h>

#include "load.h"

static const struct {
	clockid_t id;
	const char *name;
} clocks[] = { { CLOCK_MONOTONIC, "monotonic" }, { CLOCK_BOOTTIME, "boottime" }, { CLOCK_MONOTONIC_RAW, "raw" } };
#define CLOCKS 3

static int64_t read_ns(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static double read_uptime(void)
{
	FILE *file = fopen("/proc/uptime", "re");
	double seconds = 0;

	if (!file || fscanf(file, "%lf", &seconds) != 1)
		fail("/proc/uptime can't be read");
	fclose(file);
	return seconds;
}

int uptimecheck_main(const struct args *args)
{
	int64_t last[CLOCKS] = { 0 }, longestNs = 0, now, realAheadNs = read_ns(CLOCK_REALTIME) - read_ns(CLOCK_MONOTONIC);
	struct timespec pause = { 0, 1000 * 1000 };
	double uptime = read_uptime(), before;
	struct ticker ticker;
	uint64_t count = 0;

	ticker_start(&ticker, args_number(args, "--seconds", 0), LINE_MS);
	for (int i = 0; i < CLOCKS; i++)
		last[i] = read_ns(clocks[i].id);
	for (; !ticker_over(&ticker); count++) {
		for (int i = 0; i < CLOCKS; i++) {
			now = read_ns(clocks[i].id);
			if (now < last[i])
				report_wrong("%s went back by %lld ns", clocks[i].name, (long long)(last[i] - now));
			if (i == 0 && now - last[i] > longestNs)
				longestNs = now - last[i];
			last[i] = now;
		}
		before = uptime;
		uptime = read_uptime();
		if (uptime < before)
			report_wrong("uptime went back from %.2f to %.2f", before, uptime);
		if (ticker_due(&ticker)) {
			/* realtime - monotonic changes by the time that the guest stood still: the host's clock is right again. */
			printf("{\"ok\":true,\"count\":%llu,\"uptime\":%.2f,\"longestStepMs\":%.3f,\"realtimeAheadMs\":%.3f}\n", (unsigned long long)count, uptime, longestNs / 1e6,
			       (read_ns(CLOCK_REALTIME) - read_ns(CLOCK_MONOTONIC) - realAheadNs) / 1e6);
			longestNs = 0;
		}
		nanosleep(&pause, NULL);
	}
	return 0;
}
