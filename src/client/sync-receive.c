/* What the server says: octets to the parser, the parser's words put together to entries, within the limits, and to the one who has
   asked (sync-session.c, sync-fallback.c). Used by sync.c. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sync-private.h"

/* octets in one dispatch(): the caller's other work has its turn */
#define RECEIVE_MAX (256 * 1024)
/* what a response may cost beside its octets, so that many empty ones are counted, too */
#define ENTRY_COST 16

static bool starts_word(const char *list, const char *word)
{
	size_t size = strlen(word);
	const char *p = list;

	while ((p = strstr(p, word)) != NULL) {
		if ((p == list || p[-1] == ' ') && (p[size] == '\0' || p[size] == ' '))
			return true;
		p += size;
	}
	return false;
}

static bool handle_capability(void *context, const char *list)
{
	struct dovetail_sync *sync = context;

	/* the last list counts: the one after login */
	sync->literal_plus = starts_word(list, "LITERAL+");
	sync->literal_minus = starts_word(list, "LITERAL-");
	sync->has_xmetasync = starts_word(list, "XMETASYNC");
	sync->has_metadata = starts_word(list, "METADATA");
	sync->has_namespace = starts_word(list, "NAMESPACE");
	sync->has_metadata_server = sync->has_metadata || starts_word(list, "METADATA-SERVER");
	return true;
}

static void greeting_done(struct dovetail_sync *sync, const struct response_status *status)
{
	sync_commands_pop(sync);
	if (status->cond != RESPONSE_OK)
		sync_fail(sync, DOVETAIL_PROTOCOL, false, "CAPABILITY was refused: %s", status->text);
	else if (sync->has_xmetasync)
		sync_session_begin(sync);
	else
		sync_fallback_begin(sync);
}

static bool handle_tagged(void *context, const char *tag, const struct response_status *status)
{
	struct dovetail_sync *sync = context;
	struct sync_command *command = sync->commands;

	if (command == NULL || strcmp(command->tag, tag) != 0) {
		/* what libcurl has not read of its login */
		if (sync->phase == SYNC_PHASE_GREETING)
			return true;
		return sync_fail(sync, DOVETAIL_PROTOCOL, false, "The server answers what was not asked (tag \"%.40s\")", tag);
	}
	if (command->kind == SYNC_CAPABILITY)
		greeting_done(sync, status);
	else if (sync->phase == SYNC_PHASE_SESSION)
		sync_session_tagged(sync, command, status);
	else
		sync_fallback_tagged(sync, command, status);
	return sync->failure == DOVETAIL_OK;
}

static bool handle_status(void *context, const struct response_status *status)
{
	struct dovetail_sync *sync = context;

	if (status->cond == RESPONSE_BYE)
		return sync_fail(sync, DOVETAIL_NETWORK, false, "The server has ended the connection: %s", status->text);
	if (sync->phase != SYNC_PHASE_SESSION || status->cond != RESPONSE_OK || strcmp(status->code, "XMETASYNC") != 0)
		return true;
	return sync_session_status(sync, status) && sync->failure == DOVETAIL_OK;
}

static bool handle_continuation(void *context, const char *text)
{
	struct dovetail_sync *sync = context;

	if (sync->phase == SYNC_PHASE_GREETING)
		return true;
	if (sync_commands_continue(sync))
		return sync->failure == DOVETAIL_OK;
	if (sync->commands != NULL && sync->commands->kind == SYNC_XMETASYNC && sync->commands->next == NULL && sync->consistent) {
		sync->idling = true;
		return true;
	}
	return sync_fail(sync, DOVETAIL_PROTOCOL, false,
			 "The server wants to be sent something (\"+ %.40s\"), but there is nothing", text);
}

/* Counts what has come since the last consistent state. */
static bool count_octets(struct dovetail_sync *sync, size_t size)
{
	sync->received_bytes += size;
	sync->staged_bytes += size;
	if (sync->staged_bytes > sync->options.max_bytes) {
		return sync_fail(sync, DOVETAIL_LIMIT, true, "The server sends more than %llu octets",
				 (unsigned long long)sync->options.max_bytes);
	}
	return true;
}

static bool handle_metadata(void *context, const char *mailbox)
{
	struct dovetail_sync *sync = context;

	free(sync->mailbox);
	sync->mailbox = NULL;
	if (sync->phase == SYNC_PHASE_GREETING)
		return true;
	/* A name that is not valid is none of ours: NULL. */
	sync->mailbox = sync_mailbox_decode(mailbox);
	if (sync->mailbox == NULL && errno == ENOMEM)
		return sync_fail(sync, DOVETAIL_SYSTEM, true, "Out of memory");
	return count_octets(sync, strlen(mailbox));
}

static bool handle_entry_end(void *context)
{
	struct dovetail_sync *sync = context;
	struct sync_command *command = sync->commands;

	if (!sync->wanted)
		return true;
	if (sync->value == NULL) {
		/* no value, or an empty one: one that is not NULL */
		sync->value = malloc(4096);
		if (sync->value == NULL)
			return sync_fail(sync, DOVETAIL_SYSTEM, true, "Out of memory");
		sync->value_alloc = 4096;
	}
	if (command == NULL)
		return true;
	if (command->kind == SYNC_XMETASYNC)
		return sync_session_entry(sync);
	if (command->kind == SYNC_XMETASET || command->kind == SYNC_COMPARE)
		return sync_theirs_entry(sync, command);
	return sync_fallback_entry(sync, command);
}

static bool handle_entry(void *context, const char *name, enum response_value kind, size_t size)
{
	struct dovetail_sync *sync = context;

	/* what a value's size is shows when it has come */
	(void)size;
	free(sync->name);
	sync->name = NULL;
	sync->value_size = 0;
	sync->wanted = false;
	if (sync->phase == SYNC_PHASE_GREETING)
		return true;
	if (!count_octets(sync, strlen(name) + ENTRY_COST))
		return false;
	sync->received_entries++;
	sync->progressed = true;
	if (++sync->staged_entries > sync->options.max_entries) {
		return sync_fail(sync, DOVETAIL_LIMIT, true, "The server sends more than %llu entries",
				 (unsigned long long)sync->options.max_entries);
	}
	sync->kind = kind == RESPONSE_VALUE_DATA ? REPLICA_VALUE : kind == RESPONSE_VALUE_NIL ? REPLICA_REMOVED : REPLICA_NOT_HERE;
	sync->name = strdup(name);
	if (sync->name == NULL)
		return sync_fail(sync, DOVETAIL_SYSTEM, true, "Out of memory");
	/* what was not asked for is not taken */
	sync->wanted = sync->mailbox != NULL && replica_name_normalise(sync->name) &&
		replica_parts_cover(sync->replica, sync->mailbox, sync->name);
	return kind == RESPONSE_VALUE_DATA || handle_entry_end(sync);
}

static bool handle_data(void *context, const void *data, size_t size)
{
	struct dovetail_sync *sync = context;
	size_t need = sync->value_size + size, alloc = sync->value_alloc;
	char *value;

	if (sync->phase == SYNC_PHASE_GREETING)
		return true;
	sync->progressed = true;
	if (!count_octets(sync, size))
		return false;
	if (need > sync->options.max_value)
		sync->kind = REPLICA_NOT_HERE;
	if (!sync->wanted || sync->kind != REPLICA_VALUE)
		return true;
	if (need > alloc) {
		while (alloc < need)
			alloc = alloc == 0 ? 4096 : alloc * 2;
		value = realloc(sync->value, alloc);
		if (value == NULL)
			return sync_fail(sync, DOVETAIL_SYSTEM, true, "Out of memory");
		sync->value = value;
		sync->value_alloc = alloc;
	}
	memcpy(sync->value + sync->value_size, data, size);
	sync->value_size = need;
	return true;
}

static bool handle_metadata_end(void *context)
{
	struct dovetail_sync *sync = context;

	/* one large value does not take its memory to the end of the connection */
	if (sync->value_alloc > 1024 * 1024) {
		free(sync->value);
		sync->value = NULL;
		sync->value_alloc = 0;
	}
	return true;
}

static bool handle_list(void *context, const char *flags, const char *mailbox)
{
	return sync_fallback_list(context, flags, mailbox);
}

static bool handle_namespace(void *context, enum response_namespace kind, const char *prefix)
{
	return sync_fallback_namespace(context, kind == RESPONSE_NAMESPACE_PERSONAL, prefix);
}

bool sync_receive_begin(struct dovetail_sync *sync)
{
	const struct response_handler handler = {
		.tagged = handle_tagged,
		.status = handle_status,
		.continuation = handle_continuation,
		.capability = handle_capability,
		.metadata = handle_metadata,
		.entry = handle_entry,
		.data = handle_data,
		.entry_end = handle_entry_end,
		.metadata_end = handle_metadata_end,
		.list = handle_list,
		.name_space = handle_namespace,
	};
	/* Larger values than max_value are read over, not kept: a server without MAXSIZE sends them. */
	const struct response_limits limits = { .value = SIZE_MAX };

	sync->staged_entries = sync->partial_entries;
	sync->staged_bytes = sync->partial_bytes;
	sync->received_entries = sync->received_bytes = 0;
	sync->parser = response_parser_new(&limits, &handler, sync);
	return sync->parser != NULL || sync_fail(sync, DOVETAIL_SYSTEM, true, "Out of memory");
}

void sync_receive_end(struct dovetail_sync *sync)
{
	response_parser_free(sync->parser);
	sync->parser = NULL;
	free(sync->mailbox);
	free(sync->name);
	free(sync->value);
	sync->mailbox = sync->name = sync->value = NULL;
	sync->value_size = sync->value_alloc = 0;
}

void sync_receive(struct dovetail_sync *sync)
{
	char buffer[16 * 1024];
	size_t total = 0;
	ssize_t got;

	sync->more = false;
	while (sync->failure == DOVETAIL_OK) {
		if (total >= RECEIVE_MAX) {
			sync->more = true;
			break;
		}
		got = transport_recv(sync->transport, buffer, sizeof(buffer));
		if (got == 0)
			break;
		if (got < 0) {
			sync_fail(sync, transport_status(sync->transport), false, "%s", transport_error(sync->transport));
			break;
		}
		total += got;
		sync->heard = sync_now();
		if (response_parser_feed(sync->parser, buffer, got) == 0 || sync->failure != DOVETAIL_OK)
			continue;
		if (response_is_memory(sync->parser))
			sync_fail(sync, DOVETAIL_SYSTEM, true, "Out of memory");
		else
			sync_fail(sync, DOVETAIL_PROTOCOL, false, "The server breaks the protocol: %s",
				  response_error(sync->parser));
	}
}

static bool is_one_of(const char *word, const char *const *words)
{
	for (; *words != NULL; words++) {
		if (strcmp(word, *words) == 0)
			return true;
	}
	return false;
}

enum sync_answer sync_answer(const struct response_status *status)
{
	/* RFC 3501, 5464, 5530, 7889, 9208. What is not here may pass: nothing is given up for a word that we do not know. */
	static const char *const for_good[] = {
		"METADATA", "OVERQUOTA", "LIMIT", "NONEXISTENT", "TRYCREATE", "CANNOT", "NOPERM", "TOOBIG", "ALREADYEXISTS",
		"PARSE", "CLIENTBUG", "BADCHARSET", NULL
	};

	if (status->cond == RESPONSE_OK)
		return SYNC_ANSWER_OK;
	if (status->cond == RESPONSE_BAD || is_one_of(status->code, for_good))
		return SYNC_ANSWER_REFUSED;
	return SYNC_ANSWER_LATER;
}
