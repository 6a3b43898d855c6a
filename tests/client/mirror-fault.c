/* Preloaded into dovetail by the tests of the mirror: what a machine does to a process that no test can order in another way.

   MIRROR_KILL_AT=n: SIGKILL in place of the nth call that changes a name in a folder or makes something durable.
   MIRROR_NO_LEASES=1: the file system knows no leases. */

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static void count(void)
{
	static long left = -1;
	const char *at = getenv("MIRROR_KILL_AT");

	if (left < 0)
		left = at != NULL ? strtol(at, NULL, 10) : 0;
	if (left > 0 && --left == 0)
		raise(SIGKILL);
}

/* the C library's */
#define NEXT(name) __typeof__(&name) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int renameat2(int old_fd, const char *old, int new_fd, const char *new, unsigned int flags)
{
	NEXT(renameat2);

	count();
	return next(old_fd, old, new_fd, new, flags);
}

int linkat(int old_fd, const char *old, int new_fd, const char *new, int flags)
{
	NEXT(linkat);

	count();
	return next(old_fd, old, new_fd, new, flags);
}

int unlinkat(int fd, const char *name, int flags)
{
	NEXT(unlinkat);

	count();
	return next(fd, name, flags);
}

int fsync(int fd)
{
	NEXT(fsync);

	count();
	return next(fd);
}

/* SQLite's */
int fdatasync(int fd)
{
	NEXT(fdatasync);

	count();
	return next(fd);
}

int fcntl64(int fd, int command, ...)
{
	NEXT(fcntl64);
	va_list args;
	void *arg;

	va_start(args, command);
	arg = va_arg(args, void *);
	va_end(args);
	if (command == F_SETLEASE && getenv("MIRROR_NO_LEASES") != NULL) {
		errno = EINVAL;
		return -1;
	}
	return next(fd, command, arg);
}
