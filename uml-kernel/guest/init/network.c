// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "init.h"

void loopback_up(void)
{
	struct ifreq request = { .ifr_name = "lo" };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	/* 127.0.0.1 and ::1 are added by the kernel when lo comes up. */
	if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request) < 0)
		goto out;
	request.ifr_flags |= IFF_UP | IFF_RUNNING;
	if (ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		say("init: lo: %s", strerror(errno));
out:
	if (fd >= 0)
		close(fd);
}

void hostname_from_file(void)
{
	char name[65];
	int fd = open("/etc/hostname", O_RDONLY | O_CLOEXEC);
	ssize_t length;

	if (fd < 0)
		return;
	length = read(fd, name, sizeof(name) - 1);
	close(fd);
	if (length <= 0)
		return;
	name[length] = 0;
	name[strcspn(name, "\n")] = 0;
	sethostname(name, strlen(name));
}
