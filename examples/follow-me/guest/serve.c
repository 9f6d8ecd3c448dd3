// SPDX-License-Identifier: Apache-2.0
/* The contents: one file, in as large blocks as are asked for. */
#include "blockcopy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int file;

static void serve_file(int fd)
{
	struct request request;
	struct stat status;
	char *block = malloc(MAX_BLOCK_BYTES);

	while (block && request_receive(fd, &request) == 1) {
		ssize_t count = pread(file, block, request.bytes, request.offset);
		uint64_t size = fstat(file, &status) == 0 ? status.st_size : 0;

		if (answer_send(fd, count < 0 ? errno : 0, size, block, count < 0 ? 0 : count) < 0)
			break;
	}
	free(block);
}

int serve_main(const struct args *args)
{
	const char *path = needed(args, "--file");

	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		fail("%s: %s", path, strerror(errno));
	serve_connections(net_listen(needed(args, "--listen"), SOCK_STREAM), serve_file);
}
