/* Commands on their way to the server: how they are written (tags, quoted strings, literals with or without waiting for "+"), and
   the list of those that are not answered yet. Used by sync-session.c and sync-fallback.c. A command owns what is in it; the list
   owns the commands. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sync-private.h"

/* Longer strings, and those of other octets, are literals: a line has to stay below the server's limit (Dovecot: 64 KiB). */
#define QUOTED_MAX 200
/* RFC 7888: all that LITERAL- allows without waiting */
#define LITERAL_MINUS_MAX 4096

struct sync_writer {
	struct dovetail_sync *sync;
	struct sync_command *command;
	FILE *out;
	/* no memory */
	bool failed;
};

static void sync_command_free(struct sync_command *command)
{
	size_t i;

	if (command == NULL)
		return;
	for (i = 0; i < command->theirs_count; i++) {
		free(command->theirs[i].mailbox);
		free(command->theirs[i].name);
		free(command->theirs[i].data);
	}
	free(command->theirs);
	free(command->stops);
	free(command->data);
	free(command);
}

struct sync_writer *
sync_command_begin(struct dovetail_sync *sync, enum sync_command_kind kind, const char *prefix)
{
	struct sync_writer *writer = calloc(1, sizeof(*writer));

	if (writer == NULL)
		return NULL;
	writer->sync = sync;
	writer->command = calloc(1, sizeof(*writer->command));
	if (writer->command == NULL) {
		free(writer);
		return NULL;
	}
	writer->command->kind = kind;
	snprintf(writer->command->tag, sizeof(writer->command->tag), "%c%u", 'a', ++sync->tag);
	writer->out = open_memstream(&writer->command->data, &writer->command->size);
	if (writer->out == NULL)
		writer->failed = true;
	sync_command_text(writer, prefix);
	sync_command_text(writer, writer->command->tag);
	return writer;
}

void sync_command_text(struct sync_writer *writer, const char *text)
{
	if (writer != NULL && !writer->failed && fputs(text, writer->out) == EOF)
		writer->failed = true;
}

static bool is_quotable(const unsigned char *data, size_t size)
{
	size_t i;

	if (size > QUOTED_MAX)
		return false;
	for (i = 0; i < size; i++) {
		if (data[i] < 0x20 || data[i] >= 0x7f)
			return false;
	}
	return true;
}

/* From here the server has to allow more. */
static void writer_stop(struct sync_writer *writer)
{
	struct sync_command *command = writer->command;
	size_t *stops = realloc(command->stops, sizeof(*stops) * (command->stop_count + 1));

	/* now data and size are as they should be */
	if (stops == NULL || fflush(writer->out) != 0) {
		writer->failed = true;
		if (stops != NULL)
			command->stops = stops;
		return;
	}
	command->stops = stops;
	stops[command->stop_count++] = command->size;
}

static void writer_quoted(struct sync_writer *writer, const char *data, size_t size)
{
	size_t i;

	putc('"', writer->out);
	for (i = 0; i < size; i++) {
		if (data[i] == '"' || data[i] == '\\')
			putc('\\', writer->out);
		putc(data[i], writer->out);
	}
	putc('"', writer->out);
}

static void writer_literal(struct sync_writer *writer, const void *data, size_t size)
{
	bool wait = !writer->sync->literal_plus && !(writer->sync->literal_minus && size <= LITERAL_MINUS_MAX);

	fprintf(writer->out, "%s{%zu%s}\r\n", memchr(data, '\0', size) != NULL ? "~" : "", size, wait ? "" : "+");
	if (wait)
		writer_stop(writer);
	if (!writer->failed)
		fwrite(data, 1, size, writer->out);
}

void sync_command_value(struct sync_writer *writer, const void *data, size_t size)
{
	if (writer == NULL || writer->failed)
		return;
	if (data == NULL)
		sync_command_text(writer, "NIL");
	else if (is_quotable(data, size))
		writer_quoted(writer, data, size);
	else
		writer_literal(writer, data, size);
}

void sync_command_name(struct sync_writer *writer, const char *name)
{
	sync_command_value(writer, name, strlen(name));
}

void sync_command_mailbox(struct sync_writer *writer, const char *mailbox)
{
	char *wire = sync_mailbox_encode(mailbox);

	if (wire != NULL)
		sync_command_name(writer, wire);
	else if (writer != NULL)
		writer->failed = true;
	free(wire);
}

void sync_command_set(struct sync_writer *writer, const struct replica_set *set)
{
	struct sync_command *command;
	size_t i;

	if (writer == NULL || writer->failed)
		return;
	command = writer->command;
	command->set_id = set->id;
	command->theirs = calloc(set->count, sizeof(*command->theirs));
	if (command->theirs == NULL) {
		writer->failed = true;
		return;
	}
	command->theirs_count = set->count;
	for (i = 0; i < set->count; i++) {
		command->theirs[i].mailbox = strdup(set->writes[i].mailbox);
		command->theirs[i].name = strdup(set->writes[i].name);
		command->theirs[i].kind = REPLICA_REMOVED;
		command->theirs[i].mine_size = set->writes[i].size;
		if (command->theirs[i].mailbox == NULL || command->theirs[i].name == NULL)
			writer->failed = true;
	}
}

/* Frees the writer. NULL: no memory. */
static struct sync_command *writer_finish(struct sync_writer *writer)
{
	struct sync_command *command = writer->command;

	sync_command_text(writer, "\r\n");
	if (writer->out != NULL) {
		if (ferror(writer->out))
			writer->failed = true;
		if (fclose(writer->out) != 0)
			writer->failed = true;
	}
	if (writer->failed) {
		sync_command_free(command);
		command = NULL;
	}
	free(writer);
	return command;
}

struct sync_command *sync_command_end(struct dovetail_sync *sync, struct sync_writer *writer)
{
	struct sync_command *command = writer == NULL ? NULL : writer_finish(writer);

	if (command == NULL) {
		sync_fail(sync, DOVETAIL_SYSTEM, true, "Out of memory");
		return NULL;
	}

	if (sync->commands == NULL) {
		sync->commands = command;
		/* the time for an answer begins */
		sync->heard = sync_now();
	} else {
		sync->commands_tail->next = command;
	}
	sync->commands_tail = command;
	if (sync->sending == NULL)
		sync->sending = command;
	sync_commands_flush(sync);
	return command;
}

void sync_commands_flush(struct dovetail_sync *sync)
{
	struct sync_command *command;
	size_t end;

	while ((command = sync->sending) != NULL && !sync->waiting) {
		end = command->stop < command->stop_count ? command->stops[command->stop] : command->size;
		if (end > command->sent && !transport_send(sync->transport, command->data + command->sent, end - command->sent)) {
			sync_fail(sync, transport_status(sync->transport), false, "%s", transport_error(sync->transport));
			return;
		}
		command->sent = end;
		if (command->stop < command->stop_count) {
			sync->waiting = true;
		} else {
			free(command->data);
			command->data = NULL;
			sync->sending = command->next;
		}
	}
	sync->unsent = transport_unsent(sync->transport);
}

bool sync_commands_continue(struct dovetail_sync *sync)
{
	/* an answer to an older command is still to come: "+" would be its */
	if (!sync->waiting || sync->sending != sync->commands)
		return false;
	sync->waiting = false;
	sync->sending->stop++;
	sync_commands_flush(sync);
	return true;
}

void sync_commands_pop(struct dovetail_sync *sync)
{
	struct sync_command *command = sync->commands;

	sync->commands = command->next;
	if (command == sync->sending) {
		/* refused before its literal */
		sync->sending = command->next;
		sync->waiting = false;
	}
	sync_command_free(command);
	sync_commands_flush(sync);
}

void sync_commands_drop(struct dovetail_sync *sync)
{
	struct sync_command *command;

	while ((command = sync->commands) != NULL) {
		sync->commands = command->next;
		sync_command_free(command);
	}
	sync->commands_tail = sync->sending = NULL;
	sync->waiting = false;
}
