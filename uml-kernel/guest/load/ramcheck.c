// SPDX-License-Identifier: Apache-2.0
/* A file in memory (tmpfs) and one on the disk: read back and summed over and over. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../common/sha256.h"
#include "load.h"

#define CHUNK_WORDS 8192

struct file {
	char path[512];
	uint64_t chunks;
	/* Read from the disk each time, not from the page cache. */
	int onDisk;
	char sum[65];
	uint64_t checks;
};

static void write_file(struct file *f, uint64_t seed)
{
	static uint64_t words[CHUNK_WORDS];
	int fd = open(f->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	struct sha256 sum;

	if (fd < 0)
		fail("%s: %s", f->path, strerror(errno));
	sha256_start(&sum);
	for (uint64_t i = 0; i < f->chunks; i++) {
		pattern_fill(seed, i * CHUNK_WORDS, words, CHUNK_WORDS);
		sha256_add(&sum, words, sizeof(words));
		if (write(fd, words, sizeof(words)) != (ssize_t)sizeof(words))
			fail("%s: %s", f->path, strerror(errno));
	}
	if (fsync(fd) < 0)
		fail("%s: %s", f->path, strerror(errno));
	close(fd);
	sha256_end(&sum, f->sum);
}

static void check_file(struct file *f)
{
	static char bytes[CHUNK_WORDS * 8];
	int fd = open(f->path, O_RDONLY | O_CLOEXEC);
	struct sha256 sum;
	char hex[65];
	ssize_t count;

	if (fd < 0)
		fail("%s: %s", f->path, strerror(errno));
	if (f->onDisk)
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	sha256_start(&sum);
	while ((count = read(fd, bytes, sizeof(bytes))) > 0)
		sha256_add(&sum, bytes, count);
	if (count < 0)
		report_wrong("%s: %s", f->path, strerror(errno));
	close(fd);
	sha256_end(&sum, hex);
	if (strcmp(hex, f->sum) != 0)
		report_wrong("%s: sum %s is not %s", f->path, hex, f->sum);
	f->checks++;
}

static struct file make_file(const char *folder, double mib, int onDisk)
{
	struct file f = { .chunks = mib * (1 << 20) / (CHUNK_WORDS * 8), .onDisk = onDisk };

	snprintf(f.path, sizeof(f.path), "%s/ramcheck.%d", folder, getpid());
	write_file(&f, 1 + onDisk);
	return f;
}

int ramcheck_main(const struct args *args)
{
	const char *memoryFolder = args_text(args, "--dir"), *diskFolder = args_text(args, "--disk-dir");
	struct file memory = make_file(memoryFolder ? memoryFolder : "/tmp", args_number(args, "--mib", 16), 0);
	struct file disk = make_file(diskFolder ? diskFolder : "/var/tmp", args_number(args, "--disk-mib", 4), 1);
	int rewrite = args_flag(args, "--rewrite");
	struct ticker ticker;

	ticker_start(&ticker, args_number(args, "--seconds", 0), LINE_MS);
	while (!ticker_over(&ticker)) {
		check_file(&memory);
		check_file(&disk);
		if (rewrite) {
			write_file(&memory, memory.checks);
			write_file(&disk, ~disk.checks);
		}
		if (ticker_due(&ticker))
			printf("{\"ok\":true,\"count\":%llu,\"memory\":%llu,\"disk\":%llu}\n", (unsigned long long)(memory.checks + disk.checks),
			       (unsigned long long)memory.checks, (unsigned long long)disk.checks);
	}
	unlink(memory.path);
	unlink(disk.path);
	return 0;
}
