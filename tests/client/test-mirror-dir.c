/* The mirrored folder: writing, replacing and removing while others write, links, files that become folders. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "durable.h"
#include "mirror-dir.h"
#include "mirror-record.h"

static char top[100];
static struct mirror_dir dir;

static void write_file(const char *name, const char *data)
{
	char path[400];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", top, name);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_true(fputs(data, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static void make_folder(const char *name)
{
	char path[400];

	snprintf(path, sizeof(path), "%s/%s", top, name);
	assert_int_equal(mkdir(path, 0755), 0);
}

/* "" if there is none */
static const char *read_file(const char *name)
{
	static char data[100];
	char path[400];
	ssize_t size = 0;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", top, name);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd >= 0) {
		size = read(fd, data, sizeof(data) - 1);
		close(fd);
	}
	data[size < 0 ? 0 : size] = '\0';
	return data;
}

static unsigned int count_files(const char *name)
{
	const struct dirent *entry;
	unsigned int count = 0;
	char path[400];
	DIR *stream;

	snprintf(path, sizeof(path), "%s/%s", top, name);
	stream = opendir(path);
	if (stream == NULL)
		return 0;
	while ((entry = readdir(stream)) != NULL)
		count += entry->d_name[0] != '.' || strcmp(name, "") == 0;
	closedir(stream);
	return count;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path);
}

static int setup(void **state)
{
	bool busy;

	(void)state;
	snprintf(top, sizeof(top), "%s/dovetail-mirror-XXXXXX", getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp");
	if (mkdtemp(top) == NULL)
		return -1;
	if (!mirror_dir_open(&dir, top, NULL, &busy)) {
		fprintf(stderr, "%s\n", dir.error);
		return -1;
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	mirror_dir_close(&dir);
	return nftw(top, remove_one, 10, FTW_DEPTH | FTW_PHYS);
}

static struct mirror_stat stat_of(const char *name)
{
	struct mirror_file file;

	assert_int_equal(mirror_file_read(&dir, name, 1000, NULL, NULL, &file), MIRROR_OK);
	mirror_file_free(&file);
	return file.stat;
}

static enum mirror_result place(const char *name, const char *data, const struct mirror_stat *expect)
{
	struct mirror_stat stat;

	return mirror_file_place(&dir, name, data, strlen(data), expect, &stat);
}

/* The newest copy in the trash, by its path. */
static const char *trashed(const char *name)
{
	static char data[100];
	struct dirent **list;
	char path[700];
	int i, count;

	snprintf(path, sizeof(path), "%s/.dovetail/trash", top);
	count = scandir(path, &list, NULL, alphasort);
	data[0] = '\0';
	for (i = count - 1; i >= 0; i--) {
		snprintf(path, sizeof(path), ".dovetail/trash/%.30s/%s", list[i]->d_name, name);
		if (data[0] == '\0' && list[i]->d_name[0] != '.')
			snprintf(data, sizeof(data), "%s", read_file(path));
		free(list[i]);
	}
	free(list);
	return data;
}

static void test_place(void **state)
{
	struct mirror_stat stat;

	(void)state;
	assert_int_equal(place("new/folder/x", "1", NULL), MIRROR_OK);
	assert_string_equal(read_file("new/folder/x"), "1");
	/* there is something */
	assert_int_equal(place("new/folder/x", "2", NULL), MIRROR_BUSY);
	stat = stat_of("new/folder/x");
	assert_int_equal(place("new/folder/x", "2", &stat), MIRROR_OK);
	assert_string_equal(read_file("new/folder/x"), "2");
	assert_string_equal(trashed("new/folder/x"), "1");
	/* it is another one now */
	assert_int_equal(place("new/folder/x", "3", &stat), MIRROR_BUSY);
	assert_string_equal(read_file("new/folder/x"), "2");
	assert_int_equal(mirror_file_remove(&dir, "new/folder/x", &stat), MIRROR_BUSY);
	stat = stat_of("new/folder/x");
	assert_int_equal(mirror_file_remove(&dir, "new/folder/x", &stat), MIRROR_OK);
	assert_string_equal(read_file("new/folder/x"), "");
	mirror_remove_empty(&dir, "new/folder/x");
	assert_false(mirror_exists(&dir, "new"));
	assert_int_equal(count_files(".dovetail/tmp"), 0);
}

/* First what is in the file, before it has its place, then its place: the record, which is durable, must not know more than the
   folder. */
static void is_durable(void)
{
	char tmp[200], expected[400];
	const char *end = strchr(durable, '\n');

	snprintf(tmp, sizeof(tmp), "%s/.dovetail/tmp/", top);
	assert_true(strncmp(durable, tmp, strlen(tmp)) == 0);
	snprintf(expected, sizeof(expected), "\n%s\n", top);
	assert_string_equal(end, expected);
}

static void test_durable(void **state)
{
	struct mirror_stat stat;
	char expected[400];

	(void)state;
	*durable = '\0';
	assert_int_equal(place("x", "1", NULL), MIRROR_OK);
	assert_int_equal(mirror_dir_sync(&dir), MIRROR_OK);
	is_durable();
	stat = stat_of("x");
	*durable = '\0';
	assert_int_equal(place("x", "2", &stat), MIRROR_OK);
	assert_int_equal(mirror_dir_sync(&dir), MIRROR_OK);
	is_durable();
	stat = stat_of("x");
	*durable = '\0';
	assert_int_equal(mirror_file_remove(&dir, "x", &stat), MIRROR_OK);
	assert_int_equal(mirror_dir_sync(&dir), MIRROR_OK);
	snprintf(expected, sizeof(expected), "%s\n", top);
	assert_string_equal(durable, expected);
}

static void test_mode_is_kept(void **state)
{
	struct mirror_stat stat;
	char path[200];
	struct stat st;

	(void)state;
	write_file("x", "1");
	snprintf(path, sizeof(path), "%s/x", top);
	assert_int_equal(chmod(path, 0640), 0);
	stat = stat_of("x");
	assert_int_equal(place("x", "2", &stat), MIRROR_OK);
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
}

static void test_open_for_writing(void **state)
{
	struct mirror_file file;
	struct mirror_stat stat;
	char path[200];
	int fd;

	(void)state;
	write_file("x", "1");
	stat = stat_of("x");
	snprintf(path, sizeof(path), "%s/x", top);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_int_equal(mirror_file_read(&dir, "x", 1000, NULL, NULL, &file), MIRROR_BUSY);
	assert_int_equal(place("x", "2", &stat), MIRROR_BUSY);
	assert_int_equal(mirror_file_remove(&dir, "x", &stat), MIRROR_BUSY);
	close(fd);
	assert_int_equal(place("x", "2", &stat), MIRROR_OK);
}

static void test_read(void **state)
{
	struct mirror_file file;
	struct mirror_stat stat;
	struct timespec wait = { .tv_nsec = 50000000 };
	unsigned int attempts = 0;
	bool known;

	(void)state;
	write_file("x", "12345");
	assert_int_equal(mirror_file_read(&dir, "x", 4, NULL, NULL, &file), MIRROR_LEFT_ALONE);
	assert_int_equal(mirror_file_read(&dir, "x/y", 10, NULL, NULL, &file), MIRROR_ABSENT);
	assert_int_equal(mirror_file_read(&dir, "none/x", 10, NULL, NULL, &file), MIRROR_ABSENT);
	/* one that is young could change without a new time */
	do {
		write_file("x", "12345");
		stat = stat_of("x");
	} while (stat.ctime != 0 && ++attempts < 1000);
	assert_int_equal(stat.ctime, 0);
	assert_false(mirror_stat_same(&stat, &stat));
	/* one that is old enough is known by its times */
	nanosleep(&wait, NULL);
	stat = stat_of("x");
	assert_int_equal(mirror_file_read(&dir, "x", 10, &stat, &known, &file), MIRROR_OK);
	assert_true(known);
	write_file("x", "54321");
	assert_int_equal(mirror_file_read(&dir, "x", 10, &stat, &known, &file), MIRROR_OK);
	assert_false(known);
	assert_string_equal(file.data, "54321");
	mirror_file_free(&file);
}

static void test_links(void **state)
{
	struct mirror_stat stat = { .ino = 1 };
	struct mirror_file file;
	char path[200], outside[200];

	(void)state;
	snprintf(outside, sizeof(outside), "%s.outside", top);
	assert_int_equal(mkdir(outside, 0700), 0);
	snprintf(path, sizeof(path), "%s/link", top);
	assert_int_equal(symlink(outside, path), 0);
	make_folder("real");
	snprintf(path, sizeof(path), "%s/real/link", top);
	assert_int_equal(symlink("/etc/passwd", path), 0);
	assert_int_equal(place("link/x", "1", NULL), MIRROR_LEFT_ALONE);
	assert_int_equal(place("link/x", "1", &stat), MIRROR_LEFT_ALONE);
	assert_int_equal(mirror_file_remove(&dir, "link/x", &stat), MIRROR_LEFT_ALONE);
	assert_int_equal(mirror_file_read(&dir, "link", 10, NULL, NULL, &file), MIRROR_LEFT_ALONE);
	assert_int_equal(mirror_file_read(&dir, "real/link", 10, NULL, NULL, &file), MIRROR_LEFT_ALONE);
	assert_int_equal(place("real/link", "1", NULL), MIRROR_BUSY);
	assert_int_equal(place("real/link/x", "1", NULL), MIRROR_LEFT_ALONE);
	assert_int_not_equal(place("real/link", "1", &stat), MIRROR_OK);
	assert_int_not_equal(mirror_file_remove(&dir, "real/link", &stat), MIRROR_OK);
	assert_true(mirror_exists(&dir, "link"));
	assert_true(mirror_exists(&dir, "link/x"));
	assert_false(mirror_is_folder(&dir, "link"));
	/* nothing was made there */
	assert_int_equal(rmdir(outside), 0);
}

static void test_file_and_folder(void **state)
{
	(void)state;
	write_file("a", "value of a");
	assert_int_equal(place("a/b", "1", NULL), MIRROR_OK);
	assert_string_equal(read_file("a/%="), "value of a");
	assert_string_equal(read_file("a/b"), "1");
	/* not alone */
	assert_int_equal(mirror_folder_collapse(&dir, "a"), MIRROR_OK);
	assert_true(mirror_is_folder(&dir, "a"));
	unlinkat(dir.root_fd, "a/b", 0);
	assert_int_equal(mirror_folder_collapse(&dir, "a"), MIRROR_OK);
	assert_string_equal(read_file("a"), "value of a");
	assert_int_equal(mirror_folder_collapse(&dir, "a"), MIRROR_OK);
	assert_int_equal(mirror_folder_collapse(&dir, "none/a"), MIRROR_OK);
	assert_string_equal(read_file("a"), "value of a");
	/* an empty folder is none of ours */
	make_folder("empty");
	assert_int_equal(mirror_folder_collapse(&dir, "empty"), MIRROR_OK);
	assert_true(mirror_is_folder(&dir, "empty"));
	assert_int_equal(count_files(".dovetail/tmp"), 0);
}

/* Somebody saves the value of an entry, again and again, as editors do, while its file becomes a folder and a file again. */
static void save(unsigned int rounds, int report)
{
	char folder[200], other[200], text[40], seen[40];
	unsigned int i;
	int fd;

	snprintf(folder, sizeof(folder), "%s/a/%s", top, MIRROR_INSIDE);
	snprintf(other, sizeof(other), "%s.editor", top);
	for (i = 0; i < rounds; i++) {
		snprintf(text, sizeof(text), "e%08u\n", i);
		fd = open(other, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (fd < 0 || write(fd, text, strlen(text)) < 0)
			_exit(1);
		close(fd);
		/* what it has replaced it has seen */
		while (renameat2(AT_FDCWD, other, AT_FDCWD, folder, RENAME_EXCHANGE) < 0)
			;
		fd = open(other, O_RDONLY | O_CLOEXEC);
		if (read(fd, seen, 10) == 10 && write(report, seen, 10) != 10)
			_exit(1);
		close(fd);
	}
	unlink(other);
	_exit(0);
}

/* A process edits one file as fast as it can, in both ways of editors; this one replaces it. Each version is whole, and none is
   lost: the number of each that was written is in the trash, in the file, in a conflicting version, or was replaced by its own
   writer. */
static void edit(unsigned int rounds, int report)
{
	char path[200], other[200], text[40], seen[40];
	unsigned int i;
	ssize_t size;
	int fd;

	snprintf(path, sizeof(path), "%s/x", top);
	snprintf(other, sizeof(other), "%s.editor", top);
	for (i = 0; i < rounds; i++) {
		snprintf(text, sizeof(text), "e%08u\n", i);
		fd = open(path, O_RDWR | O_APPEND | O_CLOEXEC);
		if (fd < 0)
			_exit(1);
		if (i % 2 == 0) {
			/* appends: what was there stays */
			if (write(fd, text, strlen(text)) < 0)
				_exit(1);
			close(fd);
			continue;
		}
		close(fd);
		fd = open(other, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (fd < 0 || write(fd, text, strlen(text)) < 0)
			_exit(1);
		close(fd);
		if (renameat2(AT_FDCWD, other, AT_FDCWD, path, RENAME_EXCHANGE) < 0)
			_exit(1);
		/* all that it has replaced it has seen */
		fd = open(other, O_RDONLY | O_CLOEXEC);
		while ((size = read(fd, seen, 10)) == 10) {
			if (write(report, seen, size) != size)
				_exit(1);
		}
		close(fd);
	}
	unlink(other);
	_exit(0);
}

static unsigned int rounds_max;
/* FOUND_... of each edit */
enum { FOUND_SEEN = 1, FOUND_FILE = 2, FOUND_TRASH = 4, FOUND_READ = 8 };
static unsigned char *found;

static void note_text(const char *text, size_t size, unsigned char where)
{
	size_t at;

	for (at = 0; at + 10 <= size; at += 10) {
		assert_int_equal(text[at + 9], '\n');
		if (text[at] == 'e')
			found[strtoul(text + at + 1, NULL, 10) % rounds_max] |= where;
	}
	assert_int_equal(at, size);
}

static int note_file(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	char *data;
	FILE *f;

	(void)ftw;
	if (flag != FTW_F || strstr(path, "/mirror") == path + strlen(path) - 7 || strstr(path, "/lock") != NULL)
		return 0;
	data = malloc(st->st_size + 1);
	f = fopen(path, "r");
	assert_non_null(f);
	assert_int_equal(fread(data, 1, st->st_size, f), st->st_size);
	fclose(f);
	note_text(data, st->st_size, strstr(path, "/trash/") != NULL ? FOUND_TRASH : FOUND_FILE);
	free(data);
	return 0;
}

static void test_race_with_an_editor(void **state)
{
	unsigned int i, replaced = 0, lost = 0, unread = 0;
	struct mirror_file file;
	struct mirror_stat stat;
	char text[40], seen[10];
	int pipes[2], status;
	pid_t pid;

	(void)state;
	rounds_max = 3000;
	found = calloc(rounds_max, 1);
	write_file("x", "m00000000\n");
	assert_int_equal(pipe2(pipes, O_NONBLOCK), 0);
	assert_true(fcntl(pipes[1], F_SETPIPE_SZ, 1 << 20) > 0);
	pid = fork();
	if (pid == 0)
		edit(rounds_max, pipes[1]);
	close(pipes[1]);
	for (i = 1; waitpid(pid, &status, WNOHANG) == 0; i++) {
		if (mirror_file_read(&dir, "x", 1000000, NULL, NULL, &file) == MIRROR_OK) {
			snprintf(text, sizeof(text), "m%08u\n", i);
			if (mirror_file_place(&dir, "x", text, strlen(text), &file.stat, &stat) == MIRROR_OK) {
				note_text(file.data, file.size, FOUND_READ);
				replaced++;
			}
		}
		mirror_file_free(&file);
		while (read(pipes[0], seen, 10) == 10)
			note_text(seen, 10, FOUND_SEEN);
	}
	assert_int_equal(status, 0);
	while (read(pipes[0], seen, 10) == 10)
		note_text(seen, 10, FOUND_SEEN);
	close(pipes[0]);
	assert_int_equal(nftw(top, note_file, 10, FTW_PHYS), 0);
	for (i = 0; i < rounds_max; i++) {
		lost += found[i] == 0;
		unread += found[i] == FOUND_TRASH;
	}
	assert_int_equal(lost, 0);
	/* What was replaced unread is in the trash, and is an exception: by who had found the file just before it was replaced,
	   and opened it just after. */
	printf("%u replaced, %u of %u edits in the trash unread\n", replaced, unread, rounds_max);
	assert_true(unread <= rounds_max / 100);
	/* it was one */
	assert_true(replaced > 0);
	free(found);
}

static void test_race_with_who_saves_in_a_folder_that_becomes_a_file(void **state)
{
	int pipes[2], status;
	unsigned int i, lost = 0;
	char seen[10];
	pid_t pid;

	(void)state;
	rounds_max = 800;
	found = calloc(rounds_max, 1);
	write_file("a", "m00000000\n");
	assert_int_equal(pipe2(pipes, O_NONBLOCK), 0);
	assert_true(fcntl(pipes[1], F_SETPIPE_SZ, 1 << 20) > 0);
	pid = fork();
	if (pid == 0)
		save(rounds_max, pipes[1]);
	close(pipes[1]);
	while (waitpid(pid, &status, WNOHANG) == 0) {
		(void)mirror_file_to_folder(&dir, dir.root_fd, "a");
		(void)mirror_folder_collapse(&dir, "a");
		while (read(pipes[0], seen, 10) == 10)
			note_text(seen, 10, FOUND_SEEN);
	}
	assert_int_equal(status, 0);
	while (read(pipes[0], seen, 10) == 10)
		note_text(seen, 10, FOUND_SEEN);
	close(pipes[0]);
	assert_int_equal(nftw(top, note_file, 10, FTW_PHYS), 0);
	for (i = 0; i < rounds_max; i++)
		lost += found[i] == 0;
	assert_int_equal(lost, 0);
	free(found);
}

static void test_record(void **state)
{
	struct mirror_base base = { .known = true, .stat = { .ino = UINT64_MAX, .size = 5, .mtime = -1, .ctime = 7 } }, got;
	char path[200], name[MIRROR_ENTRY_MAX + 1], text[20];
	struct mirror_record record;
	uint64_t count, known;
	int64_t due;
	bool found;

	(void)state;
	snprintf(path, sizeof(path), "%s/record.db", top);
	assert_true(mirror_record_open(&record, path));
	memset(base.hash, 7, sizeof(base.hash));
	assert_true(mirror_record_begin_anew(&record, "id", "user at host"));
	assert_true(mirror_record_put(&record, "b", &base));
	assert_true(mirror_record_put(&record, "", &base));
	assert_true(mirror_record_intend(&record, "c", base.hash));
	mirror_record_close(&record);
	assert_true(mirror_record_open(&record, path));
	assert_true(mirror_record_meta(&record, "marker", text, sizeof(text)));
	assert_string_equal(text, "id");
	assert_true(mirror_record_meta(&record, "none", text, sizeof(text)));
	assert_string_equal(text, "");
	assert_true(mirror_record_get(&record, "b", &got));
	assert_true(got.known && !got.conflict);
	assert_memory_equal(got.hash, base.hash, sizeof(base.hash));
	assert_true(mirror_stat_same(&got.stat, &base.stat));
	assert_true(mirror_record_get(&record, "none", &got));
	assert_false(got.known || got.intended);
	assert_true(mirror_record_get(&record, "c", &got));
	assert_true(!got.known && got.intended);
	assert_memory_equal(got.intent, base.hash, sizeof(base.hash));
	assert_true(mirror_record_remove(&record, "c"));
	assert_true(mirror_record_get(&record, "c", &got));
	assert_false(got.known || got.intended);
	/* work in order, the top first; later ones wait */
	assert_true(mirror_record_look(&record, "c", 5));
	assert_true(mirror_record_look(&record, "c", 500));
	assert_true(mirror_record_look(&record, "b", 9));
	assert_true(mirror_record_look(&record, "b", 3));
	assert_true(mirror_record_look(&record, "", 1));
	assert_true(mirror_record_look(&record, "later", 100));
	assert_true(mirror_record_begin(&record, 50, &count, &known));
	assert_int_equal(count, 3);
	assert_int_equal(known, 2);
	assert_true(mirror_record_due(&record, &due));
	assert_int_equal(due, 100);
	assert_true(mirror_record_next(&record, "", true, name, &found) && found);
	assert_string_equal(name, "");
	assert_true(mirror_record_next(&record, name, false, name, &found) && found);
	assert_string_equal(name, "b");
	assert_true(mirror_record_done(&record, "b"));
	assert_true(mirror_record_next(&record, name, false, name, &found) && found);
	assert_string_equal(name, "c");
	assert_true(mirror_record_next(&record, name, false, name, &found) && !found);
	/* what has a base and was not seen */
	assert_true(mirror_record_unsee(&record));
	assert_true(mirror_record_see(&record, "b", MIRROR_SEEN_FILE));
	assert_true(mirror_record_look_unseen(&record, MIRROR_SEEN_FILE, 200));
	assert_true(mirror_record_begin(&record, 300, &count, &known));
	/* "" and "c" were left, "later" was due */
	assert_int_equal(count, 3);
	assert_true(mirror_record_tell(&record, "once"));
	assert_false(mirror_record_tell(&record, "once"));
	mirror_record_close(&record);
}

static void test_lock_and_marker(void **state)
{
	struct mirror_dir other;
	char id[MIRROR_ID_SIZE];
	bool busy;

	(void)state;
	assert_false(mirror_dir_open(&other, top, NULL, &busy));
	assert_true(busy);
	assert_true(mirror_dir_is_there(&dir));
	memcpy(id, dir.id, sizeof(id));
	mirror_dir_close(&dir);
	assert_true(mirror_dir_open(&dir, top, NULL, &busy));
	assert_string_equal(dir.id, id);
	unlinkat(dir.own_fd, "mirror", 0);
	assert_false(mirror_dir_is_there(&dir));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_place),
		TEST(test_durable),
		TEST(test_mode_is_kept),
		TEST(test_open_for_writing),
		TEST(test_read),
		TEST(test_links),
		TEST(test_file_and_folder),
		TEST(test_race_with_an_editor),
		TEST(test_race_with_who_saves_in_a_folder_that_becomes_a_file),
		TEST(test_record),
		TEST(test_lock_and_marker),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
