/* Reading the mirrored folder: walking to a file, reading one that nobody writes. */

#include "mirror-dir.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The clock of file times may be as coarse as this (ns): a file that is younger can change again without a new time. */
#define YOUNG 20000000

void mirror_hash(const void *data, size_t size, unsigned char hash_r[MIRROR_HASH_SIZE])
{
	crypto_generichash(hash_r, MIRROR_HASH_SIZE, data, size, NULL, 0);
}

void mirror_stat_set(struct mirror_stat *stat_r, const struct stat *st)
{
	struct timespec now;
	int64_t age;

	stat_r->dev = st->st_dev;
	stat_r->ino = st->st_ino;
	stat_r->size = st->st_size;
	stat_r->mtime = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
	stat_r->ctime = (int64_t)st->st_ctim.tv_sec * 1000000000 + st->st_ctim.tv_nsec;
	clock_gettime(CLOCK_REALTIME, &now);
	age = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec - stat_r->ctime;
	if (age < YOUNG)
		stat_r->ctime = 0;
}

bool mirror_stat_same(const struct mirror_stat *a, const struct mirror_stat *b)
{
	return a->ctime != 0 && a->ctime == b->ctime && a->mtime == b->mtime && a->size == b->size && a->ino == b->ino &&
		a->dev == b->dev;
}

/* One component. name is NUL-terminated and no path. */
static enum mirror_result open_folder(struct mirror_dir *dir, int parent, const char *name, bool make, int *fd_r)
{
	struct stat st;
	enum mirror_result result;

	for (;;) {
		*fd_r = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (*fd_r >= 0)
			break;
		if (errno == ENOENT && !make)
			return MIRROR_ABSENT;
		if (errno == ENOENT && (mkdirat(parent, name, 0777) == 0 || errno == EEXIST))
			continue;
		if (errno != ENOTDIR && errno != ELOOP)
			return mirror_fail(dir, MIRROR_FAILED, "%s", strerror(errno));
		if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
			if (errno == ENOENT)
				continue;
			return mirror_fail(dir, MIRROR_FAILED, "%s", strerror(errno));
		}
		if (!S_ISREG(st.st_mode)) {
			return mirror_fail(dir, MIRROR_LEFT_ALONE,
					   S_ISLNK(st.st_mode) ? "%s is a symbolic link" : "%s is no folder", name);
		}
		if (!make)
			return MIRROR_ABSENT;
		result = mirror_file_to_folder(dir, parent, name);
		if (result != MIRROR_OK)
			return result;
	}
	if (fstat(*fd_r, &st) == 0 && st.st_dev == dir->root.st_dev)
		return MIRROR_OK;
	close(*fd_r);
	*fd_r = -1;
	return mirror_fail(dir, MIRROR_LEFT_ALONE, "%s is on another file system", name);
}

enum mirror_result mirror_dir_parent(struct mirror_dir *dir, const char *path, bool make, int *fd_r, const char **leaf_r)
{
	char name[MIRROR_FILE_MAX + 1];
	enum mirror_result result;
	size_t size;
	int fd, next;

	fd = fcntl(dir->root_fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return mirror_fail_errno(dir, dir->path);
	for (; path[size = strcspn(path, "/")] != '\0'; path += size + 1) {
		if (size == 0 || size > MIRROR_FILE_MAX) {
			close(fd);
			return mirror_fail(dir, MIRROR_LEFT_ALONE, "a file's name has at most %u octets", MIRROR_FILE_MAX);
		}
		memcpy(name, path, size);
		name[size] = '\0';
		result = open_folder(dir, fd, name, make, &next);
		close(fd);
		if (result != MIRROR_OK)
			return result;
		fd = next;
	}
	*fd_r = fd;
	*leaf_r = path;
	return MIRROR_OK;
}

enum mirror_result mirror_dir_list(struct mirror_dir *dir, const char *path, DIR **stream_r)
{
	enum mirror_result result = MIRROR_OK;
	const char *leaf;
	int parent, fd;

	if (*path == '\0') {
		/* not a duplicate: it would share the position */
		fd = openat(dir->root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0)
			return mirror_fail_errno(dir, dir->path);
	} else {
		result = mirror_dir_parent(dir, path, false, &parent, &leaf);
		if (result != MIRROR_OK)
			return result;
		result = open_folder(dir, parent, leaf, false, &fd);
		close(parent);
		if (result != MIRROR_OK)
			return result;
	}
	*stream_r = fdopendir(fd);
	if (*stream_r != NULL)
		return MIRROR_OK;
	close(fd);
	return mirror_fail_errno(dir, path);
}

bool mirror_is_folder(struct mirror_dir *dir, const char *path)
{
	const char *leaf;
	struct stat st;
	bool found;
	int fd;

	if (mirror_dir_parent(dir, path, false, &fd, &leaf) != MIRROR_OK)
		return false;
	found = fstatat(fd, leaf, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
	close(fd);
	return found;
}

bool mirror_exists(struct mirror_dir *dir, const char *path)
{
	enum mirror_result result;
	const char *leaf;
	struct stat st;
	bool absent;
	int fd;

	result = mirror_dir_parent(dir, path, false, &fd, &leaf);
	if (result != MIRROR_OK)
		return result != MIRROR_ABSENT;
	absent = fstatat(fd, leaf, &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT;
	close(fd);
	return !absent;
}

/* ---- Reading ---- */

void mirror_file_free(struct mirror_file *file)
{
	free(file->data);
	file->data = NULL;
}

/* All of fd, whose stat is st. */
static enum mirror_result read_all(struct mirror_dir *dir, int fd, const struct stat *st, struct mirror_file *file)
{
	size_t used = 0;
	ssize_t n = 1;

	file->data = malloc(st->st_size + 1);
	if (file->data == NULL)
		return mirror_fail(dir, MIRROR_FAILED, "out of memory");
	/* one octet more than there should be */
	while (n > 0 && used <= (size_t)st->st_size) {
		n = read(fd, file->data + used, st->st_size + 1 - used);
		if (n < 0)
			return mirror_fail_errno(dir, "read");
		used += n;
	}
	if (used != (size_t)st->st_size)
		return mirror_fail(dir, MIRROR_BUSY, "it changes while it is read");
	file->data[used] = '\0';
	file->size = used;
	mirror_hash(file->data, used, file->hash);
	return MIRROR_OK;
}

static enum mirror_result
read_open(struct mirror_dir *dir, int fd, uint64_t max, const struct mirror_stat *known, bool *known_r, struct mirror_file *file)
{
	struct stat before, after;
	enum mirror_result result;

	if (fstat(fd, &before) < 0)
		return mirror_fail_errno(dir, "stat");
	if (!S_ISREG(before.st_mode))
		return mirror_fail(dir, MIRROR_LEFT_ALONE, "no regular file");
	/* Fails if somebody has the file open for writing, and stops who wants to until it is closed. A file system without
	   leases: then the times have to do. */
	if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0 && errno == EAGAIN)
		return mirror_fail(dir, MIRROR_BUSY, "somebody has it open for writing");
	if (fstat(fd, &before) < 0)
		return mirror_fail_errno(dir, "stat");
	mirror_stat_set(&file->stat, &before);
	if ((uint64_t)before.st_size > max)
		return mirror_fail(dir, MIRROR_LEFT_ALONE, "it has %llu octets, %llu are allowed",
				   (unsigned long long)before.st_size, (unsigned long long)max);
	if (known != NULL && (*known_r = mirror_stat_same(&file->stat, known)))
		return MIRROR_OK;
	result = read_all(dir, fd, &before, file);
	if (result == MIRROR_OK && (fstat(fd, &after) < 0 || after.st_size != before.st_size ||
				    memcmp(&after.st_mtim, &before.st_mtim, sizeof(after.st_mtim)) != 0))
		result = mirror_fail(dir, MIRROR_BUSY, "it changes while it is read");
	if (result != MIRROR_OK)
		mirror_file_free(file);
	return result;
}

enum mirror_result mirror_file_read(struct mirror_dir *dir, const char *path, uint64_t max, const struct mirror_stat *known,
				    bool *known_r, struct mirror_file *file_r)
{
	enum mirror_result result;
	const char *leaf;
	struct stat st;
	int parent, fd;

	memset(file_r, 0, sizeof(*file_r));
	if (known_r != NULL)
		*known_r = false;
	result = mirror_dir_parent(dir, path, false, &parent, &leaf);
	if (result != MIRROR_OK)
		return result;
	/* a look first: opening a device may do things */
	if (fstatat(parent, leaf, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		result = errno == ENOENT || errno == ENOTDIR ? MIRROR_ABSENT : mirror_fail_errno(dir, leaf);
	} else if (S_ISDIR(st.st_mode)) {
		result = MIRROR_ABSENT;
	} else if (!S_ISREG(st.st_mode)) {
		result = mirror_fail(dir, MIRROR_LEFT_ALONE, S_ISLNK(st.st_mode) ? "a symbolic link" : "no regular file");
	} else {
		fd = openat(parent, leaf, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (fd < 0) {
			result = errno == ENOENT || errno == ELOOP || errno == EWOULDBLOCK ?
				mirror_fail(dir, MIRROR_BUSY, "it changes") : mirror_fail_errno(dir, "open");
		} else {
			result = read_open(dir, fd, max, known, known_r, file_r);
			close(fd);
		}
	}
	close(parent);
	return result;
}
