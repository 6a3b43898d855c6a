/* The store's directory and the files in it: creates them private, refuses
   what is not the user's own or is a link, tells a copy from the original.
   Called while a store is opened.

   The database file is never opened here once it exists: closing any
   descriptor on it would drop the POSIX locks that SQLite holds. */

#include "store-private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define DB_NAME "store.db"
#define WAL_NAME DB_NAME"-wal"
#define SHM_NAME DB_NAME"-shm"
#define JOURNAL_NAME DB_NAME"-journal"

static bool sync_parent(const char *path)
{
	char *parent = strdup(path);
	char *slash;
	bool ret = false;
	int fd;

	if (parent == NULL)
		return false;
	slash = strrchr(parent, '/');
	slash[slash == parent ? 1 : 0] = '\0';
	/* A parent that may be passed but not read cannot be synced by us:
	   not a reason to fail. */
	fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd != -1) {
		ret = fsync(fd) == 0;
		(void)close(fd);
	} else {
		ret = errno == EACCES;
	}
	free(parent);
	return ret;
}

static bool make_dirs(char *path)
{
	char *slash;
	bool ret;

	if (mkdir(path, 0700) == 0)
		return chmod(path, 0700) == 0 && sync_parent(path);
	if (errno == EEXIST)
		return true;
	slash = strrchr(path, '/');
	if (errno != ENOENT || slash == path || slash == NULL)
		return false;
	*slash = '\0';
	ret = make_dirs(path);
	*slash = '/';
	if (!ret)
		return false;
	if (mkdir(path, 0700) == 0)
		return chmod(path, 0700) == 0 && sync_parent(path);
	return errno == EEXIST;
}

/* WAL needs memory that all processes share, and inotify sees only what this
   host writes: neither works across hosts. */
static const char *network_file_system(const struct statfs *fs)
{
	switch ((uint32_t)fs->f_type) {
	case 0x00006969:
		return "NFS";
	case 0x0000517b:
	case 0xfe534d42:
		return "SMB";
	case 0xff534d42:
		return "CIFS";
	case 0x5346414f:
	case 0x6b414653:
		return "AFS";
	case 0x00c36400:
		return "Ceph";
	default:
		return NULL;
	}
}

static enum store_status
dir_check(const char *dir, int fd, struct store_error *error_r)
{
	struct statfs fs;
	struct stat st;
	const char *network;

	if (fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0)
		return store_fail_errno(error_r, dir, "fstat");
	if (st.st_uid != geteuid()) {
		return store_fail(error_r, STORE_REFUSED,
			"%s belongs to uid %ld, not to the user (uid %ld): "
			"chown it, or set metasync_dir",
			dir, (long)st.st_uid, (long)geteuid());
	}
	if ((st.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
		return store_fail(error_r, STORE_REFUSED,
			"%s is writable by others (mode %04o): chmod go-w", dir,
			(unsigned int)(st.st_mode & 07777));
	}
	network = network_file_system(&fs);
	if (network != NULL) {
		return store_fail(error_r, STORE_REFUSED,
			"%s is on a network file system (%s). Put metasync_dir "
			"on a local disk, and keep a user's sessions on one "
			"host", dir, network);
	}
	return STORE_OK;
}

static enum store_status
dir_open_fd(char *dir, int *fd_r, struct store_error *error_r)
{
	const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

	*fd_r = open(dir, flags);
	if (*fd_r == -1 && errno == ENOENT) {
		if (!make_dirs(dir)) {
			if (errno != ENOTDIR)
				return store_fail_errno(error_r, dir, "mkdir");
			return store_fail(error_r, STORE_REFUSED,
				"%s: mkdir: %s", dir, strerror(errno));
		}
		*fd_r = open(dir, flags);
	}
	if (*fd_r != -1)
		return STORE_OK;
	if (errno == ENOTDIR || errno == ELOOP) {
		return store_fail(error_r, STORE_REFUSED,
			"%s is a link or not a directory: move it away, or set "
			"metasync_dir to what it leads to", dir);
	}
	return store_fail_errno(error_r, dir, "open");
}

/* SQLite refuses a path with a link anywhere in it; links above the directory
   are the administrator's and fine. */
static enum store_status
dir_real_path(struct store *store, const char *dir,
	      struct store_error *error_r)
{
	struct stat st, real_st;

	store->dir = realpath(dir, NULL);
	if (store->dir == NULL || fstat(store->dir_fd, &st) < 0 ||
	    stat(store->dir, &real_st) < 0)
		return store_fail_errno(error_r, dir, "realpath");
	if (st.st_dev != real_st.st_dev || st.st_ino != real_st.st_ino) {
		return store_fail(error_r, STORE_REFUSED,
				  "%s was replaced while it was opened", dir);
	}
	if (asprintf(&store->db_path, "%s/" DB_NAME, store->dir) < 0)
		store->db_path = NULL;
	if (asprintf(&store->wake_path, "%s/" STORE_WAKE_NAME, store->dir) < 0)
		store->wake_path = NULL;
	if (store->db_path == NULL || store->wake_path == NULL)
		return store_fail(error_r, STORE_FAILED, "out of memory");
	return STORE_OK;
}

enum store_status store_dir_open(struct store *store,
				 struct store_error *error_r)
{
	enum store_status status;
	size_t size;
	char *dir;

	dir = strdup(store->set.dir);
	if (dir == NULL)
		return store_fail(error_r, STORE_FAILED, "out of memory");
	/* "link/" would be followed */
	for (size = strlen(dir); size > 1 && dir[size - 1] == '/'; size--)
		dir[size - 1] = '\0';

	status = dir_open_fd(dir, &store->dir_fd, error_r);
	if (status == STORE_OK)
		status = dir_check(dir, store->dir_fd, error_r);
	if (status == STORE_OK)
		status = dir_real_path(store, dir, error_r);
	free(dir);
	return status;
}

/* Returns the file's size, 0 if it is not there, -1 on failure. */
static int64_t file_check(struct store *store, const char *name, bool *found_r,
			  struct store_error *error_r)
{
	struct stat st;

	*found_r = false;
	if (fstatat(store->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno == ENOENT)
			return 0;
		(void)store_fail_errno(error_r, store->dir, name);
		return -1;
	}
	if (!S_ISREG(st.st_mode)) {
		(void)store_fail(error_r, STORE_REFUSED,
				 "%s/%s is not a regular file: move it away",
				 store->dir, name);
		return -1;
	}
	if (st.st_uid != geteuid()) {
		(void)store_fail(error_r, STORE_REFUSED,
			"%s/%s belongs to uid %ld, not to the user (uid %ld): "
			"chown it", store->dir, name, (long)st.st_uid,
			(long)geteuid());
		return -1;
	}
	*found_r = true;
	return st.st_size;
}

static enum store_status
db_create(struct store *store, struct store_error *error_r)
{
	int fd;

	fd = openat(store->dir_fd, DB_NAME,
		    O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd == -1 && errno == EEXIST)
		return STORE_OK;
	if (fd == -1 || fchmod(fd, 0600) < 0 || fsync(store->dir_fd) < 0) {
		(void)store_fail_errno(error_r, store->db_path, "create");
		if (fd != -1)
			(void)close(fd);
		return error_r->status;
	}
	(void)close(fd);
	return STORE_OK;
}

enum store_status store_dir_files(struct store *store,
				  struct store_error *error_r)
{
	int64_t size, wal_size;
	bool found;

	/* The WAL first: who creates a store writes the database before it,
	   so a WAL with data beside an empty database is never a beginning.
	   SQLite would delete that WAL. */
	wal_size = file_check(store, WAL_NAME, &found, error_r);
	if (wal_size < 0 ||
	    file_check(store, SHM_NAME, &found, error_r) < 0 ||
	    file_check(store, JOURNAL_NAME, &found, error_r) < 0)
		return error_r->status;
	size = file_check(store, DB_NAME, &found, error_r);
	if (size < 0)
		return error_r->status;
	if (size == 0 && wal_size > 0) {
		return store_fail(error_r, STORE_CORRUPT,
			"%s is %s, but there are changes in %s/" WAL_NAME,
			store->db_path, found ? "empty" : "missing",
			store->dir);
	}
	/* SQLite takes one byte for nothing */
	if (size == 1) {
		return store_fail(error_r, STORE_CORRUPT, "%s is truncated",
				  store->db_path);
	}
	return found ? STORE_OK : db_create(store, error_r);
}

/* For some file systems (XFS, F2FS) the id is the device number, as the kernel puts
   it together: another one after a boot, or when a volume is attached again. */
static bool fsid_is_device(uint64_t fsid, const struct statx *st)
{
	uint32_t device = (st->stx_dev_minor & 0xff) |
		(st->stx_dev_major << 8) | ((st->stx_dev_minor & ~0xffU) << 12);

	return fsid == (uint64_t)device << 32;
}

enum store_status store_dir_identity(struct store *store,
				     struct store_meta *meta,
				     struct store_error *error_r)
{
	struct statfs fs;
	struct statx st;

	if (statx(store->dir_fd, DB_NAME, AT_SYMLINK_NOFOLLOW,
		  STATX_INO | STATX_BTIME, &st) < 0 ||
	    fstatfs(store->dir_fd, &fs) < 0)
		return store_fail_errno(error_r, store->db_path, "stat");
	meta->inode = st.stx_ino;
	meta->birth = (st.stx_mask & STATX_BTIME) == 0 ? 0 :
		(uint64_t)st.stx_btime.tv_sec * 1000000000 +
		st.stx_btime.tv_nsec;
	meta->fsid = ((uint64_t)(uint32_t)fs.f_fsid.__val[0] << 32) |
		(uint32_t)fs.f_fsid.__val[1];
	if (fsid_is_device(meta->fsid, &st))
		meta->fsid = 0;
	return STORE_OK;
}
