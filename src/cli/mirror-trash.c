/* The trash of the mirrored folder: .dovetail/trash/DATE-TIME[.N]/path. */

#include "mirror-dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* as "20261124-211503" */
#define STAMP_SIZE 15
/* octets that any file or folder counts for */
#define SMALLEST 4096

static bool begin_folder(struct mirror_dir *dir)
{
	struct tm tm;
	char stamp[STAMP_SIZE + 1];
	time_t now = time(NULL);
	unsigned int n, last;

	if (gmtime_r(&now, &tm) == NULL || strftime(stamp, sizeof(stamp), "%Y%m%d-%H%M%S", &tm) == 0)
		return false;
	/* not one that was pruned in the same second: they are in the order of time */
	n = strncmp(dir->trash_last, stamp, STAMP_SIZE) != 0 ? 0 :
		dir->trash_last[STAMP_SIZE] == '\0' ? 1 : strtoul(dir->trash_last + STAMP_SIZE + 1, NULL, 10) + 1;
	for (last = n + 10000; n < last; n++) {
		snprintf(dir->trash_now, sizeof(dir->trash_now), n == 0 ? "%s" : "%s.%u", stamp, n);
		if (mkdirat(dir->trash_fd, dir->trash_now, 0700) == 0) {
			memcpy(dir->trash_last, dir->trash_now, sizeof(dir->trash_last));
			return true;
		}
		if (errno != EEXIST)
			break;
	}
	dir->trash_now[0] = '\0';
	return false;
}

/* The folder of path in the trash's folder of now. -1 and errno. */
static int make_folders(struct mirror_dir *dir, const char *path, const char **leaf_r)
{
	char name[MIRROR_FILE_MAX + 1];
	size_t size;
	int fd, next;

	fd = openat(dir->trash_fd, dir->trash_now, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	for (; fd >= 0 && path[size = strcspn(path, "/")] != '\0'; path += size + 1) {
		snprintf(name, sizeof(name), "%.*s", (int)size, path);
		(void)mkdirat(fd, name, 0700);
		next = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		close(fd);
		fd = next;
	}
	*leaf_r = path;
	return fd;
}

/* What it takes on the disk, not what it is long: many small files fill it, too. */
static uint64_t disk_size(const struct stat *st)
{
	uint64_t size = (uint64_t)st->st_blocks * 512;

	return size < SMALLEST ? SMALLEST : size;
}

bool mirror_trash_take(struct mirror_dir *dir, const char *name, const char *path)
{
	const char *leaf;
	unsigned int attempt;
	struct stat st;
	bool ok;
	int fd;

	dir->trashed += fstatat(dir->tmp_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 ? disk_size(&st) : 0;
	/* a path that is there already, or is in the way: one more folder */
	for (attempt = 0; attempt < 2; attempt++) {
		if (dir->trash_now[0] == '\0' && !begin_folder(dir))
			break;
		fd = make_folders(dir, path, &leaf);
		ok = fd >= 0 && renameat2(dir->tmp_fd, name, fd, leaf, RENAME_NOREPLACE) == 0;
		if (fd >= 0)
			close(fd);
		if (ok)
			return true;
		dir->trash_now[0] = '\0';
	}
	mirror_fail_errno(dir, "the trash");
	return false;
}

void mirror_dir_clean(struct mirror_dir *dir)
{
	int fd = openat(dir->tmp_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *stream = fd >= 0 ? fdopendir(fd) : NULL;
	const struct dirent *entry;
	struct stat st;

	if (stream == NULL) {
		if (fd >= 0)
			close(fd);
		return;
	}
	while ((entry = readdir(stream)) != NULL) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) && st.st_size == 0 &&
		    unlinkat(fd, entry->d_name, 0) == 0)
			continue;
		if (unlinkat(fd, entry->d_name, AT_REMOVEDIR) == 0)
			continue;
		(void)mirror_trash_take(dir, entry->d_name, entry->d_name);
	}
	closedir(stream);
	dir->trash_now[0] = '\0';
}

/* ---- Removing for good ---- */

static void remove_tree(int parent, const char *name)
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *stream = fd >= 0 ? fdopendir(fd) : NULL;
	const struct dirent *entry;

	if (stream == NULL) {
		if (fd >= 0)
			close(fd);
		(void)unlinkat(parent, name, 0);
		return;
	}
	while ((entry = readdir(stream)) != NULL) {
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 && unlinkat(fd, entry->d_name, 0) < 0)
			remove_tree(fd, entry->d_name);
	}
	closedir(stream);
	(void)unlinkat(parent, name, AT_REMOVEDIR);
}

static uint64_t tree_size(int parent, const char *name)
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *stream = fd >= 0 ? fdopendir(fd) : NULL;
	const struct dirent *entry;
	struct stat st;
	uint64_t size;

	size = fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) == 0 ? disk_size(&st) : 0;
	if (stream == NULL) {
		if (fd >= 0)
			close(fd);
		return size;
	}
	while ((entry = readdir(stream)) != NULL) {
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			size += tree_size(fd, entry->d_name);
	}
	closedir(stream);
	return size;
}

/* Ours only: a trash that the user has chosen may have other things in it. */
static int is_stamp(const struct dirent *entry)
{
	return strspn(entry->d_name, "0123456789") == 8 && entry->d_name[8] == '-' &&
		strspn(entry->d_name + 9, "0123456789") == 6 &&
		(entry->d_name[STAMP_SIZE] == '\0' || entry->d_name[STAMP_SIZE] == '.');
}

void mirror_trash_prune(struct mirror_dir *dir, unsigned int days, uint64_t max_bytes)
{
	char oldest[STAMP_SIZE + 1] = "";
	time_t then = time(NULL) - (time_t)days * 24 * 60 * 60;
	struct dirent **list;
	uint64_t total = 0, size;
	struct tm tm;
	int i, count;

	dir->trashed = 0;
	if (days > 0 && gmtime_r(&then, &tm) != NULL)
		(void)strftime(oldest, sizeof(oldest), "%Y%m%d-%H%M%S", &tm);
	count = scandirat(dir->trash_fd, ".", &list, is_stamp, versionsort);
	/* from the newest on */
	for (i = count - 1; i >= 0; i--) {
		size = tree_size(dir->trash_fd, list[i]->d_name);
		total += size;
		if (strncmp(list[i]->d_name, oldest, STAMP_SIZE) < 0 ||
		    (total > max_bytes && strcmp(list[i]->d_name, dir->trash_now) != 0))
			remove_tree(dir->trash_fd, list[i]->d_name);
		free(list[i]);
	}
	if (count >= 0)
		free(list);
}
