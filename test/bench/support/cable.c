// SPDX-License-Identifier: Apache-2.0
/*
 * A cable whose frames take their time: what goes in at one end comes out at the other a fixed time later. For hosts whose kernel has no netem;
 * the rate is set by tbf on the devices.
 *
 * cable END-A END-B DELAY-US    prints "ready"; ends with its stdin. An end is one of
 *   tap:PID:NAME                a TAP device that it makes in the network namespace of that process
 *   packet:PID:NAME             a device that is there (one end of a veth pair), for who may not make a TAP
 *   unix:LOCAL:REMOTE           datagrams between two Unix sockets, as QEMU's -netdev dgram has them
 * cable plain PID NAME          makes that device compute checksums and segments itself, before who reads at its other end sees the frames
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAX_FRAME 2048
/* Frames on their way in one direction: 100 ms of small frames at 300 kpps; what does not fit is lost, and a link says so at its end. */
#define SLOTS 32768
#define FULL_NS (200 * 1000)

struct frame {
	uint64_t dueNs;
	uint32_t bytes;
	uint8_t data[MAX_FRAME];
};

struct direction {
	int from, to, toUnix;
	struct frame *ring;
	uint32_t head, count;
	uint64_t lost;
};

static void fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

static void enter(const char *pid)
{
	char path[64];
	int ns;

	snprintf(path, sizeof(path), "/proc/%s/ns/net", pid);
	ns = open(path, O_RDONLY | O_CLOEXEC);
	if (ns < 0 || setns(ns, CLONE_NEWNET) < 0)
		fail("entering %s: %s", path, strerror(errno));
	close(ns);
}

static int open_tap(const char *pid, const char *name)
{
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI };
	int fd;

	enter(pid);
	fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		fail("/dev/net/tun: %s", strerror(errno));
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	if (ioctl(fd, TUNSETIFF, &request) < 0)
		fail("making the TAP %s: %s", name, strerror(errno));
	return fd;
}

static int open_packet(const char *pid, const char *name)
{
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htobe16(ETH_P_ALL) };
	struct ifreq request = { 0 };
	int fd, yes = 1, bytes = 4 << 20;

	enter(pid);
	/* Protocol 0: nothing comes before it is bound. */
	fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	if (fd < 0 || ioctl(fd, SIOCGIFINDEX, &request) < 0)
		fail("%s: %s", name, strerror(errno));
	at.sll_ifindex = request.ifr_ifindex;
	if (setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &yes, sizeof(yes)) < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0)
		fail("%s: %s", name, strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes));
	return fd;
}

static struct sockaddr_un unix_address(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(address.sun_path))
		fail("%s is too long for a socket", path);
	strcpy(address.sun_path, path);
	return address;
}

/* The remote end may come and go: it is named with each frame. */
static struct sockaddr_un unix_remote;

static int open_unix(const char *local, const char *remote)
{
	struct sockaddr_un address = unix_address(local);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	unix_remote = unix_address(remote);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		fail("%s: %s", local, strerror(errno));
	return fd;
}

static int open_end(char *words, int *isUnix)
{
	char *kind = strsep(&words, ":"), *first = strsep(&words, ":");

	*isUnix = strcmp(kind, "unix") == 0;
	if (!first || !words)
		fail("an end is tap:PID:NAME, packet:PID:NAME or unix:LOCAL:REMOTE");
	if (*isUnix)
		return open_unix(first, words);
	return strcmp(kind, "tap") == 0 ? open_tap(first, words) : open_packet(first, words);
}

static int make_plain(const char *pid, const char *name)
{
	static const uint32_t offloads[] = { ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SSG, ETHTOOL_STXCSUM };
	int fd;

	enter(pid);
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	for (size_t i = 0; i < sizeof(offloads) / sizeof(offloads[0]); i++) {
		struct ethtool_value value = { .cmd = offloads[i], .data = 0 };
		struct ifreq request = { 0 };

		snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
		request.ifr_data = (void *)&value;
		if (ioctl(fd, SIOCETHTOOL, &request) < 0)
			fail("%s: switching off an offload: %s", name, strerror(errno));
	}
	return 0;
}

static void take_in(struct direction *d, uint64_t delayNs)
{
	for (;;) {
		struct frame *f = &d->ring[(d->head + d->count) % SLOTS];
		uint8_t nowhere[MAX_FRAME];
		int full = d->count == SLOTS;
		ssize_t n = read(d->from, full ? nowhere : f->data, MAX_FRAME);

		/* An error: the device is not up yet, or there is nothing more. */
		if (n <= 0)
			return;
		if (full) {
			d->lost++;
			continue;
		}
		f->bytes = n;
		f->dueNs = now_ns() + delayNs;
		d->count++;
	}
}

static ssize_t put_frame(const struct direction *d, const struct frame *f)
{
	if (d->toUnix)
		return sendto(d->to, f->data, f->bytes, 0, (struct sockaddr *)&unix_remote, sizeof(unix_remote));
	return write(d->to, f->data, f->bytes);
}

/* When to look again, at the latest. */
static uint64_t give_out(struct direction *d)
{
	uint64_t now = now_ns();

	for (; d->count && d->ring[d->head].dueNs <= now; d->count--) {
		struct frame *f = &d->ring[d->head];

		if (put_frame(d, f) != (ssize_t)f->bytes) {
			/* A Unix socket takes but ten at a time, and its reader may be waiting for a CPU. */
			if (d->toUnix && errno == EAGAIN)
				return now + FULL_NS;
			d->lost++;
		}
		d->head = (d->head + 1) % SLOTS;
	}
	return d->count ? d->ring[d->head].dueNs : UINT64_MAX;
}

int main(int argc, char **argv)
{
	struct direction way[2];
	uint64_t delayNs;
	int a, b, aIsUnix, bIsUnix;

	if (argc == 4 && strcmp(argv[1], "plain") == 0)
		return make_plain(argv[2], argv[3]);
	if (argc != 4)
		fail("usage: cable END-A END-B DELAY-US | cable plain PID NAME");
	a = open_end(argv[1], &aIsUnix);
	b = open_end(argv[2], &bIsUnix);
	delayNs = strtoull(argv[3], NULL, 10) * 1000;
	way[0] = (struct direction){ .from = a, .to = b, .toUnix = bIsUnix, .ring = calloc(SLOTS, sizeof(struct frame)) };
	way[1] = (struct direction){ .from = b, .to = a, .toUnix = aIsUnix, .ring = calloc(SLOTS, sizeof(struct frame)) };
	if (!way[0].ring || !way[1].ring)
		fail("out of memory");
	/* The default slack of 50 us would be added to each delay. */
	prctl(PR_SET_TIMERSLACK, 1000);
	printf("ready\n");
	fflush(stdout);
	for (;;) {
		struct pollfd wait[3] = { { a, POLLIN, 0 }, { b, POLLIN, 0 }, { STDIN_FILENO, POLLIN, 0 } };
		uint64_t now = now_ns(), next = now + 1000000000, again[2];
		struct timespec pause;

		for (int i = 0; i < 2; i++) {
			take_in(&way[i], delayNs);
			again[i] = give_out(&way[i]);
			if (again[i] < next)
				next = again[i];
		}
		now = now_ns();
		pause.tv_sec = next > now ? (next - now) / 1000000000 : 0;
		pause.tv_nsec = next > now ? (next - now) % 1000000000 : 0;
		if (ppoll(wait, 3, &pause, NULL) < 0 && errno != EINTR)
			fail("ppoll: %s", strerror(errno));
		if (wait[2].revents)
			break;
	}
	/* A guest that does not run yet takes nothing; a link under test should. */
	if (!aIsUnix && !bIsUnix && (way[0].lost || way[1].lost))
		fprintf(stderr, "cable: lost %llu and %llu frames\n", (unsigned long long)way[0].lost, (unsigned long long)way[1].lost);
	return 0;
}
