// SPDX-License-Identifier: Apache-2.0
#include "json.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 16

struct reader {
	const char *at, *end;
	int depth;
};

static struct json *read_value(struct reader *r);

static void skip_space(struct reader *r)
{
	while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r'))
		r->at++;
}

/* The next character that is no space is `c`: takes it. */
static int take(struct reader *r, char c)
{
	skip_space(r);
	if (r->at >= r->end || *r->at != c)
		return 0;
	r->at++;
	return 1;
}

static int take_word(struct reader *r, const char *word)
{
	size_t length = strlen(word);

	if ((size_t)(r->end - r->at) < length || memcmp(r->at, word, length) != 0)
		return 0;
	r->at += length;
	return 1;
}

static int read_hex4(struct reader *r, uint32_t *value)
{
	*value = 0;
	if (r->end - r->at < 4)
		return 0;
	for (int i = 0; i < 4; i++) {
		char c = *r->at++;

		if (!isxdigit((unsigned char)c))
			return 0;
		*value = *value * 16 + (isdigit((unsigned char)c) ? c - '0' : (c | 0x20) - 'a' + 10);
	}
	return 1;
}

static char *put_utf8(char *out, uint32_t c)
{
	if (c < 0x80) {
		*out++ = c;
	} else if (c < 0x800) {
		*out++ = 0xc0 | c >> 6;
		*out++ = 0x80 | (c & 0x3f);
	} else if (c < 0x10000) {
		*out++ = 0xe0 | c >> 12;
		*out++ = 0x80 | (c >> 6 & 0x3f);
		*out++ = 0x80 | (c & 0x3f);
	} else {
		*out++ = 0xf0 | c >> 18;
		*out++ = 0x80 | (c >> 12 & 0x3f);
		*out++ = 0x80 | (c >> 6 & 0x3f);
		*out++ = 0x80 | (c & 0x3f);
	}
	return out;
}

/* After the backslash. An escape is never shorter than what it stands for. */
static char *read_escape(struct reader *r, char *out)
{
	static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
	const char *name;
	uint32_t c, low;

	if (r->at >= r->end || !*r->at)
		return NULL;
	if (*r->at != 'u') {
		name = strchr(names, *r->at++);
		if (!name)
			return NULL;
		*out++ = values[name - names];
		return out;
	}
	r->at++;
	if (!read_hex4(r, &c) || c == 0)
		return NULL;
	if (c >= 0xd800 && c < 0xdc00) {
		if (!take_word(r, "\\u") || !read_hex4(r, &low) || low < 0xdc00 || low > 0xdfff)
			return NULL;
		c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
	} else if (c >= 0xdc00 && c < 0xe000) {
		return NULL;
	}
	return put_utf8(out, c);
}

/* After the opening quote. */
static char *read_string(struct reader *r)
{
	char *text = malloc(r->end - r->at + 1), *out = text;

	while (text && r->at < r->end) {
		char c = *r->at++;

		if (c == '"') {
			*out = 0;
			return text;
		}
		if ((unsigned char)c < 0x20)
			break;
		if (c != '\\') {
			*out++ = c;
			continue;
		}
		out = read_escape(r, out);
		if (!out)
			break;
	}
	free(text);
	return NULL;
}

static int read_number(struct reader *r, int64_t *number)
{
	int negative = take_word(r, "-");
	int64_t value = 0;
	const char *start = r->at;

	for (; r->at < r->end && isdigit((unsigned char)*r->at); r->at++)
		if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, *r->at - '0', &value))
			return 0;
	*number = negative ? -value : value;
	return r->at > start && (r->at == r->end || !strchr(".eE", *r->at) || !*r->at);
}

/* After the opening bracket. */
static int read_children(struct reader *r, struct json *parent)
{
	char close = parent->kind == JSON_ARRAY ? ']' : '}';
	struct json **tail = &parent->firstChild;

	if (take(r, close))
		return 1;
	do {
		char *key = NULL;

		if (parent->kind == JSON_OBJECT && (!take(r, '"') || !(key = read_string(r)) || !take(r, ':'))) {
			free(key);
			return 0;
		}
		*tail = read_value(r);
		if (!*tail) {
			free(key);
			return 0;
		}
		(*tail)->key = key;
		tail = &(*tail)->next;
	} while (take(r, ','));
	return take(r, close);
}

static int read_into(struct reader *r, struct json *value)
{
	if (take(r, '"')) {
		value->kind = JSON_STRING;
		value->string = read_string(r);
		return value->string != NULL;
	}
	if (take(r, '[')) {
		value->kind = JSON_ARRAY;
		return read_children(r, value);
	}
	if (take(r, '{')) {
		value->kind = JSON_OBJECT;
		return read_children(r, value);
	}
	if (take_word(r, "null"))
		return 1;
	value->kind = JSON_BOOL;
	if (take_word(r, "true")) {
		value->number = 1;
		return 1;
	}
	if (take_word(r, "false"))
		return 1;
	value->kind = JSON_NUMBER;
	return read_number(r, &value->number);
}

static struct json *read_value(struct reader *r)
{
	struct json *value;
	int fine;

	if (r->depth >= MAX_DEPTH)
		return NULL;
	value = calloc(1, sizeof(*value));
	if (!value)
		return NULL;
	r->depth++;
	fine = read_into(r, value);
	r->depth--;
	if (fine)
		return value;
	json_free(value);
	return NULL;
}

struct json *json_parse(const char *text, size_t length)
{
	struct reader r = { text, text + length, 0 };
	struct json *value = read_value(&r);

	skip_space(&r);
	if (!value || r.at == r.end)
		return value;
	json_free(value);
	return NULL;
}

void json_free(struct json *value)
{
	while (value) {
		struct json *next = value->next;

		json_free(value->firstChild);
		free(value->string);
		free(value->key);
		free(value);
		value = next;
	}
}

const struct json *json_get(const struct json *object, const char *key, enum json_kind kind)
{
	if (!object || object->kind != JSON_OBJECT)
		return NULL;
	for (const struct json *child = object->firstChild; child; child = child->next)
		if (strcmp(child->key, key) == 0)
			return child->kind == kind ? child : NULL;
	return NULL;
}

const char *json_string(const struct json *object, const char *key)
{
	const struct json *value = json_get(object, key, JSON_STRING);

	return value ? value->string : NULL;
}

int64_t json_number(const struct json *object, const char *key, int64_t otherwise)
{
	const struct json *value = json_get(object, key, JSON_NUMBER);

	return value ? value->number : otherwise;
}

size_t json_count(const struct json *array)
{
	size_t count = 0;

	for (const struct json *child = array ? array->firstChild : NULL; child; child = child->next)
		count++;
	return count;
}
