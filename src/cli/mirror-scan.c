/* Comparing all: the folder with the record, the replica with the record. It only lists what differs; mirror-work.c looks at
   each again. */

#include "mirror.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* What editors and file managers leave while they work. */
static const char *const ignored_always[] = { "*~", ".*.sw?", ".#*", "#*#", "4913", ".nfs*", ".goutputstream-*", NULL };

struct scan {
	struct mirror *mirror;
	int64_t now;
	/* folders that are still to be read; owned */
	char **folders;
	size_t count, allocated;
	int ret;
};

int64_t mirror_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int mirror_fail_record(struct mirror *mirror)
{
	cli_error(mirror->cli, "%s", mirror->record.error);
	return CLI_SYSTEM;
}

void mirror_tell(struct mirror *mirror, const char *path, const char *format, ...)
{
	char *text = NULL, *line = NULL;
	va_list args;

	va_start(args, format);
	if (vasprintf(&text, format, args) < 0)
		text = NULL;
	va_end(args);
	if (text != NULL && asprintf(&line, "%s: %s", path, text) >= 0 && mirror_record_tell(&mirror->record, line))
		cli_error(mirror->cli, "%s", line);
	free(line);
	free(text);
}

const char *mirror_short(const struct mirror *mirror, const char *mailbox, const char *name)
{
	size_t size = strlen(mirror->prefix);

	if (strcmp(mailbox, mirror->mailbox) != 0 || strncmp(name, mirror->prefix, size) != 0)
		return NULL;
	return name[size] == '\0' ? "" : name[size] == '/' ? name + size + 1 : NULL;
}

void mirror_full(const struct mirror *mirror, const char *name, char full_r[MIRROR_ENTRY_MAX + 1])
{
	snprintf(full_r, MIRROR_ENTRY_MAX + 1, *name == '\0' ? "%s%s" : "%s/%s", mirror->prefix, name);
}

/* One component of path. */
static bool matches(struct mirror *mirror, const char *name, const char *path)
{
	unsigned int i;

	/* another mirror's: it is no content */
	if (strcmp(name, MIRROR_OWN) == 0)
		return true;

	for (i = 0; !mirror->all && ignored_always[i] != NULL; i++) {
		if (fnmatch(ignored_always[i], name, 0) == 0)
			return true;
	}
	for (i = 0; mirror->ignore != NULL && mirror->ignore[i] != NULL; i++) {
		if (fnmatch(mirror->ignore[i], name, 0) == 0)
			return true;
	}
	if (mirror->dot_files || *name != '.')
		return false;
	if (!mirror->dot_told)
		cli_warn(mirror->cli, "%s: names that begin with a dot are left alone, if --dot-files is not given", path);
	mirror->dot_told = true;
	return true;
}

bool mirror_is_ignored(struct mirror *mirror, const char *path)
{
	char name[MIRROR_FILE_MAX + 1];
	const char *at;
	size_t size;

	for (at = path;; at += size + 1) {
		size = strcspn(at, "/");
		if (size > MIRROR_FILE_MAX)
			return false;
		memcpy(name, at, size);
		name[size] = '\0';
		if (matches(mirror, name, path))
			return true;
		if (at[size] == '\0')
			return false;
	}
}

/* ---- The folder ---- */

static bool scan_later(struct scan *scan, char *path)
{
	char **folders;

	if (scan->count == scan->allocated) {
		folders = reallocarray(scan->folders, scan->allocated + 64, sizeof(*folders));
		if (folders == NULL) {
			free(path);
			return false;
		}
		scan->folders = folders;
		scan->allocated += 64;
	}
	scan->folders[scan->count++] = path;
	return true;
}

static void scan_file(struct scan *scan, const char *path, const struct stat *st)
{
	struct mirror *mirror = scan->mirror;
	char name[MIRROR_ENTRY_MAX + 1];
	struct mirror_base base;
	struct mirror_stat stat;

	if (!mirror_name_entry(path, MIRROR_ENTRY_MAX - 1 - strlen(mirror->prefix), name)) {
		mirror_tell(mirror, path, "the entry's name would be too long; left alone");
		return;
	}
	mirror_stat_set(&stat, st);
	if (!mirror_record_see(&mirror->record, name, MIRROR_SEEN_FILE) || !mirror_record_get(&mirror->record, name, &base) ||
	    ((!base.known || base.conflict || !mirror_stat_same(&stat, &base.stat)) &&
	     !mirror_record_look(&mirror->record, name, scan->now)))
		scan->ret = mirror_fail_record(mirror);
}

static void scan_name(struct scan *scan, int fd, const char *folder, const char *name)
{
	struct mirror *mirror = scan->mirror;
	struct stat st;
	char *path;

	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(name, MIRROR_OWN) == 0)
		return;
	if (asprintf(&path, *folder == '\0' ? "%s%s" : "%s/%s", folder, name) < 0) {
		scan->ret = cli_fail_memory(mirror->cli);
		return;
	}
	if (matches(mirror, name, path)) {
		free(path);
		return;
	}
	if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno != ENOENT)
			mirror_tell(mirror, path, "%s", strerror(errno));
	} else if (S_ISREG(st.st_mode)) {
		scan_file(scan, path, &st);
	} else if (S_ISDIR(st.st_mode) && st.st_dev == mirror->dir.root.st_dev) {
		if (!scan_later(scan, path))
			scan->ret = cli_fail_memory(mirror->cli);
		return;
	} else {
		mirror_tell(mirror, path, S_ISLNK(st.st_mode) ? "a symbolic link; left alone" : S_ISDIR(st.st_mode) ?
			    "another file system; left alone" : "no regular file; left alone");
	}
	free(path);
}

static void scan_folder(struct scan *scan, const char *folder)
{
	struct mirror *mirror = scan->mirror;
	const struct dirent *entry;
	enum mirror_result result;
	DIR *stream;

	result = mirror_dir_list(&mirror->dir, folder, &stream);
	if (result != MIRROR_OK) {
		/* gone, or something else now: the record's entries below it will be looked at */
		if (result == MIRROR_FAILED) {
			mirror_tell(mirror, *folder == '\0' ? "." : folder, "%s", mirror->dir.error);
			mirror->unreadable++;
		}
		return;
	}
	if (mirror->watch != NULL)
		mirror_watch_add(mirror->watch, dirfd(stream), folder);
	while (scan->ret == CLI_OK && (entry = readdir(stream)) != NULL)
		scan_name(scan, dirfd(stream), folder, entry->d_name);
	closedir(stream);
}

int mirror_scan_files(struct mirror *mirror)
{
	struct scan scan = { .mirror = mirror, .now = mirror_now() };
	char *folder;

	mirror->scan_at = 0;
	mirror->unreadable = 0;
	if (!mirror_record_unsee(&mirror->record) || !mirror_record_transaction(&mirror->record, true))
		return mirror_fail_record(mirror);
	if (mirror->watch != NULL)
		mirror_watch_begin(mirror->watch);
	scan_folder(&scan, "");
	while (scan.count > 0) {
		folder = scan.folders[--scan.count];
		if (scan.ret == CLI_OK)
			scan_folder(&scan, folder);
		free(folder);
	}
	free(scan.folders);
	if (mirror->watch != NULL)
		mirror_watch_end(mirror->watch);
	if (!mirror_record_transaction(&mirror->record, false) && scan.ret == CLI_OK)
		scan.ret = mirror_fail_record(mirror);
	if (scan.ret == CLI_OK && !mirror_record_look_unseen(&mirror->record, MIRROR_SEEN_FILE, scan.now))
		scan.ret = mirror_fail_record(mirror);
	return scan.ret;
}

/* ---- The replica ---- */

static bool entry_differs(struct mirror *mirror, const char *name, const struct dovetail_entry *entry, bool *differs_r)
{
	unsigned char hash[MIRROR_HASH_SIZE];
	struct mirror_base base;

	if (!mirror_record_get(&mirror->record, name, &base))
		return false;
	*differs_r = true;
	if (base.known && !base.conflict && entry->data != NULL) {
		mirror_hash(entry->data, entry->size, hash);
		*differs_r = memcmp(hash, base.hash, sizeof(hash)) != 0;
	}
	return true;
}

int mirror_scan_entries(struct mirror *mirror)
{
	struct dovetail_iter *iter;
	struct dovetail_entry entry;
	enum dovetail_status status;
	int64_t now = mirror_now();
	const char *name;
	bool differs, ok;

	mirror->compare = false;
	ok = mirror_record_unsee(&mirror->record) && mirror_record_transaction(&mirror->record, true);
	status = dovetail_iter_open(mirror->cli->replica, mirror->mailbox, mirror->prefix, true, &iter);
	if (status != DOVETAIL_OK)
		return cli_fail(mirror->cli, status, NULL);
	while (ok && (status = dovetail_iter_next(iter, &entry)) == DOVETAIL_OK) {
		name = mirror_short(mirror, entry.mailbox, entry.name);
		if (name == NULL)
			continue;
		ok = mirror_record_see(&mirror->record, name, MIRROR_SEEN_ENTRY) && entry_differs(mirror, name, &entry, &differs) &&
			(!differs || mirror_record_look(&mirror->record, name, now));
	}
	dovetail_iter_close(iter);
	if (!mirror_record_transaction(&mirror->record, false) || !ok ||
	    !mirror_record_look_unseen(&mirror->record, MIRROR_SEEN_ENTRY, now))
		return mirror_fail_record(mirror);
	return status == DOVETAIL_NOT_FOUND ? CLI_OK : cli_fail(mirror->cli, status, NULL);
}
