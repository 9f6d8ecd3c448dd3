/*
 * A guest program with much memory, for tests of what tells its changed pages.
 *
 *   churn touch MIB FILE   touches MIB MiB, says so in FILE, and writes to one page of it every millisecond
 *   churn sparse N FILE    writes to N pages with a gap before each, over and over, checks them, and counts in FILE
 *   churn hold MIB FILE    checks and rewrites every page of MIB MiB, by itself and by system calls, and counts pages in FILE
 *   churn maps FILE        maps, moves, protects, shares, forks and unmaps, checks what it finds, and counts in FILE
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE	4096UL
#define PAGES	96

static const char *path;

static void say(const char *fmt, ...)
{
	char text[256], temporary[256];
	va_list args;
	int fd, len;

	va_start(args, fmt);
	len = vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	snprintf(temporary, sizeof(temporary), "%s.new", path);
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || write(fd, text, len) != len || close(fd) || rename(temporary, path))
		exit(1);
}

static void fail(const char *what, uint64_t round)
{
	say("FAIL %s in round %lu: %s\n", what, round, strerror(errno));
	exit(1);
}

static void pause_ms(long ms)
{
	struct timespec t = { 0, ms * 1000000 };

	nanosleep(&t, NULL);
}

static char *map(size_t pages, int flags)
{
	char *at = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

static void fill(char *at, size_t from, size_t to, uint64_t seed)
{
	for (; from < to; from++)
		*(uint64_t *)(at + from * PAGE + (seed * 8) % PAGE) = seed + from;
}

static int holds(const char *at, size_t from, size_t to, uint64_t seed)
{
	for (; from < to; from++)
		if (*(const uint64_t *)(at + from * PAGE + (seed * 8) % PAGE) != seed + from)
			return 0;
	return 1;
}

/* A child writes to its copies of the pages, and to the shared ones. */
static void with_child(char *own, char *shared, uint64_t round)
{
	int status, pid = fork();

	if (!pid) {
		if (!holds(own, 0, PAGES, round))
			_exit(1);
		fill(own, 0, PAGES / 2, round + 7);
		fill(shared, 0, 8, round);
		_exit(holds(own, 0, PAGES / 2, round + 7) && holds(own, PAGES / 2, PAGES, round) ? 0 : 2);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		fail("child", round);
	if (!holds(own, 0, PAGES, round) || !holds(shared, 0, 8, round))
		fail("memory after a child", round);
}

static void maps(void)
{
	char *shared = map(8, MAP_SHARED), *own, *moved;
	uint64_t round;
	int fd = open("/dev/urandom", O_RDONLY), i;

	for (round = 1;; round++) {
		own = map(PAGES, MAP_PRIVATE);
		if (!own || !shared)
			fail("mmap", round);
		fill(own, 0, PAGES, round);
		with_child(own, shared, round);
		moved = mremap(own, PAGES * PAGE, 2 * PAGES * PAGE, MREMAP_MAYMOVE);
		if (moved == MAP_FAILED || !holds(moved, 0, PAGES, round))
			fail("mremap", round);
		fill(moved, PAGES, 2 * PAGES, round);
		if (mprotect(moved, PAGES * PAGE, PROT_READ) || !holds(moved, 0, 2 * PAGES, round) ||
		    mprotect(moved, PAGES * PAGE, PROT_READ | PROT_WRITE))
			fail("mprotect", round);
		for (i = 0; i < PAGES; i += 2)
			fill(moved, i, i + 1, round + 1);
		/* Written by the kernel. */
		if (read(fd, moved + PAGE, 3 * PAGE) != (ssize_t)(3 * PAGE))
			fail("read", round);
		if (madvise(moved + 8 * PAGE, 8 * PAGE, MADV_DONTNEED) || moved[9 * PAGE])
			fail("madvise", round);
		if (!holds(moved, 16, 17, round + 1) || !holds(moved, 17, 18, round))
			fail("memory", round);
		if (munmap(moved + 32 * PAGE, 16 * PAGE) || munmap(moved, 32 * PAGE) ||
		    munmap(moved + 48 * PAGE, (2 * PAGES - 48) * PAGE))
			fail("munmap", round);
		say("%lu\n", round);
		pause_ms(2);
	}
}

static void touch(size_t pages)
{
	char *at = map(pages, MAP_PRIVATE);
	uint64_t seed = 1;

	if (!at)
		fail("mmap", 0);
	fill(at, 0, pages, 1);
	say("touched\n");
	for (;;) {
		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
		at[(seed >> 33) % pages * PAGE]++;
		pause_ms(1);
	}
}

static void sparse(size_t count)
{
	char *at = map(2 * count, MAP_PRIVATE);
	uint64_t round;
	size_t i;

	if (!at)
		fail("mmap", 0);
	for (round = 1;; round++) {
		for (i = 0; i < count; i++)
			fill(at, 2 * i, 2 * i + 1, round);
		for (i = 0; i < count; i++)
			if (!holds(at, 2 * i, 2 * i + 1, round))
				fail("memory", round);
		say("%lu\n", round);
	}
}

#define GROUP	16UL
#define BYTES	(GROUP * PAGE)

static void stamp(void *to, size_t group, uint64_t generation)
{
	uint64_t *word = to, i;

	for (i = 0; i < BYTES / 8; i++)
		word[i] = (generation * 0x9e3779b97f4a7c15ULL + group * 0x2545f4914f6cdd1dULL) ^ i;
}

static int stamped(const void *at, size_t group, uint64_t generation)
{
	const uint64_t *word = at;
	uint64_t i;

	for (i = 0; i < BYTES / 8; i++)
		if (word[i] != ((generation * 0x9e3779b97f4a7c15ULL + group * 0x2545f4914f6cdd1dULL) ^ i))
			return 0;
	return 1;
}

static int open_or_fail(const char *name, int flags)
{
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | flags, 0600);

	if (fd < 0)
		fail(name, 0);
	return fd;
}

/* Out to a file and back into other memory, without looking at what is written. */
static void there_and_back(int fd, char *at, char *other, size_t group, uint64_t generation)
{
	if (pwrite(fd, at, BYTES, BYTES) != BYTES || pread(fd, other, BYTES, BYTES) != BYTES ||
	    !stamped(other, group, generation))
		fail("what was written", group);
}

/* What a file holds, into memory that nobody has looked at. */
static void into(int fd, char *at)
{
	if (pread(fd, at, BYTES, 0) != BYTES || !stamped(at, 0, 77))
		fail("what was read", 0);
}

static void all_in_a_child(char *at, size_t groups, const uint64_t *generations)
{
	int status, pid = fork();
	size_t i;

	if (!pid) {
		for (i = 0; i < groups; i++)
			if (!stamped(at + i * BYTES, i, generations[i]))
				_exit(1);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		fail("a child's copy", status);
}

static void hold(size_t groups)
{
	char *at = map(groups * GROUP, MAP_PRIVATE), *other = map(GROUP, MAP_PRIVATE);
	uint64_t *generations = (void *)map(groups * 8 / PAGE + 1, MAP_PRIVATE), count = 0;
	int direct = open_or_fail("/root/hold", O_DIRECT), cached = open_or_fail("/run/hold", 0);
	size_t i;

	if (!at || !other || !generations)
		fail("mmap", 0);
	stamp(other, 0, 77);
	if (pwrite(direct, other, BYTES, 0) != BYTES || pwrite(cached, other, BYTES, 0) != BYTES)
		fail("pwrite", 0);
	for (i = 0; i < groups; i++)
		stamp(at + i * BYTES, i, 0);
	for (;;) {
		for (i = 0; i < groups; i++) {
			char *group = at + i * BYTES;

			switch ((i + count / GROUP / groups) % 6) {
			case 0:
				there_and_back(direct, group, other, i, generations[i]);
				break;
			case 1:
				into(direct, group);
				break;
			case 2:
				there_and_back(cached, group, other, i, generations[i]);
				break;
			case 3:
				into(cached, group);
				break;
			default:
				if (!stamped(group, i, generations[i]))
					fail("memory", i);
			}
			stamp(group, i, ++generations[i]);
			count += GROUP;
			say("%lu\n", count);
		}
		all_in_a_child(at, groups, generations);
	}
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "hold")) {
		path = argv[3];
		hold(strtoul(argv[2], NULL, 10) * (1048576 / BYTES));
	}

	if (argc == 4 && !strcmp(argv[1], "touch")) {
		path = argv[3];
		touch(strtoul(argv[2], NULL, 10) * (1048576 / PAGE));
	}
	if (argc == 4 && !strcmp(argv[1], "sparse")) {
		path = argv[3];
		sparse(strtoul(argv[2], NULL, 10));
	}
	if (argc != 3 || strcmp(argv[1], "maps"))
		return 64;
	path = argv[2];
	maps();
}
