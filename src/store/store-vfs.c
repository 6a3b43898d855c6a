/* SQLite writes a WAL frame in two pieces, its header and its page: a commit of
   three pages is six system calls, one with a value of a megabyte five hundred.
   This VFS stands before the default one and collects what is written to a WAL
   in a row; it goes out as one piece before anything else is done with the
   file, at the latest before the sync that makes a commit durable.

   Nobody else looks for frames before that: with synchronous = FULL, which
   every connection of the store uses, they are announced in the WAL index
   after the sync. */

#include "store-private.h"

#include <stdlib.h>
#include <string.h>

#define STORE_VFS_NAME "dovetail-wal"
/* About 16 frames. */
#define WAL_BUFFER_SIZE (64 * 1024)

struct wal_file {
	sqlite3_file base;
	sqlite3_file *real;	/* behind this struct */
	unsigned char *buf;	/* WAL_BUFFER_SIZE, NULL until it is needed */
	sqlite3_int64 offset;	/* where buf goes to */
	int used;
};

/* NULL: not registered yet. Both stay to the end of the process, as SQLite's. */
static sqlite3_vfs *real_vfs;
static sqlite3_vfs wal_vfs;

static int wal_flush(struct wal_file *wal)
{
	int used = wal->used;

	/* Also after a failure: SQLite gives the transaction up. */
	wal->used = 0;
	return used == 0 ? SQLITE_OK :
		wal->real->pMethods->xWrite(wal->real, wal->buf, used,
					    wal->offset);
}

static int wal_close(sqlite3_file *file)
{
	struct wal_file *wal = (struct wal_file *)file;
	int ret = wal_flush(wal), ret2;

	free(wal->buf);
	ret2 = wal->real->pMethods->xClose(wal->real);
	return ret != SQLITE_OK ? ret : ret2;
}

static int wal_read(sqlite3_file *file, void *data, int size,
		    sqlite3_int64 offset)
{
	struct wal_file *wal = (struct wal_file *)file;
	int ret = wal_flush(wal);

	return ret != SQLITE_OK ? ret :
		wal->real->pMethods->xRead(wal->real, data, size, offset);
}

static int wal_write(sqlite3_file *file, const void *data, int size,
		     sqlite3_int64 offset)
{
	struct wal_file *wal = (struct wal_file *)file;
	int ret;

	if (wal->buf == NULL)
		wal->buf = malloc(WAL_BUFFER_SIZE);
	if (offset != wal->offset + wal->used ||
	    size > WAL_BUFFER_SIZE - wal->used) {
		ret = wal_flush(wal);
		if (ret != SQLITE_OK)
			return ret;
		wal->offset = offset;
	}
	if (wal->buf == NULL || size > WAL_BUFFER_SIZE) {
		return wal->real->pMethods->xWrite(wal->real, data, size,
						   offset);
	}
	memcpy(wal->buf + wal->used, data, size);
	wal->used += size;
	return SQLITE_OK;
}

static int wal_truncate(sqlite3_file *file, sqlite3_int64 size)
{
	struct wal_file *wal = (struct wal_file *)file;
	int ret = wal_flush(wal);

	return ret != SQLITE_OK ? ret :
		wal->real->pMethods->xTruncate(wal->real, size);
}

static int wal_sync(sqlite3_file *file, int flags)
{
	struct wal_file *wal = (struct wal_file *)file;
	int ret = wal_flush(wal);

	return ret != SQLITE_OK ? ret :
		wal->real->pMethods->xSync(wal->real, flags);
}

static int wal_file_size(sqlite3_file *file, sqlite3_int64 *size_r)
{
	struct wal_file *wal = (struct wal_file *)file;
	int ret = wal_flush(wal);

	return ret != SQLITE_OK ? ret :
		wal->real->pMethods->xFileSize(wal->real, size_r);
}

static int wal_lock(sqlite3_file *file, int type)
{
	struct wal_file *wal = (struct wal_file *)file;

	return wal->real->pMethods->xLock(wal->real, type);
}

static int wal_unlock(sqlite3_file *file, int type)
{
	struct wal_file *wal = (struct wal_file *)file;

	return wal->real->pMethods->xUnlock(wal->real, type);
}

static int wal_check_lock(sqlite3_file *file, int *locked_r)
{
	struct wal_file *wal = (struct wal_file *)file;

	return wal->real->pMethods->xCheckReservedLock(wal->real, locked_r);
}

static int wal_file_control(sqlite3_file *file, int op, void *arg)
{
	struct wal_file *wal = (struct wal_file *)file;
	int ret = wal_flush(wal);

	return ret != SQLITE_OK ? ret :
		wal->real->pMethods->xFileControl(wal->real, op, arg);
}

static int wal_sector_size(sqlite3_file *file)
{
	struct wal_file *wal = (struct wal_file *)file;

	return wal->real->pMethods->xSectorSize(wal->real);
}

static int wal_device_characteristics(sqlite3_file *file)
{
	struct wal_file *wal = (struct wal_file *)file;

	return wal->real->pMethods->xDeviceCharacteristics(wal->real);
}

static const sqlite3_io_methods wal_methods = {
	.iVersion = 1,
	.xClose = wal_close,
	.xRead = wal_read,
	.xWrite = wal_write,
	.xTruncate = wal_truncate,
	.xSync = wal_sync,
	.xFileSize = wal_file_size,
	.xLock = wal_lock,
	.xUnlock = wal_unlock,
	.xCheckReservedLock = wal_check_lock,
	.xFileControl = wal_file_control,
	.xSectorSize = wal_sector_size,
	.xDeviceCharacteristics = wal_device_characteristics,
};

static int wal_vfs_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file,
			int flags, int *flags_r)
{
	struct wal_file *wal = (struct wal_file *)file;
	int ret;

	(void)vfs;
	if ((flags & SQLITE_OPEN_WAL) == 0)
		return real_vfs->xOpen(real_vfs, name, file, flags, flags_r);
	memset(wal, 0, sizeof(*wal));
	wal->real = (sqlite3_file *)(wal + 1);
	ret = real_vfs->xOpen(real_vfs, name, wal->real, flags, flags_r);
	/* SQLite closes what has methods, also after a failure */
	if (wal->real->pMethods != NULL)
		wal->base.pMethods = &wal_methods;
	return ret;
}

const char *store_vfs_register(void)
{
	if (real_vfs != NULL)
		return STORE_VFS_NAME;
	real_vfs = sqlite3_vfs_find(NULL);
	if (real_vfs == NULL)
		return NULL;
	wal_vfs = *real_vfs;
	wal_vfs.zName = STORE_VFS_NAME;
	wal_vfs.szOsFile += sizeof(struct wal_file);
	wal_vfs.pNext = NULL;
	wal_vfs.xOpen = wal_vfs_open;
	if (sqlite3_vfs_register(&wal_vfs, 0) != SQLITE_OK) {
		real_vfs = NULL;
		return NULL;
	}
	return STORE_VFS_NAME;
}
