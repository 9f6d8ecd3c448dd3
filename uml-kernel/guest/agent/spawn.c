// SPDX-License-Identifier: Apache-2.0
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "agent.h"
#include "users.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* What the child tells when it could not become the program: written to a pipe that exec closes. */
struct child_fault {
	int error;
	char what[128];
};

/* The child's ends (the parent's are in struct spawned), -1 where there is none. */
struct child_ends {
	int input, output, error;
};

static void close_all(const int *fds, int count)
{
	for (int i = 0; i < count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static void close_result(struct spawned *result)
{
	close_all((int[]){ result->inputFd, result->outputFd, result->errorFd }, 3);
	result->inputFd = result->outputFd = result->errorFd = -1;
}

static int open_pty(const struct json *pty, struct spawned *result, struct child_ends *child)
{
	struct winsize size = { .ws_row = json_number(pty, "rows", 24), .ws_col = json_number(pty, "cols", 80) };
	int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);

	if (master < 0)
		return -1;
	result->outputFd = master;
	/* A second descriptor, so that both directions are watched by themselves. */
	result->inputFd = fcntl(master, F_DUPFD_CLOEXEC, 3);
	result->hasPty = 1;
	if (result->inputFd < 0 || unlockpt(master) < 0 || ioctl(master, TIOCSWINSZ, &size) < 0)
		return -1;
	child->input = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	child->output = child->error = child->input;
	return child->input < 0 ? -1 : 0;
}

static int open_pipes(struct spawned *result, struct child_ends *child)
{
	int in[2], out[2], err[2];

	if (pipe2(in, O_CLOEXEC) < 0)
		return -1;
	child->input = in[0];
	result->inputFd = in[1];
	if (pipe2(out, O_CLOEXEC) < 0)
		return -1;
	child->output = out[1];
	result->outputFd = out[0];
	if (pipe2(err, O_CLOEXEC) < 0)
		return -1;
	child->error = err[1];
	result->errorFd = err[0];
	fcntl(result->inputFd, F_SETFL, O_NONBLOCK);
	fcntl(result->outputFd, F_SETFL, O_NONBLOCK);
	fcntl(result->errorFd, F_SETFL, O_NONBLOCK);
	return 0;
}

static void set_environment(const struct json *request, const struct user *user)
{
	const struct json *pty = json_get(request, "pty", JSON_OBJECT), *env = json_get(request, "env", JSON_OBJECT);
	const char *term = json_string(pty, "term");

	clearenv();
	setenv("PATH", DEFAULT_PATH, 1);
	setenv("HOME", user->home, 1);
	setenv("USER", user->name, 1);
	setenv("LOGNAME", user->name, 1);
	setenv("SHELL", user->shell, 1);
	setenv("LANG", "C.UTF-8", 1);
	if (pty)
		setenv("TERM", term && *term ? term : "xterm", 1);
	for (const struct json *entry = env ? env->firstChild : NULL; entry; entry = entry->next)
		if (entry->kind == JSON_STRING && *entry->key && !strchr(entry->key, '='))
			setenv(entry->key, entry->string, 1);
}

static void tell_fault(int faultFd, const char *what, const char *name)
{
	struct child_fault fault = { .error = errno };

	snprintf(fault.what, sizeof(fault.what), "%s %s", what, name);
	if (write(faultFd, &fault, sizeof(fault)) < 0)
		_exit(126);
	_exit(127);
}

static void become_user(const struct user *user, int faultFd)
{
	if (geteuid() == user->uid)
		return;
	if (setgroups(user->groupCount, user->groups) < 0 || setgid(user->gid) < 0 || setuid(user->uid) < 0)
		tell_fault(faultFd, "becoming user", user->name);
}

static void take_standard_streams(const struct child_ends *ends, int hasPty)
{
	setsid();
	if (hasPty)
		ioctl(ends->input, TIOCSCTTY, 0);
	dup2(ends->input, STDIN_FILENO);
	dup2(ends->output, STDOUT_FILENO);
	dup2(ends->error, STDERR_FILENO);
}

static void run_child(const struct json *request, const struct user *user, const struct child_ends *ends, int hasPty, int faultFd) __attribute__((noreturn));
static void run_child(const struct json *request, const struct user *user, const struct child_ends *ends, int hasPty, int faultFd)
{
	const struct json *argv = json_get(request, "argv", JSON_ARRAY);
	const char *cwd = json_string(request, "cwd");
	size_t count = json_count(argv), i = 0;
	char **arguments = calloc(count + 2, sizeof(*arguments));
	const char *program;

	take_standard_streams(ends, hasPty);
	become_ordinary();
	become_user(user, faultFd);
	if (cwd && *cwd) {
		if (chdir(cwd) < 0)
			tell_fault(faultFd, "folder", cwd);
	} else if (chdir(user->home) < 0 && chdir("/") < 0) {
		tell_fault(faultFd, "folder", "/");
	}
	set_environment(request, user);
	for (const struct json *word = argv ? argv->firstChild : NULL; word; word = word->next)
		arguments[i++] = word->string;
	program = arguments[0];
	if (!count) {
		/* Nothing named: the user's own shell, as a login shell. */
		const char *base = strrchr(user->shell, '/');

		program = user->shell;
		if (asprintf(&arguments[0], "-%s", base ? base + 1 : user->shell) < 0)
			arguments[0] = (char *)"-sh";
	}
	execvp(program, arguments);
	tell_fault(faultFd, "can't run", program);
	_exit(127);
}

static int check_request(const struct json *request, struct user *user, char *fault, size_t faultBytes)
{
	const struct json *argv = json_get(request, "argv", JSON_ARRAY);
	const char *name = json_string(request, "user");

	if (!request || !argv) {
		snprintf(fault, faultBytes, "OPEN needs argv, a list of strings");
		return -1;
	}
	for (const struct json *word = argv->firstChild; word; word = word->next)
		if (word->kind != JSON_STRING) {
			snprintf(fault, faultBytes, "argv must hold strings only");
			return -1;
		}
	if (!name) {
		user_self(user);
		return 0;
	}
	if (user_find(name, user) < 0) {
		snprintf(fault, faultBytes, "no user %s", name);
		return -1;
	}
	return 0;
}

int spawn(const struct json *request, struct spawned *result, char *fault, size_t faultBytes)
{
	const struct json *pty = json_get(request, "pty", JSON_OBJECT);
	struct child_ends child = { -1, -1, -1 };
	struct child_fault told;
	struct user user;
	int faultPipe[2] = { -1, -1 };

	*result = (struct spawned){ .pid = -1, .inputFd = -1, .outputFd = -1, .errorFd = -1 };
	if (check_request(request, &user, fault, faultBytes) < 0)
		return -1;
	if ((pty ? open_pty(pty, result, &child) : open_pipes(result, &child)) < 0 || pipe2(faultPipe, O_CLOEXEC) < 0 || (result->pid = fork()) < 0) {
		snprintf(fault, faultBytes, "no descriptors or processes left: %s", strerror(errno));
		goto failed;
	}
	if (result->pid == 0)
		run_child(request, &user, &child, result->hasPty, faultPipe[1]);
	close(faultPipe[1]);
	faultPipe[1] = -1;
	/* exec() closes it: the end of the pipe is the word that all went well. */
	if (read(faultPipe[0], &told, sizeof(told)) == (ssize_t)sizeof(told)) {
		snprintf(fault, faultBytes, "%s: %s", told.what, strerror(told.error));
		waitpid(result->pid, NULL, 0);
		goto failed;
	}
	close(faultPipe[0]);
	close_all((int[]){ child.input, pty ? -1 : child.output, pty ? -1 : child.error }, 3);
	return 0;
failed:
	close_all(faultPipe, 2);
	close_all((int[]){ child.input, pty ? -1 : child.output, pty ? -1 : child.error }, 3);
	close_result(result);
	return -1;
}
