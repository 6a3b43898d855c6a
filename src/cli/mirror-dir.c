/* The mirrored folder: opening it, its own hidden folder, its lock and its marker. */

#include "mirror-dir.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <unistd.h>

#define MARKER "mirror"

enum mirror_result mirror_fail(struct mirror_dir *dir, enum mirror_result result, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(dir->error, sizeof(dir->error), format, args);
	va_end(args);
	return result;
}

enum mirror_result mirror_fail_errno(struct mirror_dir *dir, const char *what)
{
	return mirror_fail(dir, MIRROR_FAILED, "%s: %s", what, strerror(errno));
}

void mirror_random_name(char name_r[MIRROR_ID_SIZE])
{
	unsigned char octets[16] = { 0 };
	unsigned int i;

	/* If it fails names may meet; then what makes them fails with EEXIST */
	if (getrandom(octets, sizeof(octets), 0) != sizeof(octets))
		snprintf((char *)octets, sizeof(octets), "%d", (int)getpid());
	for (i = 0; i < sizeof(octets); i++)
		snprintf(name_r + 2 * i, 3, "%02x", octets[i]);
}

/* A folder of our own, in fd. -1: dir->error. */
static int open_own(struct mirror_dir *dir, int fd, const char *name)
{
	struct stat st;
	int own;

	if (mkdirat(fd, name, 0700) < 0 && errno != EEXIST) {
		mirror_fail_errno(dir, name);
		return -1;
	}
	own = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (own < 0) {
		mirror_fail_errno(dir, name);
	} else if (fstat(own, &st) < 0 || st.st_uid != geteuid() || st.st_dev != dir->root.st_dev) {
		mirror_fail(dir, MIRROR_FAILED, "%s is not ours, or on another file system", name);
		close(own);
		own = -1;
	}
	return own;
}

static bool marker_read(struct mirror_dir *dir, bool *found_r)
{
	int fd = openat(dir->own_fd, MARKER, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	ssize_t size;

	*found_r = false;
	if (fd < 0 && errno == ENOENT)
		return true;
	if (fd < 0) {
		mirror_fail_errno(dir, MIRROR_OWN "/" MARKER);
		return false;
	}
	size = read(fd, dir->id, MIRROR_ID_SIZE - 1);
	close(fd);
	/* one that a crash has left empty is as none */
	*found_r = size == MIRROR_ID_SIZE - 1;
	return true;
}

static bool marker_write(struct mirror_dir *dir)
{
	char name[MIRROR_ID_SIZE];
	bool ok;
	int fd;

	mirror_random_name(dir->id);
	mirror_random_name(name);
	fd = openat(dir->tmp_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	ok = fd >= 0 && write(fd, dir->id, MIRROR_ID_SIZE - 1) == MIRROR_ID_SIZE - 1 && fsync(fd) == 0;
	if (fd >= 0)
		ok = close(fd) == 0 && ok;
	ok = ok && renameat(dir->tmp_fd, name, dir->own_fd, MARKER) == 0 && fsync(dir->own_fd) == 0;
	if (!ok)
		mirror_fail_errno(dir, MIRROR_OWN "/" MARKER);
	return ok;
}

/* Without exchanging two files at once a file could be away for a moment, and a crash then would be its removal. */
static bool can_exchange(struct mirror_dir *dir)
{
	char a[MIRROR_ID_SIZE], b[MIRROR_ID_SIZE];
	bool ok;

	mirror_random_name(a);
	mirror_random_name(b);
	ok = mkdirat(dir->tmp_fd, a, 0700) == 0 && mkdirat(dir->trash_fd, b, 0700) == 0 &&
		renameat2(dir->tmp_fd, a, dir->trash_fd, b, RENAME_EXCHANGE) == 0;
	if (!ok)
		mirror_fail(dir, MIRROR_FAILED, "the file system cannot exchange files, or not with the trash: %s",
			    strerror(errno));
	(void)unlinkat(dir->tmp_fd, a, AT_REMOVEDIR);
	(void)unlinkat(dir->trash_fd, b, AT_REMOVEDIR);
	return ok;
}

/* Whether the trash is the folder, or in it (in .dovetail it may be): then what is removed would be a new file. */
static bool is_mirrored(struct mirror_dir *dir)
{
	struct stat st, own, above;
	bool found = false, end = fstat(dir->own_fd, &own) < 0 || fstat(dir->trash_fd, &st) < 0;
	int fd = fcntl(dir->trash_fd, F_DUPFD_CLOEXEC, 3), next;

	while (!end && fd >= 0) {
		found = st.st_dev == dir->root.st_dev && st.st_ino == dir->root.st_ino;
		next = openat(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		close(fd);
		fd = next;
		/* the top is above itself */
		end = found || (st.st_dev == own.st_dev && st.st_ino == own.st_ino) || fd < 0 || fstat(fd, &above) < 0 ||
			(above.st_dev == st.st_dev && above.st_ino == st.st_ino);
		st = above;
	}
	if (fd >= 0)
		close(fd);
	return found;
}

static bool open_trash(struct mirror_dir *dir, const char *trash)
{
	struct stat st;

	if (trash == NULL) {
		dir->trash_fd = open_own(dir, dir->own_fd, "trash");
		return dir->trash_fd >= 0;
	}
	if (mkdir(trash, 0700) < 0 && errno != EEXIST) {
		mirror_fail_errno(dir, trash);
		return false;
	}
	dir->trash_fd = open(trash, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir->trash_fd < 0 || fstat(dir->trash_fd, &st) < 0) {
		mirror_fail_errno(dir, trash);
		return false;
	}
	if (is_mirrored(dir)) {
		mirror_fail(dir, MIRROR_FAILED, "%s: the trash cannot be in what is mirrored", trash);
		return false;
	}
	return true;
}

static bool open_all(struct mirror_dir *dir, const char *trash, bool *busy_r)
{
	bool found;

	dir->root_fd = open(dir->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir->root_fd < 0 || fstat(dir->root_fd, &dir->root) < 0) {
		mirror_fail(dir, MIRROR_FAILED, "%s", strerror(errno));
		return false;
	}
	dir->own_fd = open_own(dir, dir->root_fd, MIRROR_OWN);
	if (dir->own_fd < 0)
		return false;
	dir->lock_fd = openat(dir->own_fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (dir->lock_fd < 0 || flock(dir->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		*busy_r = dir->lock_fd >= 0 && errno == EWOULDBLOCK;
		mirror_fail_errno(dir, MIRROR_OWN "/lock");
		return false;
	}
	dir->tmp_fd = open_own(dir, dir->own_fd, "tmp");
	if (dir->tmp_fd < 0 || !open_trash(dir, trash) || !can_exchange(dir) || !marker_read(dir, &found))
		return false;
	return found || marker_write(dir);
}

bool mirror_dir_open(struct mirror_dir *dir, const char *path, const char *trash, bool *busy_r)
{
	memset(dir, 0, sizeof(*dir));
	*busy_r = false;
	/* comes when somebody waits for a file that we look at (F_SETLEASE); its default is to end us */
	signal(SIGIO, SIG_IGN);
	dir->root_fd = dir->own_fd = dir->tmp_fd = dir->trash_fd = dir->lock_fd = -1;
	dir->path = strdup(path);
	if (dir->path != NULL && open_all(dir, trash, busy_r))
		return true;
	if (dir->path == NULL)
		mirror_fail(dir, MIRROR_FAILED, "out of memory");
	mirror_dir_close(dir);
	return false;
}

void mirror_dir_close(struct mirror_dir *dir)
{
	int *const fds[] = { &dir->root_fd, &dir->own_fd, &dir->tmp_fd, &dir->trash_fd, &dir->lock_fd };
	unsigned int i;

	for (i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		if (*fds[i] >= 0)
			close(*fds[i]);
		*fds[i] = -1;
	}
	while (dir->unsynced_count > 0)
		close(dir->unsynced[--dir->unsynced_count]);
	free(dir->path);
	dir->path = NULL;
}

bool mirror_dir_is_there(struct mirror_dir *dir)
{
	struct stat st;

	return stat(dir->path, &st) == 0 && st.st_dev == dir->root.st_dev && st.st_ino == dir->root.st_ino &&
		faccessat(dir->root_fd, MIRROR_OWN "/" MARKER, F_OK, 0) == 0;
}
