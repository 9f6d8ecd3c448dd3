// SPDX-License-Identifier: Apache-2.0
#include "blockcopy.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define WORDS 8192

int make_main(const struct args *args)
{
	static uint64_t words[WORDS];
	const char *path = args_plain(args, NULL);
	uint64_t seed = args_number(args, "--seed", 1), total = args_number(args, "--mib", 16) * (1 << 20) / sizeof(words[0]);
	FILE *file;

	if (!path)
		fail("which file?");
	file = fopen(path, "we");
	if (!file)
		fail("%s: %s", path, strerror(errno));
	for (uint64_t done = 0; done < total;) {
		uint64_t count = total - done < WORDS ? total - done : WORDS;

		pattern_fill(seed, done, words, count);
		if (fwrite(words, sizeof(words[0]), count, file) != count)
			fail("%s: %s", path, strerror(errno));
		done += count;
	}
	if (fclose(file) != 0)
		fail("%s: %s", path, strerror(errno));
	return 0;
}
