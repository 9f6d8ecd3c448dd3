// SPDX-License-Identifier: Apache-2.0
#include "progress.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

#define FILE_BYTES 4096
#define CHECK_PATIENCE_S 60
#define LOOK_AGAIN_NS (2 * 1000 * 1000)

static struct progress *map_file(const char *path, int flags)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | flags, 0600);
	struct progress *p;

	if (fd < 0 || (flags && ftruncate(fd, FILE_BYTES) < 0))
		fail("%s: %s", path, strerror(errno));
	p = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		fail("%s: %s", path, strerror(errno));
	close(fd);
	return p;
}

struct progress *progress_make(const char *path)
{
	static struct progress unseen;
	struct progress *p = path ? map_file(path, O_CREAT | O_TRUNC) : &unseen;

	p->pid = getpid();
	return p;
}

void progress_wrong(struct progress *p, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(p->why, sizeof(p->why), format, args);
	va_end(args);
	p->wrong = 1;
	report_wrong("%s", p->why);
}

static int is_alive(const struct progress *p)
{
	return kill(p->pid, 0) == 0;
}

/* Asks for a whole check and waits for its end. */
static void ask_for_check(struct progress *p)
{
	uint64_t wanted = ++p->asked, untilNs = monotonic_ns() + CHECK_PATIENCE_S * 1000000000ull;
	struct timespec pause = { 0, LOOK_AGAIN_NS };

	while (p->checked < wanted && !p->wrong && is_alive(p) && monotonic_ns() < untilNs)
		nanosleep(&pause, NULL);
	if (p->checked < wanted && !p->wrong)
		report_wrong("no answer from process %d, which %s", p->pid, is_alive(p) ? "runs" : "is gone");
}

int look_main(const struct args *args)
{
	static const char *const flags[] = { "--check", NULL };
	const char *path = args_plain(args, flags);
	struct progress *p;

	if (!path)
		fail("look at which file?");
	p = map_file(path, 0);
	if (args_flag(args, "--check"))
		ask_for_check(p);
	if (p->wrong)
		report_wrong("%s", p->why);
	if (!is_alive(p))
		report_wrong("process %d is gone", p->pid);
	printf("{\"ok\":true,\"guestMs\":%.3f,\"pid\":%d,\"count\":%llu,\"checked\":%llu,\"bytes\":%llu,\"address\":%llu}\n", monotonic_ns() / 1e6, p->pid,
	       (unsigned long long)p->count, (unsigned long long)p->checked, (unsigned long long)p->bytes, (unsigned long long)p->address);
	return 0;
}
