/* doveadm metasync import: reads what export wrote (cmd-export.c). With --from-dict
   it is another command (cmd-import-dict.c).

   The input is read twice. First every line is looked at, so that a bad one
   changes nothing; then the entries are written, in sets. What is there already
   is left out of its set. */

#include "cmd-import.h"
#include "array.h"
#include "base64.h"
#include "buffer.h"
#include "hash.h"
#include "istream.h"
#include "json-parser.h"
#include "unichar.h"

struct import_mailbox {
	struct metasync_cmd_mailbox mailbox;
	/* NULL: it is there */
	const char *error;
	int code;
};

/* What a line says. */
struct import_line {
	const char *user, *mailbox, *entry, *value, *base64;
	bool removed;
};

struct metasync_import {
	struct metasync_import_cmd *cmd;
	struct mail_user *user;
	struct store *store;
	pool_t pool;
	HASH_TABLE(char *, struct import_mailbox *) mailboxes;
	unsigned int line;

	/* the set that is being collected */
	pool_t set_pool;
	ARRAY(struct store_change) set;
	HASH_TABLE(const char *, const char *) set_keys;
	size_t set_bytes;
	unsigned int set_first_line, set_last_line;

	struct metasync_cmd_written written;
	uint64_t skipped;
};

/* -- a line ---------------------------------------------------------------- */

static int
import_error(struct metasync_import *import, const char *error, int code)
{
	i_error("line %u: %s", import->line, error);
	return metasync_cmd_exit(&import->cmd->cmd, code);
}

static int import_bad(struct metasync_import *import, const char *error)
{
	return import_error(import, error, EX_DATAERR);
}

/* Returns the member's name if it is wrong, NULL if all is well. */
static const char *
import_member(struct import_line *line, const char *key, enum json_type type,
	      const char *value)
{
	const char **dest;

	if (strcmp(key, "removed") == 0) {
		line->removed = type == JSON_TYPE_TRUE;
		return type == JSON_TYPE_TRUE || type == JSON_TYPE_FALSE ?
			NULL : "removed";
	}
	if (strcmp(key, "user") == 0)
		dest = &line->user;
	else if (strcmp(key, "mailbox") == 0)
		dest = &line->mailbox;
	else if (strcmp(key, "entry") == 0)
		dest = &line->entry;
	else if (strcmp(key, "value") == 0)
		dest = &line->value;
	else if (strcmp(key, "base64") == 0)
		dest = &line->base64;
	else {
		/* the modseq is the other store's; the rest is of a later
		   version */
		return NULL;
	}
	if (type != JSON_TYPE_STRING)
		return t_strdup(key);
	*dest = t_strdup(value);
	return NULL;
}

/* Returns the error or NULL. */
static const char *
import_parse_members(struct json_parser *parser, struct import_line *line_r)
{
	const char *key, *value, *wrong = NULL;
	enum json_type type;

	while (json_parse_next(parser, &type, &value) > 0) {
		if (type != JSON_TYPE_OBJECT_KEY)
			return "Not a JSON object";
		key = t_strdup(value);
		if (json_parse_next(parser, &type, &value) <= 0)
			break;
		if (type == JSON_TYPE_OBJECT || type == JSON_TYPE_ARRAY)
			json_parse_skip(parser);
		if (wrong == NULL)
			wrong = import_member(line_r, key, type, value);
	}
	return wrong == NULL ? NULL :
		t_strconcat("Wrong type of \"", wrong, "\"", NULL);
}

static int
import_parse(struct metasync_import *import, const char *text,
	     struct import_line *line_r)
{
	const char *error, *json_error;
	struct json_parser *parser;
	struct istream *input;

	i_zero(line_r);
	if (!uni_utf8_str_is_valid(text))
		return import_bad(import, "Not UTF-8");
	input = i_stream_create_from_data(text, strlen(text));
	parser = json_parser_init(input);
	error = import_parse_members(parser, line_r);
	if (json_parser_deinit(&parser, &json_error) < 0) {
		/* without the parser's words: they may be the value's */
		error = "Not a JSON object";
	}
	i_stream_unref(&input);
	if (error != NULL)
		return import_bad(import, error);
	if (line_r->mailbox == NULL)
		return import_bad(import, "\"mailbox\" is missing");
	if (line_r->entry == NULL)
		return import_bad(import, "\"entry\" is missing");
	if ((line_r->value != NULL ? 1 : 0) + (line_r->base64 != NULL ? 1 : 0) +
	    (line_r->removed ? 1 : 0) != 1) {
		return import_bad(import, "Needs one of \"value\", \"base64\" "
				  "and \"removed\"");
	}
	return 0;
}

static const struct import_mailbox *
import_mailbox(struct metasync_import *import, const char *vname)
{
	struct import_mailbox *mailbox;

	mailbox = hash_table_lookup(import->mailboxes, vname);
	if (mailbox != NULL)
		return mailbox;
	mailbox = p_new(import->pool, struct import_mailbox, 1);
	mailbox->error = metasync_cmd_mailbox_find(import->user, vname,
						   &mailbox->mailbox,
						   &mailbox->code);
	if (mailbox->error == NULL) {
		mailbox->mailbox.name = p_strdup(import->pool,
						 mailbox->mailbox.name);
	}
	hash_table_insert(import->mailboxes, p_strdup(import->pool, vname),
			  mailbox);
	return mailbox;
}

static int
import_value(struct metasync_import *import, const struct import_line *line,
	     struct store_change *change)
{
	struct store_error error = { .status = STORE_VALUE_TOO_BIG };
	buffer_t *buf;
	size_t size;
	int code;

	if (line->removed)
		return 0;
	if (line->value != NULL) {
		change->value = line->value;
		change->value_size = strlen(line->value);
	} else {
		size = strlen(line->base64);
		buf = t_buffer_create(MAX_BASE64_DECODED_SIZE(size) + 1);
		if (base64_decode(line->base64, size, NULL, buf) < 0)
			return import_bad(import, "Invalid base64");
		change->value = buf->used == 0 ? "" : buf->data;
		change->value_size = buf->used;
	}
	if (change->value_size > metasync_user_limits(import->user)->value) {
		return import_bad(import, metasync_cmd_error(import->user,
							     &error, &code));
	}
	return 0;
}

/* Returns 1 and the change (data stack), 0 if the line is none for this user, -1
   if it is bad. */
static int
import_line(struct metasync_import *import, const char *text,
	    struct store_change *change_r)
{
	const struct import_mailbox *mailbox;
	struct import_line line;
	const char *error;

	i_zero(change_r);
	if (text[strspn(text, " \t\r")] == '\0')
		return 0;
	if (import_parse(import, text, &line) < 0)
		return -1;
	if (line.user != NULL &&
	    strcmp(line.user, import->user->username) != 0) {
		import->skipped++;
		return 0;
	}
	error = metasync_cmd_name(import->user, line.entry, &change_r->name);
	if (error != NULL)
		return import_bad(import, error);
	if (import_value(import, &line, change_r) < 0)
		return -1;
	mailbox = import_mailbox(import, line.mailbox);
	if (mailbox->error != NULL) {
		if (import->cmd->skip_missing &&
		    mailbox->code == DOVEADM_EX_NOTFOUND) {
			import->skipped++;
			return 0;
		}
		return import_error(import,
			t_strconcat(mailbox->error, ": ", line.mailbox, NULL),
			mailbox->code);
	}
	change_r->mailbox = mailbox->mailbox.name;
	change_r->mailbox_guid = mailbox->mailbox.guid;
	if (metasync_entry_is_reserved(change_r->mailbox, change_r->name)) {
		return import_bad(import, "Dovecot itself has this entry: "
				  "it cannot be set");
	}
	return 1;
}

/* -- sets ------------------------------------------------------------------ */

static int import_flush(struct metasync_import *import)
{
	struct store_error error;
	enum store_status status;
	int code, ret = 0;

	if (array_count(&import->set) == 0)
		return 0;
	T_BEGIN {
		status = metasync_cmd_write_set(import->user, import->store,
						array_front(&import->set),
						array_count(&import->set),
						FALSE, &import->written,
						&error);
		if (status != STORE_OK) {
			i_error("lines %u to %u: %s", import->set_first_line,
				import->set_last_line,
				metasync_cmd_error(import->user, &error,
						   &code));
			ret = metasync_cmd_exit(&import->cmd->cmd, code);
		}
	} T_END;
	array_clear(&import->set);
	hash_table_clear(import->set_keys, FALSE);
	p_clear(import->set_pool);
	import->set_bytes = 0;
	return ret;
}

static int
import_add(struct metasync_import *import, const struct store_change *line)
{
	const struct store_limits *limits = metasync_user_limits(import->user);
	const char *key = t_strconcat(line->name, "\n", line->mailbox, NULL);
	struct store_change *change;

	/* a set has each entry once */
	if ((array_count(&import->set) == limits->set ||
	     import->set_bytes + line->value_size > IMPORT_SET_BYTES ||
	     hash_table_lookup(import->set_keys, key) != NULL) &&
	    import_flush(import) < 0)
		return -1;
	if (array_count(&import->set) == 0)
		import->set_first_line = import->line;
	import->set_last_line = import->line;
	import->set_bytes += line->value_size;
	change = array_append_space(&import->set);
	*change = *line;
	change->name = p_strdup(import->set_pool, line->name);
	if (line->value != NULL) {
		/* not NULL if it is empty */
		change->value = line->value_size == 0 ? "" :
			p_memdup(import->set_pool, line->value,
				 line->value_size);
	}
	key = p_strdup(import->set_pool, key);
	hash_table_insert(import->set_keys, key, key);
	return 0;
}

/* -- the input ------------------------------------------------------------- */

/* Returns 1 and the line (data stack), 0 at the end, -1 if it is too long or reading
   failed. i_stream_read_next_line() writes into the stream's buffer, which is read
   again. */
static int import_next_line(struct istream *input, const char **line_r)
{
	const unsigned char *data, *end;
	size_t size, seen = 0;
	int ret;

	for (;;) {
		data = i_stream_get_data(input, &size);
		end = memchr(data + seen, '\n', size - seen);
		if (end != NULL) {
			*line_r = t_strdup_until(data, end);
			/* what a NUL would hide */
			if (memchr(data, '\0', end - data) != NULL)
				*line_r = "NUL";
			i_stream_skip(input, end - data + 1);
			return 1;
		}
		seen = size;
		ret = i_stream_read(input);
		if (ret > 0)
			continue;
		if (ret == -2 || input->stream_errno != 0)
			return -1;
		if (size == 0)
			return 0;
		*line_r = t_strndup(data, size);
		i_stream_skip(input, size);
		return 1;
	}
}

static int import_read(struct metasync_import *import, bool write)
{
	struct istream *input = import->cmd->cmd.ctx.cmd_input;
	struct store_change change;
	const char *text;
	int ret, read_ret;

	i_stream_seek(input, 0);
	import->line = 0;
	import->skipped = 0;
	do T_BEGIN {
		ret = 0;
		import->line++;
		read_ret = import_next_line(input, &text);
		if (read_ret > 0)
			ret = import_line(import, text, &change);
		if (ret > 0 && write)
			ret = import_add(import, &change);
	} T_END;
	while (read_ret > 0 && ret >= 0 && !doveadm_is_killed());
	if (ret < 0)
		return -1;
	if (input->stream_errno != 0) {
		i_error("read(%s) failed: %s", i_stream_get_name(input),
			i_stream_get_error(input));
		return metasync_cmd_exit(&import->cmd->cmd, EX_TEMPFAIL);
	}
	if (read_ret < 0)
		return import_bad(import, "Line is too long");
	if (doveadm_is_killed())
		return import_error(import, "Interrupted", EX_TEMPFAIL);
	return write ? import_flush(import) : 0;
}

static int
cmd_import_run(struct doveadm_mail_cmd_context *ctx, struct mail_user *user)
{
	struct metasync_import_cmd *cmd = (struct metasync_import_cmd *)ctx;
	struct metasync_import import;
	int ret;

	i_zero(&import);
	import.cmd = cmd;
	import.user = user;
	if (cmd->from_dict)
		return metasync_import_dict(cmd, user);
	if (metasync_cmd_store(&cmd->cmd, user, &import.store) < 0)
		return -1;
	import.pool = pool_alloconly_create("metasync import", 1024);
	import.set_pool = pool_alloconly_create("metasync import set", 64*1024);
	hash_table_create(&import.mailboxes, import.pool, 0, str_hash, strcmp);
	hash_table_create(&import.set_keys, default_pool, 0, str_hash, strcmp);
	i_array_init(&import.set, 128);

	/* the largest value with each byte escaped, and names */
	i_stream_set_max_buffer_size(ctx->cmd_input,
		metasync_user_limits(user)->value * 6 + 64*1024);
	ret = import_read(&import, FALSE);
	if (ret == 0) {
		ret = import_read(&import, TRUE);
		doveadm_print_num(import.written.set);
		doveadm_print_num(import.written.removed);
		doveadm_print_num(import.written.unchanged);
		doveadm_print_num(import.skipped);
	}

	array_free(&import.set);
	hash_table_destroy(&import.set_keys);
	hash_table_destroy(&import.mailboxes);
	pool_unref(&import.set_pool);
	pool_unref(&import.pool);
	return ret;
}

static void
cmd_import_init(struct doveadm_mail_cmd_context *ctx,
		const char *const args[] ATTR_UNUSED)
{
	struct metasync_import_cmd *cmd = (struct metasync_import_cmd *)ctx;

	if (cmd->from_dict) {
		if (ctx->cmd_input != NULL) {
			i_fatal_status(EX_USAGE, "Give either a file or "
				       "--from-dict, not both");
		}
		metasync_import_dict_init();
		return;
	}
	if (cmd->overwrite || cmd->dict_uri != NULL) {
		i_fatal_status(EX_USAGE, "--overwrite and --dict-uri are for "
			       "--from-dict only");
	}
	metasync_cmd_input(&cmd->cmd);
	metasync_cmd_print_number_header("set");
	metasync_cmd_print_number_header("removed");
	metasync_cmd_print_number_header("unchanged");
	metasync_cmd_print_number_header("skipped");
}

static bool cmd_import_parse_arg(struct doveadm_mail_cmd_context *ctx, int c)
{
	struct metasync_import_cmd *cmd = (struct metasync_import_cmd *)ctx;

	switch (c) {
	case 'd':
		cmd->from_dict = TRUE;
		break;
	case 'm':
		cmd->skip_missing = TRUE;
		break;
	case 'o':
		cmd->overwrite = TRUE;
		break;
	case 'U':
		cmd->dict_uri = p_strdup(ctx->pool, optarg);
		break;
	default:
		return FALSE;
	}
	return TRUE;
}

static struct doveadm_mail_cmd_context *cmd_import_alloc(void)
{
	struct metasync_import_cmd *cmd;

	cmd = doveadm_mail_cmd_alloc(struct metasync_import_cmd);
	cmd->cmd.ctx.getopt_args = "dmoU:";
	cmd->cmd.ctx.v.parse_arg = cmd_import_parse_arg;
	cmd->cmd.ctx.v.init = cmd_import_init;
	cmd->cmd.ctx.v.run = cmd_import_run;
	doveadm_print_init(DOVEADM_PRINT_TYPE_FLOW);
	return &cmd->cmd.ctx;
}

struct doveadm_cmd_ver2 doveadm_metasync_cmd_import = {
	.name = "metasync import",
	.mail_cmd = cmd_import_alloc,
	.usage = DOVEADM_CMD_MAIL_USAGE_PREFIX"[-m] "
		 "[<file>|-|--from-dict [-o] [-U <dict uri>]]",
DOVEADM_CMD_PARAMS_START
DOVEADM_CMD_MAIL_COMMON
DOVEADM_CMD_PARAM('d', "from-dict", CMD_PARAM_BOOL, 0)
DOVEADM_CMD_PARAM('U', "dict-uri", CMD_PARAM_STR, 0)
DOVEADM_CMD_PARAM('m', "skip-missing", CMD_PARAM_BOOL, 0)
DOVEADM_CMD_PARAM('o', "overwrite", CMD_PARAM_BOOL, 0)
DOVEADM_CMD_PARAM('\0', "file", CMD_PARAM_ISTREAM, CMD_PARAM_FLAG_POSITIONAL)
DOVEADM_CMD_PARAMS_END
};
