// SPDX-License-Identifier: Apache-2.0
/*
 * init: PID 1 of a Mobitopolo guest.  Mounts, loopback, the guest agent and a
 * shell on the console, then it only reaps and waits for the word to end.
 *
 * Signals: SIGINT (Ctrl-Alt-Del, the host's `halt`), SIGPWR, SIGUSR1 and SIGUSR2
 * (busybox's halt and poweroff) end the machine in order; SIGTERM (busybox's
 * reboot) restarts it.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <unistd.h>

#include "init.h"

void say(const char *format, ...)
{
	char line[512];
	va_list args;
	int length;

	va_start(args, format);
	length = vsnprintf(line, sizeof(line) - 1, format, args);
	va_end(args);
	if (length < 0)
		return;
	if (length > (int)sizeof(line) - 2)
		length = sizeof(line) - 2;
	line[length++] = '\n';
	if (write(STDERR_FILENO, line, length) < 0)
		return;
}

int main(void)
{
	sigset_t all;

	if (getpid() != 1) {
		say("init: this is PID 1's program; use `poweroff` to end the machine");
		return 1;
	}
	/* All signals are taken by sigwaitinfo below, none may interrupt what we do. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	reboot(RB_DISABLE_CAD);

	mount_all();
	loopback_up();
	hostname_from_file();
	start_children();
	grow_root();

	for (;;) {
		int signal = sigwaitinfo(&all, NULL);

		switch (signal) {
		case SIGCHLD:
			reap();
			break;
		case SIGINT:
		case SIGPWR:
		case SIGUSR1:
		case SIGUSR2:
			power_down(RB_POWER_OFF);
		case SIGTERM:
			power_down(RB_AUTOBOOT);
		default:
			break;
		}
	}
}
