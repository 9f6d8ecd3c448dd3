// SPDX-License-Identifier: Apache-2.0
/* CONFIGURE: host name, NICs and, once per boot, the commands of `runcmd`. */
#ifndef MOBI_CONFIGURE_H
#define MOBI_CONFIGURE_H

#include "buffer.h"
#include "json.h"

#define MAX_NICS 32

/*
 * Makes it so; NICs that are not there yet are set when they appear. `wanted` may be
 * NULL (no JSON). Writes the RESULT's JSON.
 */
void configure(const struct json *wanted, struct buffer *result);
/* After events: does what has become possible (a NIC appeared, the time for runcmd came). */
void configure_continue(void);
/* Milliseconds until configure_continue() has something to do without an event; -1: never. */
int configure_timeout_ms(void);

#endif
