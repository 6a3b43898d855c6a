/* Tells by name, as "* METADATA mailbox entry", what others have changed: to
   sessions that did ENABLE METADATA (RFC 5464 section 4.4) all of it, to those
   that did NOTIFY (RFC 5465; see cmd-notify.c) what they have asked for there.

   It is told before each of the session's commands runs (so that NOOP gives what
   there is to know), and at once while the session is in IDLE; with NOTIFY also
   at once between commands. A cursor says what the session knows. Its own changes
   are not told, nor what a running XMETASYNC watches: that command calls
   imap_metasync_announce_others() after each of its markers instead.

   Nothing is written while a command is in the middle of its output, or of its
   input. Dovecot's NOTIFY sends FETCH without taking output_cmd_lock, but then
   some command is in WAIT_OUTPUT, too. */

#include "imap-metasync.h"
#include "array.h"
#include "ioloop.h"
#include "module-context.h"
#include "ostream.h"
#include "str.h"
#include "imap-commands.h"
#include "imap-feature.h"
#include "imap-quote.h"
#include "imap-utf7.h"

/* Names are read on as long as less than this waits in the output; then the
   session is looked at again after a while. */
#define ANNOUNCE_OUTPUT_SIZE (32*1024)
#define ANNOUNCE_RETRY_MSECS 1000

#define ANNOUNCE_CONTEXT(obj) \
	MODULE_CONTEXT(obj, imap_metasync_announce_module)

struct announce_client {
	union imap_module_context module_ctx;
	struct client *client;

	/* what NOTIFY has asked for; NULL: there was none, ENABLE decides.
	   Ours. */
	struct imap_metasync_notify *notify;
	/* what the session knows; epoch 0: nothing yet */
	struct store_cursor cursor;
	struct store *store;
	/* in IDLE, and with NOTIFY */
	struct imap_long_command_watch *watch;
	/* something could not be told */
	struct timeout *to_retry;
};

struct announce_entry {
	const char *mailbox, *name;
};

/* One read. */
struct announce_context {
	struct announce_client *ac;
	ARRAY(struct announce_entry) entries;
	/* of the entries' names */
	size_t size;
	/* watched by a running XMETASYNC; NULL: nothing */
	const struct store_filter *except;
	/* no further than this */
	uint64_t modseq_max;
	bool beyond;
};

static MODULE_CONTEXT_DEFINE_INIT(imap_metasync_announce_module,
				  &imap_module_register);
static unsigned int announce_feature;

const char *const imap_metasync_all_entries[] = { "/private", "/shared" };

/* All of the user's entries. */
static const struct store_scope announce_scope = {
	.type = STORE_SCOPE_SUBTREE, .mailbox = ""
};
static const struct store_selection announce_selection = {
	.scopes = &announce_scope, .scope_count = 1,
	.entries = imap_metasync_all_entries,
	.entry_count = N_ELEMENTS(imap_metasync_all_entries)
};
static const struct store_filter announce_all = {
	.selections = &announce_selection, .selection_count = 1,
	.depth = STORE_DEPTH_INFINITY
};

/* NULL: nothing is told to this client. */
static struct announce_client *announce_client_get(struct client *client)
{
	struct announce_client *ac = ANNOUNCE_CONTEXT(client);
	bool told;

	if (ac == NULL)
		return NULL;
	if (ac->notify != NULL)
		told = ac->notify->filter.selection_count > 0;
	else
		told = client_has_enabled(client, announce_feature);
	return told ? ac : NULL;
}

/* -- telling --------------------------------------------------------------- */

static bool announce_entry(const struct store_entry *entry, void *context)
{
	struct announce_context *ctx = context;
	struct announce_entry *told;

	if (entry->modseq > ctx->modseq_max) {
		ctx->beyond = TRUE;
		return FALSE;
	}
	if (store_is_own(ctx->ac->store, entry->modseq) ||
	    (ctx->except != NULL &&
	     store_filter_match(ctx->except, entry->mailbox, entry->name)))
		return TRUE;
	told = array_append_space(&ctx->entries);
	told->mailbox = t_strdup(entry->mailbox);
	told->name = t_strdup(entry->name);
	ctx->size += strlen(told->mailbox) + strlen(told->name);
	return ctx->size < ANNOUNCE_OUTPUT_SIZE;
}

static bool announce_is_told(const struct announce_client *ac,
			     const struct announce_entry *entry)
{
	struct mail_user *user = ac->client->user;

	if (*entry->mailbox == '\0')
		return TRUE;
	if (ac->notify != NULL && ac->notify->subscribed &&
	    !store_filter_match(&ac->notify->always, entry->mailbox,
				entry->name) &&
	    !metasync_mailbox_is_subscribed(user, entry->mailbox))
		return FALSE;
	return !metasync_mailbox_is_hidden(user, entry->mailbox);
}

static void announce_write(const struct announce_context *ctx, string_t *str)
{
	const struct announce_entry *entry;
	const char *mailbox = NULL, *mutf7 = NULL;
	bool told = FALSE;

	array_foreach(&ctx->entries, entry) {
		/* they come in order of change, so often several of one */
		if (mailbox == NULL || strcmp(mailbox, entry->mailbox) != 0) {
			mailbox = entry->mailbox;
			told = announce_is_told(ctx->ac, entry);
			if (t_imap_utf8_to_utf7(mailbox, &mutf7) < 0)
				i_unreached(); /* checked when it came in */
		}
		if (!told)
			continue;
		str_append(str, "* METADATA ");
		imap_append_quoted(str, mutf7);
		str_append_c(str, ' ');
		imap_append_astring(str, entry->name);
		str_append(str, "\r\n");
	}
}

/* Returns FALSE on failure. */
static bool
announce_read(struct announce_context *ctx, bool *more_r)
{
	struct announce_client *ac = ctx->ac;
	const struct store_read req = {
		.filter = ac->notify == NULL ? &announce_all :
			&ac->notify->filter,
		.without_values = TRUE
	};
	struct store_state state;
	struct store_error error;
	enum store_status status;

	status = store_read(ac->store, &req, &ac->cursor, announce_entry, ctx,
			    &state, more_r, &error);
	if (status == STORE_RESET) {
		/* whatever exists may be new */
		status = store_cursor_snapshot(ac->store, &ac->cursor, &error);
		*more_r = TRUE;
	}
	if (status != STORE_OK) {
		metasync_user_log(ac->client->user, &error);
		return FALSE;
	}
	if (ctx->beyond) {
		ac->cursor.modseq = ctx->modseq_max;
		ac->cursor.id = INT64_MAX;
		*more_r = FALSE;
	}
	store_own_forget(ac->store, ac->cursor.modseq);
	return TRUE;
}

/* A store that was replaced is another one, with another epoch (and maybe at the
   old one's address). */
static int announce_use(struct announce_client *ac, struct store *store,
			struct store_error *error_r)
{
	ac->store = store;
	store_own_start(store);
	if (ac->cursor.epoch == 0) {
		/* from here on */
		if (store_cursor_snapshot(ac->store, &ac->cursor,
					  error_r) != STORE_OK)
			return -1;
		ac->cursor.modseq = ac->cursor.tombstones_after;
		ac->cursor.id = INT64_MAX;
	}
	return 0;
}

/* Closes a store that was replaced: only while no XMETASYNC reads it. */
static int
announce_open(struct announce_client *ac, struct store_error *error_r)
{
	struct store *store;

	if (metasync_user_store(ac->client->user, &store, error_r) < 0)
		return -1;
	return announce_use(ac, store, error_r);
}

static bool announce_open_or_log(struct announce_client *ac)
{
	struct store_error error;

	if (announce_open(ac, &error) < 0) {
		metasync_user_log(ac->client->user, &error);
		return FALSE;
	}
	return TRUE;
}

/* Returns TRUE if there may be more to tell when there is room. */
static bool
announce_send(struct announce_client *ac, const struct store_filter *except,
	      uint64_t modseq_max)
{
	struct ostream *output = ac->client->output;
	bool more = TRUE, corked = o_stream_is_corked(output);

	if (!corked)
		o_stream_cork(output);
	while (more && !output->closed &&
	       o_stream_get_buffer_used_size(output) < ANNOUNCE_OUTPUT_SIZE)
	T_BEGIN {
		struct announce_context ctx = {
			.ac = ac, .except = except, .modseq_max = modseq_max
		};
		string_t *str = t_str_new(256);

		t_array_init(&ctx.entries, 8);
		if (!announce_read(&ctx, &more))
			more = FALSE;
		announce_write(&ctx, str);
		o_stream_nsend(output, str_data(str), str_len(str));
	} T_END;
	if (!corked)
		o_stream_uncork(output);
	return more && !output->closed;
}

/* -- when ------------------------------------------------------------------ */

/* TRUE if a command of this name waits. */
static bool
announce_command_waits(const struct client *client, const char *name)
{
	const struct client_command_context *cmd;

	for (cmd = client->command_queue; cmd != NULL; cmd = cmd->next) {
		if (cmd->name != NULL && strcasecmp(cmd->name, name) == 0)
			return TRUE;
	}
	return FALSE;
}

static bool announce_is_possible(const struct client *client)
{
	return client->output_cmd_lock == NULL && !client->disconnected &&
		!client->output->closed;
}

/* TRUE if the output is at a line's start and no command has more to send. */
static bool announce_output_is_free(const struct client *client)
{
	const struct client_command_context *cmd;

	if (!announce_is_possible(client))
		return FALSE;
	for (cmd = client->command_queue; cmd != NULL; cmd = cmd->next) {
		if (cmd->state == CLIENT_COMMAND_STATE_WAIT_OUTPUT)
			return FALSE;
	}
	return TRUE;
}

static bool announce_command_idles(const struct client_command_context *cmd)
{
	return cmd->name != NULL && strcasecmp(cmd->name, "IDLE") == 0 &&
		cmd->func != NULL &&
		cmd->state == CLIENT_COMMAND_STATE_WAIT_INPUT;
}

/* TRUE if no command runs or is being read, other than IDLE. */
static bool announce_client_waits(const struct client *client)
{
	const struct client_command_context *cmd;

	for (cmd = client->command_queue; cmd != NULL; cmd = cmd->next) {
		if (!announce_command_idles(cmd))
			return FALSE;
	}
	return announce_output_is_free(client);
}

static void announce_changed(struct announce_client *ac);

static void announce_retry(struct announce_client *ac)
{
	timeout_remove(&ac->to_retry);
	announce_changed(ac);
}

static void announce_retry_after(struct announce_client *ac, unsigned int msecs)
{
	timeout_remove(&ac->to_retry);
	ac->to_retry = timeout_add_short(msecs, announce_retry, ac);
}

static void announce_now(struct announce_client *ac)
{
	if (announce_open_or_log(ac) && announce_send(ac, NULL, UINT64_MAX))
		announce_retry_after(ac, ANNOUNCE_RETRY_MSECS);
}

/* The file has changed. */
static void announce_changed(struct announce_client *ac)
{
	struct client *client = ac->client;

	if (announce_command_waits(client, imap_metasync_cmd_xmetasync.name)) {
		/* it comes back to us */
	} else if (ac->notify == NULL &&
		   !announce_command_waits(client, "IDLE")) {
		/* the next command is soon enough */
		imap_long_command_watch_remove(&ac->watch);
	} else if (announce_client_waits(client)) {
		announce_now(ac);
	} else {
		announce_retry_after(ac, ANNOUNCE_RETRY_MSECS);
	}
}

static void announce_watch(struct announce_client *ac)
{
	if (ac->watch != NULL)
		return;
	ac->watch = imap_long_command_watch_add(ac->client,
		store_get_wake_path(ac->store), announce_changed, ac);
	/* what came before the watch */
	announce_changed(ac);
}

static void announce_command_pre(struct client_command_context *cmd)
{
	struct announce_client *ac = announce_client_get(cmd->client);

	/* once: later its literals may be arriving */
	if (ac == NULL || cmd->cancel || ANNOUNCE_CONTEXT(cmd) != NULL)
		return;
	MODULE_CONTEXT_SET(cmd, imap_metasync_announce_module, ac);
	if (announce_output_is_free(cmd->client) &&
	    !announce_command_waits(cmd->client,
				    imap_metasync_cmd_xmetasync.name))
		announce_now(ac);
}

static void announce_command_post(struct client_command_context *cmd)
{
	struct announce_client *ac = announce_client_get(cmd->client);

	if (ac == NULL || cmd->cancel || cmd->client->disconnected)
		return;
	if (announce_command_idles(cmd) && announce_open_or_log(ac))
		announce_watch(ac);
	if (ac->to_retry != NULL) {
		/* as soon as the command has gone, if it goes */
		announce_retry_after(ac, 0);
	}
}

bool imap_metasync_announce_others(struct client *client, struct store *store,
				   const struct store_filter *watched,
				   uint64_t modseq)
{
	struct announce_client *ac = announce_client_get(client);
	struct store_error error;

	if (ac == NULL || !announce_is_possible(client))
		return FALSE;
	if (announce_use(ac, store, &error) < 0) {
		metasync_user_log(client->user, &error);
		return FALSE;
	}
	return announce_send(ac, watched, modseq);
}

void imap_metasync_announce_again(struct client *client)
{
	struct announce_client *ac = announce_client_get(client);

	if (ac != NULL && !client->disconnected)
		announce_retry_after(ac, 0);
}

/* -- NOTIFY ---------------------------------------------------------------- */

bool imap_metasync_announce_is_known(struct client *client)
{
	return ANNOUNCE_CONTEXT(client) != NULL;
}

int imap_metasync_announce_prepare(struct client *client,
				   struct store_error *error_r)
{
	struct announce_client *ac = ANNOUNCE_CONTEXT(client);

	if (announce_client_get(client) == NULL)
		ac->cursor.epoch = 0;
	return announce_open(ac, error_r);
}

static void announce_notify_free(struct announce_client *ac)
{
	if (ac->notify != NULL)
		pool_unref(&ac->notify->pool);
	ac->notify = NULL;
}

static void announce_stop(struct announce_client *ac)
{
	struct store_error error;
	struct store *store;

	imap_long_command_watch_remove(&ac->watch);
	timeout_remove(&ac->to_retry);
	if (ac->store != NULL &&
	    metasync_user_store(ac->client->user, &store, &error) == 0)
		store_own_stop(store);
	ac->store = NULL;
}

void imap_metasync_announce_notify(struct client *client,
				   struct imap_metasync_notify *notify)
{
	struct announce_client *ac = ANNOUNCE_CONTEXT(client);

	if (notify != NULL) {
		announce_notify_free(ac);
		ac->notify = notify;
	}
	if (announce_client_get(client) == NULL)
		announce_stop(ac);
	else if (notify != NULL)
		announce_watch(ac);
}

/* -- clients --------------------------------------------------------------- */

static void announce_client_destroy(struct client *client, const char *reason)
{
	struct announce_client *ac = ANNOUNCE_CONTEXT(client);

	imap_long_command_watch_remove(&ac->watch);
	timeout_remove(&ac->to_retry);
	announce_notify_free(ac);
	ac->module_ctx.super.destroy(client, reason);
}

static void announce_enabled(struct client *client)
{
	struct announce_client *ac = ANNOUNCE_CONTEXT(client);

	/* not for a user without the plugin, nor after NOTIFY; the feature is
	   not yet among the client's */
	if (ac != NULL && ac->notify == NULL)
		(void)announce_open_or_log(ac);
}

void imap_metasync_announce_client(struct client *client)
{
	struct announce_client *ac;

	ac = p_new(client->pool, struct announce_client, 1);
	ac->client = client;
	ac->module_ctx.super = client->v;
	client->v.destroy = announce_client_destroy;
	MODULE_CONTEXT_SET(client, imap_metasync_announce_module, ac);
}

void imap_metasync_announce_init(void)
{
	announce_feature = imap_feature_register("METADATA", 0,
						 announce_enabled);
	command_hook_register(announce_command_pre, announce_command_post);
}

void imap_metasync_announce_deinit(void)
{
	command_hook_unregister(announce_command_pre, announce_command_post);
}
