/* Opens and closes a replica: the file, its schema and the settings of connections. Owns struct dovetail.

   A new replica is made whole beside its place and linked there, so that there never is half of one. The file is never opened here
   but by SQLite: closing any descriptor on it would drop the POSIX locks that SQLite holds for other handles of the process. One
   that was removed while it was open, or whose process was killed, may have left its WAL, which SQLite would take for the new
   one's. */

#include "crypt.h"
#include "replica-private.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* "DvTr" */
#define APPLICATION_ID 0x44765472
#define SCHEMA_VERSION 1
#define STRINGIFY2(x) #x
#define STRINGIFY(x) STRINGIFY2(x)

/* kind is enum replica_kind; value is NULL if it is not REPLICA_VALUE, and the last column, since what stands behind a long one is
   slow to reach. entry: .kind, .modseq, .value are the server's, and write_id the last waiting write; wire is the name on the wire,
   name the user's. A row without either is removed.
   change_set: flight 0: never given to the sync, 1: in flight, 2: given, and known not to have been committed by that.
   version grows with each change of what is in the set.
   write: base_... is the value of the server, or of the waiting write before it, that it was made on.
   refused: the last one of an entry. local: what crypt and sync keep. */
static const char schema_sql[] =
"CREATE TABLE meta("
"	one INTEGER PRIMARY KEY CHECK(one = 1),"
"	mark TEXT NOT NULL,"
"	epoch INTEGER NOT NULL,"
"	modseq INTEGER NOT NULL,"
"	partial TEXT NOT NULL,"
"	partial_id INTEGER NOT NULL,"
"	snapshot INTEGER NOT NULL,"
"	need_state INTEGER NOT NULL,"
"	synced_at INTEGER NOT NULL);"
"INSERT INTO meta VALUES(1, '', 0, 0, '', 0, 0, 1, 0);"
"CREATE TABLE part("
"	scope INTEGER NOT NULL,"
"	mailbox TEXT NOT NULL,"
"	entry TEXT NOT NULL,"
"	PRIMARY KEY(scope, mailbox, entry)) WITHOUT ROWID;"
"CREATE TABLE entry("
"	id INTEGER PRIMARY KEY AUTOINCREMENT,"
"	mailbox TEXT NOT NULL,"
"	wire TEXT NOT NULL,"
"	name TEXT NOT NULL,"
"	hidden INTEGER NOT NULL,"
"	kind INTEGER NOT NULL,"
"	modseq INTEGER NOT NULL,"
"	write_id INTEGER,"
"	size INTEGER NOT NULL,"
"	value BLOB,"
"	UNIQUE(mailbox, wire));"
"CREATE INDEX entry_name ON entry(mailbox, name);"
"CREATE TABLE change_set("
"	id INTEGER PRIMARY KEY AUTOINCREMENT,"
"	version INTEGER NOT NULL,"
"	flight INTEGER NOT NULL,"
"	condition TEXT NOT NULL);"
"CREATE TABLE write("
"	id INTEGER PRIMARY KEY AUTOINCREMENT,"
"	set_id INTEGER NOT NULL,"
"	entry_id INTEGER NOT NULL,"
"	kind INTEGER NOT NULL,"
"	size INTEGER NOT NULL,"
"	base_kind INTEGER NOT NULL,"
"	base_modseq INTEGER NOT NULL,"
"	value BLOB,"
"	base BLOB);"
"CREATE INDEX write_set ON write(set_id);"
"CREATE INDEX write_entry ON write(entry_id);"
"CREATE TABLE refused("
"	mailbox TEXT NOT NULL,"
"	wire TEXT NOT NULL,"
"	name TEXT NOT NULL,"
"	kind INTEGER NOT NULL,"
"	reason TEXT NOT NULL,"
"	value BLOB,"
"	UNIQUE(mailbox, wire));"
"CREATE TABLE stage("
"	id INTEGER PRIMARY KEY,"
"	mailbox TEXT NOT NULL,"
"	wire TEXT NOT NULL,"
"	kind INTEGER NOT NULL,"
"	value BLOB,"
"	UNIQUE(mailbox, wire));"
"CREATE TABLE local("
"	key TEXT PRIMARY KEY,"
"	value BLOB NOT NULL) WITHOUT ROWID;"
"PRAGMA application_id = " STRINGIFY(APPLICATION_ID) ";"
"PRAGMA user_version = " STRINGIFY(SCHEMA_VERSION) ";";

/* secure_delete: what the user removed shall not stay in the file. temp_store: the list of changes may be long.
   journal_size_limit: a large snapshot does not leave a large WAL. */
static const char connection_sql[] =
"PRAGMA synchronous = FULL;"
"PRAGMA cache_size = -2000;"
"PRAGMA temp_store = FILE;"
"PRAGMA journal_size_limit = 4194304;"
"PRAGMA secure_delete = ON;";

static const char temp_sql[] =
"CREATE TEMP TABLE changed("
"	id INTEGER PRIMARY KEY,"
"	mailbox TEXT NOT NULL,"
"	name TEXT NOT NULL,"
"	UNIQUE(mailbox, name));";

static enum dovetail_status fail_errno(struct dovetail *replica, enum dovetail_status status, const char *what)
{
	return replica_fail(replica, status, "%s: %s: %s", replica->path, what, strerror(errno));
}

/* -- paths */

/* Sets path: absolute, without links on the way; the last component is as given. */
static enum dovetail_status set_paths(struct dovetail *replica, const char *path)
{
	const char *name;
	char *dir, *real;
	int ret;

	name = strrchr(path, '/');
	name = name == NULL ? path : name + 1;
	if (*name == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return replica_fail(replica, DOVETAIL_INVALID, "\"%.300s\" is not the path of a file", path);
	dir = name == path ? strdup(".") : strndup(path, name - path);
	if (dir == NULL)
		return replica_no_memory(replica);
	real = realpath(dir, NULL);
	if (real == NULL) {
		(void)replica_fail(replica, DOVETAIL_REPLICA, "%.300s: %s", dir, strerror(errno));
		free(dir);
		return DOVETAIL_REPLICA;
	}
	free(dir);
	ret = asprintf(&replica->path, "%s/%s", strcmp(real, "/") == 0 ? "" : real, name);
	free(real);
	if (ret < 0) {
		replica->path = NULL;
		return replica_no_memory(replica);
	}
	if (asprintf(&replica->wake_path, "%s-wake", replica->path) < 0) {
		replica->wake_path = NULL;
		return replica_no_memory(replica);
	}
	return DOVETAIL_OK;
}

/* NOT_FOUND: there is none */
static enum dovetail_status check_file(struct dovetail *replica)
{
	struct stat st;

	if (lstat(replica->path, &st) < 0) {
		if (errno == ENOENT)
			return replica_fail(replica, DOVETAIL_NOT_FOUND, "%s does not exist", replica->path);
		return fail_errno(replica, DOVETAIL_REPLICA, "open");
	}
	if (!S_ISREG(st.st_mode)) {
		return replica_fail(replica, DOVETAIL_REPLICA, "%s is %s, not a regular file", replica->path,
				    S_ISLNK(st.st_mode) ? "a symbolic link" : S_ISDIR(st.st_mode) ? "a directory" : "special");
	}
	if (st.st_uid != geteuid()) {
		return replica_fail(replica, DOVETAIL_REPLICA, "%s belongs to uid %ld, not to the caller (uid %ld)", replica->path,
				    (long)st.st_uid, (long)geteuid());
	}
	return DOVETAIL_OK;
}

/* -- a new file */

static enum dovetail_status write_new(struct dovetail *replica, const char *path, const unsigned char *data, size_t size)
{
	enum dovetail_status status = DOVETAIL_OK;
	ssize_t ret;
	int fd;

	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd == -1)
		return fail_errno(replica, DOVETAIL_REPLICA, "create");
	while (size > 0 && status == DOVETAIL_OK) {
		ret = write(fd, data, size);
		if (ret < 0 && errno != EINTR)
			status = fail_errno(replica, DOVETAIL_SYSTEM, "write");
		if (ret > 0) {
			data += ret;
			size -= ret;
		}
	}
	if (status == DOVETAIL_OK && (fchmod(fd, 0600) < 0 || fsync(fd) < 0))
		status = fail_errno(replica, DOVETAIL_SYSTEM, "fsync");
	(void)close(fd);
	return status;
}

/* What a removed one has left. */
static enum dovetail_status remove_left(struct dovetail *replica)
{
	static const char *const ends[] = { "-wal", "-shm", "-journal" };
	enum dovetail_status status = DOVETAIL_OK;
	char *path;
	size_t i;

	for (i = 0; i < sizeof(ends) / sizeof(ends[0]) && status == DOVETAIL_OK; i++) {
		if (asprintf(&path, "%s%s", replica->path, ends[i]) < 0)
			return replica_no_memory(replica);
		if (unlink(path) < 0 && errno != ENOENT)
			status = replica_fail(replica, DOVETAIL_REPLICA, "%s: remove: %s", path, strerror(errno));
		free(path);
	}
	return status;
}

/* Others that make one here at the same moment wait, so that nobody removes the WAL of the one that has just been made. */
static enum dovetail_status lock_dir(struct dovetail *replica, int *fd_r)
{
	const struct timespec pause = { 0, 10 * 1000 * 1000 };
	char *dir = strdup(replica->path);
	int tries;

	if (dir == NULL)
		return replica_no_memory(replica);
	strrchr(dir, '/')[1] = '\0';
	*fd_r = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	free(dir);
	if (*fd_r == -1)
		return fail_errno(replica, DOVETAIL_REPLICA, "create");
	for (tries = 0; flock(*fd_r, LOCK_EX | LOCK_NB) < 0; tries++) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return fail_errno(replica, DOVETAIL_SYSTEM, "lock the directory");
		if (tries == REPLICA_BUSY_TIMEOUT / 10)
			return replica_fail(replica, DOVETAIL_BUSY, "%s: its directory is locked", replica->path);
		(void)nanosleep(&pause, NULL);
	}
	return DOVETAIL_OK;
}

static enum dovetail_status link_new(struct dovetail *replica, const unsigned char *data, size_t size)
{
	enum dovetail_status status;
	uint64_t random;
	char *path;

	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		return fail_errno(replica, DOVETAIL_SYSTEM, "getrandom");
	if (asprintf(&path, "%s-new-%016llx", replica->path, (unsigned long long)random) < 0)
		return replica_no_memory(replica);
	status = write_new(replica, path, data, size);
	if (status == DOVETAIL_OK)
		status = remove_left(replica);
	if (status == DOVETAIL_OK && link(path, replica->path) < 0 && errno != EEXIST)
		status = fail_errno(replica, DOVETAIL_REPLICA, "create");
	(void)unlink(path);
	free(path);
	return status;
}

static enum dovetail_status place_new(struct dovetail *replica, const unsigned char *data, size_t size)
{
	enum dovetail_status status;
	int dir_fd = -1;

	status = lock_dir(replica, &dir_fd);
	if (status == DOVETAIL_OK) {
		/* Another process may have been faster: then its file is as good */
		status = check_file(replica);
		if (status == DOVETAIL_NOT_FOUND)
			status = link_new(replica, data, size);
		/* The place in the directory is durable, too */
		(void)fsync(dir_fd);
	}
	if (dir_fd != -1)
		(void)close(dir_fd);
	return status;
}

static enum dovetail_status create_file(struct dovetail *replica)
{
	enum dovetail_status status = DOVETAIL_OK;
	unsigned char *data = NULL;
	sqlite3_int64 size = 0;
	sqlite3 *db = NULL;

	if (sqlite3_open_v2(":memory:", &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK ||
	    sqlite3_exec(db, schema_sql, NULL, NULL, NULL) != SQLITE_OK)
		status = db == NULL ? replica_no_memory(replica) : replica_db_fail(replica, db, "create");
	if (status == DOVETAIL_OK) {
		data = sqlite3_serialize(db, "main", &size, 0);
		status = data == NULL ? replica_no_memory(replica) : place_new(replica, data, size);
	}
	sqlite3_free(data);
	(void)sqlite3_close(db);
	return status;
}

/* -- connections */

static uint32_t get_be32(const unsigned char *p)
{
	return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
}

/* Looks at the first octets through SQLite's own descriptor, before it has done anything with the file. */
static enum dovetail_status check_header(struct dovetail *replica, sqlite3 *db)
{
	unsigned char header[100];
	sqlite3_file *file = NULL;

	memset(header, 0, sizeof(header));
	if (sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &file) != SQLITE_OK || file == NULL ||
	    file->pMethods == NULL)
		return replica_fail(replica, DOVETAIL_SYSTEM, "%s: cannot be read", replica->path);
	switch (file->pMethods->xRead(file, header, sizeof(header), 0)) {
	case SQLITE_OK:
	case SQLITE_IOERR_SHORT_READ:
		break;
	default:
		return replica_fail(replica, DOVETAIL_SYSTEM, "%s: cannot be read", replica->path);
	}
	if (memcmp(header, "SQLite format 3", 16) != 0 || get_be32(header + 68) != APPLICATION_ID)
		return replica_fail(replica, DOVETAIL_REPLICA, "%s is not a replica of Dovetail", replica->path);
	if (get_be32(header + 60) > SCHEMA_VERSION) {
		return replica_fail(replica, DOVETAIL_REPLICA,
			"%s has schema version %lu, written by a newer version of Dovetail; this one knows up to %d", replica->path,
			(unsigned long)get_be32(header + 60), SCHEMA_VERSION);
	}
	if (get_be32(header + 60) < 1)
		return replica_fail(replica, DOVETAIL_REPLICA, "%s is damaged: it has no schema version", replica->path);
	return DOVETAIL_OK;
}

/* It can be busy without asking the busy handler: another handle has the file for itself while it is closed. */
static int wal_step(sqlite3_stmt *stmt)
{
	struct timespec pause = { 0, 10 * 1000 * 1000 };
	int ret, tries;

	for (tries = 0;; tries++) {
		ret = sqlite3_step(stmt);
		if ((ret & 0xff) != SQLITE_BUSY || tries == REPLICA_BUSY_TIMEOUT / 10)
			return ret;
		(void)sqlite3_reset(stmt);
		(void)nanosleep(&pause, NULL);
	}
}

static enum dovetail_status set_wal(struct dovetail *replica, sqlite3 *db)
{
	enum dovetail_status status = DOVETAIL_OK;
	sqlite3_stmt *stmt = NULL;

	if (sqlite3_prepare_v2(db, "PRAGMA journal_mode = WAL", -1, &stmt, NULL) != SQLITE_OK || wal_step(stmt) != SQLITE_ROW)
		status = replica_db_fail(replica, db, "use WAL");
	else if (strcmp((const char *)sqlite3_column_text(stmt, 0), "wal") != 0) {
		status = replica_fail(replica, DOVETAIL_SYSTEM, "%s: WAL cannot be used on this file system", replica->path);
	}
	(void)sqlite3_finalize(stmt);
	return status;
}

enum dovetail_status replica_connect(struct dovetail *replica, bool readonly, sqlite3 **db_r)
{
	enum dovetail_status status;
	int flags = SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;

	flags |= readonly ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
	*db_r = NULL;
	if (sqlite3_open_v2(replica->path, db_r, flags, NULL) != SQLITE_OK)
		return *db_r == NULL ? replica_no_memory(replica) : replica_db_fail(replica, *db_r, "open");
	(void)sqlite3_busy_timeout(*db_r, REPLICA_BUSY_TIMEOUT);
	(void)sqlite3_db_config(*db_r, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	(void)sqlite3_db_config(*db_r, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
	status = check_header(replica, *db_r);
	if (status == DOVETAIL_OK && !readonly && sqlite3_db_readonly(*db_r, "main") == 1)
		status = replica_fail(replica, DOVETAIL_REPLICA, "%s is not writable", replica->path);
	if (status == DOVETAIL_OK && !readonly)
		status = set_wal(replica, *db_r);
	if (status == DOVETAIL_OK && sqlite3_exec(*db_r, connection_sql, NULL, NULL, NULL) != SQLITE_OK)
		status = replica_db_fail(replica, *db_r, "open");
	return status;
}

/* -- open and close */

static enum dovetail_status open_replica(struct dovetail *replica, const char *path)
{
	bool readonly = (replica->flags & DOVETAIL_OPEN_READONLY) != 0;
	struct replica_meta meta;
	enum dovetail_status status;

	status = set_paths(replica, path);
	if (status == DOVETAIL_OK)
		status = check_file(replica);
	if (status == DOVETAIL_NOT_FOUND && !readonly && (replica->flags & DOVETAIL_OPEN_CREATE) != 0) {
		status = create_file(replica);
		if (status == DOVETAIL_OK)
			status = check_file(replica);
	}
	if (status == DOVETAIL_NOT_FOUND)
		status = DOVETAIL_REPLICA;
	if (status == DOVETAIL_OK)
		status = replica_connect(replica, readonly, &replica->db);
	if (status == DOVETAIL_OK)
		status = replica_meta_get(replica, &meta);
	if (status == DOVETAIL_OK && !readonly) {
		if (sqlite3_exec(replica->db, temp_sql, NULL, NULL, NULL) != SQLITE_OK)
			status = replica_sql_fail(replica, "open");
		else
			status = replica_wake_open(replica);
	}
	return status;
}

enum dovetail_status
dovetail_open(const char *path, unsigned int flags, struct dovetail **replica_r, char **error_r)
{
	enum dovetail_status status;
	struct dovetail *replica;

	*replica_r = NULL;
	if (error_r != NULL)
		*error_r = NULL;
	replica = calloc(1, sizeof(*replica));
	if (replica == NULL) {
		if (error_r != NULL)
			*error_r = strdup("out of memory");
		return DOVETAIL_SYSTEM;
	}
	replica->flags = flags;
	replica->wake_fd = replica->inotify_fd = -1;
	if (path == NULL)
		status = replica_fail(replica, DOVETAIL_INVALID, "the path is missing");
	else if ((flags & ~(unsigned int)(DOVETAIL_OPEN_CREATE | DOVETAIL_OPEN_READONLY)) != 0)
		status = replica_fail(replica, DOVETAIL_INVALID, "unknown flags");
	else
		status = open_replica(replica, path);
	if (status == DOVETAIL_OK)
		status = crypt_replica_open(replica);
	if (status == DOVETAIL_OK) {
		*replica_r = replica;
	} else {
		if (error_r != NULL)
			*error_r = strdup(replica->error);
		dovetail_close(replica);
	}
	return status;
}

void dovetail_close(struct dovetail *replica)
{
	unsigned int i;

	if (replica == NULL)
		return;
	if (replica->has_codec && replica->codec.free != NULL)
		replica->codec.free(replica->codec.context);
	replica->has_codec = false;
	replica_sync_end(replica);
	for (i = 0; i < REPLICA_STATEMENTS; i++)
		(void)sqlite3_finalize(replica->statements[i].stmt);
	(void)sqlite3_close(replica->db);
	if (replica->wake_fd != -1)
		(void)close(replica->wake_fd);
	replica_stage_free(replica);
	replica_parts_free(replica);
	replica_watched_free(replica);
	replica_set_free(replica->set);
	replica_holder_free(&replica->got);
	replica_holder_free(&replica->got_raw);
	replica_holder_free(&replica->changed);
	replica_holder_free(&replica->mark);
	replica_holder_free(&replica->local);
	replica_holder_free(&replica->refused);
	free(replica->wake_path);
	free(replica->path);
	free(replica);
}
