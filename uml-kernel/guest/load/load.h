// SPDX-License-Identifier: Apache-2.0
/*
 * Loads that notice when a move has broken something. Each runs until --seconds are over
 * or a SIGTERM, prints a line of JSON per second, and ends with 0 (all was right) or 1.
 */
#ifndef MOBI_LOAD_H
#define MOBI_LOAD_H

#include "../common/args.h"
#include "../common/ticker.h"

#define LINE_MS 1000

int avxhold_main(const struct args *args);
int ramcheck_main(const struct args *args);
int tcpstream_main(const struct args *args);
int uptimecheck_main(const struct args *args);
int guestbench_main(const struct args *args);
int spin_main(const struct args *args);
int dirty_main(const struct args *args);
int look_main(const struct args *args);

#endif
