#ifndef RESPONSE_LOG_H
#define RESPONSE_LOG_H

/* The callbacks of the response parser as a text, for its unit test and its fuzzer: the same octets give the same text, however
   they were cut. It also holds the parser to the order that response.h promises. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "response.h"

struct response_log {
	char *text;
	size_t used, alloc;
	/* inside of "* METADATA", of an entry with a value, and of a run of data() */
	bool in_metadata, in_entry, in_data;
	/* a call came out of order */
	bool broken;
	size_t promised, got;
	/* stops at this call, 0: never */
	unsigned int stop_at, calls;
};

static void log_octets(struct response_log *log, const char *data, size_t size)
{
	if (log->alloc - log->used <= size) {
		log->alloc = (log->alloc + size + 64) * 2;
		log->text = realloc(log->text, log->alloc);
		if (log->text == NULL)
			abort();
	}
	memcpy(log->text + log->used, data, size);
	log->used += size;
	log->text[log->used] = '\0';
}

static void log_words(struct response_log *log, const char *a, const char *b, const char *c, const char *d)
{
	const char *words[] = { a, b, c, d };
	unsigned int i;

	if (log->in_data)
		log_octets(log, "\n", 1);
	log->in_data = false;
	for (i = 0; i < 4 && words[i] != NULL; i++) {
		if (i > 0)
			log_octets(log, "|", 1);
		log_octets(log, words[i], strlen(words[i]));
	}
	log_octets(log, "\n", 1);
}

static bool log_go_on(struct response_log *log)
{
	return ++log->calls != log->stop_at;
}

static void log_check(struct response_log *log, bool right)
{
	if (!right)
		log->broken = true;
}

static const char *log_cond(enum response_cond cond)
{
	static const char *const words[] = { "OK", "NO", "BAD", "BYE", "PREAUTH" };

	return words[cond];
}

static bool log_tagged(void *context, const char *tag, const struct response_status *status)
{
	struct response_log *log = context;

	log_check(log, !log->in_metadata);
	log_words(log, "tagged", tag, log_cond(status->cond), NULL);
	log_words(log, " ", status->code, status->code_args, status->text);
	return log_go_on(log);
}

static bool log_status(void *context, const struct response_status *status)
{
	struct response_log *log = context;

	log_check(log, !log->in_metadata);
	log_words(log, log_cond(status->cond), status->code, status->code_args, status->text);
	return log_go_on(log);
}

static bool log_continuation(void *context, const char *text)
{
	struct response_log *log = context;

	log_check(log, !log->in_metadata);
	log_words(log, "+", text, NULL, NULL);
	return log_go_on(log);
}

static bool log_capability(void *context, const char *list)
{
	struct response_log *log = context;

	log_check(log, !log->in_metadata);
	log_words(log, "capability", list, NULL, NULL);
	return log_go_on(log);
}

static bool log_metadata(void *context, const char *mailbox)
{
	struct response_log *log = context;

	log_check(log, !log->in_metadata);
	log->in_metadata = true;
	log_words(log, "metadata", mailbox, NULL, NULL);
	return log_go_on(log);
}

static bool log_entry(void *context, const char *name, enum response_value kind, size_t size)
{
	struct response_log *log = context;
	char number[32];

	log_check(log, log->in_metadata && !log->in_entry);
	log_check(log, kind == RESPONSE_VALUE_DATA || size == 0);
	log->in_entry = kind == RESPONSE_VALUE_DATA;
	log->promised = size;
	log->got = 0;
	snprintf(number, sizeof(number), "%zu", size);
	log_words(log, "entry", name, kind == RESPONSE_VALUE_NIL ? "NIL" : kind == RESPONSE_VALUE_NOT_SHOWN ? "not shown" :
		  size == SIZE_MAX ? "quoted" : number, NULL);
	return log_go_on(log);
}

static bool log_data(void *context, const void *data, size_t size)
{
	struct response_log *log = context;

	log_check(log, log->in_entry);
	if (!log->in_data)
		log_octets(log, "data|", 5);
	log->in_data = true;
	log->got += size;
	log_octets(log, data, size);
	/* stops do not count pieces */
	return true;
}

static bool log_entry_end(void *context)
{
	struct response_log *log = context;

	log_check(log, log->in_entry && (log->promised == SIZE_MAX || log->promised == log->got));
	log->in_entry = false;
	log_words(log, "end", NULL, NULL, NULL);
	return log_go_on(log);
}

static bool log_metadata_end(void *context)
{
	struct response_log *log = context;

	log_check(log, log->in_metadata && !log->in_entry);
	log->in_metadata = false;
	log_words(log, "metadata end", NULL, NULL, NULL);
	return log_go_on(log);
}

static bool log_list(void *context, const char *flags, const char *mailbox)
{
	struct response_log *log = context;

	log_check(log, !log->in_metadata);
	log_words(log, "list", flags, mailbox, NULL);
	return log_go_on(log);
}

static bool log_name_space(void *context, enum response_namespace kind, const char *prefix)
{
	static const char *const kinds[] = { "personal", "others", "shared" };
	struct response_log *log = context;

	log_check(log, !log->in_metadata);
	log_words(log, "namespace", kinds[kind], prefix, NULL);
	return log_go_on(log);
}

static bool log_other(void *context, const char *keyword)
{
	struct response_log *log = context;

	log_check(log, !log->in_metadata);
	log_words(log, "other", keyword, NULL, NULL);
	return log_go_on(log);
}

static const struct response_handler response_log_handler = {
	.tagged = log_tagged, .status = log_status, .continuation = log_continuation, .capability = log_capability,
	.metadata = log_metadata, .entry = log_entry, .data = log_data, .entry_end = log_entry_end,
	.metadata_end = log_metadata_end, .list = log_list, .name_space = log_name_space, .other = log_other,
};

/* The end of the input, or what was wrong with it. */
static void response_log_end(struct response_log *log, const struct response_parser *parser, int ret)
{
	if (ret < 0)
		log_words(log, response_is_limit(parser) ? "limit" : "error", response_error(parser), NULL, NULL);
	else if (log->in_data)
		log_words(log, "more", NULL, NULL, NULL);
}

#endif
