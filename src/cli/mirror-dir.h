#ifndef MIRROR_DIR_H
#define MIRROR_DIR_H

/* The mirrored folder as a place where files are read, written and removed without harm (mirror-dir.c, mirror-file.c,
   mirror-place.c, mirror-trash.c). Nothing outside of it is ever touched: each path is walked component by component without
   following links. Nothing is ever overwritten or removed unless it is what the caller has seen, and even then it goes to the
   trash. */

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "mirror-name.h"

#define MIRROR_HASH_SIZE 32
#define MIRROR_ID_SIZE 33
/* Folders that wait for mirror_dir_sync() at most; others are synced at once. */
#define MIRROR_UNSYNCED_MAX 32

enum mirror_result {
	MIRROR_OK,
	/* there is no such file */
	MIRROR_ABSENT,
	/* it is not for us: a link, a device, a folder of another file system, too large. Stays so until somebody changes it. */
	MIRROR_LEFT_ALONE,
	/* somebody is writing it, or it has changed while we looked: look again */
	MIRROR_BUSY,
	/* the system: disk full, no rights ... It may go away by itself. */
	MIRROR_FAILED
};

/* What tells a version of a file from another without reading it. All 0: unknown. Times in ns since 1970. */
struct mirror_stat {
	uint64_t dev, ino, size;
	int64_t mtime, ctime;
};

struct mirror_dir {
	/* as given, for messages and to see whether it is there still */
	char *path;
	int root_fd, own_fd, tmp_fd, trash_fd, lock_fd;
	struct stat root;
	/* of the folder, from the file .dovetail/mirror */
	char id[MIRROR_ID_SIZE];
	/* the trash's sub-folder of now; "" if none was needed yet. The caller empties it to begin another one. */
	char trash_now[40];
	/* the last one that was made */
	char trash_last[40];
	/* octets on the disk that have come into the trash since mirror_trash_prune() */
	uint64_t trashed;
	/* folders in which something was placed or removed: their entries are not durable yet */
	int unsynced[MIRROR_UNSYNCED_MAX];
	unsigned int unsynced_count;
	/* the reason of the last result that was not OK or ABSENT */
	char error[512];
};

/* Opens the folder, makes .dovetail in it, takes the lock. trash: NULL: .dovetail/trash. false: *busy_r: another process has it.
   dir->error says why. */
bool mirror_dir_open(struct mirror_dir *dir, const char *path, const char *trash, bool *busy_r);
void mirror_dir_close(struct mirror_dir *dir);
/* Whether path leads still to the folder that was opened, and it has its marker. */
bool mirror_dir_is_there(struct mirror_dir *dir);

/* What was begun and not ended by a process that was killed goes to the trash. */
void mirror_dir_clean(struct mirror_dir *dir);
/* Removes from the trash what is older than days (0: nothing), and the oldest while it has more than max_bytes. */
void mirror_trash_prune(struct mirror_dir *dir, unsigned int days, uint64_t max_bytes);

/* ---- mirror-file.c ---- */

struct mirror_file {
	/* size octets and a NUL; free() */
	char *data;
	size_t size;
	unsigned char hash[MIRROR_HASH_SIZE];
	/* ctime is 0 if the file is so young that a change now could go unnoticed */
	struct mirror_stat stat;
};

void mirror_hash(const void *data, size_t size, unsigned char hash_r[MIRROR_HASH_SIZE]);
bool mirror_stat_same(const struct mirror_stat *a, const struct mirror_stat *b);
void mirror_stat_set(struct mirror_stat *stat_r, const struct stat *st);

/* The folder that the path is in: an fd that the caller closes; *leaf_r points into path. make: folders on the way are made, and
   a file that is on the way becomes a folder with the file as MIRROR_INSIDE in it. */
enum mirror_result mirror_dir_parent(struct mirror_dir *dir, const char *path, bool make, int *fd_r, const char **leaf_r);
/* A folder, to be read; "" is the root. */
enum mirror_result mirror_dir_list(struct mirror_dir *dir, const char *path, DIR **stream_r);
/* BUSY if somebody has it open for writing or it changed during reading; LEFT_ALONE if it is larger than max. data is not read if
   *known is its stat (*known_r, known may be NULL). */
enum mirror_result mirror_file_read(struct mirror_dir *dir, const char *path, uint64_t max, const struct mirror_stat *known,
				    bool *known_r, struct mirror_file *file_r);
void mirror_file_free(struct mirror_file *file);
/* Whether there is a folder of that name (and not a link to one). */
bool mirror_is_folder(struct mirror_dir *dir, const char *path);
/* Whether anything of that name is there, or could be: it cannot be looked at. */
bool mirror_exists(struct mirror_dir *dir, const char *path);

/* ---- mirror-place.c ---- */

/* A file that is written, and not in its place yet. fd -1: it is nothing any more. */
struct mirror_new {
	char name[MIRROR_ID_SIZE];
	int fd;
};
/* Writes it to .dovetail/tmp. What is written is then to be made durable, and placed, or dropped. */
enum mirror_result mirror_new_write(struct mirror_dir *dir, const void *data, size_t size, struct mirror_new *new_r);
/* Makes its content durable. */
enum mirror_result mirror_new_sync(struct mirror_dir *dir, const struct mirror_new *new);
/* Puts it in its place, whole; it is durable there after mirror_dir_sync(). *new is used up, whatever is returned. expect: what
   is there now and may go to the trash (its stat by mirror_file_read(); ctime is not looked at if 0); NULL: nothing may be there.
   BUSY: something else is there. */
enum mirror_result mirror_new_place(struct mirror_dir *dir, struct mirror_new *new, const char *path,
				    const struct mirror_stat *expect, struct mirror_stat *stat_r);
void mirror_new_drop(struct mirror_dir *dir, struct mirror_new *new);
/* All of this for one file. */
enum mirror_result mirror_file_place(struct mirror_dir *dir, const char *path, const void *data, size_t size,
				     const struct mirror_stat *expect, struct mirror_stat *stat_r);
/* Moves it to the trash; durable after mirror_dir_sync(). */
enum mirror_result mirror_file_remove(struct mirror_dir *dir, const char *path, const struct mirror_stat *expect);
/* Makes durable what was placed and removed since the last call. */
enum mirror_result mirror_dir_sync(struct mirror_dir *dir);
/* Removes the folders above path that are empty, but not the root. */
void mirror_remove_empty(struct mirror_dir *dir, const char *path);
/* The folder has nothing but MIRROR_INSIDE: it becomes that file. OK also if there was nothing to do. */
enum mirror_result mirror_folder_collapse(struct mirror_dir *dir, const char *path);
/* The other way, for mirror_dir_parent(): leaf in the folder fd. */
enum mirror_result mirror_file_to_folder(struct mirror_dir *dir, int fd, const char *leaf);

/* ---- mirror-trash.c ---- */

/* Moves what is called name in .dovetail/tmp to the trash, as path. */
bool mirror_trash_take(struct mirror_dir *dir, const char *name, const char *path);

/* Sets dir->error: "what: errno's text". Returns the result. */
enum mirror_result mirror_fail_errno(struct mirror_dir *dir, const char *what);
enum mirror_result mirror_fail(struct mirror_dir *dir, enum mirror_result result, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* A name for a temporary file, by /dev/urandom's octets. */
void mirror_random_name(char name_r[MIRROR_ID_SIZE]);

#endif
