/* dovetail mirror DIR: keeps a folder in step with a subtree of entries, both ways. Options, the state that is kept, and the
   checks before anything is touched. Each folder has a replica and a record of its own, beside the account's replica: two mirrors
   and other commands do not wait for each other. */

#include "mirror.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_VALUE (16 << 20)
#define MAX_ENTRIES 1000000
#define MAX_BYTES (1 << 30)
#define MAX_REMOVALS 50
#define TRASH_DAYS 30
#define TRASH_MIB 256

/* The state's folder: beside the account's replica, by the mirrored folder's path. NULL: out of memory. */
static char *state_path(struct mirror *mirror, const char *folder, const char *file)
{
	const char *replica = mirror->cli->account->replica, *slash = strrchr(replica, '/');
	unsigned char hash[MIRROR_HASH_SIZE];
	char *path;

	mirror_hash(folder, strlen(folder), hash);
	return asprintf(&path, "%.*s/mirror-%02x%02x%02x%02x%02x%02x%02x%02x/%s", (int)(slash - replica), replica, hash[0], hash[1],
			hash[2], hash[3], hash[4], hash[5], hash[6], hash[7], file) < 0 ? NULL : path;
}

static int open_record(struct mirror *mirror, const char *folder)
{
	char *path = state_path(mirror, folder, "record.db");
	mode_t mask;
	bool ok;
	int ret;

	if (path == NULL)
		return cli_fail_memory(mirror->cli);
	ret = cli_make_directories(mirror->cli, path);
	if (ret == CLI_OK) {
		mask = umask(077);
		ok = mirror_record_open(&mirror->record, path);
		umask(mask);
		ret = ok ? CLI_OK : mirror_fail_record(mirror);
	}
	free(path);
	return ret;
}

/* What waits in it is for another account or subtree; the files have it as well. */
static int forget_replica(struct mirror *mirror, const char *folder)
{
	static const char *const files[] = { "replica.db", "replica.db-wal", "replica.db-shm" };
	int ret = CLI_OK;
	unsigned int i;
	char *path;

	for (i = 0; i < sizeof(files) / sizeof(files[0]) && ret == CLI_OK; i++) {
		path = state_path(mirror, folder, files[i]);
		if (path == NULL)
			return cli_fail_memory(mirror->cli);
		if (unlink(path) < 0 && errno != ENOENT)
			ret = cli_fail_errno(mirror->cli, path);
		free(path);
	}
	return ret;
}

/* Whether the record is of this folder and of this subtree. */
static int check_identity(struct mirror *mirror, const char *folder, const char *target)
{
	char marker[MIRROR_ID_SIZE], before[2048];
	struct mirror_record *record = &mirror->record;

	if (!mirror_record_meta(record, "marker", marker, sizeof(marker)) ||
	    !mirror_record_meta(record, "target", before, sizeof(before)))
		return mirror_fail_record(mirror);
	if (strcmp(marker, mirror->dir.id) == 0 && strcmp(before, target) == 0)
		return CLI_OK;
	if (*marker != '\0' && !mirror->yes) {
		if (strcmp(before, target) != 0) {
			cli_error(mirror->cli, "%s is the mirror of %s; --yes makes it one of %s", mirror->dir.path, before,
				  target);
			return CLI_CONFIG;
		}
		cli_error(mirror->cli, "%s is another folder than the one that was mirrored; --yes begins anew", mirror->dir.path);
		return CLI_CONFIG;
	}
	if (*before != '\0' && strcmp(before, target) != 0 && forget_replica(mirror, folder) != CLI_OK)
		return CLI_SYSTEM;
	/* nothing was ever in step: both sides are merged, and nothing is removed */
	if (!mirror_record_begin_anew(record, mirror->dir.id, target))
		return mirror_fail_record(mirror);
	return CLI_OK;
}

/* A folder that was mirrored has its marker, or something is not mounted. Before anything is made in it. */
static int check_marker(struct mirror *mirror, const char *folder)
{
	char marker[MIRROR_ID_SIZE], *path;
	bool there;

	if (!mirror_record_meta(&mirror->record, "marker", marker, sizeof(marker)))
		return mirror_fail_record(mirror);
	if (*marker == '\0' || mirror->yes)
		return CLI_OK;
	if (asprintf(&path, "%s/" MIRROR_OWN "/mirror", folder) < 0)
		return cli_fail_memory(mirror->cli);
	there = access(path, F_OK) == 0;
	free(path);
	if (there)
		return CLI_OK;
	cli_error(mirror->cli, "%s was mirrored, but " MIRROR_OWN " is not in it: is it mounted? --yes begins anew", folder);
	return CLI_CONFIG;
}

static int open_folder(struct mirror *mirror, const char *folder, const char *trash)
{
	char *target;
	bool busy;
	int ret;

	ret = open_record(mirror, folder);
	if (ret == CLI_OK)
		ret = check_marker(mirror, folder);
	if (ret != CLI_OK)
		return ret;
	if (!mirror_dir_open(&mirror->dir, folder, trash, &busy)) {
		if (busy)
			cli_error(mirror->cli, "%s is mirrored by another process", folder);
		else
			cli_error(mirror->cli, "%s: %s", folder, mirror->dir.error);
		return busy ? CLI_CONFIG : CLI_SYSTEM;
	}
	if (asprintf(&target, "%s at %s, %s%s%s", mirror->cli->account->server.user, mirror->cli->account->server.host,
		     mirror->mailbox, *mirror->mailbox != '\0' ? " " : "", mirror->prefix) < 0)
		return cli_fail_memory(mirror->cli);
	ret = check_identity(mirror, folder, target);
	free(target);
	if (ret == CLI_OK)
		mirror_dir_clean(&mirror->dir);
	return ret;
}

static bool part_add(struct cli_account *account, const char *mailbox, const char *entry, size_t size, const char *below)
{
	struct dovetail_part *part = &account->parts[account->part_count];
	char *name;

	if (asprintf(&name, "%.*s%s", (int)size, entry, below) < 0)
		return false;
	part->scope = DOVETAIL_SCOPE_MAILBOX;
	part->entry = name;
	part->mailbox = strdup(mailbox);
	account->part_count++;
	return part->mailbox != NULL;
}

/* What the mirror's replica covers: the subtree, and wherever it may be encrypted from the keys' entries, which are the
   account's. Without these what is in an encrypted subtree would be sent as it is. */
static bool set_parts(struct mirror *mirror)
{
	struct cli_account *account = mirror->cli->account;
	const char *prefix = mirror->prefix, *slash;
	size_t count = 2;
	bool ok;

	for (slash = prefix; slash != NULL; slash = strchr(slash + 1, '/'))
		count++;
	while (account->part_count > 0) {
		account->part_count--;
		free((char *)account->parts[account->part_count].mailbox);
		free((char *)account->parts[account->part_count].entry);
	}
	free(account->parts);
	account->parts = calloc(count, sizeof(*account->parts));
	if (account->parts == NULL)
		return false;
	ok = part_add(account, mirror->mailbox, prefix, strlen(prefix), "");
	/* keys of what is encrypted below it */
	if (ok && *mirror->mailbox != '\0')
		ok = part_add(account, "", prefix, strlen(prefix), "");
	for (slash = strchr(prefix + 1, '/'); ok && slash != NULL; slash = strchr(slash + 1, '/'))
		ok = part_add(account, "", prefix, slash - prefix, "/" MIRROR_OWN);
	return ok;
}

/* The mirror's own replica in place of the account's. */
static int open_replica(struct mirror *mirror, const char *folder)
{
	struct cli_account *account = mirror->cli->account;
	struct dovetail_counts counts;
	enum dovetail_status status;
	char *path = state_path(mirror, folder, "replica.db");
	int ret;

	if (path == NULL)
		return cli_fail_memory(mirror->cli);
	free(account->replica);
	account->replica = path;
	if (!set_parts(mirror))
		return cli_fail_memory(mirror->cli);
	ret = cli_open(mirror->cli);
	if (ret != CLI_OK)
		return ret;
	status = dovetail_get_counts(mirror->cli->replica, &counts);
	if (status != DOVETAIL_OK)
		return cli_fail(mirror->cli, status, NULL);
	mirror->synced = counts.synced_at != 0;
	return cli_unlock(mirror->cli, mirror->prefix, false);
}

static unsigned int name_depth(const char *name)
{
	unsigned int depth = 0;

	for (; *name != '\0'; name++)
		depth += *name == '/';
	return depth;
}

static int set_prefix(struct mirror *mirror, const char *subtree)
{
	char *p;

	mirror->prefix = cli_full_name(mirror->cli, subtree);
	if (mirror->prefix == NULL)
		return cli_fail_memory(mirror->cli);
	for (p = mirror->prefix; *p != '\0'; p++) {
		if (*p >= 'A' && *p <= 'Z')
			*p += 'a' - 'A';
	}
	if (strlen(mirror->prefix) > MIRROR_ENTRY_MAX / 2 || name_depth(mirror->prefix) > 50) {
		cli_error(mirror->cli, "the subtree's name is too long");
		return CLI_USAGE;
	}
	return CLI_OK;
}

static int mirror_main(struct mirror *mirror, const char *subtree, const char *trash)
{
	struct cli *cli = mirror->cli;
	char *folder;
	int ret;

	ret = cli_account_load(cli);
	if (ret == CLI_OK)
		ret = set_prefix(mirror, subtree);
	if (ret != CLI_OK)
		return ret;
	folder = realpath(cli->args[0], NULL);
	if (folder == NULL)
		return cli_fail_errno(cli, cli->args[0]);
	mirror->sync_options = cli->account->sync;
	mirror->sync_options.max_value = mirror->max_value;
	mirror->sync_options.max_entries = mirror->max_entries;
	mirror->sync_options.max_bytes = mirror->max_bytes;
	mirror->sync_options.max_removals = mirror->max_removals;
	/* as the library tells it */
	mirror->mailbox = strcasecmp(cli_mailbox(cli), "INBOX") == 0 ? "INBOX" : cli_mailbox(cli);
	ret = open_folder(mirror, folder, trash);
	if (ret == CLI_OK)
		ret = open_replica(mirror, folder);
	free(folder);
	if (ret == CLI_OK) {
		mirror->strict = mirror->compare = true;
		mirror->scan_at = mirror_now();
		ret = mirror->once ? mirror_run_once(mirror) : mirror_run_live(mirror);
	}
	return ret;
}

int cmd_mirror(struct cli *cli)
{
	struct mirror mirror = {
		.cli = cli, .max_sends = MIRROR_BATCH_MAX,
		.max_entries = MAX_ENTRIES, .max_bytes = MAX_BYTES, .max_value = MAX_VALUE, .max_removals = MAX_REMOVALS,
		.trash_days = TRASH_DAYS,
		.dir = { .root_fd = -1, .own_fd = -1, .tmp_fd = -1, .trash_fd = -1, .lock_fd = -1 }
	};
	const char *subtree = "", *trash = NULL;
	uint64_t trash_mib = TRASH_MIB;
	const struct cli_option options[] = {
		{ .letter = 's', .name = "subtree", .arg = "NAME", .string = &subtree,
		  .help = "the entries below NAME, not those of the account's prefix" },
		{ .letter = '1', .name = "once", .flag = &mirror.once, .help = "end when both are in step" },
		{ .letter = 'y', .name = "yes", .flag = &mirror.yes,
		  .help = "allow, now, that many files or entries are removed, or another folder" },
		{ .letter = 'v', .name = "verbose", .flag = &mirror.verbose, .help = "a line for each file" },
		{ .letter = 'j', .name = "json", .flag = &mirror.json, .help = "a JSON object for each file" },
		{ .letter = 'i', .name = "ignore", .arg = "PATTERN", .list = &mirror.ignore,
		  .help = "leave files and folders of these names alone; may be repeated" },
		{ .name = "all", .flag = &mirror.all, .help = "also what editors leave (*~, .*.sw? ...)" },
		{ .name = "dot-files", .flag = &mirror.dot_files, .help = "also what begins with a dot" },
		{ .name = "trash", .arg = "DIR", .string = &trash,
		  .help = "keep what is removed or replaced in DIR, not in .dovetail/trash" },
		{ .name = "trash-days", .arg = "NUMBER", .number = &mirror.trash_days, .help = "for so many days; 0: for ever" },
		{ .name = "trash-mib", .arg = "NUMBER", .number = &trash_mib, .help = "at most so much" },
		{ .name = "max-removals", .arg = "NUMBER", .number = &mirror.max_removals,
		  .help = "stop if more files or entries would be removed at once" },
		{ .name = "max-entries", .arg = "NUMBER", .number = &mirror.max_entries,
		  .help = "at most so many, on either side" },
		{ .name = "max-bytes", .arg = "NUMBER", .number = &mirror.max_bytes, .help = "at most so many octets in all" },
		{ .name = "max-value", .arg = "NUMBER", .number = &mirror.max_value, .help = "leave files of more octets alone" },
		{ .name = NULL }
	};
	int ret;

	if (!cli_parse(cli, options, 1, 1, &ret))
		goto out;
	if (cli->offline)
		ret = cli_usage(cli, "mirror and --offline exclude each other");
	else if (mirror.max_entries == 0 || mirror.max_bytes == 0 || mirror.max_value == 0 || mirror.max_removals == 0 ||
		 mirror.max_value > 1 << 30)
		ret = cli_usage(cli, "the limits are numbers from 1 on, and a file of 1 GiB is the largest");
	else if (mirror.trash_days > 36500 || trash_mib > UINT32_MAX)
		ret = cli_usage(cli, "the trash's limits are too large");
	else {
		mirror.trash_bytes = trash_mib << 20;
		ret = mirror_main(&mirror, subtree, trash);
	}
	mirror_batch_drop(&mirror);
	mirror_dir_close(&mirror.dir);
	mirror_record_close(&mirror.record);
	free(mirror.prefix);
out:
	free(mirror.ignore);
	return ret;
}
