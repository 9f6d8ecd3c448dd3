// SPDX-License-Identifier: Apache-2.0
#include "configure.h"

#include <errno.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "netlink.h"
#include "runcmd.h"

#define MAX_ADDRESSES 16
#define MAX_ROUTES 32
#define MAX_MTU 9000
/* runcmd does not wait for ever for a NIC that no link has made. */
#define NIC_PATIENCE_MS 60000

struct nic {
	int index, mtu, addressCount, routeCount;
	struct prefix addresses[MAX_ADDRESSES];
	struct route routes[MAX_ROUTES];
	/* The interface that it was last set on; 0: none yet. */
	int setOn;
};

static struct nic nics[MAX_NICS];
static int nic_count;
static uint64_t runcmd_deadline_ms;

/* Faults of one CONFIGURE, as a JSON list in the making. */
static void add_fault(struct buffer *faults, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add_fault(struct buffer *faults, const char *format, ...)
{
	char text[256];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	warn_about("%s", text);
	if (!faults)
		return;
	if (faults->length)
		buffer_append(faults, ",", 1);
	buffer_json_string(faults, text);
}

static void device_name(const struct nic *nic, char name[IF_NAMESIZE])
{
	snprintf(name, IF_NAMESIZE, "eth%d", nic->index);
}

/* Sets one NIC if it is there; `faults` may be NULL (nobody waits for the answer any more). */
static void set_nic(struct nic *nic, struct buffer *faults)
{
	char name[IF_NAMESIZE];
	int ifindex, error;

	device_name(nic, name);
	ifindex = if_nametoindex(name);
	if (!ifindex) {
		nic->setOn = 0;
		return;
	}
	nic->setOn = ifindex;
	error = netlink_link_up(ifindex, nic->mtu);
	if (error)
		add_fault(faults, "%s: mtu %d, up: %s", name, nic->mtu, strerror(-error));
	error = netlink_keep_routes(ifindex, nic->routes, nic->routeCount);
	if (!error)
		error = netlink_keep_addresses(ifindex, nic->addresses, nic->addressCount);
	if (error)
		add_fault(faults, "%s: removing what is no longer wanted: %s", name, strerror(-error));
	for (int i = 0; i < nic->addressCount; i++)
		if ((error = netlink_add_address(ifindex, &nic->addresses[i])))
			add_fault(faults, "%s: address %d: %s", name, i, strerror(-error));
	for (int i = 0; i < nic->routeCount; i++)
		if ((error = netlink_add_route(ifindex, &nic->routes[i])))
			add_fault(faults, "%s: route %d: %s", name, i, strerror(-error));
}

static void read_addresses(struct nic *nic, const struct json *wanted, struct buffer *faults)
{
	const struct json *list = json_get(wanted, "addresses", JSON_ARRAY);

	for (const struct json *a = list ? list->firstChild : NULL; a; a = a->next) {
		if (a->kind != JSON_STRING || nic->addressCount == MAX_ADDRESSES || prefix_parse(a->string, &nic->addresses[nic->addressCount]) < 0)
			add_fault(faults, "eth%d: bad address %s", nic->index, a->kind == JSON_STRING ? a->string : "");
		else
			nic->addressCount++;
	}
}

/* Only the network's own bits count in a destination: the kernel refuses others. */
static void clear_host_bits(struct prefix *p)
{
	for (int bit = p->bits; bit < 128; bit++)
		p->address[bit / 8] &= ~(0x80 >> (bit % 8));
}

static void read_routes(struct nic *nic, const struct json *wanted, struct buffer *faults)
{
	const struct json *list = json_get(wanted, "routes", JSON_ARRAY);

	for (const struct json *r = list ? list->firstChild : NULL; r; r = r->next) {
		const char *to = json_string(r, "to"), *via = json_string(r, "via");
		struct route route = { 0 };
		struct prefix gateway;
		int fine = to && via && nic->routeCount < MAX_ROUTES && prefix_parse(via, &gateway) == 0;

		if (fine && strcmp(to, "default") == 0)
			route.to.family = gateway.family;
		else if (fine)
			fine = prefix_parse(to, &route.to) == 0 && route.to.family == gateway.family;
		if (!fine) {
			add_fault(faults, "eth%d: bad route to %s via %s", nic->index, to ? to : "?", via ? via : "?");
			continue;
		}
		clear_host_bits(&route.to);
		memcpy(route.via, gateway.address, sizeof(route.via));
		nic->routes[nic->routeCount++] = route;
	}
}

static void read_nics(const struct json *wanted, struct buffer *faults)
{
	const struct json *list = json_get(wanted, "nics", JSON_ARRAY);

	nic_count = 0;
	for (const struct json *n = list ? list->firstChild : NULL; n; n = n->next) {
		int64_t index = json_number(n, "index", -1), mtu = json_number(n, "mtu", 0);
		struct nic *nic = &nics[nic_count];

		if (index < 0 || index >= MAX_NICS || nic_count == MAX_NICS || mtu < 0 || mtu > MAX_MTU) {
			add_fault(faults, "bad nic: index %lld, mtu %lld", (long long)index, (long long)mtu);
			continue;
		}
		*nic = (struct nic){ .index = index, .mtu = mtu };
		read_addresses(nic, n, faults);
		read_routes(nic, n, faults);
		nic_count++;
	}
}

static void set_hostname(const struct json *wanted, struct buffer *faults)
{
	const char *name = json_string(wanted, "hostname");
	char present[256] = "";

	gethostname(present, sizeof(present) - 1);
	if (name && strcmp(name, present) != 0 && sethostname(name, strlen(name)) < 0)
		add_fault(faults, "host name %s: %s", name, strerror(errno));
}

static int pending_nics(void)
{
	int count = 0;

	for (int i = 0; i < nic_count; i++)
		count += !nics[i].setOn;
	return count;
}

static void write_result(struct buffer *result, const struct buffer *faults)
{
	const char *comma = "";

	if (faults->length)
		buffer_printf(result, "{\"ok\":false,\"faults\":[");
	else
		buffer_printf(result, "{\"ok\":true");
	if (faults->length) {
		buffer_append(result, buffer_bytes(faults), faults->length);
		buffer_printf(result, "]");
	}
	buffer_printf(result, ",\"pending\":[");
	for (int i = 0; i < nic_count; i++)
		if (!nics[i].setOn) {
			buffer_printf(result, "%s\"eth%d\"", comma, nics[i].index);
			comma = ",";
		}
	buffer_printf(result, "]}");
}

void configure(const struct json *wanted, struct buffer *result)
{
	struct buffer faults = { 0 };

	if (!wanted || wanted->kind != JSON_OBJECT) {
		add_fault(&faults, "CONFIGURE is not a JSON object");
	} else {
		set_hostname(wanted, &faults);
		read_nics(wanted, &faults);
		for (int i = 0; i < nic_count; i++)
			set_nic(&nics[i], &faults);
		runcmd_want(json_get(wanted, "runcmd", JSON_ARRAY));
		runcmd_deadline_ms = now_ms() + NIC_PATIENCE_MS;
	}
	write_result(result, &faults);
	buffer_free(&faults);
	configure_continue();
}

void configure_continue(void)
{
	for (int i = 0; i < nic_count; i++) {
		char name[IF_NAMESIZE];

		device_name(&nics[i], name);
		/* Also a NIC that went and came back: it has another number then. */
		if (nics[i].setOn != (int)if_nametoindex(name))
			set_nic(&nics[i], NULL);
	}
	if (runcmd_waiting() && (!pending_nics() || now_ms() >= runcmd_deadline_ms))
		runcmd_start();
}

int configure_timeout_ms(void)
{
	uint64_t now = now_ms();

	if (!runcmd_waiting())
		return -1;
	return now >= runcmd_deadline_ms ? 0 : runcmd_deadline_ms - now;
}
