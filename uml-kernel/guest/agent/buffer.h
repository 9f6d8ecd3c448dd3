// SPDX-License-Identifier: Apache-2.0
/* A growing byte buffer that is filled at its end and drained at its start. */
#ifndef MOBI_BUFFER_H
#define MOBI_BUFFER_H

#include <stddef.h>
#include <stdint.h>

struct buffer {
	uint8_t *data;
	size_t start, length, capacity;
};

void buffer_append(struct buffer *b, const void *bytes, size_t count);
void buffer_printf(struct buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* As a JSON string, with its quotes. */
void buffer_json_string(struct buffer *b, const char *text);
void buffer_drop(struct buffer *b, size_t count);
void buffer_free(struct buffer *b);
static inline uint8_t *buffer_bytes(const struct buffer *b)
{
	return b->data + b->start;
}

#endif
