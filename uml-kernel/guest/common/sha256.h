// SPDX-License-Identifier: Apache-2.0
/* SHA-256 (FIPS 180-4). */
#ifndef GUEST_SHA256_H
#define GUEST_SHA256_H

#include <stddef.h>
#include <stdint.h>

struct sha256 {
	uint32_t state[8];
	uint64_t bytes;
	uint8_t block[64];
};

void sha256_start(struct sha256 *s);
void sha256_add(struct sha256 *s, const void *data, size_t count);
/* 64 hex digits and a NUL. */
void sha256_end(struct sha256 *s, char hex[65]);

#endif
