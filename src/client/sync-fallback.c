/* Servers that have METADATA (RFC 5464), but not XMETASYNC: everything is read again now and then, and compared with what is here.
   Called by sync.c and sync-receive.c.

   A look: NAMESPACE (RFC 2342) and LIST, if parts are about mailboxes; GETMETADATA (DEPTH infinity) for each part and mailbox that
   there is; what comes is a snapshot. It is not one moment's state: what changes meanwhile is seen by the next look.
   A write: GETMETADATA of the set's entries, which is compared with what is here as any change by others, then at once SETMETADATA,
   one for each mailbox and line of names. What somebody else writes between these two is overwritten: such servers have no
   conditions. A set over several mailboxes, or of more than a line, can be half there if the server refuses a part of it. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sync-private.h"

/* GETMETADATA commands under way */
#define LOOKS_MAX 16
/* names and short values in a command: a longer line may be too long for the server (RFC 2683 3.2.1.5) */
#define LINE_BYTES 7000
/* LIST */
#define MAILBOXES_MAX 100000
#define MAILBOX_BYTES_MAX (16 * 1024 * 1024)
#define NAMESPACES_MAX 1000

/* ---- Which mailboxes ---- */

static bool has_word(const char *list, const char *word)
{
	size_t size = strlen(word);
	const char *p;

	for (p = list; (p = strcasestr(p, word)) != NULL; p += size) {
		if ((p == list || p[-1] == ' ') && (p[size] == '\0' || p[size] == ' '))
			return true;
	}
	return false;
}

bool sync_fallback_namespace(struct dovetail_sync *sync, bool personal, const char *prefix)
{
	struct sync_fallback *fallback = &sync->fallback;
	struct sync_namespace *namespaces;
	char *name;

	if (sync->phase != SYNC_PHASE_FALLBACK || fallback->step != SYNC_FALLBACK_LISTING)
		return true;
	if (fallback->namespace_count == NAMESPACES_MAX)
		return sync_fail(sync, DOVETAIL_LIMIT, true, "The server has more than %u namespaces", NAMESPACES_MAX);
	name = sync_mailbox_decode(prefix);
	if (name == NULL && errno != ENOMEM)
		return true;
	namespaces = name == NULL ? NULL :
		realloc(fallback->namespaces, sizeof(*namespaces) * (fallback->namespace_count + 1));
	if (namespaces == NULL) {
		free(name);
		return sync_fail(sync, DOVETAIL_SYSTEM, true, "Out of memory");
	}
	fallback->namespaces = namespaces;
	namespaces[fallback->namespace_count++] = (struct sync_namespace){ .prefix = name, .personal = personal };
	return true;
}

/* As the longest prefix says; without one, as with a server that has no namespaces: the user's own. */
static bool is_personal(const struct sync_fallback *fallback, const char *mailbox)
{
	size_t i, size, longest = 0;
	bool personal = true;

	for (i = 0; i < fallback->namespace_count && strcmp(mailbox, "INBOX") != 0; i++) {
		size = strlen(fallback->namespaces[i].prefix);
		if (size < longest || strncmp(mailbox, fallback->namespaces[i].prefix, size) != 0)
			continue;
		longest = size;
		personal = fallback->namespaces[i].personal;
	}
	return personal;
}

bool sync_fallback_list(struct dovetail_sync *sync, const char *flags, const char *mailbox)
{
	struct sync_fallback *fallback = &sync->fallback;
	char **mailboxes, *name;

	if (sync->phase != SYNC_PHASE_FALLBACK || fallback->step != SYNC_FALLBACK_LISTING || *mailbox == '\0' ||
	    has_word(flags, "\\Noselect") || has_word(flags, "\\NonExistent"))
		return true;
	name = sync_mailbox_decode(mailbox);
	if (name == NULL && errno != ENOMEM)
		return true;
	fallback->mailbox_bytes += strlen(mailbox);
	if (fallback->mailbox_count >= MAILBOXES_MAX || fallback->mailbox_bytes > MAILBOX_BYTES_MAX) {
		free(name);
		return sync_fail(sync, DOVETAIL_LIMIT, true, "The server has more than %u mailboxes", MAILBOXES_MAX);
	}
	if (name != NULL && fallback->mailbox_count == fallback->mailbox_alloc) {
		fallback->mailbox_alloc = fallback->mailbox_alloc == 0 ? 64 : fallback->mailbox_alloc * 2;
		mailboxes = realloc(fallback->mailboxes, sizeof(*mailboxes) * fallback->mailbox_alloc);
		if (mailboxes == NULL) {
			free(name);
			name = NULL;
		} else {
			fallback->mailboxes = mailboxes;
		}
	}
	if (name == NULL)
		return sync_fail(sync, DOVETAIL_SYSTEM, true, "Out of memory");
	fallback->mailboxes[fallback->mailbox_count++] = name;
	return true;
}

static void forget_mailboxes(struct sync_fallback *fallback)
{
	size_t i;

	for (i = 0; i < fallback->mailbox_count; i++)
		free(fallback->mailboxes[i]);
	free(fallback->mailboxes);
	fallback->mailboxes = NULL;
	fallback->mailbox_count = fallback->mailbox_alloc = fallback->mailbox_bytes = 0;
	for (i = 0; i < fallback->namespace_count; i++)
		free(fallback->namespaces[i].prefix);
	free(fallback->namespaces);
	fallback->namespaces = NULL;
	fallback->namespace_count = 0;
}

static bool
is_of_part(const struct sync_fallback *fallback, const struct dovetail_part *part, const char *mailbox)
{
	switch (part->scope) {
	case DOVETAIL_SCOPE_MAILBOX:
		return strcmp(mailbox, part->mailbox) == 0;
	case DOVETAIL_SCOPE_PERSONAL:
		return is_personal(fallback, mailbox);
	case DOVETAIL_SCOPE_SUBTREE:
		return replica_mailbox_is_below(mailbox, part->mailbox);
	}
	return false;
}

static bool is_of_account(const struct dovetail_part *part)
{
	return part->scope == DOVETAIL_SCOPE_MAILBOX && *part->mailbox == '\0';
}

/* The next mailbox and entry to look at; false: there are no more. */
static bool next_look(struct sync_fallback *fallback, const struct dovetail_part *parts, size_t count, const char **mailbox_r,
		      const char **entry_r)
{
	const struct dovetail_part *part;

	for (; fallback->part < count; fallback->part++, fallback->mailbox = 0) {
		part = &parts[fallback->part];
		*entry_r = part->entry;
		if (is_of_account(part)) {
			if (fallback->mailbox++ > 0)
				continue;
			*mailbox_r = "";
			return true;
		}
		while (fallback->mailbox < fallback->mailbox_count) {
			*mailbox_r = fallback->mailboxes[fallback->mailbox++];
			if (is_of_part(fallback, part, *mailbox_r))
				return true;
		}
	}
	return false;
}

/* Plain METADATA servers often say no more than NO (Dovecot: "NO Mailbox doesn't exist"): what may pass has a code (RFC 5530). */
static enum sync_answer fallback_answer(const struct response_status *status)
{
	return status->cond == RESPONSE_NO && *status->code == '\0' ? SYNC_ANSWER_REFUSED : sync_answer(status);
}

/* ---- A look ---- */

static void look_ends(struct dovetail_sync *sync)
{
	forget_mailboxes(&sync->fallback);
	sync->fallback.step = SYNC_FALLBACK_REST;
	if (!sync_apply(sync, ""))
		return;
	sync->consistent = sync->connected_consistent = true;
	sync->next_poll = sync_now() + sync->options.poll_interval;
	if (sync->state != DOVETAIL_STATE_POLLING)
		sync_state(sync, DOVETAIL_STATE_POLLING, DOVETAIL_OK, "");
}

/* Dovecot's own METADATA shows nothing of the account's if it is asked for all below "/private" or "/shared": the names that RFC
   5464 knows (6.2.1, 6.2.2) are asked for as well. An entry that is told twice is the same twice. */
static void look_entry(struct sync_writer *writer, const char *mailbox, const char *entry)
{
	static const char *const names[] = { "admin", "comment", "vendor" };
	char name[sizeof("/private/comment")];
	size_t i;

	sync_command_name(writer, entry);
	if (*mailbox != '\0' || strchr(entry + 1, '/') != NULL)
		return;
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(name, sizeof(name), "%s/%s", entry, names[i]);
		sync_command_text(writer, " ");
		sync_command_name(writer, name);
	}
}

static void look_on(struct dovetail_sync *sync)
{
	struct sync_fallback *fallback = &sync->fallback;
	const struct dovetail_part *parts;
	const char *mailbox, *entry;
	struct sync_writer *writer;
	size_t count;

	if (!sync_replica_ok(sync, dovetail_get_parts(sync->replica, &parts, &count)))
		return;
	while (sync->failure == DOVETAIL_OK && fallback->waiting < LOOKS_MAX &&
	       next_look(fallback, parts, count, &mailbox, &entry)) {
		writer = sync_command_begin(sync, SYNC_LOOK, "");
		sync_command_text(writer, " GETMETADATA (DEPTH infinity) ");
		sync_command_mailbox(writer, mailbox);
		sync_command_text(writer, " (");
		look_entry(writer, mailbox, entry);
		sync_command_text(writer, ")");
		if (sync_command_end(sync, writer) == NULL)
			return;
		fallback->waiting++;
	}
	if (sync->failure == DOVETAIL_OK && fallback->waiting == 0)
		look_ends(sync);
}

static void look_begins(struct dovetail_sync *sync)
{
	const struct dovetail_part *parts;
	struct sync_writer *writer;
	size_t count, i;
	bool list = false;

	if (!sync_replica_ok(sync, replica_watch_parts(sync->replica, &parts, &count)) ||
	    !sync_replica_ok(sync, replica_stage_snapshot(sync->replica)))
		return;
	for (i = 0; i < count; i++)
		list = list || !is_of_account(&parts[i]);
	if (list && !sync->has_metadata) {
		sync_fail(sync, DOVETAIL_UNSUPPORTED, true,
			  "The server has entries of the account (METADATA-SERVER), but not of mailboxes");
		return;
	}
	sync->consistent = false;
	sync->staged_entries = sync->staged_bytes = 0;
	sync->fallback.part = sync->fallback.mailbox = 0;
	sync->fallback.step = SYNC_FALLBACK_LOOKING;
	if (!list) {
		look_on(sync);
		return;
	}
	forget_mailboxes(&sync->fallback);
	sync->fallback.step = SYNC_FALLBACK_LISTING;
	if (sync->has_namespace) {
		writer = sync_command_begin(sync, SYNC_NAMESPACE, "");
		sync_command_text(writer, " NAMESPACE");
		if (sync_command_end(sync, writer) == NULL)
			return;
	}
	writer = sync_command_begin(sync, SYNC_LIST, "");
	sync_command_text(writer, " LIST \"\" \"*\"");
	sync_command_end(sync, writer);
}

void sync_fallback_begin(struct dovetail_sync *sync)
{
	if (!sync->has_metadata_server) {
		sync_fail(sync, DOVETAIL_UNSUPPORTED, true, "The server has neither XMETASYNC nor METADATA");
		return;
	}
	/* those of another server, or of this one in other times */
	if (!sync_replica_ok(sync, replica_limits_set(sync->replica, NULL)))
		return;
	sync->phase = SYNC_PHASE_FALLBACK;
	sync->fallback.step = SYNC_FALLBACK_REST;
	sync->fallback.waiting = 0;
	sync_state(sync, DOVETAIL_STATE_SYNCING, DOVETAIL_OK, "");
	if (!sync->fallback.told) {
		sync->fallback.told = true;
		sync_notice(sync, DOVETAIL_NOTICE_FALLBACK, NULL, NULL,
			    "The server has no XMETASYNC: it is asked now and then, and writes of two devices at the same moment"
			    " can be lost");
	}
	look_begins(sync);
}

bool sync_fallback_entry(struct dovetail_sync *sync, struct sync_command *command)
{
	/* NIL: an entry that was asked for, and is not there */
	if (command->kind != SYNC_LOOK || sync->kind == REPLICA_REMOVED)
		return true;
	sync->staged = true;
	return sync_replica_ok(sync, replica_stage(sync->replica, sync->mailbox, sync->name, sync->kind, sync->value,
						   sync->value_size));
}

/* ---- A write ---- */

static size_t line_bytes(const struct replica_write *write)
{
	return strlen(write->name) + (write->size < 200 ? write->size : 0) + 16;
}

/* The writes from *first on that are in the same mailbox and fit in a line; *first is behind them then. */
static struct replica_set next_part(const struct replica_set *set, size_t *first)
{
	struct replica_set part = { .id = set->id, .writes = &set->writes[*first] };
	size_t bytes = 0;

	do {
		bytes += line_bytes(&set->writes[*first]);
		part.count++;
		++*first;
	} while (*first < set->count && strcmp(set->writes[*first].mailbox, part.writes[0].mailbox) == 0 &&
		 bytes + line_bytes(&set->writes[*first]) <= LINE_BYTES);
	return part;
}

/* The writes of part, by name or with their values; the answer is about known, the set or this part of it. */
static void send_part(struct dovetail_sync *sync, enum sync_command_kind kind, const struct replica_set *known,
		      const struct replica_set *part)
{
	struct sync_writer *writer = sync_command_begin(sync, kind, "");
	size_t i;

	sync_command_set(writer, known);
	sync_command_text(writer, kind == SYNC_SETMETADATA ? " SETMETADATA " : " GETMETADATA ");
	sync_command_mailbox(writer, part->writes[0].mailbox);
	for (i = 0; i < part->count; i++) {
		sync_command_text(writer, i == 0 ? " (" : " ");
		sync_command_name(writer, part->writes[i].name);
		if (kind != SYNC_SETMETADATA)
			continue;
		sync_command_text(writer, " ");
		sync_command_value(writer, part->writes[i].data, part->writes[i].size);
	}
	sync_command_text(writer, ")");
	if (sync_command_end(sync, writer) != NULL)
		sync->fallback.waiting++;
}

/* The next set: what does the server have there now? */
static void compare_begins(struct dovetail_sync *sync)
{
	enum dovetail_status status;
	struct replica_set set, part;
	size_t i = 0;

	status = sync_queue_next(sync, 0, &set);
	if (status == DOVETAIL_NOT_FOUND) {
		if (sync_tell_changes(sync))
			sync_write_stuck(sync);
		return;
	}
	if (!sync_replica_ok(sync, status))
		return;
	sync->fallback.step = SYNC_FALLBACK_COMPARING;
	while (i < set.count && sync->failure == DOVETAIL_OK) {
		part = next_part(&set, &i);
		send_part(sync, SYNC_COMPARE, &part, &part);
	}
	/* it is given again when what has come is compared */
	if (sync->failure == DOVETAIL_OK && sync_replica_ok(sync, replica_queue_again(sync->replica, set.id)))
		sync_tell_changes(sync);
}

/* It is known what the server has: conflicts are solved, and what is left goes out. */
static void write_begins(struct dovetail_sync *sync)
{
	enum dovetail_status status;
	struct replica_set set, part;
	size_t i = 0;

	sync->fallback.step = SYNC_FALLBACK_REST;
	if (!sync_apply(sync, ""))
		return;
	status = sync_queue_next(sync, 0, &set);
	if (status == DOVETAIL_NOT_FOUND) {
		sync_tell_changes(sync);
		return;
	}
	if (!sync_replica_ok(sync, status))
		return;
	sync->fallback.step = SYNC_FALLBACK_WRITING;
	sync->round_lost = false;
	while (i < set.count && sync->failure == DOVETAIL_OK) {
		part = next_part(&set, &i);
		send_part(sync, SYNC_SETMETADATA, &set, &part);
	}
	if (sync->failure == DOVETAIL_OK)
		sync_tell_changes(sync);
}

static bool compare_answered(struct dovetail_sync *sync, struct sync_command *command, const struct response_status *status)
{
	const struct sync_theirs *theirs;
	size_t i;

	if (fallback_answer(status) == SYNC_ANSWER_LATER)
		return sync_fail(sync, DOVETAIL_NETWORK, false, "The server refuses to read now: %s", status->text);
	/* One who may not read may not write either: that is answered. */
	if (status->cond != RESPONSE_OK && strcmp(status->code, "NONEXISTENT") != 0)
		return true;
	for (i = 0; i < command->theirs_count; i++) {
		theirs = &command->theirs[i];
		sync->staged = true;
		if (!sync_replica_ok(sync, replica_stage(sync->replica, theirs->mailbox, theirs->name, theirs->kind, theirs->data,
							 theirs->size)))
			return false;
	}
	return true;
}

/* One answer of each mailbox that the set is about; the first NO decides. */
static bool setmetadata_answered(struct dovetail_sync *sync, struct sync_command *command, const struct response_status *status)
{
	enum sync_answer answer = fallback_answer(status);

	if (answer != SYNC_ANSWER_OK && !sync->round_lost) {
		sync->round_lost = true;
		if (answer == SYNC_ANSWER_REFUSED)
			return sync_set_refused(sync, command, status);
		snprintf(sync->later_text, sizeof(sync->later_text), "%s", status->text);
		if (!sync_replica_ok(sync, replica_queue_again(sync->replica, command->set_id)))
			return false;
		sync_write_later(sync);
	}
	if (sync->fallback.waiting > 0 || sync->round_lost)
		return sync->failure == DOVETAIL_OK;
	sync->write_backoff = 0;
	return sync_replica_ok(sync, replica_queue_done(sync->replica, command->set_id, ""));
}

/* ---- Answers ---- */

static bool look_answered(struct dovetail_sync *sync, const struct response_status *status)
{
	/* A NO that may be about the moment does not mean that there are no entries. That of a mailbox that is gone since LIST
	   passes, too. */
	switch (sync_answer(status)) {
	case SYNC_ANSWER_OK:
		return true;
	case SYNC_ANSWER_LATER:
		return sync_fail(sync, DOVETAIL_NETWORK, false, "The server refuses to read now: %s", status->text);
	case SYNC_ANSWER_REFUSED:
		break;
	}
	if (status->cond == RESPONSE_BAD)
		return sync_fail(sync, DOVETAIL_PROTOCOL, true, "The server refuses to read: %s", status->text);
	/* gone, or not ours to read */
	return true;
}

static bool list_answered(struct dovetail_sync *sync, const struct response_status *status)
{
	if (status->cond != RESPONSE_OK)
		return sync_fail(sync, DOVETAIL_NETWORK, false, "The server refuses to list mailboxes: %s", status->text);
	sync->fallback.step = SYNC_FALLBACK_LOOKING;
	return true;
}

bool sync_fallback_tagged(struct dovetail_sync *sync, struct sync_command *command, const struct response_status *status)
{
	bool ok;

	if (command->kind != SYNC_LIST && command->kind != SYNC_NAMESPACE)
		sync->fallback.waiting--;
	if (command->kind == SYNC_NAMESPACE)
		/* refused: then it has none */
		ok = sync_answer(status) != SYNC_ANSWER_LATER ||
			sync_fail(sync, DOVETAIL_NETWORK, false, "The server refuses to list namespaces: %s", status->text);
	else if (command->kind == SYNC_LIST)
		ok = list_answered(sync, status);
	else if (command->kind == SYNC_LOOK)
		ok = look_answered(sync, status);
	else if (command->kind == SYNC_COMPARE)
		ok = compare_answered(sync, command, status);
	else
		ok = setmetadata_answered(sync, command, status);
	if (!ok)
		return false;
	sync_commands_pop(sync);
	if (sync->failure != DOVETAIL_OK)
		return false;
	if (sync->fallback.step == SYNC_FALLBACK_LOOKING) {
		look_on(sync);
	} else if (sync->fallback.waiting == 0 && sync->fallback.step == SYNC_FALLBACK_COMPARING) {
		write_begins(sync);
	} else if (sync->fallback.waiting == 0 && sync->fallback.step == SYNC_FALLBACK_WRITING) {
		sync->fallback.step = SYNC_FALLBACK_REST;
		/* what is here is what the server has: told as the marker after a write is */
		sync_apply(sync, "");
	}
	return sync->failure == DOVETAIL_OK;
}

void sync_fallback_go(struct dovetail_sync *sync, bool look)
{
	bool changed;

	if (sync->fallback.step != SYNC_FALLBACK_REST)
		return;
	changed = sync_parts_changed(sync);
	if (!changed && sync_may_write(sync))
		compare_begins(sync);
	else if (changed || look || sync_now() >= sync->next_poll)
		look_begins(sync);
}

void sync_fallback_end(struct dovetail_sync *sync)
{
	forget_mailboxes(&sync->fallback);
	sync->fallback.step = SYNC_FALLBACK_REST;
	sync->fallback.waiting = 0;
}
