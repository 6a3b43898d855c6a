/* What mirror-step.c has decided is carried out here for many entries at once: one change set, files made durable together, one
   transaction of the record.

   The order is what makes a kill or a power cut harmless at any point. First the new value is durable at its destination: in the
   replica's queue, or in the folder (the file's content, then its name). Only then the record says, durably, that both sides are
   in step. Whoever is killed between the two finds file and entry equal at the next comparison, and notes just that. The other
   way round the record would be equal to one side, and the other one would be taken for the edit: a file that was not placed yet
   for one that was removed here, and its entry would be removed; an edit that is not queued yet for a file that nobody has
   touched, and it would be overwritten.

   If the file is edited again before the mirror runs again, file and entry are not equal then. What is about to be queued is
   therefore recorded as an intent first: an entry that is what was intended is ours, and not somebody else's change. (A file that
   was placed, not recorded and then edited becomes a conflicting version.)

   A change set is all or nothing. If the library does not take it, or the server refuses it, each of its entries is tried by
   itself: one that is not wanted does not hold back the others. A conflict in a set is solved by the library, which sends the
   rest again. */

#include "mirror.h"

#include <stdlib.h>
#include <string.h>

/* ms until it is tried again */
#define RETRY_BUSY 500
#define RETRY_FAILED 10000
#define RETRY_LEFT_ALONE 60000
/* ms that a file may be busy without a word */
#define BUSY_UNTOLD 3000

/* Octets of the values in a change set, of its names and short values (a line of a command: 64 KiB for many servers), of files
   that are written and not yet placed. One that has more goes by itself. */
#define SEND_BYTES (512 * 1024)
#define SEND_LINE (24 * 1024)
#define WRITTEN_BYTES (8 << 20)
/* the longest value that goes into the line */
#define QUOTED_MAX 200

/* ---- What is told ---- */

void mirror_event(struct mirror *mirror, const char *what, const char *name, const char *path)
{
	char full[MIRROR_ENTRY_MAX + 1];

	if (mirror->json) {
		mirror_full(mirror, name, full);
		printf("{\"event\":\"%s\",\"entry\":", what);
		cli_put_json(stdout, full, strlen(full));
		if (cli_is_text(path, strlen(path))) {
			fputs(",\"file\":", stdout);
			cli_put_json(stdout, path, strlen(path));
		}
		fputs("}\n", stdout);
	} else if (mirror->verbose) {
		printf("%s ", what);
		cli_put_safe(stdout, path, strlen(path), false);
		putchar('\n');
	}
}

static int later(struct mirror *mirror, const char *name, int64_t retry)
{
	if (retry != RETRY_LEFT_ALONE)
		mirror->failures++;
	if (retry == RETRY_FAILED)
		mirror->stuck++;
	return mirror_record_look(&mirror->record, name, mirror_now() + retry) ? CLI_OK : mirror_fail_record(mirror);
}

int mirror_left_alone(struct mirror *mirror, const char *name)
{
	return later(mirror, name, RETRY_LEFT_ALONE);
}

/* A program that keeps it open, for instance. */
static int busy(struct mirror *mirror, const char *name, const char *path)
{
	int64_t now = mirror_now(), since;

	if (!mirror_record_busy(&mirror->record, name, now, &since))
		return mirror_fail_record(mirror);
	mirror->any_busy = true;
	if (now - since >= BUSY_UNTOLD)
		mirror_tell(mirror, path, "%s; waiting for it, the others go on", mirror->dir.error);
	return later(mirror, name, RETRY_BUSY);
}

int mirror_file_failed(struct mirror *mirror, const char *name, const char *path, enum mirror_result result)
{
	switch (result) {
	case MIRROR_OK:
	case MIRROR_ABSENT:
		break;
	case MIRROR_BUSY:
		return busy(mirror, name, path);
	case MIRROR_LEFT_ALONE:
		mirror_tell(mirror, path, "%s; left alone", mirror->dir.error);
		return mirror_left_alone(mirror, name);
	case MIRROR_FAILED:
		mirror_tell(mirror, path, "%s; it is tried again", mirror->dir.error);
		return later(mirror, name, RETRY_FAILED);
	}
	return CLI_OK;
}

int mirror_replica_failed(struct mirror *mirror, const char *name, const char *path, enum dovetail_status status)
{
	const char *error = dovetail_error(mirror->cli->replica);

	switch (status) {
	case DOVETAIL_BUSY:
		return later(mirror, name, RETRY_BUSY);
	case DOVETAIL_SYSTEM:
		mirror_tell(mirror, path, "%s; it is tried again", error);
		return later(mirror, name, RETRY_FAILED);
	case DOVETAIL_LIMIT:
		mirror->limited = true;
		/* fall through */
	case DOVETAIL_INVALID:
	case DOVETAIL_LOCKED:
	case DOVETAIL_DAMAGED:
	case DOVETAIL_WRONG_KEY:
		mirror_tell(mirror, path, "%s; left alone", error);
		return mirror_left_alone(mirror, name);
	default:
		return cli_fail(mirror->cli, status, path);
	}
}

/* ---- Collecting ---- */

static void item_free(struct mirror *mirror, struct mirror_item *item)
{
	if (item->action == MIRROR_PLACE)
		mirror_new_drop(&mirror->dir, &item->new);
	free(item->name);
	free(item->path);
}

void mirror_batch_drop(struct mirror *mirror)
{
	struct mirror_batch *batch = &mirror->batch;
	size_t i;

	for (i = 0; i < batch->count; i++)
		item_free(mirror, &batch->items[i]);
	dovetail_changes_abort(batch->changes);
	memset(batch, 0, sizeof(*batch));
}

int mirror_batch_room(struct mirror *mirror)
{
	const struct mirror_batch *batch = &mirror->batch;

	return batch->count == MIRROR_BATCH_MAX || batch->written > WRITTEN_BYTES ? mirror_batch_flush(mirror) : CLI_OK;
}

/* Takes over *item's file. The names are copied. */
static int item_add(struct mirror *mirror, struct mirror_item *item, const char *name, const char *path)
{
	struct mirror_batch *batch = &mirror->batch;

	item->name = strdup(name);
	item->path = strdup(path);
	if (item->name == NULL || item->path == NULL || batch->count == MIRROR_BATCH_MAX) {
		item_free(mirror, item);
		return cli_fail_memory(mirror->cli);
	}
	batch->items[batch->count++] = *item;
	return CLI_OK;
}

int mirror_batch_place(struct mirror *mirror, const char *name, const char *path, const void *data, size_t size,
		       const unsigned char hash[MIRROR_HASH_SIZE], const struct mirror_stat *expect)
{
	struct mirror_item item = { .action = MIRROR_PLACE, .replaces = expect != NULL };
	enum mirror_result result;

	result = mirror_new_write(&mirror->dir, data, size, &item.new);
	if (result != MIRROR_OK)
		return mirror_file_failed(mirror, name, path, result);
	memcpy(item.hash, hash, MIRROR_HASH_SIZE);
	if (expect != NULL)
		item.stat = *expect;
	mirror->batch.written += size;
	return item_add(mirror, &item, name, path);
}

int mirror_batch_removed(struct mirror *mirror, const char *name, const char *path)
{
	struct mirror_item item = { .action = MIRROR_REMOVE, .gone = true };

	return item_add(mirror, &item, name, path);
}

int mirror_batch_note(struct mirror *mirror, const char *name, const unsigned char *hash, const struct mirror_stat *stat)
{
	struct mirror_item item = { .action = MIRROR_NOTHING, .gone = hash == NULL };

	if (hash != NULL) {
		memcpy(item.hash, hash, MIRROR_HASH_SIZE);
		item.stat = *stat;
	}
	return item_add(mirror, &item, name, "");
}

static int send_add(struct mirror *mirror, const char *name, const char *path, const void *data, const struct mirror_file *file)
{
	struct mirror_item item = { .action = MIRROR_SEND, .gone = data == NULL };
	struct mirror_batch *batch = &mirror->batch;
	enum dovetail_status status = DOVETAIL_OK;
	char full[MIRROR_ENTRY_MAX + 1];
	size_t size = data == NULL ? 0 : file->size;

	mirror_full(mirror, name, full);
	if (batch->changes == NULL)
		status = dovetail_changes_begin(mirror->cli->replica, &batch->changes);
	if (status == DOVETAIL_OK)
		status = dovetail_changes_add(batch->changes, mirror->mailbox, full, data, size);
	if (status != DOVETAIL_OK)
		return mirror_replica_failed(mirror, name, path, status);
	batch->sends++;
	batch->bytes += size;
	batch->line += strlen(full) + (size > QUOTED_MAX ? 20 : size);
	if (data != NULL) {
		memcpy(item.hash, file->hash, MIRROR_HASH_SIZE);
		item.stat = file->stat;
	}
	return item_add(mirror, &item, name, path);
}

int mirror_batch_send(struct mirror *mirror, const char *name, const char *path, const void *data, const struct mirror_file *file)
{
	const struct mirror_batch *batch = &mirror->batch;
	enum mirror_sent sent;
	int ret = CLI_OK;

	if (!mirror_record_sent(&mirror->record, name, &sent))
		return mirror_fail_record(mirror);
	if (batch->sends > 0 && (sent == MIRROR_SENT_ALONE || batch->line > SEND_LINE || batch->sends >= mirror->max_sends ||
				 (data != NULL && batch->bytes + file->size > SEND_BYTES)))
		ret = mirror_batch_flush(mirror);
	if (ret == CLI_OK)
		ret = send_add(mirror, name, path, data, file);
	if (ret == CLI_OK && sent == MIRROR_SENT_ALONE)
		ret = mirror_batch_flush(mirror);
	return ret;
}

/* ---- Doing ---- */

/* The set was not taken: nothing of it is in the replica. It has more entries than the server takes, or one that is not wanted,
   which shows when each goes by itself. */
static int sends_failed(struct mirror *mirror, enum dovetail_status status, size_t sends)
{
	bool halve = sends > 1 && status == DOVETAIL_LIMIT;
	bool split = sends > 1 && (status == DOVETAIL_INVALID || status == DOVETAIL_LOCKED || status == DOVETAIL_DAMAGED ||
				   status == DOVETAIL_WRONG_KEY);
	struct mirror_item *item;
	bool told = false;
	int ret = CLI_OK;
	size_t i;

	if (halve)
		mirror->max_sends = sends / 2;
	for (i = 0; i < mirror->batch.count && ret == CLI_OK; i++) {
		item = &mirror->batch.items[i];
		if (item->action != MIRROR_SEND)
			continue;
		item->failed = true;
		/* a full disk is told once, not for each file */
		if (!split && !halve && told)
			ret = later(mirror, item->name, RETRY_FAILED);
		else if (!split && !halve)
			ret = mirror_replica_failed(mirror, item->name, item->path, status);
		else if ((split && !mirror_record_set_sent(&mirror->record, item->name, MIRROR_SENT_ALONE)) ||
			 !mirror_record_look(&mirror->record, item->name, mirror_now()))
			ret = mirror_fail_record(mirror);
		else
			mirror->failures++;
		told = true;
	}
	return ret;
}

/* Without waiting for the disk: after a power cut it costs a conflicting version, no more. */
static int intend(struct mirror *mirror)
{
	const struct mirror_batch *batch = &mirror->batch;
	bool ok = mirror_record_quick(&mirror->record, true) && mirror_record_transaction(&mirror->record, true);
	size_t i;

	for (i = 0; i < batch->count && ok; i++) {
		if (batch->items[i].action == MIRROR_SEND && !batch->items[i].gone)
			ok = mirror_record_intend(&mirror->record, batch->items[i].name, batch->items[i].hash);
	}
	ok = ok && mirror_record_transaction(&mirror->record, false) && mirror_record_quick(&mirror->record, false);
	return ok ? CLI_OK : mirror_fail_record(mirror);
}

static int do_sends(struct mirror *mirror)
{
	struct mirror_batch *batch = &mirror->batch;
	enum dovetail_status status;
	int ret;

	if (batch->changes == NULL)
		return CLI_OK;
	ret = intend(mirror);
	if (ret != CLI_OK)
		return ret;
	status = dovetail_changes_commit(batch->changes);
	batch->changes = NULL;
	return status == DOVETAIL_OK ? CLI_OK : sends_failed(mirror, status, batch->sends);
}

static int place_failed(struct mirror *mirror, struct mirror_item *item, enum mirror_result result)
{
	item->failed = true;
	return mirror_file_failed(mirror, item->name, item->path, result);
}

/* The value of a folder that has nothing else is a file. */
static enum mirror_result collapse(struct mirror *mirror, const char *path)
{
	char folder[MIRROR_PATH_MAX + 4], *slash;

	if (strcmp(mirror_name_leaf(path), MIRROR_INSIDE) != 0)
		return MIRROR_OK;
	snprintf(folder, sizeof(folder), "%s", path);
	slash = strrchr(folder, '/');
	if (slash == NULL)
		return MIRROR_OK;
	*slash = '\0';
	return mirror_folder_collapse(&mirror->dir, folder);
}

static int place_one(struct mirror *mirror, struct mirror_item *item)
{
	struct mirror_stat expect = item->stat;
	enum mirror_result result;

	result = mirror_new_place(&mirror->dir, &item->new, item->path, item->replaces ? &expect : NULL, &item->stat);
	if (result == MIRROR_OK)
		result = collapse(mirror, item->path);
	return result == MIRROR_OK ? CLI_OK : place_failed(mirror, item, result);
}

static int do_places(struct mirror *mirror)
{
	struct mirror_batch *batch = &mirror->batch;
	struct mirror_item *item;
	enum mirror_result result;
	int ret = CLI_OK;
	size_t i;

	for (i = 0; i < batch->count && ret == CLI_OK; i++) {
		item = &batch->items[i];
		if (item->action == MIRROR_PLACE && (result = mirror_new_sync(&mirror->dir, &item->new)) != MIRROR_OK)
			ret = place_failed(mirror, item, result);
	}
	for (i = 0; i < batch->count && ret == CLI_OK; i++) {
		item = &batch->items[i];
		if (item->action == MIRROR_PLACE && !item->failed)
			ret = place_one(mirror, item);
	}
	result = mirror_dir_sync(&mirror->dir);
	for (i = 0; i < batch->count && ret == CLI_OK && result != MIRROR_OK; i++) {
		item = &batch->items[i];
		if (!item->failed && (item->action == MIRROR_PLACE || item->action == MIRROR_REMOVE))
			ret = place_failed(mirror, item, result);
	}
	return ret;
}

static bool record_sent(struct mirror *mirror, const struct mirror_item *item)
{
	struct mirror_record *record = &mirror->record;
	enum mirror_sent sent;

	return mirror_record_sent(record, item->name, &sent) && (sent == MIRROR_SENT_ALONE ||
		mirror_record_set_sent(record, item->name, mirror->batch.sends > 1 ? MIRROR_SENT_WITH_OTHERS : MIRROR_SENT_ONLY));
}

static bool record_one(struct mirror *mirror, const struct mirror_item *item)
{
	struct mirror_base base = { .known = true, .stat = item->stat };

	if (item->action == MIRROR_SEND && !record_sent(mirror, item))
		return false;
	if (item->gone)
		return mirror_record_remove(&mirror->record, item->name);
	memcpy(base.hash, item->hash, sizeof(base.hash));
	return mirror_record_put(&mirror->record, item->name, &base);
}

static int do_records(struct mirror *mirror)
{
	const struct mirror_batch *batch = &mirror->batch;
	bool ok = mirror_record_transaction(&mirror->record, true);
	size_t i;

	for (i = 0; i < batch->count && ok; i++)
		ok = batch->items[i].failed || record_one(mirror, &batch->items[i]);
	return ok && mirror_record_transaction(&mirror->record, false) ? CLI_OK : mirror_fail_record(mirror);
}

static void tell_all(struct mirror *mirror)
{
	static const char *const words[][2] = {
		[MIRROR_NOTHING] = { NULL, NULL }, [MIRROR_SEND] = { "sent", "sent removal" },
		[MIRROR_PLACE] = { "written", NULL }, [MIRROR_REMOVE] = { NULL, "removed" }
	};
	const struct mirror_item *item;
	size_t i;

	for (i = 0; i < mirror->batch.count; i++) {
		item = &mirror->batch.items[i];
		if (!item->failed && words[item->action][item->gone] != NULL)
			mirror_event(mirror, words[item->action][item->gone], item->name, item->path);
	}
}

int mirror_batch_flush(struct mirror *mirror)
{
	int ret = CLI_OK;

	if (mirror->batch.count > 0) {
		ret = do_sends(mirror);
		if (ret == CLI_OK)
			ret = do_places(mirror);
		if (ret == CLI_OK)
			ret = do_records(mirror);
		if (ret == CLI_OK)
			tell_all(mirror);
	}
	mirror_batch_drop(mirror);
	return ret;
}
