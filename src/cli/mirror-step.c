/* One entry and its file: both are compared with what was last in step, and then one is brought to the other. Whoever has not
   changed since then is overwritten; if both have changed, the server's value keeps the name, and the file is kept beside it as a
   conflicting version, which is a new file like any other. It is only decided here; mirror-batch.c does it. */

#include "mirror.h"

#include <string.h>

struct step {
	struct mirror *mirror;
	/* relative; full is the entry's whole name */
	const char *name;
	char full[MIRROR_ENTRY_MAX + 1], path[MIRROR_PATH_MAX + 4];
	struct mirror_base base;
	/* has_file: with hash; the data only if it is not what was last in step */
	struct mirror_file file;
	bool has_file;
	/* the replica's; valid until the next call with it */
	struct dovetail_entry entry;
	unsigned char entry_hash[MIRROR_HASH_SIZE];
	bool has_entry;
	/* it cannot be done now */
	bool failed;
};

/* MIRROR_OK is none. */
static int file_failed(struct step *step, enum mirror_result result)
{
	if (result == MIRROR_OK)
		return CLI_OK;
	step->failed = true;
	return mirror_file_failed(step->mirror, step->name, step->path, result);
}

static int replica_failed(struct step *step, enum dovetail_status status)
{
	step->failed = true;
	return mirror_replica_failed(step->mirror, step->name, step->path, status);
}

/* ---- Actions ---- */

static bool fits(const struct step *step)
{
	const struct mirror *mirror = step->mirror;

	return (step->has_entry || mirror->entries < mirror->max_entries) && mirror->bytes + step->file.size <= mirror->max_bytes;
}

/* What the replica has is counted once for many, and then what is added to it: at the cap it is counted again. */
static int send_file(struct step *step)
{
	struct mirror *mirror = step->mirror;
	struct dovetail_counts counts;
	enum dovetail_status status;
	int ret = CLI_OK;

	if (mirror->entries == 0 || !fits(step)) {
		ret = mirror_batch_flush(mirror);
		if (ret != CLI_OK)
			return ret;
		status = dovetail_get_counts(mirror->cli->replica, &counts);
		if (status != DOVETAIL_OK)
			return replica_failed(step, status);
		mirror->entries = counts.entries;
		mirror->bytes = counts.bytes;
	}
	if (!fits(step)) {
		mirror_tell(mirror, step->path, "more than %llu files or %llu octets; left alone",
			    (unsigned long long)mirror->max_entries, (unsigned long long)mirror->max_bytes);
		step->failed = true;
		return mirror_left_alone(mirror, step->name);
	}
	mirror->entries += !step->has_entry;
	mirror->bytes += step->file.size + strlen(step->full);
	return mirror_batch_send(mirror, step->name, step->path, step->file.data, &step->file);
}

static int place_entry(struct step *step)
{
	return mirror_batch_place(step->mirror, step->name, step->path, step->entry.data, step->entry.size, step->entry_hash,
				  step->has_file ? &step->file.stat : NULL);
}

static int remove_file(struct step *step)
{
	struct mirror_dir *dir = &step->mirror->dir;
	enum mirror_result result = mirror_file_remove(dir, step->path, &step->file.stat);

	if (result != MIRROR_OK)
		return file_failed(step, result);
	step->has_file = false;
	mirror_remove_empty(dir, step->path);
	return mirror_batch_removed(step->mirror, step->name, step->path);
}

/* A copy of the file as FILE.conflict-HASH, durable: the same version has the same name on each device, and another one never. */
static int keep_file(struct step *step)
{
	struct mirror_dir *dir = &step->mirror->dir;
	char id[17], path[MIRROR_PATH_MAX + 1], name[MIRROR_ENTRY_MAX + 1];
	enum mirror_result result = MIRROR_BUSY;
	struct mirror_file there;
	struct mirror_stat stat;
	unsigned int i;
	bool same;

	for (i = 0; i < 8; i++)
		snprintf(id + 2 * i, 3, "%02x", step->file.hash[i]);
	/* A conflicting version that somebody has edited keeps its name. */
	for (i = 1; i < 1000; i++) {
		if (!mirror_name_conflict(step->path, id, i, path))
			break;
		result = mirror_file_read(dir, path, step->file.size, NULL, NULL, &there);
		same = result == MIRROR_OK && memcmp(there.hash, step->file.hash, sizeof(there.hash)) == 0;
		mirror_file_free(&there);
		if (result == MIRROR_ABSENT)
			result = mirror_file_place(dir, path, step->file.data, step->file.size, NULL, &stat);
		else if (!same)
			continue;
		break;
	}
	if (result != MIRROR_OK)
		return file_failed(step, result);
	cli_warn(step->mirror->cli, "%s has been changed here and elsewhere: the version of here is %s", step->path, path);
	mirror_event(step->mirror, "conflict", step->name, path);
	if (mirror_name_entry(path, MIRROR_ENTRY_MAX - 1 - strlen(step->mirror->prefix), name) &&
	    !mirror_record_look(&step->mirror->record, name, mirror_now()))
		return mirror_fail_record(step->mirror);
	return CLI_OK;
}

/* ---- Deciding ---- */

/* The file, and the entry. step->failed: not now. */
static int step_look(struct step *step)
{
	struct mirror *mirror = step->mirror;
	enum dovetail_status status;
	enum mirror_result result;
	const struct mirror_stat *known;
	bool is_known;

	if (!mirror_record_get(&mirror->record, step->name, &step->base))
		return mirror_fail_record(mirror);
	known = step->base.known && !step->base.conflict ? &step->base.stat : NULL;
	result = mirror_file_read(&mirror->dir, step->path, mirror->max_value, known, &is_known, &step->file);
	if (result != MIRROR_OK && result != MIRROR_ABSENT)
		return file_failed(step, result);
	step->has_file = result == MIRROR_OK;
	if (is_known)
		memcpy(step->file.hash, step->base.hash, sizeof(step->file.hash));

	status = dovetail_get(mirror->cli->replica, mirror->mailbox, step->full, &step->entry);
	if (status != DOVETAIL_OK && status != DOVETAIL_NOT_FOUND)
		return replica_failed(step, status);
	if (status == DOVETAIL_OK && step->entry.data == NULL &&
	    (step->entry.flags & (DOVETAIL_ENTRY_NOT_HERE | DOVETAIL_ENTRY_LOCKED | DOVETAIL_ENTRY_DAMAGED)) != 0) {
		mirror_tell(mirror, step->path, "the server's value is %s; left alone",
			    (step->entry.flags & DOVETAIL_ENTRY_NOT_HERE) != 0 ? "too large" :
			    (step->entry.flags & DOVETAIL_ENTRY_LOCKED) != 0 ? "encrypted" : "damaged");
		step->failed = true;
		return mirror_left_alone(mirror, step->name);
	}
	step->has_entry = status == DOVETAIL_OK && step->entry.data != NULL;
	if (step->has_entry)
		mirror_hash(step->entry.data, step->entry.size, step->entry_hash);
	/* It was queued before a kill: what the file has now is on top of that. */
	if (step->has_entry && step->base.intended && !step->base.conflict && !is_known &&
	    memcmp(step->base.intent, step->entry_hash, MIRROR_HASH_SIZE) == 0) {
		step->base.known = true;
		memcpy(step->base.hash, step->base.intent, MIRROR_HASH_SIZE);
		memset(&step->base.stat, 0, sizeof(step->base.stat));
	}
	return CLI_OK;
}

static struct mirror_refused *refused_find(const struct step *step)
{
	struct mirror_refused *list = step->mirror->refused;
	size_t low = 0, high = step->mirror->refused_count, middle;
	int order;

	while (low < high) {
		middle = low + (high - low) / 2;
		order = strcmp(list[middle].name, step->name);
		if (order == 0)
			return &list[middle];
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

/* What is here was refused: what is on the server is the base of what comes next. */
static bool is_refused(const struct step *step)
{
	struct mirror_refused *refused = refused_find(step);
	bool found;

	if (refused == NULL)
		return false;
	/* a removal that was refused by itself is over: the entry is there, and will be a file again */
	found = refused->removal ? !step->has_file && !step->base.known && refused->sent == MIRROR_SENT_WITH_OTHERS :
		step->has_file && memcmp(refused->hash, step->file.hash, sizeof(refused->hash)) == 0;
	if (found)
		refused->noted = true;
	return found;
}

static bool is_base(const struct step *step, bool has, const unsigned char *hash)
{
	if (step->base.conflict)
		return false;
	return step->base.known ? has && memcmp(hash, step->base.hash, MIRROR_HASH_SIZE) == 0 : !has;
}

static int step_in_step(struct step *step)
{
	if (!step->has_file)
		return step->base.known ? mirror_batch_note(step->mirror, step->name, NULL, NULL) : CLI_OK;
	if (!step->base.known || step->base.conflict || memcmp(step->base.hash, step->file.hash, sizeof(step->base.hash)) != 0 ||
	    !mirror_stat_same(&step->base.stat, &step->file.stat))
		return mirror_batch_note(step->mirror, step->name, step->file.hash, &step->file.stat);
	return CLI_OK;
}

/* removals: whether it is time for these. *done_r is false if the action is one and it is not. */
static int step_decide(struct step *step, bool removals, bool *done_r)
{
	static const struct mirror_stat unknown;
	bool file_is_base, entry_is_base, same;
	int ret;

	same = step->has_file == step->has_entry &&
		(!step->has_file || memcmp(step->file.hash, step->entry_hash, MIRROR_HASH_SIZE) == 0);
	file_is_base = is_base(step, step->has_file, step->file.hash);
	entry_is_base = is_base(step, step->has_entry, step->entry_hash);
	if (same)
		return step_in_step(step);
	if ((file_is_base || entry_is_base) && is_refused(step))
		return mirror_batch_note(step->mirror, step->name, step->has_entry ? step->entry_hash : NULL, &unknown);
	if (file_is_base && !step->has_entry) {
		*done_r = removals;
		return removals ? remove_file(step) : CLI_OK;
	}
	if (!step->has_file && entry_is_base) {
		*done_r = removals;
		return removals ? mirror_batch_send(step->mirror, step->name, step->path, NULL, NULL) : CLI_OK;
	}
	/* changed elsewhere; or removed here, but changed elsewhere: a change is worth more than a removal */
	if (file_is_base || !step->has_file)
		return place_entry(step);
	if (entry_is_base || !step->has_entry)
		return send_file(step);
	ret = keep_file(step);
	return ret == CLI_OK && !step->failed ? place_entry(step) : ret;
}

bool mirror_step_path(struct mirror *mirror, const char *name, char path_r[MIRROR_PATH_MAX + 4])
{
	if (!mirror_name_path(name, path_r)) {
		mirror_tell(mirror, name, "the entry cannot be a file's name; left alone");
		return false;
	}
	if (mirror_is_ignored(mirror, path_r))
		return false;
	if (*name != '\0' && mirror_is_folder(&mirror->dir, path_r))
		strcat(path_r, "/" MIRROR_INSIDE);
	return true;
}

/* The value in a folder that has nothing else any more is a file again. */
static int step_collapse(struct step *step)
{
	struct mirror_dir *dir = &step->mirror->dir;
	enum mirror_result result = MIRROR_OK;
	char folder[MIRROR_PATH_MAX + 4], *slash;

	if (step->has_file && strcmp(mirror_name_leaf(step->path), MIRROR_INSIDE) != 0)
		return CLI_OK;
	snprintf(folder, sizeof(folder), "%s", step->path);
	/* the next folder above that is still there */
	while ((slash = strrchr(folder, '/')) != NULL) {
		*slash = '\0';
		if (!mirror_exists(dir, folder))
			continue;
		result = mirror_folder_collapse(dir, folder);
		break;
	}
	return file_failed(step, result);
}

int mirror_step(struct mirror *mirror, const char *name, bool removals, bool *done_r)
{
	struct step step = { .mirror = mirror, .name = name };
	int ret;

	*done_r = true;
	ret = mirror_batch_room(mirror);
	if (ret != CLI_OK || !mirror_step_path(mirror, name, step.path))
		return ret;
	mirror_full(mirror, name, step.full);
	ret = step_look(&step);
	if (ret == CLI_OK && !step.failed) {
		ret = step_decide(&step, removals, done_r);
		if (ret == CLI_OK && *done_r && !step.failed)
			ret = step_collapse(&step);
		if (ret == CLI_OK && mirror->any_busy && !step.failed && !mirror_record_not_busy(&mirror->record, name))
			ret = mirror_fail_record(mirror);
	}
	mirror_file_free(&step.file);
	return ret;
}
