// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define BATCH 32

static int epoll_fd = -1;
/* The batch being handed out: a watch that is closed meanwhile is taken out of it. */
static struct epoll_event batch[BATCH];
static int batch_count;

void watch_events(struct watch *watch, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = watch };
	int operation;

	if (epoll_fd < 0) {
		epoll_fd = epoll_create1(EPOLL_CLOEXEC);
		if (epoll_fd < 0)
			die("epoll: %s", strerror(errno));
	}
	if (watch->events == events)
		return;
	/* Without events it must be taken out: EPOLLHUP would be reported all the same, over and over. */
	operation = !events ? EPOLL_CTL_DEL : watch->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
	if (epoll_ctl(epoll_fd, operation, watch->fd, &event) < 0)
		die("epoll_ctl: %s", strerror(errno));
	watch->events = events;
}

void watch_close(struct watch *watch)
{
	if (watch->fd < 0)
		return;
	watch_events(watch, 0);
	for (int i = 0; i < batch_count; i++)
		if (batch[i].data.ptr == watch)
			batch[i].data.ptr = NULL;
	close(watch->fd);
	watch->fd = -1;
}

void loop_once(int timeoutMs)
{
	batch_count = epoll_wait(epoll_fd, batch, BATCH, timeoutMs);
	if (batch_count < 0) {
		if (errno != EINTR)
			die("epoll_wait: %s", strerror(errno));
		batch_count = 0;
	}
	for (int i = 0; i < batch_count; i++) {
		struct watch *watch = batch[i].data.ptr;

		if (watch)
			watch->fn(watch, batch[i].events);
	}
	batch_count = 0;
}

uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}
