// SPDX-License-Identifier: Apache-2.0
/* PID 1 of our guests: what its parts share. */
#ifndef MOBI_INIT_H
#define MOBI_INIT_H

#include <signal.h>
#include <sys/types.h>

/* mounts.c: every file system that a program expects; a fault is told, never fatal. */
void mount_all(void);
/* Grows the root file system to the size of its disk (ext4, online); nothing to do after the first boot. */
void grow_root(void);
/* Remounts what is writable read-only, after a sync. */
void unmount_all(void);

/* network.c */
void loopback_up(void);
void hostname_from_file(void);

/* children.c: what init keeps running. */
void start_children(void);
/* Collects every ended process; starts anew those that are to be kept. */
void reap(void);
/* SIGTERM, then SIGKILL to all that remains after graceMs or at once when nobody is left. */
void end_all_processes(int graceMs);

/* power.c: ends the machine in order; `command` as reboot(2) takes it. */
void power_down(int command) __attribute__((noreturn));

void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
