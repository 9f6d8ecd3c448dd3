// SPDX-License-Identifier: Apache-2.0
/* /etc/passwd and /etc/group, read by ourselves: a static program must not load name service modules. */
#ifndef MOBI_USERS_H
#define MOBI_USERS_H

#include <sys/types.h>

#define USER_MAX_GROUPS 64

struct user {
	char name[64], home[256], shell[256];
	uid_t uid;
	gid_t gid, groups[USER_MAX_GROUPS];
	int groupCount;
};

/* By name or number. 0, or -1 if there is none. */
int user_find(const char *name, struct user *user);
/* Whom this process runs as: root, in a guest. */
void user_self(struct user *user);

#endif
