// SPDX-License-Identifier: Apache-2.0
/*
 * What a load has done so far, in a file that it maps: another process can look at any moment, exactly, and costs the load nothing.
 * A file of one page, so that looking on dirties one page and no more.
 */
#ifndef MOBI_PROGRESS_H
#define MOBI_PROGRESS_H

#include <stdint.h>
#include <sys/types.h>

struct progress {
	pid_t pid;
	/* Bytes that it keeps changing, and where they are in its memory. */
	uint64_t bytes, address;
	/* What it has done: pages written, turns of a loop. */
	_Atomic uint64_t count;
	/* Whole checks that were asked for, and those that found all right. */
	_Atomic uint64_t asked, checked;
	_Atomic int wrong;
	char why[128];
};

/* Makes the file; NULL as path: memory of its own that nobody sees. */
struct progress *progress_make(const char *path);
/* The load goes no further: says why in the file, on stdout, and ends with 1. */
void progress_wrong(struct progress *p, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));

#endif
