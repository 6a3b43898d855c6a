/* Writing and removing in the mirrored folder so that nothing that the caller has not seen is lost.

   A file is written in .dovetail/tmp, made durable, and exchanged in one step with what is at its place; what was there is then
   looked at in .dovetail/tmp. While this goes on a read lease is held on the old file: nobody can open it for writing meanwhile
   without that we see it. If it is not what was expected, the exchange is undone. A file that cannot be put back (its place has
   been taken again) is kept as a conflicting version. What was replaced goes to the trash, so that even a program that writes
   through a descriptor of an hour ago writes into a file that exists.

   Many files are brought to the disk together: all are written, then all are made durable (the first fsync() has most of the
   work, since writing has begun for all), then each is put in its place, and the folders follow with mirror_dir_sync(). */

#include "mirror-dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A file of the tree, opened for a look. */
struct old_file {
	/* -1: none */
	int fd;
	bool leased;
	struct stat st;
};

static void old_close(struct old_file *old)
{
	if (old->fd >= 0)
		close(old->fd);
	old->fd = -1;
}

static bool same_version(const struct stat *st, const struct mirror_stat *expect)
{
	struct mirror_stat now;

	mirror_stat_set(&now, st);
	return now.ino == expect->ino && now.dev == expect->dev && now.size == expect->size && now.mtime == expect->mtime &&
		(now.ctime == 0 || expect->ctime == 0 || now.ctime == expect->ctime);
}

static enum mirror_result
old_open(struct mirror_dir *dir, int parent, const char *leaf, const struct mirror_stat *expect, struct old_file *old)
{
	old->leased = false;
	old->fd = openat(parent, leaf, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (old->fd < 0) {
		return errno == ENOENT || errno == ELOOP || errno == EWOULDBLOCK || errno == ENXIO ?
			mirror_fail(dir, MIRROR_BUSY, "it changes") : mirror_fail_errno(dir, "open");
	}
	old->leased = fcntl(old->fd, F_SETLEASE, F_RDLCK) == 0;
	if (!old->leased && errno == EAGAIN) {
		old_close(old);
		return mirror_fail(dir, MIRROR_BUSY, "somebody has it open for writing");
	}
	if (fstat(old->fd, &old->st) == 0 && S_ISREG(old->st.st_mode) && same_version(&old->st, expect))
		return MIRROR_OK;
	old_close(old);
	return mirror_fail(dir, MIRROR_BUSY, "it has changed");
}

/* Whether the file called name in tmp is the one that was opened, unchanged, and nobody waits for writing it. */
static bool old_is(struct mirror_dir *dir, const struct old_file *old, const char *name)
{
	struct stat st;

	if (old->leased && fcntl(old->fd, F_GETLEASE) != F_RDLCK)
		return false;
	return fstatat(dir->tmp_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_ino == old->st.st_ino &&
		st.st_dev == old->st.st_dev && st.st_size == old->st.st_size &&
		memcmp(&st.st_mtim, &old->st.st_mtim, sizeof(st.st_mtim)) == 0;
}

/* What is in tmp and should be at its place again, which is taken: a name of its own beside it. */
static enum mirror_result rescue(struct mirror_dir *dir, const char *name, int parent, const char *leaf)
{
	char id[MIRROR_ID_SIZE], path[MIRROR_PATH_MAX + 1];

	mirror_random_name(id);
	id[16] = '\0';
	if (mirror_name_conflict(leaf, id, 1, path) && renameat2(dir->tmp_fd, name, parent, path, RENAME_NOREPLACE) == 0)
		return mirror_fail(dir, MIRROR_BUSY, "it was changed, and kept as %s", path);
	/* still there, and the next start moves it to the trash */
	return mirror_fail_errno(dir, "keeping a changed version");
}

/* ---- A new file ---- */

static enum mirror_result write_all(struct mirror_dir *dir, int fd, const char *data, size_t size)
{
	ssize_t n;

	while (size > 0) {
		n = write(fd, data, size);
		if (n < 0)
			return mirror_fail_errno(dir, "write");
		data += n;
		size -= n;
	}
	return MIRROR_OK;
}

enum mirror_result mirror_new_write(struct mirror_dir *dir, const void *data, size_t size, struct mirror_new *new_r)
{
	enum mirror_result result;

	mirror_random_name(new_r->name);
	new_r->fd = openat(dir->tmp_fd, new_r->name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (new_r->fd < 0)
		return mirror_fail_errno(dir, "open");
	result = write_all(dir, new_r->fd, data, size);
	if (result != MIRROR_OK)
		mirror_new_drop(dir, new_r);
	else
		/* only to be quicker */
		(void)sync_file_range(new_r->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
	return result;
}

enum mirror_result mirror_new_sync(struct mirror_dir *dir, const struct mirror_new *new)
{
	return fsync(new->fd) < 0 ? mirror_fail_errno(dir, "fsync") : MIRROR_OK;
}

static void new_close(struct mirror_new *new)
{
	if (new->fd >= 0)
		close(new->fd);
	new->fd = -1;
}

void mirror_new_drop(struct mirror_dir *dir, struct mirror_new *new)
{
	if (new->fd < 0)
		return;
	new_close(new);
	(void)unlinkat(dir->tmp_fd, new->name, 0);
}

/* The old file's mode, if it has another one. *st_r: the new file's stat. */
static enum mirror_result
new_stat(struct mirror_dir *dir, const struct mirror_new *new, const struct old_file *old, struct stat *st_r)
{
	mode_t mode = old->st.st_mode & 0777;

	if (fstat(new->fd, st_r) < 0)
		return mirror_fail_errno(dir, "stat");
	if (old->fd < 0 || (st_r->st_mode & 0777) == mode)
		return MIRROR_OK;
	if (fchmod(new->fd, mode) < 0 || fsync(new->fd) < 0 || fstat(new->fd, st_r) < 0)
		return mirror_fail_errno(dir, "chmod");
	return MIRROR_OK;
}

static bool is_new(const struct stat *st, const struct stat *new)
{
	return st->st_ino == new->st_ino && st->st_size == new->st_size &&
		memcmp(&st->st_mtim, &new->st_mtim, sizeof(st->st_mtim)) == 0;
}

/* The new file is name in tmp, the old one at its place. */
static enum mirror_result
exchange(struct mirror_dir *dir, const char *name, const struct stat *new, int parent, const char *path, const char *leaf,
	 const struct old_file *old)
{
	struct stat st;

	if (renameat2(dir->tmp_fd, name, parent, leaf, RENAME_EXCHANGE) < 0) {
		int error = errno;

		(void)unlinkat(dir->tmp_fd, name, 0);
		errno = error;
		return errno == ENOENT ? mirror_fail(dir, MIRROR_BUSY, "it has gone") : mirror_fail_errno(dir, "rename");
	}
	if (old_is(dir, old, name)) {
		/* even if that fails it is in tmp, and the next start moves it */
		(void)mirror_trash_take(dir, name, path);
		return MIRROR_OK;
	}
	/* not what was expected: back */
	if (renameat2(dir->tmp_fd, name, parent, leaf, RENAME_EXCHANGE) < 0)
		return rescue(dir, name, parent, leaf);
	if (fstatat(dir->tmp_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && is_new(&st, new)) {
		/* not just removed: somebody may have opened it while it was there, and write to it now */
		(void)mirror_trash_take(dir, name, path);
		return mirror_fail(dir, MIRROR_BUSY, "it has changed");
	}
	return rescue(dir, name, parent, leaf);
}

/* ---- Putting it in its place, and removing ---- */

static enum mirror_result sync_one(struct mirror_dir *dir, int folder)
{
	enum mirror_result result = fsync(folder) < 0 ? mirror_fail_errno(dir, "fsync") : MIRROR_OK;

	close(folder);
	return result;
}

/* Takes over the folder's descriptor: something in it has changed. */
static enum mirror_result sync_later(struct mirror_dir *dir, int folder)
{
	struct stat now, st;
	unsigned int i;

	if (fstat(folder, &now) < 0)
		return sync_one(dir, folder);
	for (i = 0; i < dir->unsynced_count; i++) {
		if (fstat(dir->unsynced[i], &st) == 0 && st.st_ino == now.st_ino && st.st_dev == now.st_dev) {
			close(folder);
			return MIRROR_OK;
		}
	}
	if (i == MIRROR_UNSYNCED_MAX)
		return sync_one(dir, folder);
	dir->unsynced[dir->unsynced_count++] = folder;
	return MIRROR_OK;
}

enum mirror_result mirror_dir_sync(struct mirror_dir *dir)
{
	enum mirror_result result = MIRROR_OK, one;

	while (dir->unsynced_count > 0) {
		one = sync_one(dir, dir->unsynced[--dir->unsynced_count]);
		if (one != MIRROR_OK)
			result = one;
	}
	return result;
}

enum mirror_result mirror_new_place(struct mirror_dir *dir, struct mirror_new *new, const char *path,
				    const struct mirror_stat *expect, struct mirror_stat *stat_r)
{
	struct old_file old = { .fd = -1 };
	enum mirror_result result;
	struct stat st, now;
	const char *leaf;
	int parent;

	memset(stat_r, 0, sizeof(*stat_r));
	result = mirror_dir_parent(dir, path, expect == NULL, &parent, &leaf);
	if (result != MIRROR_OK) {
		mirror_new_drop(dir, new);
		return result == MIRROR_ABSENT ? mirror_fail(dir, MIRROR_BUSY, "its folder has gone") : result;
	}
	if (expect != NULL)
		result = old_open(dir, parent, leaf, expect, &old);
	if (result == MIRROR_OK)
		result = new_stat(dir, new, &old, &st);
	if (result != MIRROR_OK) {
		mirror_new_drop(dir, new);
	} else if (expect != NULL) {
		result = exchange(dir, new->name, &st, parent, path, leaf, &old);
	} else if (renameat2(dir->tmp_fd, new->name, parent, leaf, RENAME_NOREPLACE) < 0) {
		result = errno == EEXIST ? mirror_fail(dir, MIRROR_BUSY, "there is something") : mirror_fail_errno(dir, "rename");
		mirror_new_drop(dir, new);
	}
	new_close(new);
	if (result == MIRROR_OK && fstatat(parent, leaf, &now, AT_SYMLINK_NOFOLLOW) == 0 && is_new(&now, &st))
		mirror_stat_set(stat_r, &now);
	old_close(&old);
	if (result != MIRROR_OK)
		close(parent);
	else
		result = sync_later(dir, parent);
	return result;
}

enum mirror_result mirror_file_place(struct mirror_dir *dir, const char *path, const void *data, size_t size,
				     const struct mirror_stat *expect, struct mirror_stat *stat_r)
{
	enum mirror_result result;
	struct mirror_new new;

	result = mirror_new_write(dir, data, size, &new);
	if (result != MIRROR_OK)
		return result;
	result = mirror_new_sync(dir, &new);
	if (result == MIRROR_OK)
		result = mirror_new_place(dir, &new, path, expect, stat_r);
	else
		mirror_new_drop(dir, &new);
	return result == MIRROR_OK ? mirror_dir_sync(dir) : result;
}

enum mirror_result mirror_file_remove(struct mirror_dir *dir, const char *path, const struct mirror_stat *expect)
{
	struct old_file old = { .fd = -1 };
	char name[MIRROR_ID_SIZE];
	enum mirror_result result;
	const char *leaf;
	int parent;

	result = mirror_dir_parent(dir, path, false, &parent, &leaf);
	if (result != MIRROR_OK)
		return result == MIRROR_ABSENT ? MIRROR_OK : result;
	result = old_open(dir, parent, leaf, expect, &old);
	if (result == MIRROR_OK) {
		mirror_random_name(name);
		if (renameat2(parent, leaf, dir->tmp_fd, name, RENAME_NOREPLACE) < 0)
			result = mirror_fail_errno(dir, "rename");
	}
	if (result == MIRROR_OK && !old_is(dir, &old, name)) {
		if (renameat2(dir->tmp_fd, name, parent, leaf, RENAME_NOREPLACE) < 0)
			result = rescue(dir, name, parent, leaf);
		else
			result = mirror_fail(dir, MIRROR_BUSY, "it has changed");
	} else if (result == MIRROR_OK) {
		(void)mirror_trash_take(dir, name, path);
	}
	old_close(&old);
	if (result != MIRROR_OK)
		close(parent);
	else
		result = sync_later(dir, parent);
	return result;
}

void mirror_remove_empty(struct mirror_dir *dir, const char *path)
{
	char folder[MIRROR_PATH_MAX + 1], *slash;
	const char *leaf;
	int parent;

	snprintf(folder, sizeof(folder), "%s", path);
	while ((slash = strrchr(folder, '/')) != NULL) {
		*slash = '\0';
		if (mirror_dir_parent(dir, folder, false, &parent, &leaf) != MIRROR_OK)
			continue;
		if (unlinkat(parent, leaf, AT_REMOVEDIR) < 0 && errno != ENOENT && errno != ENOTDIR) {
			close(parent);
			break;
		}
		close(parent);
	}
}

/* ---- A file that becomes a folder, and back ---- */

enum mirror_result mirror_file_to_folder(struct mirror_dir *dir, int fd, const char *leaf)
{
	char name[MIRROR_ID_SIZE];
	enum mirror_result result = MIRROR_OK;
	struct stat st;
	int folder;

	/* a second name of the file in a new folder, and the folder changes places with the first name: the file is never away */
	mirror_random_name(name);
	if (mkdirat(dir->tmp_fd, name, 0777) < 0)
		return mirror_fail_errno(dir, "mkdir");
	folder = openat(dir->tmp_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (folder < 0 || linkat(fd, leaf, folder, MIRROR_INSIDE, 0) < 0 ||
	    fstatat(folder, MIRROR_INSIDE, &st, AT_SYMLINK_NOFOLLOW) < 0 || fsync(folder) < 0 ||
	    renameat2(dir->tmp_fd, name, fd, leaf, RENAME_EXCHANGE) < 0) {
		result = errno == ENOENT ? mirror_fail(dir, MIRROR_BUSY, "it changes") :
			mirror_fail_errno(dir, "making a folder of a file");
		if (folder >= 0)
			(void)unlinkat(folder, MIRROR_INSIDE, 0);
		(void)unlinkat(dir->tmp_fd, name, AT_REMOVEDIR);
	} else {
		struct stat old;

		/* the first name is in tmp now, unless something else had taken it: then that is kept */
		if (fstatat(dir->tmp_fd, name, &old, AT_SYMLINK_NOFOLLOW) == 0 && old.st_ino == st.st_ino)
			(void)unlinkat(dir->tmp_fd, name, 0);
		else
			(void)rescue(dir, name, fd, leaf);
		if (fsync(fd) < 0)
			result = mirror_fail_errno(dir, "fsync");
	}
	if (folder >= 0)
		close(folder);
	return result;
}

/* Whether MIRROR_INSIDE is all that the folder has. The folder's descriptor remains. */
static bool has_inside_only(int folder)
{
	int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *stream = fd >= 0 ? fdopendir(fd) : NULL;
	const struct dirent *entry;
	unsigned int inside = 0, others = 0;

	if (stream == NULL) {
		if (fd >= 0)
			close(fd);
		return false;
	}
	while ((entry = readdir(stream)) != NULL) {
		if (strcmp(entry->d_name, MIRROR_INSIDE) == 0)
			inside++;
		else if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			others++;
	}
	closedir(stream);
	return inside == 1 && others == 0;
}

/* The folder is in tmp now, and its MIRROR_INSIDE a second name of the file leaf in parent: it goes, unless somebody has put
   another file in its place meanwhile, who had seen the folder still. */
static enum mirror_result drop_inside(struct mirror_dir *dir, int folder, int parent, const char *leaf)
{
	char name[MIRROR_ID_SIZE];
	struct stat inside, st;

	mirror_random_name(name);
	if (renameat2(folder, MIRROR_INSIDE, dir->tmp_fd, name, RENAME_NOREPLACE) < 0)
		return errno == ENOENT ? MIRROR_OK : mirror_fail_errno(dir, "rename");
	if (fstatat(dir->tmp_fd, name, &inside, AT_SYMLINK_NOFOLLOW) < 0)
		return mirror_fail_errno(dir, "stat");
	/* its other name is the only one that is left to be sure of */
	if (fstatat(parent, leaf, &st, AT_SYMLINK_NOFOLLOW) < 0 || st.st_ino != inside.st_ino)
		return rescue(dir, name, parent, leaf);
	(void)unlinkat(dir->tmp_fd, name, 0);
	return MIRROR_OK;
}

enum mirror_result mirror_folder_collapse(struct mirror_dir *dir, const char *path)
{
	enum mirror_result result = MIRROR_OK;
	char name[MIRROR_ID_SIZE];
	const char *leaf;
	struct stat st;
	int parent, folder;

	result = mirror_dir_parent(dir, path, false, &parent, &leaf);
	if (result != MIRROR_OK)
		return result == MIRROR_ABSENT ? MIRROR_OK : result;
	folder = openat(parent, leaf, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	mirror_random_name(name);
	if (folder < 0 || !has_inside_only(folder) || fstatat(folder, MIRROR_INSIDE, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    !S_ISREG(st.st_mode))
		goto out;
	if (linkat(folder, MIRROR_INSIDE, dir->tmp_fd, name, 0) < 0) {
		result = mirror_fail_errno(dir, "link");
	} else if (renameat2(dir->tmp_fd, name, parent, leaf, RENAME_EXCHANGE) < 0) {
		result = mirror_fail_errno(dir, "rename");
		(void)unlinkat(dir->tmp_fd, name, 0);
	} else if (!has_inside_only(folder)) {
		/* somebody was faster: back; and if that is not possible, all of it is in tmp, and goes to the trash at the next
		   start */
		if (renameat2(dir->tmp_fd, name, parent, leaf, RENAME_EXCHANGE) == 0)
			(void)unlinkat(dir->tmp_fd, name, 0);
		result = mirror_fail(dir, MIRROR_BUSY, "its folder changes");
	} else {
		result = drop_inside(dir, folder, parent, leaf);
		(void)unlinkat(dir->tmp_fd, name, AT_REMOVEDIR);
		if (result == MIRROR_OK && fsync(parent) < 0)
			result = mirror_fail_errno(dir, "fsync");
	}
out:
	if (folder >= 0)
		close(folder);
	close(parent);
	return result;
}
