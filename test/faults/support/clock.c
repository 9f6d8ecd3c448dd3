// SPDX-License-Identifier: Apache-2.0
/*
 * A host's own clock, for its agent: preloaded, it adds to CLOCK_REALTIME the nanoseconds that stand in the file `clock` of the state folder which the
 * command line names. CLOCK_MONOTONIC stays, as it does where an administrator or NTP sets the clock.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000LL

static const volatile int64_t *ahead;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void find_clock(void)
{
	char words[8192], path[PATH_MAX];
	int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t bytes = fd < 0 ? 0 : read(fd, words, sizeof(words) - 1);

	real_clock_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	if (fd >= 0)
		close(fd);
	words[bytes < 0 ? 0 : bytes] = 0;
	for (char *word = words; word < words + bytes; word += strlen(word) + 1) {
		if (strcmp(word, "--state"))
			continue;
		snprintf(path, sizeof(path), "%s/clock", word + strlen(word) + 1);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return;
		void *at = mmap(NULL, sizeof(*ahead), PROT_READ, MAP_SHARED, fd, 0);
		close(fd);
		if (at != MAP_FAILED)
			ahead = at;
		return;
	}
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int result;

	/* Before the constructor, or without a clock of its own. */
	if (!real_clock_gettime)
		real_clock_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	result = real_clock_gettime(clock, now);
	if (!result && ahead && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
		int64_t ns = now->tv_sec * NS_PER_S + now->tv_nsec + *ahead;

		now->tv_sec = ns / NS_PER_S;
		now->tv_nsec = ns % NS_PER_S;
	}
	return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec precise;

	(void)zone;
	if (clock_gettime(CLOCK_REALTIME, &precise))
		return -1;
	now->tv_sec = precise.tv_sec;
	now->tv_usec = precise.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *out)
{
	struct timespec precise;

	if (clock_gettime(CLOCK_REALTIME, &precise))
		return -1;
	if (out)
		*out = precise.tv_sec;
	return precise.tv_sec;
}
