// SPDX-License-Identifier: Apache-2.0
/* The commands of a VM's `runcmd`: in order, in the background, once per boot. */
#ifndef MOBI_RUNCMD_H
#define MOBI_RUNCMD_H

#include "json.h"

/* Keeps them, unless this boot has run its commands already. */
void runcmd_want(const struct json *commands);
int runcmd_waiting(void);
/* Output goes to runcmd.log in the run folder. */
void runcmd_start(void);

#endif
