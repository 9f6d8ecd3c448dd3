// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <linux/fs.h>

#include "init.h"

#define EXT4_MAGIC 0xEF53
/* fs/ext4/ext4.h; the uapi headers do not have it in every release. */
#define EXT4_RESIZE _IOW('f', 16, uint64_t)

static const struct {
	const char *type, *target, *options;
	unsigned long flags;
	mode_t mode;
} mounts[] = {
	{ "proc", "/proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, 0555 },
	{ "sysfs", "/sys", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, 0555 },
	{ "devtmpfs", "/dev", "mode=0755", MS_NOSUID, 0755 },
	{ "devpts", "/dev/pts", "mode=0620,gid=5,ptmxmode=0666", MS_NOSUID | MS_NOEXEC, 0755 },
	{ "tmpfs", "/dev/shm", "mode=1777", MS_NOSUID | MS_NODEV, 01777 },
	{ "tmpfs", "/run", "mode=0755", MS_NOSUID | MS_NODEV, 0755 },
	{ "tmpfs", "/tmp", "mode=1777,size=90%", MS_NOSUID | MS_NODEV, 01777 },
	{ "cgroup2", "/sys/fs/cgroup", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, 0555 },
};

static void link_descriptors(void)
{
	static const char *const links[][2] = {
		{ "/proc/self/fd", "/dev/fd" },
		{ "/proc/self/fd/0", "/dev/stdin" },
		{ "/proc/self/fd/1", "/dev/stdout" },
		{ "/proc/self/fd/2", "/dev/stderr" },
	};

	for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++)
		if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST)
			say("init: %s: %s", links[i][1], strerror(errno));
}

void mount_all(void)
{
	/* `rw` on the command line has done it already, mostly. Inode tables of a grown disk are not zeroed in the background: that would only fill the overlay. */
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_NOATIME, "noinit_itable") < 0)
		say("init: / is not writable: %s", strerror(errno));
	for (size_t i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++) {
		mkdir(mounts[i].target, mounts[i].mode);
		/* EBUSY: the kernel has mounted devtmpfs itself. */
		if (mount(mounts[i].type, mounts[i].target, mounts[i].type, mounts[i].flags, mounts[i].options) < 0 &&
		    errno != EBUSY && strcmp(mounts[i].type, "cgroup2") != 0)
			say("init: %s on %s: %s", mounts[i].type, mounts[i].target, strerror(errno));
	}
	link_descriptors();
	mkdir("/run/lock", 01777);
}

/* A device node of the disk that / lies on, by its number: its name is the kernel's affair. */
static int open_root_disk(void)
{
	struct stat root;
	int fd;

	if (stat("/", &root) < 0)
		return -1;
	if (mknod("/dev/.rootdisk", S_IFBLK | 0400, root.st_dev) < 0)
		return -1;
	fd = open("/dev/.rootdisk", O_RDONLY | O_CLOEXEC);
	unlink("/dev/.rootdisk");
	return fd;
}

void grow_root(void)
{
	struct statfs fs;
	uint64_t diskBytes, blocks;
	int disk, root;

	if (statfs("/", &fs) < 0 || fs.f_type != EXT4_MAGIC)
		return;
	disk = open_root_disk();
	if (disk < 0 || ioctl(disk, BLKGETSIZE64, &diskBytes) < 0) {
		say("init: size of the root disk: %s", strerror(errno));
		if (disk >= 0)
			close(disk);
		return;
	}
	close(disk);
	blocks = diskBytes / fs.f_bsize;
	/* f_blocks leaves out the metadata, so it is below the disk's size also when all is done: the kernel says EINVAL or 0 then. */
	root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return;
	if (ioctl(root, EXT4_RESIZE, &blocks) < 0 && errno != EINVAL)
		say("init: growing / to %llu blocks: %s", (unsigned long long)blocks, strerror(errno));
	close(root);
}

void unmount_all(void)
{
	sync();
	for (int i = sizeof(mounts) / sizeof(mounts[0]) - 1; i >= 0; i--)
		if (strcmp(mounts[i].target, "/proc") != 0 && strncmp(mounts[i].target, "/dev", 4) != 0)
			umount2(mounts[i].target, MNT_DETACH);
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0)
		say("init: / could not be made read-only: %s", strerror(errno));
	sync();
}
