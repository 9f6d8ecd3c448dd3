// SPDX-License-Identifier: Apache-2.0
#include "runcmd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

static char **commands;
static int command_count;

/* The mark lies on a tmpfs, so that it ends with the boot and outlives the agent. */
static int open_mark(int flags)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/runcmd.started", run_folder);
	return open(path, flags | O_CLOEXEC, 0600);
}

static void forget(void)
{
	for (int i = 0; i < command_count; i++)
		free(commands[i]);
	free(commands);
	commands = NULL;
	command_count = 0;
}

void runcmd_want(const struct json *list)
{
	int mark = open_mark(O_RDONLY);

	forget();
	if (mark >= 0) {
		close(mark);
		return;
	}
	commands = calloc(json_count(list) + 1, sizeof(*commands));
	for (const struct json *c = list ? list->firstChild : NULL; commands && c; c = c->next)
		if (c->kind == JSON_STRING)
			commands[command_count++] = strdup(c->string);
}

int runcmd_waiting(void)
{
	return command_count > 0;
}

static void run_one(const char *command)
{
	int status;
	pid_t pid;

	fprintf(stderr, "+ %s\n", command);
	pid = fork();
	if (pid == 0) {
		execl("/bin/sh", "sh", "-c", command, NULL);
		_exit(127);
	}
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (pid > 0 && status)
		fprintf(stderr, "= %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static void run_all(void) __attribute__((noreturn));
static void run_all(void)
{
	char path[4096];
	int log, null = open("/dev/null", O_RDWR);

	setsid();
	become_ordinary();
	snprintf(path, sizeof(path), "%s/runcmd.log", run_folder);
	log = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
	dup2(null, STDIN_FILENO);
	dup2(log >= 0 ? log : null, STDOUT_FILENO);
	dup2(log >= 0 ? log : null, STDERR_FILENO);
	setvbuf(stderr, NULL, _IOLBF, 0);
	if (chdir("/") < 0)
		_exit(1);
	for (int i = 0; i < command_count; i++)
		run_one(commands[i]);
	_exit(0);
}

void runcmd_start(void)
{
	int mark = open_mark(O_WRONLY | O_CREAT | O_EXCL);

	if (mark < 0) {
		if (errno != EEXIST)
			warn_about("runcmd: no mark in %s: %s", run_folder, strerror(errno));
		forget();
		return;
	}
	close(mark);
	switch (fork()) {
	case -1:
		warn_about("runcmd: fork: %s", strerror(errno));
		break;
	case 0:
		run_all();
	default:
		break;
	}
	forget();
}
