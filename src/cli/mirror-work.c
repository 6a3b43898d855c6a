/* All that is due, in one go: a look at how much would be removed, values, then removals, and what the server has refused. */

#include "mirror.h"

#include <stdlib.h>
#include <string.h>

/* Removals in one comparison of all that is in step are suspicious from this number on, however few are allowed otherwise. */
#define ALL_MIN 3

/* ---- What was refused ---- */

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

	if (name == NULL)
		return true;
	list = reallocarray(mirror->refused, mirror->refused_count + 1, sizeof(*list));
	if (list == NULL)
		return true;
	mirror->refused = list;
	list += mirror->refused_count;
	memset(list, 0, sizeof(*list));
	list->name = strdup(name);
	list->removal = refused->entry.data == NULL;
	if (list->name == NULL || !mirror_record_sent(&mirror->record, name, &list->sent)) {
		free(list->name);
		return true;
	}
	if (!list->removal)
		mirror_hash(refused->entry.data, refused->entry.size, list->hash);
	mirror->refused_count++;
	return true;
}

static int refused_order(const void *_a, const void *_b)
{
	const struct mirror_refused *a = _a, *b = _b;

	return strcmp(a->name, b->name);
}

static int refused_load(struct mirror *mirror)
{
	struct dovetail_counts counts;
	enum dovetail_status status;

	status = dovetail_get_counts(mirror->cli->replica, &counts);
	if (status == DOVETAIL_OK && counts.refused > 0)
		status = dovetail_refused_each(mirror->cli->replica, refused_add, mirror);
	if (mirror->refused_count > 0)
		qsort(mirror->refused, mirror->refused_count, sizeof(*mirror->refused), refused_order);
	return status == DOVETAIL_OK ? CLI_OK : cli_fail(mirror->cli, status, NULL);
}

/* Tries again what was refused together with others, now by itself; and anything once in a run: the server may have changed its
   mind. Only where the step has noted what is on the server, or the server's value would be taken for newer than the file. */
static int refused_again(struct mirror *mirror)
{
	char full[MIRROR_ENTRY_MAX + 1];
	const struct mirror_refused *refused;
	enum dovetail_status status;
	size_t i;

	for (i = 0; i < mirror->refused_count; i++) {
		refused = &mirror->refused[i];
		if (!refused->noted || refused->sent == MIRROR_SENT_ONLY || refused->sent == MIRROR_SENT_ALONE)
			continue;
		mirror_full(mirror, refused->name, full);
		status = dovetail_refused_forget(mirror->cli->replica, mirror->mailbox, full);
		if (status != DOVETAIL_OK && status != DOVETAIL_NOT_FOUND)
			return cli_fail(mirror->cli, status, NULL);
		if (!mirror_record_set_sent(&mirror->record, refused->name, MIRROR_SENT_ALONE) ||
		    !mirror_record_look(&mirror->record, refused->name, mirror_now()))
			return mirror_fail_record(mirror);
		mirror->failures += refused->sent == MIRROR_SENT_WITH_OTHERS;
	}
	return CLI_OK;
}

/* ---- Removals ---- */

/* What of the work would be removed on either side. */
static int count_removals(struct mirror *mirror, uint64_t *files_r, uint64_t *entries_r)
{
	char name[MIRROR_ENTRY_MAX + 1] = "", full[MIRROR_ENTRY_MAX + 1], path[MIRROR_PATH_MAX + 4];
	struct dovetail_entry there;
	enum dovetail_status status;
	struct mirror_base base;
	bool first = true, found, file, entry;

	*files_r = *entries_r = 0;
	for (;; first = false) {
		if (!mirror_record_next(&mirror->record, name, first, name, &found))
			return mirror_fail_record(mirror);
		if (!found)
			return CLI_OK;
		if (!mirror_record_get(&mirror->record, name, &base))
			return mirror_fail_record(mirror);
		if (!base.known || !mirror_step_path(mirror, name, path))
			continue;
		mirror_full(mirror, name, full);
		file = mirror_exists(&mirror->dir, path);
		status = dovetail_get(mirror->cli->replica, mirror->mailbox, full, &there);
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
		cli_error(mirror->cli, "%llu of %llu files would be removed here, because their entries are gone from the server;"
			  " --yes allows it", (unsigned long long)files, (unsigned long long)total);
	} else if (entries > mirror->max_removals || (mirror->strict && entries >= ALL_MIN && entries == total)) {
		cli_error(mirror->cli, "%llu of %llu entries would be removed from the server, because their files are gone;"
			  " --yes allows it", (unsigned long long)entries, (unsigned long long)total);
	} else {
		return CLI_OK;
	}
	return CLI_MASS_REMOVAL;
}

/* ---- All ---- */

/* Values first and removals then: what is moved is never nowhere. */
static int work_pass(struct mirror *mirror, uint64_t count, bool removals)
{
	char name[MIRROR_ENTRY_MAX + 1] = "";
	uint64_t done = 0;
	bool first = true, found = true, is_done;
	int ret = CLI_OK;

	/* counted anew */
	mirror->entries = 0;
	for (; ret == CLI_OK && cli_signals_got(mirror->cli) == 0; first = false) {
		if (!mirror_record_next(&mirror->record, name, first, name, &found))
			return mirror_fail_record(mirror);
		if (!found)
			break;
		/* its line and those of --verbose would be in each other's way */
		if (!mirror->verbose && !mirror->json && !removals)
			cli_progress(mirror->cli, "mirroring files", done++, count);
		ret = mirror_step(mirror, name, removals, &is_done);
		if (ret == CLI_OK && is_done && !mirror_record_done(&mirror->record, name))
			ret = mirror_fail_record(mirror);
	}
	cli_progress_end(mirror->cli);
	if (ret == CLI_OK)
		ret = mirror_batch_flush(mirror);
	mirror_batch_drop(mirror);
	return ret;
}

static int work_due(struct mirror *mirror, uint64_t count, uint64_t known)
{
	int ret;

	/* a trash folder of its own */
	mirror->dir.trash_now[0] = '\0';
	ret = check_removals(mirror, known);
	if (ret == CLI_OK)
		ret = refused_load(mirror);
	if (ret == CLI_OK)
		ret = work_pass(mirror, count, false);
	if (ret == CLI_OK)
		ret = work_pass(mirror, count, true);
	if (ret == CLI_OK && cli_signals_got(mirror->cli) == 0)
		ret = refused_again(mirror);
	refused_free(mirror);
	if (ret == CLI_OK && !mirror_record_put_back(&mirror->record, mirror_now()))
		ret = mirror_fail_record(mirror);
	/* whoever changes much, the server for instance, does not fill the disk until the next hour */
	if (mirror->dir.trashed > mirror->trash_bytes / 4)
		mirror_trash_prune(&mirror->dir, mirror->trash_days, mirror->trash_bytes);
	return ret;
}

int mirror_work(struct mirror *mirror)
{
	uint64_t count, known;
	int ret = CLI_OK;

	if (!mirror_record_begin(&mirror->record, mirror_now(), &count, &known))
		return mirror_fail_record(mirror);
	if (count > 0 && !mirror_dir_is_there(&mirror->dir)) {
		mirror->root_gone = true;
		return CLI_OK;
	}
	if (count > 0)
		ret = work_due(mirror, count, known);
	if (ret == CLI_OK)
		mirror->strict = false;
	return ret;
}
