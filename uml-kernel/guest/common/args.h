// SPDX-License-Identifier: Apache-2.0
/* `--name value` options of the guest's test programs. */
#ifndef GUEST_ARGS_H
#define GUEST_ARGS_H

struct args {
	int count;
	char **words;
};

/* NULL if it is not given. */
const char *args_text(const struct args *args, const char *name);
/* Ends the program with a usage error when it is not a number. */
double args_number(const struct args *args, const char *name, double otherwise);
int args_flag(const struct args *args, const char *name);
/* The first word that is neither an option nor an option's value; flags are named in the list that ends with NULL. */
const char *args_plain(const struct args *args, const char *const *flags);

/* One line on stderr, exit code 1. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
