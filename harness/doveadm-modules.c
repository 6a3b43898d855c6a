/* Preloaded into the private server's doveadm: where it keeps its modules is
   compiled in (DOVEADM_MODULEDIR), and the system's directory is not ours to
   write to. Opens those of DOVETAIL_DOVEADM_MODULES instead. */

#include <dirent.h>
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The path, or what is there instead in buf. */
static const char *instead(const char *path, char buf[PATH_MAX])
{
	const char *dir = getenv("DOVETAIL_DOVEADM_MODULES");
	size_t size = strlen(DOVEADM_MODULES);

	if (dir == NULL || path == NULL ||
	    strncmp(path, DOVEADM_MODULES, size) != 0 ||
	    (path[size] != '\0' && path[size] != '/') ||
	    snprintf(buf, PATH_MAX, "%s%s", dir, path + size) >= PATH_MAX)
		return path;
	return buf;
}

DIR *opendir(const char *path)
{
	DIR *(*next)(const char *) = dlsym(RTLD_NEXT, "opendir");
	char buf[PATH_MAX];

	return next(instead(path, buf));
}

void *dlopen(const char *path, int flags)
{
	void *(*next)(const char *, int) = dlsym(RTLD_NEXT, "dlopen");
	char buf[PATH_MAX];

	return next(instead(path, buf), flags);
}

/* doveadm for several users ends with the last one's rights, but for a way back
   to root's. AddressSanitizer could not look for leaks then. */
static void __attribute__((destructor)) end(void)
{
	if (getuid() == 0 && geteuid() != 0 && seteuid(0) < 0)
		perror("seteuid");
}
