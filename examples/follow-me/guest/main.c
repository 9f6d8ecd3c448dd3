// SPDX-License-Identifier: Apache-2.0
#include "blockcopy.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static const char usage[] =
	"usage:\n"
	"  blockcopy make --mib N [--seed N] FILE                 a file of pseudo-random bytes, the same everywhere\n"
	"  blockcopy serve --listen A:P --file FILE               the contents\n"
	"  blockcopy handle --listen A:P --from A:P [--cache] [--upstream-block BYTES]\n"
	"                                                         the protocol handler between contents and client\n"
	"  blockcopy copy --from A:P [--out FILE] [--block BYTES] [--mib N] [--pace-us N [--pace-until-line]]\n"
	"                                                         the client: one connection, one round trip per block; SIGUSR1 or a line on\n"
	"                                                         stdin lifts the pace\n"
	"  blockcopy echo --listen A:P                            answers UDP datagrams and TCP bytes\n"
	"  blockcopy probe A:P [--interval-ms N] [--seconds N]    asks an echo; prints the longest silence\n";

static const struct {
	const char *name;
	int (*main)(const struct args *args);
} commands[] = {
	{ "make", make_main }, { "serve", serve_main }, { "handle", handle_main },
	{ "copy", copy_main }, { "echo", echo_main }, { "probe", probe_main },
};

const char *needed(const struct args *args, const char *name)
{
	const char *text = args_text(args, name);

	if (!text)
		fail("%s is missing\n%s", name, usage);
	return text;
}

int main(int argc, char **argv)
{
	struct args args = { argc - 2, argv + 2 };

	/* A reader that is gone is seen by write(). */
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (size_t i = 0; argc > 1 && i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(argv[1], commands[i].name) == 0)
			return commands[i].main(&args);
	fail("%s", usage);
}
