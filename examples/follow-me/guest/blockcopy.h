// SPDX-License-Identifier: Apache-2.0
/*
 * blockcopy: the experiment's programs. A chatty file protocol on purpose: one
 * request, one answer, one round trip per block.
 *
 * Request: u32 bytes wanted, u32 zero, u64 offset. Answer: u32 bytes, u32 status
 * (0 fine), u64 size of the whole file, then the bytes. Big-endian.
 */
#ifndef BLOCKCOPY_H
#define BLOCKCOPY_H

#include <stddef.h>
#include <stdint.h>

#include "../../../uml-kernel/guest/common/args.h"
#include "../../../uml-kernel/guest/common/net.h"
#include "../../../uml-kernel/guest/common/ticker.h"

#define MAX_BLOCK_BYTES (1 << 20)

int make_main(const struct args *args);
int serve_main(const struct args *args);
int handle_main(const struct args *args);
int copy_main(const struct args *args);
int echo_main(const struct args *args);
int probe_main(const struct args *args);

/* protocol.c */
struct request {
	uint32_t bytes;
	uint64_t offset;
};
/* 1; 0 at the end of the connection; -1 on a fault. */
int request_receive(int fd, struct request *request);
/* 0 or -1. status != 0: no bytes follow. */
int answer_send(int fd, uint32_t status, uint64_t fileBytes, const void *data, uint32_t bytes);
/* One round trip. Bytes read (0 at the file's end), or -1 when the connection is lost or the other side has a fault. */
long block_fetch(int fd, uint64_t offset, void *data, uint32_t bytes, uint64_t *fileBytes);

/* Accepts for ever; each connection gets a thread, which owns the descriptor. */
void serve_connections(int listener, void (*fn)(int fd)) __attribute__((noreturn));
const char *needed(const struct args *args, const char *name);

#endif
