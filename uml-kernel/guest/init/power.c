// SPDX-License-Identifier: Apache-2.0
#include <sys/reboot.h>
#include <unistd.h>

#include "init.h"

#define GRACE_MS 2000

void power_down(int command)
{
	say("init: %s", command == RB_AUTOBOOT ? "restarting" : "powering off");
	end_all_processes(GRACE_MS);
	unmount_all();
	reboot(command);
	/* The kernel refused: PID 1 must not end. */
	for (;;)
		pause();
}
