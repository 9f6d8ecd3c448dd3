// SPDX-License-Identifier: Apache-2.0
#include "args.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *args_text(const struct args *args, const char *name)
{
	for (int i = 0; i + 1 < args->count; i++)
		if (strcmp(args->words[i], name) == 0)
			return args->words[i + 1];
	return NULL;
}

double args_number(const struct args *args, const char *name, double otherwise)
{
	const char *text = args_text(args, name);
	char *end;
	double number;

	if (!text)
		return otherwise;
	number = strtod(text, &end);
	if (end == text || *end || number < 0)
		fail("%s: not a number: %s", name, text);
	return number;
}

int args_flag(const struct args *args, const char *name)
{
	for (int i = 0; i < args->count; i++)
		if (strcmp(args->words[i], name) == 0)
			return 1;
	return 0;
}

static int is_flag(const char *word, const char *const *flags)
{
	for (; flags && *flags; flags++)
		if (strcmp(word, *flags) == 0)
			return 1;
	return 0;
}

const char *args_plain(const struct args *args, const char *const *flags)
{
	for (int i = 0; i < args->count; i++) {
		if (strncmp(args->words[i], "--", 2) != 0)
			return args->words[i];
		if (!is_flag(args->words[i], flags))
			i++;
	}
	return NULL;
}

void fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
	exit(1);
}
