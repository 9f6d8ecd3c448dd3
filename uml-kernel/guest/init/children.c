// SPDX-License-Identifier: Apache-2.0
/* The programs that init keeps running, as a table. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "init.h"

/* A program that ends sooner than this is broken: it is started anew only after a pause. */
#define TOO_SOON_S 1

static char *const environment[] = {
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/bash", "TERM=linux", "LANG=C.UTF-8", NULL,
};

static struct child {
	const char *path;
	char *const *argv;
	/* Gets the console as its controlling terminal. */
	int onConsole;
	pid_t pid;
	time_t startedAt;
	int pauseS;
} children[] = {
	{ .path = "/usr/sbin/mobi-agent", .argv = (char *const[]){ "mobi-agent", NULL } },
	{ .path = "/bin/bash", .argv = (char *const[]){ "-bash", NULL }, .onConsole = 1 },
};
#define CHILDREN ((int)(sizeof(children) / sizeof(children[0])))

static time_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec;
}

static void take_console(void)
{
	/* /dev/console itself can not be a controlling terminal when opened by that name; the driver's own name can. */
	int fd = open("/dev/mobicon", O_RDWR);

	if (fd < 0)
		fd = open("/dev/console", O_RDWR);
	if (fd < 0)
		return;
	ioctl(fd, TIOCSCTTY, 1);
	for (int i = 0; i < 3; i++)
		dup2(fd, i);
	if (fd > 2)
		close(fd);
}

static void start(struct child *child)
{
	child->startedAt = now();
	child->pid = fork();
	if (child->pid < 0) {
		say("init: %s: fork: %s", child->path, strerror(errno));
		return;
	}
	if (child->pid == 0) {
		sigset_t none;

		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		setsid();
		if (child->pauseS)
			sleep(child->pauseS);
		if (child->onConsole)
			take_console();
		if (chdir(child->onConsole ? "/root" : "/") < 0)
			say("init: chdir: %s", strerror(errno));
		execve(child->path, child->argv, environment);
		say("init: %s: %s", child->path, strerror(errno));
		_exit(127);
	}
}

void start_children(void)
{
	for (int i = 0; i < CHILDREN; i++)
		start(&children[i]);
}

void reap(void)
{
	pid_t pid;

	while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
		for (int i = 0; i < CHILDREN; i++) {
			struct child *child = &children[i];

			if (child->pid != pid)
				continue;
			if (now() - child->startedAt > TOO_SOON_S)
				child->pauseS = 0;
			else if (child->pauseS < 8)
				child->pauseS = child->pauseS ? child->pauseS * 2 : 1;
			start(child);
		}
}

void end_all_processes(int graceMs)
{
	struct timespec wait = { 0, 20 * 1000 * 1000 };
	sigset_t childSignal;

	sigemptyset(&childSignal);
	sigaddset(&childSignal, SIGCHLD);
	kill(-1, SIGTERM);
	/* A shell at a prompt ignores SIGTERM. */
	kill(-1, SIGHUP);
	kill(-1, SIGCONT);
	for (int waitedMs = 0; waitedMs < graceMs; waitedMs += 20) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD)
			return;
		/* An ended child wakes us at once. */
		sigtimedwait(&childSignal, NULL, &wait);
	}
	kill(-1, SIGKILL);
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
		;
}
