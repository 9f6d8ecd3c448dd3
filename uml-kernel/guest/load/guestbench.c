// SPDX-License-Identifier: Apache-2.0
/* What a system call and a new process cost in this guest. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "load.h"
#include "progress.h"

#define CALLS_PER_TURN 1000

static void call_system(void)
{
	for (int i = 0; i < CALLS_PER_TURN; i++)
		syscall(SYS_getppid);
}

static void fork_and_exec(void)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		execl("/proc/self/exe", "mobi-check", "nothing", NULL);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
		fail("forkexec: %s", strerror(errno));
}

static const struct {
	const char *name;
	void (*turn)(void);
	int perTurn;
} benches[] = { { "syscall", call_system, CALLS_PER_TURN }, { "forkexec", fork_and_exec, 1 } };

int guestbench_main(const struct args *args)
{
	const char *name = args_plain(args, NULL);
	struct ticker ticker;
	uint64_t turns = 0, startNs;

	for (size_t i = 0; name && i < sizeof(benches) / sizeof(benches[0]); i++) {
		if (strcmp(name, benches[i].name) != 0)
			continue;
		ticker_start(&ticker, args_number(args, "--seconds", 1), LINE_MS);
		benches[i].turn();
		startNs = monotonic_ns();
		do {
			benches[i].turn();
			turns++;
		} while (!ticker_over(&ticker));
		printf("{\"ns\":%.1f,\"count\":%llu}\n", (double)(monotonic_ns() - startNs) / (turns * benches[i].perTurn), (unsigned long long)turns * benches[i].perTurn);
		return 0;
	}
	fail("guestbench syscall | forkexec");
}

int spin_main(const struct args *args)
{
	struct progress *p = progress_make(args_text(args, "--state"));
	struct ticker ticker;

	ticker_start(&ticker, args_number(args, "--seconds", 0), LINE_MS);
	for (; !ticker_over(&ticker); p->count++) {
		for (volatile int i = 0; i < 1000000; i++)
			;
		/* It holds nothing that could be wrong, and says so to who asks. */
		p->checked = p->asked;
		if (ticker_due(&ticker))
			printf("{\"ok\":true,\"count\":%llu}\n", (unsigned long long)p->count);
	}
	return 0;
}
