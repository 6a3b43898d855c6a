/* The power is cut at random I/O operations. A layer below SQLite (a VFS)
   keeps for each file what was synced and the list of what was written since.
   At the cut, of each write that was not synced any 512-byte sector may be on
   the disk or not, in any order, and any change of size: what a disk may do.
   Then the store is opened again without the layer: no set that was
   acknowledged is lost, none is half there, the store is sound.

   Directory entries count as synced once they are made or removed: SQLite and
   the store sync the directory after they create a file. Reading a file that
   grew shows zeros, not old data of others, as file systems guarantee. */

#include "store-test.h"

#include <sqlite3.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECTOR 512
#define CUTS 400
#define CREATE_CUTS 150

/* -- what is on the disk, and what may be */

struct op {
	bool resize;
	int64_t offset;		/* or the new size */
	int size;
	unsigned char *data;
};

struct image {
	char path[512];
	unsigned char *data;	/* as synced */
	int64_t size;
	struct op *ops;		/* since then */
	unsigned int ops_count;
};

static struct image images[8];
static unsigned int ops_left;
static bool sync_lies;

static void image_resize(struct image *image, int64_t size)
{
	image->data = realloc(image->data, size + 1);
	assert_non_null(image->data);
	if (size > image->size)
		memset(image->data + image->size, 0, size - image->size);
	image->size = size;
}

static void image_write(struct image *image, int64_t offset,
			const unsigned char *data, int size)
{
	if (offset + size > image->size)
		image_resize(image, offset + size);
	memcpy(image->data + offset, data, size);
}

static void image_forget(struct image *image)
{
	unsigned int i;

	for (i = 0; i < image->ops_count; i++)
		free(image->ops[i].data);
	image->ops_count = 0;
}

static void image_sync(struct image *image)
{
	const struct op *op;

	for (op = image->ops; op < image->ops + image->ops_count; op++) {
		if (op->resize)
			image_resize(image, op->offset);
		else
			image_write(image, op->offset, op->data, op->size);
	}
	image_forget(image);
}

static void image_add(struct image *image, bool resize, int64_t offset,
		      const void *data, int size)
{
	struct op *op;

	image->ops = realloc(image->ops,
			     (image->ops_count + 1) * sizeof(*op));
	assert_non_null(image->ops);
	op = &image->ops[image->ops_count++];
	op->resize = resize;
	op->offset = offset;
	op->size = size;
	op->data = malloc(size + 1);
	assert_non_null(op->data);
	if (size > 0)
		memcpy(op->data, data, size);
}

static struct image *image_of(const char *path)
{
	struct image *image = images;
	struct stat st;
	int fd;

	while (image->path[0] != '\0' && strcmp(image->path, path) != 0)
		image++;
	assert_true(image < images + 7);
	if (image->path[0] == '\0') {
		(void)snprintf(image->path, sizeof(image->path), "%s", path);
		if (stat(path, &st) == 0 && st.st_size > 0) {
			image_resize(image, st.st_size);
			fd = open(path, O_RDONLY);
			assert_int_equal(read(fd, image->data, image->size),
					 image->size);
			(void)close(fd);
		}
	}
	return image;
}

/* keep: per cent of the sectors that made it */
static void image_cut(struct image *image, unsigned int keep)
{
	const struct op *op;
	int at, next;

	for (op = image->ops; op < image->ops + image->ops_count; op++) {
		if (op->resize) {
			if (rnd(100) < keep)
				image_resize(image, op->offset);
			continue;
		}
		for (at = 0; at < op->size; at = next) {
			next = at + SECTOR - (op->offset + at) % SECTOR;
			if (next > op->size)
				next = op->size;
			if (rnd(100) < keep) {
				image_write(image, op->offset + at,
					    op->data + at, next - at);
			}
		}
	}
}

static void file_overwrite(const char *path, const void *data, int64_t size)
{
	int fd = open(path, O_WRONLY);

	if (fd == -1)
		return;
	if (ftruncate(fd, 0) < 0 || write(fd, data, size) != size)
		_exit(4);
	(void)close(fd);
}

static void power_cut(void)
{
	static const unsigned int keeps[] = { 0, 20, 50, 95, 100 };
	unsigned int keep = keeps[rnd(5)];
	struct image *image;
	size_t size;

	if (sync_lies)
		keep = 0;
	for (image = images; image->path[0] != '\0'; image++) {
		image_cut(image, keep);
		file_overwrite(image->path, image->data, image->size);
		/* shared memory is never synced: whatever */
		size = strlen(image->path);
		if (size > 3 && strcmp(image->path + size - 3, ".db") == 0) {
			strcpy(image->path + size, "-shm");
			file_overwrite(image->path, keeps, sizeof(keeps));
		}
	}
	_exit(0);
}

static void tick(void)
{
	if (--ops_left == 0)
		power_cut();
}

/* -- the layer */

struct power_file {
	sqlite3_file base;
	struct image *image;	/* NULL: a temporary file */
	sqlite3_file *real;	/* behind this struct */
};

#define REAL(file) (((struct power_file *)(file))->real)
#define IMAGE(file) (((struct power_file *)(file))->image)
#define REAL_VFS(vfs) ((sqlite3_vfs *)(vfs)->pAppData)

static int power_close(sqlite3_file *file)
{
	return REAL(file)->pMethods->xClose(REAL(file));
}

static int power_read(sqlite3_file *file, void *data, int size,
		      sqlite3_int64 offset)
{
	return REAL(file)->pMethods->xRead(REAL(file), data, size, offset);
}

static int power_write(sqlite3_file *file, const void *data, int size,
		       sqlite3_int64 offset)
{
	if (IMAGE(file) != NULL) {
		image_add(IMAGE(file), false, offset, data, size);
		tick();
	}
	return REAL(file)->pMethods->xWrite(REAL(file), data, size, offset);
}

/* The real one rounds sizes, so look at what it did. */
static int resized(sqlite3_file *file, int ret)
{
	sqlite3_int64 size;

	if (ret == SQLITE_OK && IMAGE(file) != NULL &&
	    REAL(file)->pMethods->xFileSize(REAL(file), &size) == SQLITE_OK) {
		image_add(IMAGE(file), true, size, NULL, 0);
		tick();
	}
	return ret;
}

static int power_truncate(sqlite3_file *file, sqlite3_int64 size)
{
	return resized(file, REAL(file)->pMethods->xTruncate(REAL(file),
							     size));
}

static int power_sync(sqlite3_file *file, int flags)
{
	(void)flags;
	if (IMAGE(file) != NULL) {
		tick();
		if (!sync_lies)
			image_sync(IMAGE(file));
	}
	return SQLITE_OK;
}

static int power_file_size(sqlite3_file *file, sqlite3_int64 *size_r)
{
	return REAL(file)->pMethods->xFileSize(REAL(file), size_r);
}

static int power_lock(sqlite3_file *file, int lock)
{
	return REAL(file)->pMethods->xLock(REAL(file), lock);
}

static int power_unlock(sqlite3_file *file, int lock)
{
	return REAL(file)->pMethods->xUnlock(REAL(file), lock);
}

static int power_reserved(sqlite3_file *file, int *ret_r)
{
	return REAL(file)->pMethods->xCheckReservedLock(REAL(file), ret_r);
}

static int power_control(sqlite3_file *file, int op, void *arg)
{
	int ret = REAL(file)->pMethods->xFileControl(REAL(file), op, arg);

	return op == SQLITE_FCNTL_SIZE_HINT ? resized(file, ret) : ret;
}

static int power_sector_size(sqlite3_file *file)
{
	return REAL(file)->pMethods->xSectorSize(REAL(file));
}

static int power_characteristics(sqlite3_file *file)
{
	return REAL(file)->pMethods->xDeviceCharacteristics(REAL(file));
}

static int power_shm_map(sqlite3_file *file, int page, int size, int extend,
			 void volatile **map_r)
{
	return REAL(file)->pMethods->xShmMap(REAL(file), page, size, extend,
					     map_r);
}

static int power_shm_lock(sqlite3_file *file, int offset, int n, int flags)
{
	return REAL(file)->pMethods->xShmLock(REAL(file), offset, n, flags);
}

static void power_shm_barrier(sqlite3_file *file)
{
	REAL(file)->pMethods->xShmBarrier(REAL(file));
}

static int power_shm_unmap(sqlite3_file *file, int delete)
{
	return REAL(file)->pMethods->xShmUnmap(REAL(file), delete);
}

static const sqlite3_io_methods power_methods = {
	.iVersion = 2,
	.xClose = power_close,
	.xRead = power_read,
	.xWrite = power_write,
	.xTruncate = power_truncate,
	.xSync = power_sync,
	.xFileSize = power_file_size,
	.xLock = power_lock,
	.xUnlock = power_unlock,
	.xCheckReservedLock = power_reserved,
	.xFileControl = power_control,
	.xSectorSize = power_sector_size,
	.xDeviceCharacteristics = power_characteristics,
	.xShmMap = power_shm_map,
	.xShmLock = power_shm_lock,
	.xShmBarrier = power_shm_barrier,
	.xShmUnmap = power_shm_unmap,
};

static int power_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file,
		      int flags, int *flags_r)
{
	struct power_file *power = (struct power_file *)file;
	int ret;

	power->real = (sqlite3_file *)(power + 1);
	power->base.pMethods = NULL;
	power->image = NULL;
	/* before it is there: a new file is empty */
	if ((flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_MAIN_JOURNAL |
		      SQLITE_OPEN_WAL)) != 0)
		power->image = image_of(name);
	ret = REAL_VFS(vfs)->xOpen(REAL_VFS(vfs), name, power->real, flags,
				   flags_r);
	if (power->real->pMethods != NULL)
		power->base.pMethods = &power_methods;
	return ret;
}

static int power_delete(sqlite3_vfs *vfs, const char *name, int sync_dir)
{
	int ret;

	tick();
	ret = REAL_VFS(vfs)->xDelete(REAL_VFS(vfs), name, sync_dir);
	if (ret == SQLITE_OK) {
		image_forget(image_of(name));
		image_resize(image_of(name), 0);
	}
	return ret;
}

static void power_register(void)
{
	static sqlite3_vfs vfs;
	sqlite3_vfs *real = sqlite3_vfs_find(NULL);

	vfs = *real;
	vfs.zName = "power";
	vfs.szOsFile = sizeof(struct power_file) + real->szOsFile;
	vfs.pAppData = real;
	vfs.xOpen = power_open;
	vfs.xDelete = power_delete;
	assert_int_equal(sqlite3_vfs_register(&vfs, 1), SQLITE_OK);
}

/* -- the writer, in a process of its own */

/* Each acknowledged set's number goes to fd, until the power is cut. */
static void writer(const struct store_settings *set, unsigned int number,
		   int fd)
{
	struct store_error error;
	struct store *store;
	uint64_t purged;

	power_register();
	if (store_open(set, &store, &error) != STORE_OK)
		_exit(1);
	for (;;) {
		number++;
		if (workload_apply(store, number, &error) != STORE_OK)
			_exit(2);
		if (write(fd, &number, sizeof(number)) != sizeof(number))
			_exit(3);
		store_idle(store);
		switch (rnd(60)) {
		case 0:
			store_close(&store);
			if (store_open(set, &store, &error) != STORE_OK)
				_exit(5);
			break;
		case 1:
			(void)store_purge(store, 4000000000, &purged, &error);
			break;
		}
	}
}

/* Returns the last number acknowledged. */
static unsigned int write_until_cut(const struct store_settings *set,
				    unsigned int number, unsigned int ops)
{
	uint32_t seed = rnd(UINT32_MAX);
	int fds[2], status;
	pid_t pid;

	assert_int_equal(pipe(fds), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)close(fds[0]);
		rnd_seed(seed);
		ops_left = ops;
		writer(set, number, fds[1]);
	}
	(void)close(fds[1]);
	while (read(fds[0], &number, sizeof(number)) == sizeof(number)) ;
	(void)close(fds[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	return number;
}

static void test_power_cuts(void **state)
{
	unsigned int number = 0, acknowledged, i, between = 0;
	struct fixture *f = *state;
	struct store_pos pos;

	for (i = 0; i < CUTS; i++) {
		pos = get_state(f).pos;
		store_close(&f->store);
		acknowledged = write_until_cut(&f->set, number,
					       1 + rnd(i % 4 == 0 ? 3000 :
						       300));
		f->store = must_open(&f->set);
		must_check(f);
		number = workload_verify(f->store);
		if (number != acknowledged && number != acknowledged + 1)
			fail_msg("cut %u: %u are there, %u were acknowledged",
				 i, number, acknowledged);
		if (number > acknowledged)
			between++;
		assert_int_equal(get_state(f).pos.epoch, pos.epoch);
		assert_true(get_state(f).pos.modseq >= pos.modseq);
	}
	print_message("%u sets, %u cuts, %u of them between commit and "
		      "acknowledgement\n", number, CUTS, between);
}

/* While the store is made: it is a store afterwards, if an empty one. */
static void test_power_cuts_when_new(void **state)
{
	struct fixture *f = *state;
	unsigned int acknowledged, number, i;
	char dir[400];

	for (i = 0; i < CREATE_CUTS; i++) {
		(void)snprintf(dir, sizeof(dir), "%s/new-%u", f->base, i);
		f->set.dir = dir;
		acknowledged = write_until_cut(&f->set, 0, 1 + i % 75);
		reopen(f);
		must_check(f);
		number = workload_verify(f->store);
		assert_true(number == acknowledged ||
			    number == acknowledged + 1);
	}
}

static bool number_callback(const struct store_entry *entry, void *context)
{
	bool *removed = context;

	*removed = entry->removed;
	return true;
}

/* The layer itself: with a disk that lies about syncing, all is lost. */
static void test_layer_loses(void **state)
{
	static const struct store_key counter = { "", "/private/n" };
	struct fixture *f = *state;
	bool removed = false;

	store_close(&f->store);
	sync_lies = true;
	assert_true(write_until_cut(&f->set, 0, 300) > 10);
	sync_lies = false;
	f->store = must_open(&f->set);
	assert_int_equal(store_get(f->store, &counter, 1, number_callback,
				   &removed, &f->pos, &f->error), STORE_OK);
	assert_true(removed);
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, \
						fixture_teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_power_cuts),
		T(test_power_cuts_when_new),
		T(test_layer_loses),
	};

	rnd_start();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
