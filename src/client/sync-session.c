/* What is said on a connection to a server that has XMETASYNC (docs/protocol.md): catch up, wait, and for each round of writes
   DONE, XMETASET and XMETASYNC again, sent together. Called by sync.c and sync-receive.c. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sync-private.h"

/* Sets that are sent without waiting for each one's answer. */
#define ROUND_SETS 32
#define ROUND_BYTES (512 * 1024)
/* A bookmark that is no server's (an epoch and a token are random): answered by RESET and a snapshot. Unlike a plain snapshot it
   may be about mailboxes that do not exist yet. */
#define MARK_OF_NOBODY "(1 1 0)"
/* RFC 3501: a number has 32 bits */
#define MAXSIZE_MAX UINT32_MAX
/* RESETs without a consistent state in between: more than happens by chance */
#define RESETS_MAX 10
/* rounds in a row of which others, or the server, let no write through; then writes wait */
#define LOST_ROUNDS_MAX 3

/* ---- XMETASYNC ---- */

static void write_scope(struct sync_writer *writer, const struct dovetail_part *part)
{
	sync_command_text(writer, " ");
	switch (part->scope) {
	case DOVETAIL_SCOPE_MAILBOX:
		sync_command_mailbox(writer, part->mailbox);
		break;
	case DOVETAIL_SCOPE_PERSONAL:
		sync_command_text(writer, "(PERSONAL)");
		break;
	case DOVETAIL_SCOPE_SUBTREE:
		sync_command_text(writer, "(SUBTREE ");
		sync_command_mailbox(writer, part->mailbox);
		sync_command_text(writer, ")");
		break;
	}
	sync_command_text(writer, " ");
	sync_command_name(writer, part->entry);
}

/* prefix "DONE\r\n": ends the XMETASYNC that waits. */
static bool send_xmetasync(struct dovetail_sync *sync, const char *prefix)
{
	const struct dovetail_part *parts;
	const char *mark, *partial;
	struct sync_writer *writer;
	size_t count, i, max_value = sync->options.max_value;
	char maxsize[60];

	if (!sync_replica_ok(sync, replica_get_mark(sync->replica, &mark, &partial)) ||
	    !sync_replica_ok(sync, replica_watch_parts(sync->replica, &parts, &count)))
		return false;
	if (*partial != '\0')
		mark = partial;
	/* a snapshot begins without being announced */
	sync->snapshot = *mark == '\0';
	if (sync->snapshot && sync->mailbox_missing)
		mark = MARK_OF_NOBODY;
	if (sync->snapshot || !replica_position_parse(mark, true, &sync->position))
		memset(&sync->position, 0, sizeof(sync->position));

	writer = sync_command_begin(sync, SYNC_XMETASYNC, prefix);
	sync_command_text(writer, " XMETASYNC (");
	if (*mark != '\0') {
		sync_command_text(writer, "SINCE ");
		sync_command_text(writer, mark);
		sync_command_text(writer, " ");
	}
	snprintf(maxsize, sizeof(maxsize), "DEPTH infinity MAXSIZE %zu)", max_value < MAXSIZE_MAX ? max_value : MAXSIZE_MAX);
	sync_command_text(writer, maxsize);
	for (i = 0; i < count; i++)
		write_scope(writer, &parts[i]);
	return sync_command_end(sync, writer) != NULL;
}

/* The answers of an XMETASYNC begin: what the one before it has left without a marker comes again. */
static bool xmetasync_begins(struct dovetail_sync *sync)
{
	sync->consistent = false;
	sync->idling = false;
	if (sync->snapshot) {
		sync->snapshot = false;
		sync->staged = false;
		sync->staged_entries = sync->staged_bytes = 0;
		return sync_replica_ok(sync, replica_stage_snapshot(sync->replica));
	}
	if (sync->staged) {
		sync->staged = false;
		sync->staged_entries = sync->partial_entries;
		sync->staged_bytes = sync->partial_bytes;
		return sync_replica_ok(sync, replica_stage_drop(sync->replica));
	}
	return true;
}

void sync_session_begin(struct dovetail_sync *sync)
{
	sync->phase = SYNC_PHASE_SESSION;
	sync_state(sync, DOVETAIL_STATE_SYNCING, DOVETAIL_OK, "");
	if (send_xmetasync(sync, ""))
		xmetasync_begins(sync);
}

bool sync_session_entry(struct dovetail_sync *sync)
{
	sync->staged = true;
	return sync_replica_ok(sync, replica_stage(sync->replica, sync->mailbox, sync->name, sync->kind, sync->value,
						   sync->value_size));
}

static bool session_reset(struct dovetail_sync *sync)
{
	const char *mark, *partial;

	if (++sync->resets > RESETS_MAX)
		return sync_fail(sync, DOVETAIL_PROTOCOL, false, "The server begins its snapshot over and over");
	if (!sync_replica_ok(sync, replica_get_mark(sync->replica, &mark, &partial)))
		return false;
	if (*mark != '\0') {
		sync_notice(sync, DOVETAIL_NOTICE_RESET, NULL, NULL,
			    "The server cannot tell what has changed since the last time: everything is compared anew");
	}
	sync_state(sync, DOVETAIL_STATE_SYNCING, DOVETAIL_OK, "");
	sync->consistent = false;
	sync->staged = false;
	sync->staged_entries = sync->staged_bytes = sync->partial_entries = sync->partial_bytes = 0;
	memset(&sync->position, 0, sizeof(sync->position));
	return sync_replica_ok(sync, replica_stage_snapshot(sync->replica));
}

/* A marker's position continues the one before it, or a RESET has come: else changes are missing. */
static bool session_position(struct dovetail_sync *sync, const char *mark)
{
	struct replica_position position;

	if (!replica_position_parse(mark, true, &position))
		return sync_fail(sync, DOVETAIL_PROTOCOL, false, "The server sends a bookmark that is none: \"%.100s\"", mark);
	if (sync->position.epoch != 0 &&
	    (position.epoch != sync->position.epoch || position.modseq < sync->position.modseq)) {
		return sync_fail(sync, DOVETAIL_PROTOCOL, false,
				 "The server's position \"%.100s\" does not follow its last one (%llu %llu)",
				 mark, (unsigned long long)sync->position.epoch, (unsigned long long)sync->position.modseq);
	}
	sync->position = position;
	return true;
}

static bool session_marker(struct dovetail_sync *sync, const char *mark)
{
	if (!session_position(sync, mark) || !sync_apply(sync, mark))
		return false;
	sync->consistent = true;
	sync->connected_consistent = true;
	sync->resets = 0;
	return true;
}

static bool session_partial(struct dovetail_sync *sync, const char *mark)
{
	if (!session_position(sync, mark) || !sync_replica_ok(sync, replica_stage_partial(sync->replica, mark)))
		return false;
	sync->staged = false;
	sync->partial_entries = sync->staged_entries;
	sync->partial_bytes = sync->staged_bytes;
	return true;
}

static bool session_limits(struct dovetail_sync *sync, const char *text)
{
	size_t size = strlen(text);
	char *list;
	bool ok;

	if (*text != '(' || text[size - 1] != ')')
		return sync_fail(sync, DOVETAIL_PROTOCOL, false, "The server sends limits that are none: \"%.100s\"", text);
	list = strndup(text + 1, size - 2);
	if (list == NULL)
		return sync_fail(sync, DOVETAIL_SYSTEM, true, "Out of memory");
	ok = sync_replica_ok(sync, replica_limits_set(sync->replica, list));
	free(list);
	return ok;
}

bool sync_session_status(struct dovetail_sync *sync, const struct response_status *status)
{
	if (sync->commands == NULL || sync->commands->kind != SYNC_XMETASYNC)
		return sync_fail(sync, DOVETAIL_PROTOCOL, false, "The server sends [XMETASYNC %.100s] outside of XMETASYNC",
				 status->code_args);
	if (strncmp(status->code_args, "LIMITS ", 7) == 0)
		return session_limits(sync, status->code_args + 7);
	if (strcmp(status->code_args, "RESET") == 0)
		return session_reset(sync);
	if (strncmp(status->code_args, "PARTIAL ", 8) == 0)
		return session_partial(sync, status->code_args + 8);
	return session_marker(sync, status->code_args);
}

/* ---- XMETASET ---- */

static void resolve(void *context, const struct dovetail_conflict *conflict, struct dovetail_resolution *resolution)
{
	struct dovetail_sync *sync = context;

	if (sync->callbacks.conflict != NULL)
		sync->callbacks.conflict(sync->context, conflict, resolution);
}

enum dovetail_status sync_queue_next(struct dovetail_sync *sync, int64_t after, struct replica_set *set_r)
{
	return replica_queue_next(sync->replica, after, sync->options.rule, resolve, sync, set_r);
}

static bool send_xmetaset(struct dovetail_sync *sync, const char *prefix, const struct replica_set *set)
{
	struct sync_writer *writer = sync_command_begin(sync, SYNC_XMETASET, prefix);
	const char *mailbox = NULL;
	size_t i;

	sync_command_set(writer, set);
	sync_command_text(writer, " XMETASET");
	if (*set->unchanged_since != '\0') {
		sync_command_text(writer, " (UNCHANGEDSINCE ");
		sync_command_text(writer, set->unchanged_since);
		sync_command_text(writer, ")");
	}
	for (i = 0; i < set->count; i++) {
		if (mailbox == NULL || strcmp(mailbox, set->writes[i].mailbox) != 0) {
			if (mailbox != NULL)
				sync_command_text(writer, ")");
			mailbox = set->writes[i].mailbox;
			sync_command_text(writer, " ");
			sync_command_mailbox(writer, mailbox);
			sync_command_text(writer, " (");
		} else {
			sync_command_text(writer, " ");
		}
		sync_command_name(writer, set->writes[i].name);
		sync_command_text(writer, " ");
		sync_command_value(writer, set->writes[i].data, set->writes[i].size);
	}
	sync_command_text(writer, ")");
	return sync_command_end(sync, writer) != NULL;
}

static size_t set_bytes(const struct replica_set *set)
{
	size_t i, bytes = 0;

	for (i = 0; i < set->count; i++)
		bytes += strlen(set->writes[i].name) + set->writes[i].size;
	return bytes;
}

/* Sends what waits, as many sets as one round may have, and after the last one XMETASYNC. prefix as above, for the first
   command. */
static void send_round(struct dovetail_sync *sync, const char *prefix)
{
	enum dovetail_status status;
	struct replica_set set;
	unsigned int count = 0;
	int64_t after = 0;
	size_t bytes = 0;

	while (sync->failure == DOVETAIL_OK && !sync->round_lost && count < ROUND_SETS && bytes < ROUND_BYTES) {
		status = sync_queue_next(sync, after, &set);
		if (status == DOVETAIL_NOT_FOUND)
			break;
		if (!sync_replica_ok(sync, status))
			return;
		if (!send_xmetaset(sync, prefix, &set))
			return;
		prefix = "";
		after = set.id;
		bytes += set_bytes(&set);
		count++;
	}
	if (sync->failure != DOVETAIL_OK || !sync_tell_changes(sync))
		return;
	if (count == 0 && *prefix != '\0') {
		sync->idling = true;
		sync_write_stuck(sync);
		return;
	}
	/* are there more than these? Then the next ones follow when these are answered. */
	if (count == 0 || replica_queue_count(sync->replica) <= count)
		send_xmetasync(sync, prefix);
}

/* ---- MODIFIED: the server's values ---- */

static struct sync_theirs *theirs_find(struct sync_command *command, const char *mailbox, const char *name)
{
	size_t i;

	for (i = 0; i < command->theirs_count; i++) {
		if (strcmp(command->theirs[i].mailbox, mailbox) == 0 && strcmp(command->theirs[i].name, name) == 0)
			return &command->theirs[i];
	}
	return NULL;
}

bool sync_theirs_entry(struct dovetail_sync *sync, struct sync_command *command)
{
	struct sync_theirs *theirs = theirs_find(command, sync->mailbox, sync->name);
	char *data = NULL;

	if (theirs == NULL)
		return true;
	/* Is it what was written? That is all that is asked of it: others need no memory, the next state brings them. */
	if (command->kind == SYNC_XMETASET && sync->kind == REPLICA_VALUE && sync->value_size != theirs->mine_size)
		sync->kind = REPLICA_NOT_HERE;
	if (sync->kind == REPLICA_VALUE) {
		data = malloc(sync->value_size + 1);
		if (data == NULL)
			return sync_fail(sync, DOVETAIL_SYSTEM, true, "Out of memory");
		memcpy(data, sync->value, sync->value_size);
		data[sync->value_size] = '\0';
	}
	free(theirs->data);
	theirs->data = data;
	theirs->size = sync->value_size;
	theirs->kind = sync->kind;
	theirs->told = true;
	return true;
}

static bool set_modified(struct dovetail_sync *sync, struct sync_command *command, const char *pos)
{
	struct replica_theirs *theirs = calloc(command->theirs_count, sizeof(*theirs));
	enum dovetail_status status;
	size_t i, count = 0;

	if (theirs == NULL)
		return sync_fail(sync, DOVETAIL_SYSTEM, true, "Out of memory");
	for (i = 0; i < command->theirs_count; i++) {
		if (!command->theirs[i].told)
			continue;
		theirs[count].mailbox = command->theirs[i].mailbox;
		theirs[count].name = command->theirs[i].name;
		theirs[count].kind = command->theirs[i].kind;
		theirs[count].data = command->theirs[i].data;
		theirs[count++].size = command->theirs[i].size;
	}
	status = replica_queue_modified(sync->replica, command->set_id, pos, theirs, count);
	free(theirs);
	return sync_replica_ok(sync, status);
}

/* ---- Answers ---- */

bool sync_set_refused(struct dovetail_sync *sync, struct sync_command *command, const struct response_status *status)
{
	char reason[512];
	size_t i;

	snprintf(reason, sizeof(reason), "%s%s%s%s%s%s", *status->code != '\0' ? "[" : "", status->code,
		 *status->code_args != '\0' ? " " : "", status->code_args, *status->code != '\0' ? "] " : "", status->text);
	if (!sync_replica_ok(sync, replica_queue_refused(sync->replica, command->set_id, reason)))
		return false;
	for (i = 0; i < command->theirs_count; i++)
		sync_notice(sync, DOVETAIL_NOTICE_REFUSED, command->theirs[i].mailbox, command->theirs[i].name, reason);
	return true;
}

static bool set_answered(struct dovetail_sync *sync, struct sync_command *command, const struct response_status *status)
{
	struct replica_position position;
	bool ours = strcmp(status->code, "XMETASET") == 0;

	if (status->cond == RESPONSE_OK) {
		if (!ours || !replica_position_parse(status->code_args, false, &position))
			return sync_fail(sync, DOVETAIL_PROTOCOL, false, "The server does not say where it has written");
		sync->round_won = true;
		return sync_replica_ok(sync, replica_queue_done(sync->replica, command->set_id, status->code_args));
	}
	if (ours && strncmp(status->code_args, "MODIFIED ", 9) == 0) {
		if (!replica_position_parse(status->code_args + 9, false, &position))
			return sync_fail(sync, DOVETAIL_PROTOCOL, false, "The server sends a position that is none");
		sync->round_lost = true;
		return set_modified(sync, command, status->code_args + 9);
	}
	if (ours && strcmp(status->code_args, "RESET") == 0) {
		sync->round_lost = true;
		return sync_replica_ok(sync, replica_queue_again(sync->replica, command->set_id));
	}
	if (sync_answer(status) == SYNC_ANSWER_REFUSED) {
		sync->round_won = true;
		return sync_set_refused(sync, command, status);
	}
	sync->round_lost = true;
	sync->lost_rounds = LOST_ROUNDS_MAX;
	snprintf(sync->later_text, sizeof(sync->later_text), "%s", status->text);
	return sync_replica_ok(sync, replica_queue_again(sync->replica, command->set_id));
}

static bool xmetasync_answered(struct dovetail_sync *sync, const struct response_status *status)
{
	switch (sync_answer(status)) {
	case SYNC_ANSWER_OK:
		/* after our DONE: another command follows it */
		if (sync->commands->next == NULL || sync->idling)
			return sync_fail(sync, DOVETAIL_PROTOCOL, false, "The server has ended XMETASYNC, unasked");
		return true;
	case SYNC_ANSWER_LATER:
		return sync_fail(sync, DOVETAIL_NETWORK, false, "The server refuses to synchronize now: %s", status->text);
	case SYNC_ANSWER_REFUSED:
		break;
	}
	/* a mailbox that does not exist is empty, and told when it is made */
	if (strcmp(status->code, "NONEXISTENT") == 0 && !sync->mailbox_missing) {
		sync->mailbox_missing = true;
		return send_xmetasync(sync, "");
	}
	return sync_fail(sync, status->cond == RESPONSE_BAD ? DOVETAIL_PROTOCOL : DOVETAIL_REFUSED, true,
			 "The server refuses to synchronize: %s", status->text);
}

/* A round's last write is answered. */
static void round_ends(struct dovetail_sync *sync)
{
	if (sync->round_won)
		sync->lost_rounds = sync->write_backoff = 0;
	else if (sync->round_lost && ++sync->lost_rounds >= LOST_ROUNDS_MAX)
		sync_write_later(sync);
}

bool sync_session_tagged(struct dovetail_sync *sync, struct sync_command *command, const struct response_status *status)
{
	bool was_set = command->kind == SYNC_XMETASET;

	if (!(was_set ? set_answered(sync, command, status) : xmetasync_answered(sync, status)))
		return false;
	sync_commands_pop(sync);
	if (!sync_tell_changes(sync))
		return false;
	if (was_set && (sync->commands == NULL || sync->commands->kind != SYNC_XMETASET)) {
		if (sync->commands == NULL && sync->failure == DOVETAIL_OK)
			send_round(sync, "");
		if (sync->failure == DOVETAIL_OK && sync->commands != NULL && sync->commands->kind == SYNC_XMETASYNC)
			round_ends(sync);
	}
	if (sync->failure == DOVETAIL_OK && sync->commands != NULL && sync->commands->kind == SYNC_XMETASYNC)
		return xmetasync_begins(sync);
	return sync->failure == DOVETAIL_OK;
}

void sync_session_go(struct dovetail_sync *sync, bool probe)
{
	if (!sync->idling || !sync->consistent)
		return;
	if (sync_parts_changed(sync)) {
		sync_state(sync, DOVETAIL_STATE_SYNCING, DOVETAIL_OK, "");
		probe = true;
	} else if (sync->failure == DOVETAIL_OK && sync->state != DOVETAIL_STATE_LIVE) {
		sync_state(sync, DOVETAIL_STATE_LIVE, DOVETAIL_OK, "");
	}
	if (sync->state == DOVETAIL_STATE_LIVE && sync_may_write(sync)) {
		sync->idling = sync->round_won = sync->round_lost = false;
		sync->heard = sync_now();
		send_round(sync, "DONE\r\n");
	} else if (probe) {
		sync->idling = false;
		sync->heard = sync_now();
		send_xmetasync(sync, "DONE\r\n");
	}
}

void sync_goodbye(struct dovetail_sync *sync)
{
	const char *words = sync->phase == SYNC_PHASE_SESSION && sync->idling ? "DONE\r\nz LOGOUT\r\n" : "z LOGOUT\r\n";

	/* its answer is not waited for */
	transport_send(sync->transport, words, strlen(words));
}
