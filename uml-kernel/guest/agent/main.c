// SPDX-License-Identifier: Apache-2.0
/*
 * mobi-agent [--device PATH | --socket PATH] [--run FOLDER]
 *
 * The guest agent: what the host asks of a guest goes through it, without the
 * guest's network and across moves. --socket: for tests, a Unix socket instead
 * of the device.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"
#include "channel.h"
#include "configure.h"
#include "netlink.h"
#include "session.h"

const char *run_folder = "/run/mobi";

static void say(const char *format, va_list args)
{
	fprintf(stderr, "mobi-agent: ");
	vfprintf(stderr, format, args);
	fprintf(stderr, "\n");
}

void warn_about(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(format, args);
	va_end(args);
}

void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(format, args);
	va_end(args);
	exit(1);
}

static void on_child_signal(struct watch *watch, uint32_t events)
{
	struct signalfd_siginfo information;
	int status;
	pid_t pid;

	(void)events;
	while (read(watch->fd, &information, sizeof(information)) > 0)
		;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		session_child_ended(pid, status);
}

static void watch_children(void)
{
	static struct watch watch = { .fn = on_child_signal };
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	signal(SIGPIPE, SIG_IGN);
	watch.fd = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
	if (watch.fd < 0)
		die("signalfd: %s", strerror(errno));
	watch_events(&watch, EPOLLIN);
}

static void set_oom_standing(const char *standing)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, standing, strlen(standing)) < 0 && errno != EACCES)
		warn_about("oom_score_adj: %s", strerror(errno));
	close(fd);
}

void become_ordinary(void)
{
	sigset_t none;

	for (int i = 1; i < NSIG; i++)
		signal(i, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	set_oom_standing("0");
}

int main(int argc, char **argv)
{
	const char *device = "/dev/mobi", *socketPath = NULL;

	for (int i = 1; i + 1 < argc; i += 2) {
		if (strcmp(argv[i], "--device") == 0)
			device = argv[i + 1];
		else if (strcmp(argv[i], "--socket") == 0)
			socketPath = argv[i + 1];
		else if (strcmp(argv[i], "--run") == 0)
			run_folder = argv[i + 1];
		else
			die("unknown option %s", argv[i]);
	}
	mkdir(run_folder, 0700);
	umask(022);
	watch_children();
	netlink_watch_links(configure_continue);
	if (socketPath) {
		channel_open_socket(socketPath);
	} else {
		/* When memory is short, it shall be somebody else: sessions are our children, and init would start us anew without them. */
		set_oom_standing("-500");
		channel_open_device(device);
	}
	for (;;) {
		channel_pump();
		loop_once(channel_wants_turn() ? 0 : configure_timeout_ms());
		if (configure_timeout_ms() == 0)
			configure_continue();
	}
}
