// SPDX-License-Identifier: Apache-2.0
#include "buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"

static void make_room(struct buffer *b, size_t count)
{
	size_t capacity = b->capacity ? b->capacity : 1024;

	if (b->length == 0)
		b->start = 0;
	if (b->start + b->length + count <= b->capacity)
		return;
	if (b->start) {
		memmove(b->data, b->data + b->start, b->length);
		b->start = 0;
	}
	while (capacity < b->length + count)
		capacity *= 2;
	if (capacity == b->capacity)
		return;
	b->data = realloc(b->data, capacity);
	if (!b->data)
		die("out of memory");
	b->capacity = capacity;
}

void buffer_append(struct buffer *b, const void *bytes, size_t count)
{
	if (!count)
		return;
	make_room(b, count);
	memcpy(b->data + b->start + b->length, bytes, count);
	b->length += count;
}

void buffer_printf(struct buffer *b, const char *format, ...)
{
	char text[1024];
	va_list args;
	int length;

	va_start(args, format);
	length = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (length > (int)sizeof(text) - 1)
		length = sizeof(text) - 1;
	if (length > 0)
		buffer_append(b, text, length);
}

void buffer_json_string(struct buffer *b, const char *text)
{
	buffer_append(b, "\"", 1);
	for (; *text; text++) {
		unsigned char c = *text;

		if (c == '"' || c == '\\')
			buffer_printf(b, "\\%c", c);
		else if (c < 0x20)
			buffer_printf(b, "\\u%04x", c);
		else
			buffer_append(b, text, 1);
	}
	buffer_append(b, "\"", 1);
}

void buffer_drop(struct buffer *b, size_t count)
{
	b->start += count;
	b->length -= count;
}

void buffer_free(struct buffer *b)
{
	free(b->data);
	memset(b, 0, sizeof(*b));
}
