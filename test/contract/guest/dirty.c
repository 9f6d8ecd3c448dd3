// SPDX-License-Identifier: Apache-2.0
/*
 * dirty SET_MIB MIB_PER_S: writes whole pages of noise over a set of pages, so many a second by its own clock, and says how many.
 * What it missed it makes up for: only a guest whose time runs slower writes less.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE_WORDS 512

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

int main(int argc, char **argv)
{
	uint64_t pages = (argc > 1 ? atoi(argv[1]) : 32) * 256ull;
	uint64_t per_second = (argc > 2 ? atoi(argv[2]) : 4) * 256ull;
	uint64_t *set = mmap(NULL, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t noise = 88172645463325252ull, done = 0, said = 0, begun;
	struct timespec pause = { 0, 4000000 };

	if (set == MAP_FAILED)
		return 1;
	begun = now_ns();
	for (;;) {
		uint64_t due = (now_ns() - begun) * per_second / 1000000000ull;

		for (; done < due; done++)
			for (int i = 0; i < PAGE_WORDS; i++) {
				noise ^= noise << 13;
				noise ^= noise >> 7;
				noise ^= noise << 17;
				set[done % pages * PAGE_WORDS + i] = noise;
			}
		if (done - said >= per_second) {
			said = done;
			printf("%llu\n", (unsigned long long)done);
			fflush(stdout);
		}
		nanosleep(&pause, NULL);
	}
}
