#ifndef DURABLE_H
#define DURABLE_H

/* For the one file of a test program that looks at what is made durable. */

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What was made durable, by its path at that time, in order. These are found before the C library's, by SQLite, too. */
static char durable[4096];

static void durable_note(int fd)
{
	char link[64], path[PATH_MAX];
	ssize_t size;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	size = readlink(link, path, sizeof(path));
	if (size > 0 && strlen(durable) + size + 2 < sizeof(durable))
		snprintf(durable + strlen(durable), sizeof(durable) - strlen(durable), "%.*s\n", (int)size, path);
}

int fsync(int fd)
{
	durable_note(fd);
	return syscall(SYS_fsync, fd);
}

#endif
