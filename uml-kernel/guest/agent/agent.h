// SPDX-License-Identifier: Apache-2.0
/* The guest agent: what its parts share. The protocol is docs/formats/guest-channel.md. */
#ifndef MOBI_AGENT_H
#define MOBI_AGENT_H

#include <stdint.h>

void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void warn_about(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Where the agent keeps what must outlive it until the next boot (a tmpfs). */
extern const char *run_folder;

/*
 * loop.c: one epoll for all. A watch is part of its owner's structure; `fn` gets
 * the events. Level-triggered, unless EPOLLET is among `events`; no events: not watched.
 */
struct watch {
	int fd;
	uint32_t events;
	void (*fn)(struct watch *watch, uint32_t events);
	void *owner;
};
void watch_events(struct watch *watch, uint32_t events);
/* Stops watching and closes the descriptor. */
void watch_close(struct watch *watch);
/* Waits for events and hands them out; returns after each batch. timeoutMs -1: none. */
void loop_once(int timeoutMs);

uint64_t now_ms(void);

/* In a child of the agent: signals and the standing with the OOM killer as any program expects them. */
void become_ordinary(void);

#endif
