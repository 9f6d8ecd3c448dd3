// SPDX-License-Identifier: Apache-2.0
#include "netlink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "agent.h"

/* Marks what we set: routes have had such a mark for ever, addresses since Linux 5.18. Any number above 4 (static) that nobody uses. */
#define OUR_PROTOCOL 77
#define BUFFER_BYTES 32768
#define ANSWER_TIMEOUT_S 2
#define MAX_STALE 64

struct request {
	struct nlmsghdr header;
	union {
		struct ifinfomsg link;
		struct ifaddrmsg address;
		struct rtmsg route;
	};
	uint8_t attributes[256];
};

static int request_socket = -1;
static uint32_t sequence;

int prefix_parse(const char *text, struct prefix *prefix)
{
	char address[INET6_ADDRSTRLEN];
	const char *slash = strchr(text, '/');
	size_t length = slash ? (size_t)(slash - text) : strlen(text);
	char *end;

	memset(prefix, 0, sizeof(*prefix));
	if (length >= sizeof(address))
		return -1;
	memcpy(address, text, length);
	address[length] = 0;
	prefix->family = strchr(address, ':') ? AF_INET6 : AF_INET;
	if (inet_pton(prefix->family, address, prefix->address) != 1)
		return -1;
	prefix->bits = prefix->family == AF_INET ? 32 : 128;
	if (!slash)
		return 0;
	length = strtoul(slash + 1, &end, 10);
	if (!slash[1] || *end || length > (size_t)prefix->bits)
		return -1;
	prefix->bits = length;
	return 0;
}

static int address_bytes(int family)
{
	return family == AF_INET ? 4 : 16;
}

int prefix_equal(const struct prefix *a, const struct prefix *b)
{
	return a->family == b->family && a->bits == b->bits && memcmp(a->address, b->address, sizeof(a->address)) == 0;
}

static void begin(struct request *r, int type, int flags, size_t bodyBytes)
{
	memset(r, 0, sizeof(*r));
	r->header.nlmsg_len = NLMSG_LENGTH(bodyBytes);
	r->header.nlmsg_type = type;
	r->header.nlmsg_flags = NLM_F_REQUEST | flags;
	r->header.nlmsg_seq = ++sequence;
}

static void add(struct request *r, int type, const void *data, size_t count)
{
	struct rtattr *attribute = (struct rtattr *)((uint8_t *)r + NLMSG_ALIGN(r->header.nlmsg_len));

	attribute->rta_type = type;
	attribute->rta_len = RTA_LENGTH(count);
	memcpy(RTA_DATA(attribute), data, count);
	r->header.nlmsg_len = NLMSG_ALIGN(r->header.nlmsg_len) + RTA_ALIGN(attribute->rta_len);
}

static int open_request_socket(void)
{
	struct timeval timeout = { .tv_sec = ANSWER_TIMEOUT_S };

	if (request_socket >= 0)
		return 0;
	request_socket = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (request_socket < 0)
		return -errno;
	setsockopt(request_socket, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	return 0;
}

/* Sends, and hands each message of the answer to `fn` (may be NULL) until the acknowledgement or the end of a dump. */
static int transact(struct request *r, void (*fn)(const struct nlmsghdr *, void *), void *context)
{
	static uint8_t answer[BUFFER_BYTES] __attribute__((aligned(8)));
	int error = open_request_socket();

	if (error)
		return error;
	if (send(request_socket, r, r->header.nlmsg_len, 0) < 0)
		return -errno;
	for (;;) {
		ssize_t count = recv(request_socket, answer, sizeof(answer), 0);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return -errno;
		for (struct nlmsghdr *m = (struct nlmsghdr *)answer; NLMSG_OK(m, count); m = NLMSG_NEXT(m, count)) {
			if (m->nlmsg_seq != r->header.nlmsg_seq)
				continue;
			if (m->nlmsg_type == NLMSG_ERROR)
				return ((struct nlmsgerr *)NLMSG_DATA(m))->error;
			if (m->nlmsg_type == NLMSG_DONE)
				return 0;
			if (fn)
				fn(m, context);
		}
	}
}

int netlink_link_up(int ifindex, int mtu)
{
	struct request r;

	begin(&r, RTM_NEWLINK, NLM_F_ACK, sizeof(r.link));
	r.link.ifi_index = ifindex;
	r.link.ifi_flags = IFF_UP;
	r.link.ifi_change = IFF_UP;
	if (mtu)
		add(&r, IFLA_MTU, &(uint32_t){ mtu }, 4);
	return transact(&r, NULL, NULL);
}

static int change_address(int type, int flags, int ifindex, const struct prefix *address)
{
	struct request r;
	/* The addresses are the topology's: no duplicate is looked for, they can be used at once. */
	uint32_t addressFlags = IFA_F_NODAD | IFA_F_PERMANENT;
	int bytes = address_bytes(address->family);

	begin(&r, type, flags | NLM_F_ACK, sizeof(r.address));
	r.address.ifa_family = address->family;
	r.address.ifa_prefixlen = address->bits;
	r.address.ifa_index = ifindex;
	add(&r, IFA_LOCAL, address->address, bytes);
	add(&r, IFA_ADDRESS, address->address, bytes);
	if (type == RTM_NEWADDR) {
		add(&r, IFA_FLAGS, &addressFlags, 4);
		add(&r, IFA_PROTO, &(uint8_t){ OUR_PROTOCOL }, 1);
	}
	return transact(&r, NULL, NULL);
}

int netlink_add_address(int ifindex, const struct prefix *address)
{
	return change_address(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, ifindex, address);
}

static int change_route(int type, int flags, int ifindex, const struct route *route)
{
	struct request r;
	int bytes = address_bytes(route->to.family);

	begin(&r, type, flags | NLM_F_ACK, sizeof(r.route));
	r.route.rtm_family = route->to.family;
	r.route.rtm_dst_len = route->to.bits;
	r.route.rtm_table = RT_TABLE_MAIN;
	r.route.rtm_protocol = OUR_PROTOCOL;
	r.route.rtm_scope = type == RTM_NEWROUTE ? RT_SCOPE_UNIVERSE : RT_SCOPE_NOWHERE;
	r.route.rtm_type = RTN_UNICAST;
	if (route->to.bits)
		add(&r, RTA_DST, route->to.address, bytes);
	add(&r, RTA_GATEWAY, route->via, bytes);
	add(&r, RTA_OIF, &(uint32_t){ ifindex }, 4);
	return transact(&r, NULL, NULL);
}

int netlink_add_route(int ifindex, const struct route *route)
{
	return change_route(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, ifindex, route);
}

/* What a dump found that is ours, on one NIC, and not to be kept. */
struct stale {
	int ifindex, count, keepCount;
	const struct prefix *keepAddresses;
	const struct route *keepRoutes;
	struct route found[MAX_STALE];
};

static void find_stale_address(const struct nlmsghdr *m, void *context)
{
	struct stale *stale = context;
	const struct ifaddrmsg *body = NLMSG_DATA(m);
	struct prefix address = { .family = body->ifa_family, .bits = body->ifa_prefixlen };
	int length = IFA_PAYLOAD(m), ours = 0;

	if (m->nlmsg_type != RTM_NEWADDR || (int)body->ifa_index != stale->ifindex || stale->count == MAX_STALE)
		return;
	for (struct rtattr *a = IFA_RTA(body); RTA_OK(a, length); a = RTA_NEXT(a, length)) {
		int isLocal = a->rta_type == (body->ifa_family == AF_INET ? IFA_LOCAL : IFA_ADDRESS);

		if (isLocal && RTA_PAYLOAD(a) <= sizeof(address.address))
			memcpy(address.address, RTA_DATA(a), RTA_PAYLOAD(a));
		if (a->rta_type == IFA_PROTO)
			ours = *(uint8_t *)RTA_DATA(a) == OUR_PROTOCOL;
	}
	for (int i = 0; i < stale->keepCount; i++)
		if (prefix_equal(&address, &stale->keepAddresses[i]))
			return;
	if (ours)
		stale->found[stale->count++].to = address;
}

int netlink_keep_addresses(int ifindex, const struct prefix *keep, int count)
{
	struct stale stale = { .ifindex = ifindex, .keepAddresses = keep, .keepCount = count };
	struct request r;
	int error;

	begin(&r, RTM_GETADDR, NLM_F_DUMP, sizeof(r.address));
	error = transact(&r, find_stale_address, &stale);
	for (int i = 0; !error && i < stale.count; i++)
		error = change_address(RTM_DELADDR, 0, ifindex, &stale.found[i].to);
	return error;
}

static void find_stale_route(const struct nlmsghdr *m, void *context)
{
	struct stale *stale = context;
	const struct rtmsg *body = NLMSG_DATA(m);
	struct route route = { .to = { .family = body->rtm_family, .bits = body->rtm_dst_len } };
	int length = RTM_PAYLOAD(m), ifindex = 0;

	if (m->nlmsg_type != RTM_NEWROUTE || body->rtm_protocol != OUR_PROTOCOL || stale->count == MAX_STALE)
		return;
	for (struct rtattr *a = RTM_RTA(body); RTA_OK(a, length); a = RTA_NEXT(a, length)) {
		if (a->rta_type == RTA_OIF)
			ifindex = *(int *)RTA_DATA(a);
		if (a->rta_type == RTA_DST && RTA_PAYLOAD(a) <= 16)
			memcpy(route.to.address, RTA_DATA(a), RTA_PAYLOAD(a));
		if (a->rta_type == RTA_GATEWAY && RTA_PAYLOAD(a) <= 16)
			memcpy(route.via, RTA_DATA(a), RTA_PAYLOAD(a));
	}
	if (ifindex != stale->ifindex)
		return;
	for (int i = 0; i < stale->keepCount; i++)
		if (prefix_equal(&route.to, &stale->keepRoutes[i].to) && memcmp(route.via, stale->keepRoutes[i].via, 16) == 0)
			return;
	stale->found[stale->count++] = route;
}

int netlink_keep_routes(int ifindex, const struct route *keep, int count)
{
	struct stale stale = { .ifindex = ifindex, .keepRoutes = keep, .keepCount = count };
	struct request r;
	int error;

	begin(&r, RTM_GETROUTE, NLM_F_DUMP, sizeof(r.route));
	error = transact(&r, find_stale_route, &stale);
	for (int i = 0; !error && i < stale.count; i++)
		error = change_route(RTM_DELROUTE, 0, ifindex, &stale.found[i]);
	return error;
}

static void (*links_changed)(void);

static void on_link_event(struct watch *watch, uint32_t events)
{
	static uint8_t bytes[BUFFER_BYTES];

	(void)events;
	/* What exactly happened is looked up afresh: events may be lost when there are many. */
	while (recv(watch->fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0 || errno == ENOBUFS)
		errno = 0;
	links_changed();
}

void netlink_watch_links(void (*fn)(void))
{
	static struct watch watch = { .fn = on_link_event };
	struct sockaddr_nl address = { .nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK };

	links_changed = fn;
	watch.fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
	if (watch.fd < 0 || bind(watch.fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		warn_about("netlink: %s: NICs that appear later are not set", strerror(errno));
		return;
	}
	watch_events(&watch, EPOLLIN);
}
