/* One entry and its file: both are compared with what was last in step, and then one is brought to the other. Whoever has not changed since then is
   overwritten; if both have changed, the server's value keeps the name, and the file is kept beside it as a conflicting version, which is a new file
   like any other. Each action is complete before the next, and doing it again does no harm: a kill at any point costs nothing but a comparison.

   The order is what makes it safe: the new value is durable at its destination before the record says so. */

#include "mirror.h"

#include <stdlib.h>
#include <string.h>

/* ms until it is tried again */
#define RETRY_BUSY 500
#define RETRY_FAILED 10000
#define RETRY_LEFT_ALONE 60000
/* Removals in one comparison of all that is in step are suspicious from this number on, however few are allowed otherwise. */
#define ALL_MIN 3

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
	/* ms; 0: it is in step */
	int64_t retry;
	int ret;
};

/* ---- What is told ---- */

static void event(struct step *step, const char *what, const char *file)
{
	struct mirror *mirror = step->mirror;

	mirror->moved++;
	if (mirror->json) {
		printf("{\"event\":\"%s\",\"entry\":", what);
		cli_put_json(stdout, step->full, strlen(step->full));
		if (cli_is_text(file, strlen(file))) {
			fputs(",\"file\":", stdout);
			cli_put_json(stdout, file, strlen(file));
		}
		fputs("}\n", stdout);
	} else if (mirror->verbose) {
		printf("%s ", what);
		cli_put_safe(stdout, file, strlen(file), false);
		putchar('\n');
	}
}

static void later(struct step *step, int64_t retry)
{
	step->retry = retry;
	if (retry != RETRY_LEFT_ALONE)
		step->mirror->failures++;
}

/* The file could not be read, written or removed. */
static void file_failed(struct step *step, enum mirror_result result)
{
	struct mirror *mirror = step->mirror;

	switch (result) {
	case MIRROR_OK:
	case MIRROR_ABSENT:
		break;
	case MIRROR_BUSY:
		later(step, RETRY_BUSY);
		break;
	case MIRROR_LEFT_ALONE:
		mirror_tell(mirror, step->path, "%s; left alone", mirror->dir.error);
		later(step, RETRY_LEFT_ALONE);
		break;
	case MIRROR_FAILED:
		mirror_tell(mirror, step->path, "%s; it is tried again", mirror->dir.error);
		later(step, RETRY_FAILED);
		break;
	}
}

static void replica_failed(struct step *step, enum dovetail_status status)
{
	struct mirror *mirror = step->mirror;
	const char *error = dovetail_error(mirror->cli->replica);

	switch (status) {
	case DOVETAIL_BUSY:
		later(step, RETRY_BUSY);
		break;
	case DOVETAIL_SYSTEM:
		mirror_tell(mirror, step->path, "%s; it is tried again", error);
		later(step, RETRY_FAILED);
		break;
	case DOVETAIL_LIMIT:
		mirror->limited = true;
		/* fall through */
	case DOVETAIL_INVALID:
	case DOVETAIL_LOCKED:
	case DOVETAIL_DAMAGED:
	case DOVETAIL_WRONG_KEY:
		mirror_tell(mirror, step->path, "%s; left alone", error);
		later(step, RETRY_LEFT_ALONE);
		break;
	default:
		step->ret = cli_fail(mirror->cli, status, step->path);
		break;
	}
}

/* ---- Actions ---- */

static void record_put(struct step *step, const unsigned char *hash, const struct mirror_stat *stat)
{
	struct mirror_base base = { .known = true, .stat = *stat };

	memcpy(base.hash, hash, sizeof(base.hash));
	if (!mirror_record_put(&step->mirror->record, step->name, &base))
		step->ret = mirror_fail_record(step->mirror);
}

static void record_remove(struct step *step)
{
	if (!mirror_record_remove(&step->mirror->record, step->name))
		step->ret = mirror_fail_record(step->mirror);
}

static bool within_caps(struct step *step)
{
	struct mirror *mirror = step->mirror;
	struct dovetail_counts counts;
	enum dovetail_status status;

	status = dovetail_get_counts(mirror->cli->replica, &counts);
	if (status != DOVETAIL_OK) {
		replica_failed(step, status);
		return false;
	}
	if ((step->has_entry || counts.entries < mirror->max_entries) && counts.bytes + step->file.size <= mirror->max_bytes)
		return true;
	mirror_tell(mirror, step->path, "more than %llu files or %llu octets; left alone", (unsigned long long)mirror->max_entries,
		    (unsigned long long)mirror->max_bytes);
	later(step, RETRY_LEFT_ALONE);
	return false;
}

static void send_file(struct step *step)
{
	struct mirror *mirror = step->mirror;
	enum dovetail_status status;

	if (!within_caps(step))
		return;
	status = dovetail_set(mirror->cli->replica, mirror->mailbox, step->full, step->file.data, step->file.size);
	if (status != DOVETAIL_OK) {
		replica_failed(step, status);
		return;
	}
	record_put(step, step->file.hash, &step->file.stat);
	event(step, "sent", step->path);
}

static void send_removal(struct step *step)
{
	struct mirror *mirror = step->mirror;
	enum dovetail_status status = dovetail_unset(mirror->cli->replica, mirror->mailbox, step->full);

	if (status != DOVETAIL_OK && status != DOVETAIL_NOT_FOUND) {
		replica_failed(step, status);
		return;
	}
	record_remove(step);
	event(step, "sent removal", step->path);
}

static void place_entry(struct step *step)
{
	enum mirror_result result;
	struct mirror_stat stat;

	result = mirror_file_place(&step->mirror->dir, step->path, step->entry.data, step->entry.size,
				   step->has_file ? &step->file.stat : NULL, &stat);
	if (result != MIRROR_OK) {
		file_failed(step, result);
		return;
	}
	record_put(step, step->entry_hash, &stat);
	event(step, "written", step->path);
}

static void remove_file(struct step *step)
{
	struct mirror_dir *dir = &step->mirror->dir;
	enum mirror_result result = mirror_file_remove(dir, step->path, &step->file.stat);

	if (result != MIRROR_OK) {
		file_failed(step, result);
		return;
	}
	step->has_file = false;
	record_remove(step);
	mirror_remove_empty(dir, step->path);
	event(step, "removed", step->path);
}

/* A copy of the file as FILE.conflict-HASH: the same version has the same name on each device, and another one never. */
static bool keep_file(struct step *step)
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
	if (result != MIRROR_OK) {
		file_failed(step, result);
		return false;
	}
	cli_warn(step->mirror->cli, "%s has been changed here and elsewhere: the version of here is %s", step->path, path);
	event(step, "conflict", path);
	if (mirror_name_entry(path, MIRROR_ENTRY_MAX - 1 - strlen(step->mirror->prefix), name) &&
	    !mirror_record_look(&step->mirror->record, name, mirror_now()))
		step->ret = mirror_fail_record(step->mirror);
	return step->ret == CLI_OK;
}

/* ---- Deciding ---- */

/* The file, and the entry. false: not now. */
static bool step_look(struct step *step)
{
	struct mirror *mirror = step->mirror;
	enum dovetail_status status;
	enum mirror_result result;
	const struct mirror_stat *known;
	bool is_known;

	if (!mirror_record_get(&mirror->record, step->name, &step->base)) {
		step->ret = mirror_fail_record(mirror);
		return false;
	}
	known = step->base.known && !step->base.conflict ? &step->base.stat : NULL;
	result = mirror_file_read(&mirror->dir, step->path, mirror->max_value, known, &is_known, &step->file);
	if (result != MIRROR_OK && result != MIRROR_ABSENT) {
		file_failed(step, result);
		return false;
	}
	step->has_file = result == MIRROR_OK;
	if (is_known)
		memcpy(step->file.hash, step->base.hash, sizeof(step->file.hash));

	status = dovetail_get(mirror->cli->replica, mirror->mailbox, step->full, &step->entry);
	if (status != DOVETAIL_OK && status != DOVETAIL_NOT_FOUND) {
		replica_failed(step, status);
		return false;
	}
	if (status == DOVETAIL_OK && step->entry.data == NULL &&
	    (step->entry.flags & (DOVETAIL_ENTRY_NOT_HERE | DOVETAIL_ENTRY_LOCKED | DOVETAIL_ENTRY_DAMAGED)) != 0) {
		mirror_tell(mirror, step->path, (step->entry.flags & DOVETAIL_ENTRY_NOT_HERE) != 0 ? "the server's value is too large; left alone" :
			    (step->entry.flags & DOVETAIL_ENTRY_LOCKED) != 0 ? "the server's value is encrypted; left alone" :
			    "the server's value is damaged; left alone");
		later(step, RETRY_LEFT_ALONE);
		return false;
	}
	step->has_entry = status == DOVETAIL_OK && step->entry.data != NULL;
	if (step->has_entry)
		mirror_hash(step->entry.data, step->entry.size, step->entry_hash);
	return true;
}

/* The file's version was refused: what is on the server is the base of what comes next. */
static bool step_refused(struct step *step)
{
	const struct mirror *mirror = step->mirror;
	static const struct mirror_stat unknown;
	size_t i;

	for (i = 0; i < mirror->refused_count && step->has_file; i++) {
		if (strcmp(mirror->refused[i].name, step->name) != 0 ||
		    memcmp(mirror->refused[i].hash, step->file.hash, sizeof(step->file.hash)) != 0)
			continue;
		if (step->has_entry)
			record_put(step, step->entry_hash, &unknown);
		else
			record_remove(step);
		return true;
	}
	return false;
}

static bool is_base(const struct step *step, bool has, const unsigned char *hash)
{
	if (step->base.conflict)
		return false;
	return step->base.known ? has && memcmp(hash, step->base.hash, MIRROR_HASH_SIZE) == 0 : !has;
}

static void step_in_step(struct step *step)
{
	if (!step->has_file) {
		if (step->base.known)
			record_remove(step);
	} else if (!step->base.known || step->base.conflict || memcmp(step->base.hash, step->file.hash, sizeof(step->base.hash)) != 0 ||
		   !mirror_stat_same(&step->base.stat, &step->file.stat)) {
		record_put(step, step->file.hash, &step->file.stat);
	}
}

/* removals: whether it is time for these. Returns false if the action is one and it is not. */
static bool step_decide(struct step *step, bool removals)
{
	bool file_is_base, entry_is_base, same;

	same = step->has_file == step->has_entry &&
		(!step->has_file || memcmp(step->file.hash, step->entry_hash, MIRROR_HASH_SIZE) == 0);
	file_is_base = is_base(step, step->has_file, step->file.hash);
	entry_is_base = is_base(step, step->has_entry, step->entry_hash);
	if (same) {
		step_in_step(step);
	} else if ((file_is_base || entry_is_base) && step_refused(step)) {
		return true;
	} else if (file_is_base && !step->has_entry) {
		if (!removals)
			return false;
		remove_file(step);
	} else if (file_is_base || !step->has_file) {
		/* changed elsewhere; or removed here, but changed elsewhere: a change is worth more than a removal */
		if (!step->has_file && entry_is_base) {
			if (!removals)
				return false;
			send_removal(step);
		} else {
			place_entry(step);
		}
	} else if (entry_is_base || !step->has_entry) {
		send_file(step);
	} else if (keep_file(step)) {
		place_entry(step);
	}
	return true;
}

/* Where the entry's file is. false: nowhere. */
static bool step_path(struct step *step, const char *name)
{
	struct mirror *mirror = step->mirror;

	if (!mirror_name_path(name, step->path)) {
		mirror_tell(mirror, name, "the entry cannot be a file's name; left alone");
		return false;
	}
	if (mirror_is_ignored(mirror, step->path))
		return false;
	if (*name != '\0' && mirror_is_folder(&mirror->dir, step->path))
		strcat(step->path, "/" MIRROR_INSIDE);
	return true;
}

/* The value in a folder that has nothing else any more is a file again. */
static void step_collapse(struct step *step)
{
	struct mirror_dir *dir = &step->mirror->dir;
	enum mirror_result result = MIRROR_OK;
	char folder[MIRROR_PATH_MAX + 4], *slash;

	if (step->has_file && strcmp(mirror_name_leaf(step->path), MIRROR_INSIDE) != 0)
		return;
	snprintf(folder, sizeof(folder), "%s", step->path);
	/* the next folder above that is still there */
	while ((slash = strrchr(folder, '/')) != NULL) {
		*slash = '\0';
		if (!mirror_exists(dir, folder))
			continue;
		result = mirror_folder_collapse(dir, folder);
		break;
	}
	if (result != MIRROR_OK)
		file_failed(step, result);
}

/* Returns false if it is a removal, and these are not yet wanted. */
static bool step_one(struct mirror *mirror, const char *name, bool removals, int *ret_r)
{
	struct step step = { .mirror = mirror, .name = name };
	bool done = true;

	if (!step_path(&step, name))
		return true;
	snprintf(step.full, sizeof(step.full), *name == '\0' ? "%s%s" : "%s/%s", mirror->prefix, name);
	if (step_look(&step)) {
		done = step_decide(&step, removals);
		if (done && step.ret == CLI_OK && step.retry == 0)
			step_collapse(&step);
	}
	mirror_file_free(&step.file);
	if (step.ret == CLI_OK && step.retry != 0 && !mirror_record_look(&mirror->record, name, mirror_now() + step.retry))
		step.ret = mirror_fail_record(mirror);
	*ret_r = step.ret;
	return done;
}

/* ---- All that is due ---- */

static void refused_free(struct mirror *mirror)
{
	while (mirror->refused_count > 0)
		free(mirror->refused[--mirror->refused_count].name);
	free(mirror->refused);
	mirror->refused = NULL;
}

static bool refused_add(void *context, const struct dovetail_refused *refused)
{
	struct mirror *mirror = context;
	struct mirror_refused *list;
	const char *name = mirror_short(mirror, refused->entry.mailbox, refused->entry.name);

	if (name == NULL || refused->entry.data == NULL)
		return true;
	list = reallocarray(mirror->refused, mirror->refused_count + 1, sizeof(*list));
	if (list == NULL)
		return true;
	mirror->refused = list;
	list += mirror->refused_count;
	list->name = strdup(name);
	if (list->name != NULL) {
		mirror_hash(refused->entry.data, refused->entry.size, list->hash);
		mirror->refused_count++;
	}
	return true;
}

static int refused_load(struct mirror *mirror)
{
	struct dovetail_counts counts;
	enum dovetail_status status;

	status = dovetail_get_counts(mirror->cli->replica, &counts);
	if (status == DOVETAIL_OK && counts.refused > 0)
		status = dovetail_refused_each(mirror->cli->replica, refused_add, mirror);
	return status == DOVETAIL_OK ? CLI_OK : cli_fail(mirror->cli, status, NULL);
}

/* What of the work would be removed on either side. */
static int count_removals(struct mirror *mirror, uint64_t *files_r, uint64_t *entries_r)
{
	struct step step = { .mirror = mirror };
	char name[MIRROR_ENTRY_MAX + 1] = "";
	enum dovetail_status status;
	bool first = true, found, file, entry;

	*files_r = *entries_r = 0;
	for (;; first = false) {
		if (!mirror_record_next(&mirror->record, name, first, name, &found))
			return mirror_fail_record(mirror);
		if (!found)
			return CLI_OK;
		if (!mirror_record_get(&mirror->record, name, &step.base))
			return mirror_fail_record(mirror);
		if (!step.base.known || !step_path(&step, name))
			continue;
		snprintf(step.full, sizeof(step.full), *name == '\0' ? "%s%s" : "%s/%s", mirror->prefix, name);
		file = mirror_exists(&mirror->dir, step.path);
		status = dovetail_get(mirror->cli->replica, mirror->mailbox, step.full, &step.entry);
		if (status != DOVETAIL_OK && status != DOVETAIL_NOT_FOUND)
			return cli_fail(mirror->cli, status, NULL);
		entry = status == DOVETAIL_OK;
		if (file && !entry)
			++*files_r;
		if (!file && entry)
			++*entries_r;
	}
}

static int check_removals(struct mirror *mirror, uint64_t known)
{
	uint64_t files, entries, total;
	int ret;

	if (mirror->yes || (known <= mirror->max_removals && !mirror->strict))
		return CLI_OK;
	if (!mirror_record_count(&mirror->record, &total))
		return mirror_fail_record(mirror);
	ret = count_removals(mirror, &files, &entries);
	if (ret != CLI_OK)
		return ret;
	if (files > mirror->max_removals || (mirror->strict && files >= ALL_MIN && files == total)) {
		cli_error(mirror->cli, "%llu of %llu files would be removed here, because their entries are gone from the server; --yes allows it",
			  (unsigned long long)files, (unsigned long long)total);
	} else if (entries > mirror->max_removals || (mirror->strict && entries >= ALL_MIN && entries == total)) {
		cli_error(mirror->cli, "%llu of %llu entries would be removed from the server, because their files are gone; --yes allows it",
			  (unsigned long long)entries, (unsigned long long)total);
	} else {
		return CLI_OK;
	}
	return CLI_MASS_REMOVAL;
}

/* Values first and removals then: what is moved is never nowhere. */
static int step_work(struct mirror *mirror, uint64_t count, bool removals)
{
	char name[MIRROR_ENTRY_MAX + 1] = "";
	uint64_t done = 0;
	bool first = true, found = true;
	int ret = CLI_OK;

	for (; ret == CLI_OK; first = false) {
		if (!mirror_record_next(&mirror->record, name, first, name, &found))
			return mirror_fail_record(mirror);
		if (!found)
			break;
		/* its line and those of --verbose would be in each other's way */
		if (!mirror->verbose && !mirror->json && !removals)
			cli_progress(mirror->cli, "mirroring files", done++, count);
		if (step_one(mirror, name, removals, &ret) && ret == CLI_OK && !mirror_record_done(&mirror->record, name))
			ret = mirror_fail_record(mirror);
	}
	cli_progress_end(mirror->cli);
	return ret;
}

/* Once in a run it is tried again: the server may have changed its mind. Only after the step, which has noted for each what is on the server. */
static int refused_again(struct mirror *mirror)
{
	char full[MIRROR_ENTRY_MAX + 1];
	enum dovetail_status status;
	size_t i;

	mirror->refused_tried = true;
	for (i = 0; i < mirror->refused_count; i++) {
		const char *name = mirror->refused[i].name;

		snprintf(full, sizeof(full), *name == '\0' ? "%s%s" : "%s/%s", mirror->prefix, name);
		status = dovetail_refused_forget(mirror->cli->replica, mirror->mailbox, full);
		if (status != DOVETAIL_OK && status != DOVETAIL_NOT_FOUND)
			return cli_fail(mirror->cli, status, NULL);
		if (!mirror_record_look(&mirror->record, name, mirror_now()))
			return mirror_fail_record(mirror);
	}
	return CLI_OK;
}

int mirror_step_all(struct mirror *mirror)
{
	uint64_t count, known;
	int ret = CLI_OK;

	if (!mirror_record_begin(&mirror->record, mirror_now(), &count, &known))
		return mirror_fail_record(mirror);
	if (count > 0 && !mirror_dir_is_there(&mirror->dir)) {
		mirror->root_gone = true;
		return CLI_OK;
	}
	if (count > 0) {
		mirror->dir.trash_now[0] = '\0';
		ret = check_removals(mirror, known);
	}
	if (ret == CLI_OK && count > 0)
		ret = refused_load(mirror);
	if (ret == CLI_OK)
		ret = step_work(mirror, count, false);
	if (ret == CLI_OK)
		ret = step_work(mirror, count, true);
	if (ret == CLI_OK && count > 0 && !mirror->refused_tried)
		ret = refused_again(mirror);
	refused_free(mirror);
	if (ret == CLI_OK)
		mirror->strict = false;
	return ret;
}
