/* What the commands have in common: arguments, a user's store, errors and exit
   codes. */

#include "doveadm-metasync.h"
#include "istream.h"
#include "istream-seekable.h"

#include <fcntl.h>

#define STORE_NAME_MAX 1024

/* -- arguments ------------------------------------------------------------- */

void metasync_cmd_entry_arg(struct metasync_cmd *cmd, const char *arg,
			    bool filter)
{
	size_t size = strlen(arg);
	char *name = p_malloc(cmd->ctx.pool, size + 1);

	switch (store_name_normalize(arg, size, STORE_NAME_MAX, filter, name)) {
	case STORE_NAME_OK:
		break;
	case STORE_NAME_INVALID:
		i_fatal_status(EX_USAGE, "Invalid entry name: it must be below "
			       "/private/ or /shared/, without '*', '%%' or "
			       "empty parts, in ASCII");
	case STORE_NAME_TOO_LONG:
		i_fatal_status(EX_USAGE, "Entry name is too long");
	}
	cmd->entry = name;
}

void metasync_cmd_selection_args(struct metasync_cmd *cmd,
				 const char *const args[], const char *name)
{
	if (args[0] == NULL) {
		if (cmd->subtree)
			doveadm_mail_help_name(name);
		return;
	}
	cmd->mailbox = p_strdup(cmd->ctx.pool, args[0]);
	if (args[1] != NULL)
		metasync_cmd_entry_arg(cmd, args[1], TRUE);
}

bool metasync_cmd_parse_subtree(struct doveadm_mail_cmd_context *ctx, int c)
{
	struct metasync_cmd *cmd = (struct metasync_cmd *)ctx;

	if (c != 's')
		return FALSE;
	cmd->subtree = TRUE;
	return TRUE;
}

void metasync_cmd_input(struct metasync_cmd *cmd)
{
	struct doveadm_mail_cmd_context *ctx = &cmd->ctx;
	struct istream *inputs[2] = { NULL, NULL };
	const char *path;
	int fd;

	if (ctx->cmd_input != NULL &&
	    i_stream_get_fd(ctx->cmd_input) == STDIN_FILENO) {
		/* "-": doveadm has a way to read it more than once */
		i_stream_unref(&ctx->cmd_input);
	}
	if (ctx->cmd_input == NULL) {
		doveadm_mail_get_input(ctx);
		return;
	}
	/* doveadm takes everything that has a name for a regular file */
	path = t_strdup(i_stream_get_name(ctx->cmd_input));
	fd = open(path, O_RDONLY);
	if (fd == -1)
		i_fatal_status(EX_NOINPUT, "open(%s) failed: %m", path);
	i_stream_unref(&ctx->cmd_input);
	inputs[0] = i_stream_create_fd_autoclose(&fd, IO_BLOCK_SIZE);
	i_stream_set_name(inputs[0], path);
	if (inputs[0]->seekable) {
		ctx->cmd_input = inputs[0];
		return;
	}
	ctx->cmd_input = i_stream_create_seekable_path(inputs, 256*1024,
						       "/tmp/doveadm.");
	i_stream_set_name(ctx->cmd_input, path);
	i_stream_unref(&inputs[0]);
}

/* -- errors ---------------------------------------------------------------- */

int metasync_cmd_exit(struct metasync_cmd *cmd, int code)
{
	if (cmd->ctx.exit_code == 0 || code == EX_TEMPFAIL)
		cmd->ctx.exit_code = code;
	return -1;
}

const char *metasync_cmd_error(struct mail_user *user,
			       const struct store_error *error, int *code_r)
{
	const struct store_limits *limits = metasync_user_limits(user);

	metasync_user_count(user, error->status);
	*code_r = DOVEADM_EX_NOTPOSSIBLE;
	switch (error->status) {
	case STORE_VALUE_TOO_BIG:
		return t_strdup_printf("Value is larger than "
			"metasync_limit_value (%"PRIu64" bytes)",
			limits->value);
	case STORE_TOO_MANY:
		return t_strdup_printf("More entries than "
			"metasync_limit_entries (%"PRIu64")", limits->entries);
	case STORE_OVER_BYTES:
		return t_strdup_printf("More values and names than "
			"metasync_limit_bytes (%"PRIu64" bytes)",
			limits->bytes);
	case STORE_LIMIT:
		return t_strdup_printf("Entry name is longer than "
			"metasync_limit_name (%"PRIu64" bytes)", limits->name);
	case STORE_MODIFIED:
		return "Entry has changed since then";
	case STORE_RESET:
		return "No such position in the store's history";
	case STORE_INVALID:
	case STORE_CORRUPT:
		return metasync_error_log_text(error);
	default:
		*code_r = EX_TEMPFAIL;
		return metasync_error_log_text(error);
	}
}

int metasync_cmd_failed(struct metasync_cmd *cmd, struct mail_user *user,
			const struct store_error *error)
{
	int code;

	i_error("metasync: %s", metasync_cmd_error(user, error, &code));
	return metasync_cmd_exit(cmd, code);
}

/* -- a user's store -------------------------------------------------------- */

static int
metasync_cmd_enabled(struct metasync_cmd *cmd, struct mail_user *user)
{
	if (metasync_user_is_enabled(user))
		return 0;
	i_error("metasync is not enabled for this user (no home, or "
		"metasync_enabled = no)");
	return metasync_cmd_exit(cmd, DOVEADM_EX_NOTFOUND);
}

int metasync_cmd_store(struct metasync_cmd *cmd, struct mail_user *user,
		       struct store **store_r)
{
	struct store_error error;

	if (metasync_cmd_enabled(cmd, user) < 0)
		return -1;
	if (metasync_user_store(user, store_r, &error) < 0)
		return metasync_cmd_failed(cmd, user, &error);
	return 0;
}

int metasync_cmd_store_if_any(struct metasync_cmd *cmd, struct mail_user *user,
			      struct store **store_r)
{
	struct store_error error;

	if (metasync_cmd_enabled(cmd, user) < 0)
		return -1;
	if (metasync_user_store_if_any(user, store_r, &error) < 0)
		return metasync_cmd_failed(cmd, user, &error);
	return 0;
}

/* -- mailboxes ------------------------------------------------------------- */

const char *metasync_cmd_mailbox_find(struct mail_user *user, const char *vname,
				      struct metasync_cmd_mailbox *mailbox_r,
				      int *code_r)
{
	i_zero(mailbox_r);
	if (*vname == '\0') {
		mailbox_r->name = "";
		return NULL;
	}
	switch (metasync_mailbox_find(user, vname, TRUE, &mailbox_r->name,
				      &mailbox_r->separator,
				      mailbox_r->guid_buf)) {
	case METASYNC_MAILBOX_EXISTS:
		mailbox_r->guid = mailbox_r->guid_buf;
		return NULL;
	case METASYNC_MAILBOX_MISSING:
		*code_r = DOVEADM_EX_NOTFOUND;
		return "Mailbox doesn't exist";
	case METASYNC_MAILBOX_INVALID:
		*code_r = DOVEADM_EX_NOTPOSSIBLE;
		return "Invalid mailbox name";
	case METASYNC_MAILBOX_FOREIGN:
		*code_r = DOVEADM_EX_NOTPOSSIBLE;
		return "Mailbox is not one of the user's own";
	case METASYNC_MAILBOX_NOPERM:
		*code_r = EX_NOPERM;
		return "The user has no rights for the mailbox";
	case METASYNC_MAILBOX_FAILED:
		break;
	}
	*code_r = EX_TEMPFAIL;
	return "Mailbox cannot be looked up";
}

int metasync_cmd_mailbox(struct metasync_cmd *cmd, struct mail_user *user,
			 struct metasync_cmd_mailbox *mailbox_r)
{
	const char *error;
	int code;

	error = metasync_cmd_mailbox_find(user, cmd->mailbox, mailbox_r, &code);
	if (error == NULL)
		return 0;
	i_error("%s: %s", error, cmd->mailbox);
	return metasync_cmd_exit(cmd, code);
}

int metasync_cmd_filter(struct metasync_cmd *cmd, struct mail_user *user,
			struct metasync_cmd_filter *filter_r)
{
	i_zero(filter_r);
	filter_r->mailbox.name = "";
	if (cmd->mailbox != NULL &&
	    metasync_cmd_mailbox(cmd, user, &filter_r->mailbox) < 0)
		return -1;
	filter_r->scope.type = cmd->mailbox == NULL || cmd->subtree ?
		STORE_SCOPE_SUBTREE : STORE_SCOPE_MAILBOX;
	filter_r->scope.mailbox = filter_r->mailbox.name;
	filter_r->scope.separator = filter_r->mailbox.separator;
	if (cmd->entry != NULL) {
		filter_r->entries[0] = cmd->entry;
		filter_r->selection.entry_count = 1;
	} else {
		filter_r->entries[0] = "/private";
		filter_r->entries[1] = "/shared";
		filter_r->selection.entry_count = 2;
	}
	filter_r->selection.entries = filter_r->entries;
	filter_r->selection.scopes = &filter_r->scope;
	filter_r->selection.scope_count = 1;
	filter_r->filter.selections = &filter_r->selection;
	filter_r->filter.selection_count = 1;
	filter_r->filter.depth = STORE_DEPTH_INFINITY;
	return 0;
}

/* -- reading --------------------------------------------------------------- */

int metasync_cmd_read(struct metasync_cmd *cmd, struct mail_user *user,
		      struct store *store, const struct store_read *req,
		      struct store_cursor *cursor,
		      store_entry_callback_t *entry_callback,
		      void (*flush_callback)(void *context), void *context)
{
	struct store_error error;
	struct store_state state;
	bool more;

	do {
		if (doveadm_is_killed()) {
			i_error("metasync: Interrupted");
			return metasync_cmd_exit(cmd, EX_TEMPFAIL);
		}
		if (store_read(store, req, cursor, entry_callback, context,
			       &state, &more, &error) != STORE_OK) {
			if (error.status == STORE_RESET) {
				i_error("metasync: The store got a new epoch "
					"meanwhile, try again");
				return metasync_cmd_exit(cmd, EX_TEMPFAIL);
			}
			return metasync_cmd_failed(cmd, user, &error);
		}
		if (flush_callback != NULL)
			flush_callback(context);
	} while (more);
	return 0;
}

/* -- writing --------------------------------------------------------------- */

const char *metasync_cmd_name(struct mail_user *user, const char *entry,
			      const char **name_r)
{
	struct store_error error = { .status = STORE_LIMIT };
	size_t size = strlen(entry);
	char *name = t_malloc_no0(size + 1);
	int code;

	switch (store_name_normalize(entry, size,
				     metasync_user_limits(user)->name, FALSE,
				     name)) {
	case STORE_NAME_OK:
		*name_r = name;
		return NULL;
	case STORE_NAME_INVALID:
		return "Invalid entry name";
	case STORE_NAME_TOO_LONG:
		return metasync_cmd_error(user, &error, &code);
	}
	i_unreached();
}

enum write_fate {
	WRITE_CHANGE,
	WRITE_UNCHANGED,
	WRITE_KEPT
};

struct write_compare {
	const struct store_change *changes;
	bool keep;
	enum write_fate *fates;
	size_t next;
};

static bool write_compare(const struct store_entry *entry, void *context)
{
	struct write_compare *compare = context;
	const struct store_change *change = &compare->changes[compare->next];
	bool same;

	if (change->value == NULL || entry->removed)
		same = change->value == NULL && entry->removed;
	else {
		same = change->value_size == entry->value_size &&
			(change->value_size == 0 ||
			 memcmp(change->value, entry->value,
				change->value_size) == 0);
	}
	compare->fates[compare->next++] = same ? WRITE_UNCHANGED :
		compare->keep && entry->modseq > 0 ? WRITE_KEPT : WRITE_CHANGE;
	return TRUE;
}

/* Copies to used those that are to be written; says what becomes of all. */
static unsigned int
write_choose(const struct write_compare *compare, unsigned int count,
	     struct store_change *used, struct metasync_cmd_written *written_r)
{
	unsigned int i, used_count = 0;

	i_zero(written_r);
	for (i = 0; i < count; i++) {
		switch (compare->fates[i]) {
		case WRITE_UNCHANGED:
			written_r->unchanged++;
			break;
		case WRITE_KEPT:
			written_r->kept++;
			break;
		case WRITE_CHANGE:
			used[used_count++] = compare->changes[i];
			if (compare->changes[i].value == NULL)
				written_r->removed++;
			else
				written_r->set++;
			break;
		}
	}
	return used_count;
}

static enum store_status
write_set_once(struct mail_user *user, struct store *store,
	       const struct store_change *changes, unsigned int count,
	       bool keep, struct metasync_cmd_written *written_r,
	       struct store_error *error_r)
{
	struct store_change *used = t_new(struct store_change, count);
	struct store_key *keys = t_new(struct store_key, count);
	struct store_condition condition;
	struct write_compare compare;
	enum store_status status;
	unsigned int i;
	struct store_pos pos;

	i_zero(&compare);
	compare.changes = changes;
	compare.keep = keep;
	compare.fates = t_new(enum write_fate, count);
	for (i = 0; i < count; i++) {
		keys[i].mailbox = changes[i].mailbox;
		keys[i].name = changes[i].name;
	}
	i_zero(&condition);
	status = store_get(store, keys, count, write_compare, &compare,
			   &condition.pos, error_r);
	if (status != STORE_OK)
		return status;
	count = write_choose(&compare, count, used, written_r);
	if (count == 0)
		return STORE_OK;
	if (keep)
		condition.type = STORE_IF_UNCHANGED_SINCE;
	status = metasync_apply(user, store, used, count, &condition, TRUE,
				&pos, NULL, error_r);
	if (status == STORE_OK) {
		/* doveadm does not get back to its I/O loop */
		store_idle(store);
	}
	return status;
}

enum store_status
metasync_cmd_write_set(struct mail_user *user, struct store *store,
		       const struct store_change *changes, unsigned int count,
		       bool keep, struct metasync_cmd_written *written,
		       struct store_error *error_r)
{
	struct metasync_cmd_written now;
	enum store_status status;

	do T_BEGIN {
		status = write_set_once(user, store, changes, count, keep,
					&now, error_r);
	} T_END;
	/* a client was faster: look again at what there is to keep */
	while (status == STORE_MODIFIED || status == STORE_RESET);
	if (status == STORE_OK) {
		written->set += now.set;
		written->removed += now.removed;
		written->unchanged += now.unchanged;
		written->kept += now.kept;
	}
	return status;
}

/* -- printing -------------------------------------------------------------- */

void metasync_cmd_print_number_header(const char *key)
{
	doveadm_print_header(key, key, DOVEADM_PRINT_HEADER_FLAG_RIGHT_JUSTIFY |
			     DOVEADM_PRINT_HEADER_FLAG_NUMBER);
}
