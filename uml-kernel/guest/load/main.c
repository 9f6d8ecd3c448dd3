// SPDX-License-Identifier: Apache-2.0
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "load.h"

static const char usage[] =
	"usage: mobi-check COMMAND ..., or by a link of the command's name\n"
	"  avxhold [--seconds N]                                   values kept in vector registers\n"
	"  ramcheck [--mib N] [--disk-mib N] [--rewrite] [--dir D] [--disk-dir D]\n"
	"                                                          sums of a file in memory and one on the disk\n"
	"  tcpstream --listen A:P | --connect A:P [--mbps N]       a checked stream in both directions\n"
	"  uptimecheck                                             clocks that must not go back\n"
	"  guestbench syscall | forkexec [--seconds N]             {\"ns\":N}\n"
	"  spin [--state FILE]                                     a busy loop\n"
	"  dirty [--mib N] [--mib-per-s N] [--whole] [--touch-mib N] [--state FILE]\n"
	"                                                          writes one word per page, or whole pages of incompressible bytes, and\n"
	"                                                          checks them; N MiB more may be written once\n"
	"  look FILE [--check]                                     what a spin or dirty with that --state has done; asks for a whole check\n";

static const struct {
	const char *name;
	int (*main)(const struct args *args);
} commands[] = {
	{ "avxhold", avxhold_main }, { "ramcheck", ramcheck_main }, { "tcpstream", tcpstream_main }, { "uptimecheck", uptimecheck_main },
	{ "uptimewatch", uptimecheck_main }, { "guestbench", guestbench_main }, { "spin", spin_main },
	{ "dirty", dirty_main }, { "look", look_main },
};

static int run(const char *name, int argc, char **argv)
{
	struct args args = { argc, argv };

	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(name, commands[i].name) == 0)
			return commands[i].main(&args);
	fail("%s", usage);
}

int main(int argc, char **argv)
{
	const char *name = basename(argv[0]);

	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	/* What `guestbench forkexec` starts. */
	if (argc > 1 && strcmp(argv[1], "nothing") == 0)
		return 0;
	if (strcmp(name, "mobi-check") != 0)
		return run(name, argc - 1, argv + 1);
	if (argc < 2)
		fail("%s", usage);
	return run(argv[1], argc - 2, argv + 2);
}
