// SPDX-License-Identifier: Apache-2.0
/* Starts a session's program. */
#ifndef MOBI_SPAWN_H
#define MOBI_SPAWN_H

#include <sys/types.h>

#include "json.h"

struct spawned {
	pid_t pid;
	/* Our ends, non-blocking. With a pty both are the master (two descriptors) and errorFd is -1. */
	int inputFd, outputFd, errorFd;
	int hasPty;
};

/*
 * Starts what an OPEN frame asks for (argv, env, cwd, pty, user). 0, or -1 with a
 * line for a person in `fault`.
 */
int spawn(const struct json *request, struct spawned *result, char *fault, size_t faultBytes);

#endif
