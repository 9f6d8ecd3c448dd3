// SPDX-License-Identifier: Apache-2.0
#include "users.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_FIELDS 8

/* Splits in place at colons; missing fields are "". */
static void split(char *line, char *fields[MAX_FIELDS])
{
	line[strcspn(line, "\r\n")] = 0;
	for (int i = 0; i < MAX_FIELDS; i++) {
		fields[i] = line;
		line += strcspn(line, ":");
		if (*line)
			*line++ = 0;
	}
}

static int find_in_passwd(const char *name, struct user *user)
{
	FILE *file = fopen("/etc/passwd", "re");
	char line[1024], *fields[MAX_FIELDS];
	int found = 0;

	while (file && !found && fgets(line, sizeof(line), file)) {
		split(line, fields);
		if (strcmp(fields[0], name) != 0 && strcmp(fields[2], name) != 0)
			continue;
		snprintf(user->name, sizeof(user->name), "%s", fields[0]);
		user->uid = strtoul(fields[2], NULL, 10);
		user->gid = strtoul(fields[3], NULL, 10);
		snprintf(user->home, sizeof(user->home), "%s", fields[5]);
		snprintf(user->shell, sizeof(user->shell), "%s", *fields[6] ? fields[6] : "/bin/sh");
		found = 1;
	}
	if (file)
		fclose(file);
	return found;
}

static int is_member(char *members, const char *name)
{
	for (char *rest = members, *member; (member = strsep(&rest, ","));)
		if (strcmp(member, name) == 0)
			return 1;
	return 0;
}

static void find_groups(struct user *user)
{
	FILE *file = fopen("/etc/group", "re");
	char line[4096], *fields[MAX_FIELDS];

	user->groupCount = 0;
	user->groups[user->groupCount++] = user->gid;
	while (file && user->groupCount < USER_MAX_GROUPS && fgets(line, sizeof(line), file)) {
		split(line, fields);
		if (is_member(fields[3], user->name))
			user->groups[user->groupCount++] = strtoul(fields[2], NULL, 10);
	}
	if (file)
		fclose(file);
}

int user_find(const char *name, struct user *user)
{
	memset(user, 0, sizeof(*user));
	if (!*name || !find_in_passwd(name, user))
		return -1;
	find_groups(user);
	return 0;
}

void user_self(struct user *user)
{
	char number[16];

	snprintf(number, sizeof(number), "%u", geteuid());
	if (user_find(number, user) == 0)
		return;
	*user = (struct user){ .uid = geteuid(), .gid = getegid(), .home = "/", .shell = "/bin/sh", .groupCount = 0 };
	snprintf(user->name, sizeof(user->name), "%s", number);
}
