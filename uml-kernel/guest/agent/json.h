// SPDX-License-Identifier: Apache-2.0
/* Reads the JSON of the channel into a tree. Numbers are integers (a fraction or an exponent is a fault). */
#ifndef MOBI_JSON_H
#define MOBI_JSON_H

#include <stddef.h>
#include <stdint.h>

enum json_kind { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json {
	enum json_kind kind;
	int64_t number;
	/* NUL-terminated UTF-8; a text with a NUL in it is a fault. */
	char *string;
	/* Of a member of an object. */
	char *key;
	struct json *firstChild, *next;
};

/* NULL when it is not JSON; json_free() takes the result. */
struct json *json_parse(const char *text, size_t length);
void json_free(struct json *value);
/* NULL when `object` is none, has no such member or it is of another kind. */
const struct json *json_get(const struct json *object, const char *key, enum json_kind kind);
const char *json_string(const struct json *object, const char *key);
int64_t json_number(const struct json *object, const char *key, int64_t otherwise);
size_t json_count(const struct json *array);

#endif
