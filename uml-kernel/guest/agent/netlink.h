// SPDX-License-Identifier: Apache-2.0
/* The few requests of rtnetlink that NICs need. All return 0 or a negative errno. */
#ifndef MOBI_NETLINK_H
#define MOBI_NETLINK_H

#include <stdint.h>

/* An address with its prefix length, or a route's destination (length 0: default). */
struct prefix {
	int family;
	uint8_t address[16];
	int bits;
};

struct route {
	struct prefix to;
	uint8_t via[16];
};

/* "10.0.0.1/24" or "fd00::1/64"; without a slash: the full length. 0 or -1. */
int prefix_parse(const char *text, struct prefix *prefix);
int prefix_equal(const struct prefix *a, const struct prefix *b);

/* mtu 0: as it is. */
int netlink_link_up(int ifindex, int mtu);
int netlink_add_address(int ifindex, const struct prefix *address);
int netlink_add_route(int ifindex, const struct route *route);
/* Removes what this agent (also an earlier one of this boot) has set on the NIC and that is not in the list. */
int netlink_keep_addresses(int ifindex, const struct prefix *keep, int count);
int netlink_keep_routes(int ifindex, const struct route *keep, int count);

/* Calls `fn` when NICs come, go or change. */
void netlink_watch_links(void (*fn)(void));

#endif
