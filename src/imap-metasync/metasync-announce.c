/* RFC 5464 section 4.4: a session that did ENABLE METADATA is told by name what
   others have changed, as "* METADATA mailbox entry".

   It is told before each of its commands runs (so that NOOP gives what there is
   to know), and at once while it is in IDLE. A cursor says what it knows. Its own
   changes are not told, nor what a running XMETASYNC watches: that command
   calls imap_metasync_announce_others() after each of its markers instead.

   Nothing is written while a command is in the middle of its output. */

#include "imap-metasync.h"
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

	/* what the session knows; epoch 0: nothing yet */
	struct store_cursor cursor;
	struct store *store;
	/* in IDLE */
	struct imap_long_command_watch *watch;
	struct timeout *to_retry;
};

struct announce_context {
	struct announce_client *ac;
	string_t *str;
	/* watched by a running XMETASYNC; NULL: nothing */
	const struct store_filter *except;
	/* no further than this */
	uint64_t modseq_max;
	bool beyond;
};

static MODULE_CONTEXT_DEFINE_INIT(imap_metasync_announce_module,
				  &imap_module_register);
static unsigned int announce_feature;

/* All of the user's entries. */
static const struct store_scope announce_scope = {
	.type = STORE_SCOPE_SUBTREE, .mailbox = ""
};
static const char *const announce_entries[] = { "/private", "/shared" };
static const struct store_selection announce_selection = {
	.scopes = &announce_scope, .scope_count = 1,
	.entries = announce_entries, .entry_count = N_ELEMENTS(announce_entries)
};
static const struct store_filter announce_all = {
	.selections = &announce_selection, .selection_count = 1,
	.depth = STORE_DEPTH_INFINITY
};

/* -- telling --------------------------------------------------------------- */

static bool announce_entry(const struct store_entry *entry, void *context)
{
	struct announce_context *ctx = context;
	const char *mutf7;

	if (entry->modseq > ctx->modseq_max) {
		ctx->beyond = TRUE;
		return FALSE;
	}
	if (store_is_own(ctx->ac->store, entry->modseq) ||
	    (ctx->except != NULL &&
	     store_filter_match(ctx->except, entry->mailbox, entry->name)))
		return TRUE;
	if (t_imap_utf8_to_utf7(entry->mailbox, &mutf7) < 0)
		i_unreached(); /* checked when it came in */
	str_append(ctx->str, "* METADATA ");
	imap_append_quoted(ctx->str, mutf7);
	str_append_c(ctx->str, ' ');
	imap_append_astring(ctx->str, entry->name);
	str_append(ctx->str, "\r\n");
	return str_len(ctx->str) < ANNOUNCE_OUTPUT_SIZE;
}

/* Returns FALSE on failure. */
static bool
announce_read(struct announce_context *ctx, bool *more_r)
{
	static const struct store_read req = {
		.filter = &announce_all, .without_values = TRUE
	};
	struct announce_client *ac = ctx->ac;
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
static bool announce_use(struct announce_client *ac, struct store *store)
{
	struct store_error error;

	if (store != ac->store)
		imap_long_command_watch_remove(&ac->watch);
	ac->store = store;
	store_own_start(store);
	if (ac->cursor.epoch == 0) {
		/* from here on */
		if (store_cursor_snapshot(store, &ac->cursor,
					  &error) != STORE_OK) {
			metasync_user_log(ac->client->user, &error);
			return FALSE;
		}
		ac->cursor.modseq = ac->cursor.tombstones_after;
		ac->cursor.id = INT64_MAX;
	}
	return TRUE;
}

/* Closes a store that was replaced: only while no XMETASYNC reads it. */
static bool announce_open(struct announce_client *ac)
{
	struct store_error error;
	struct store *store;

	if (metasync_user_store(ac->client->user, &store, &error) < 0) {
		metasync_user_log(ac->client->user, &error);
		return FALSE;
	}
	return announce_use(ac, store);
}

static void announce_retry(struct announce_client *ac);

static void
announce_send(struct announce_client *ac, const struct store_filter *except,
	      uint64_t modseq_max)
{
	struct ostream *output = ac->client->output;
	struct announce_context ctx = {
		.ac = ac, .except = except, .modseq_max = modseq_max
	};
	bool more = TRUE, corked = o_stream_is_corked(output);

	if (!corked)
		o_stream_cork(output);
	while (more && !output->closed) {
		if (o_stream_get_buffer_used_size(output) >=
		    ANNOUNCE_OUTPUT_SIZE) {
			if (ac->to_retry == NULL) {
				ac->to_retry = timeout_add(ANNOUNCE_RETRY_MSECS,
							   announce_retry, ac);
			}
			break;
		}
		T_BEGIN {
			ctx.str = t_str_new(256);
			if (!announce_read(&ctx, &more))
				more = FALSE;
			o_stream_nsend(output, str_data(ctx.str),
				       str_len(ctx.str));
		} T_END;
	}
	if (!corked)
		o_stream_uncork(output);
}

/* -- when ------------------------------------------------------------------ */

static bool announce_is_possible(const struct announce_client *ac)
{
	const struct client *client = ac->client;

	return client->output_cmd_lock == NULL && !client->disconnected &&
		!client->output->closed;
}

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

/* The file has changed. Outside of IDLE the next command is soon enough. */
static void announce_changed(struct announce_client *ac)
{
	if (!announce_command_waits(ac->client, "IDLE"))
		imap_long_command_watch_remove(&ac->watch);
	else if (announce_is_possible(ac) && announce_open(ac))
		announce_send(ac, NULL, UINT64_MAX);
}

static void announce_retry(struct announce_client *ac)
{
	timeout_remove(&ac->to_retry);
	announce_changed(ac);
}

static struct announce_client *announce_client_get(struct client *client)
{
	return client_has_enabled(client, announce_feature) ?
		ANNOUNCE_CONTEXT(client) : NULL;
}

static void announce_command_pre(struct client_command_context *cmd)
{
	struct announce_client *ac = announce_client_get(cmd->client);

	if (ac == NULL || cmd->cancel || !announce_is_possible(ac) ||
	    announce_command_waits(cmd->client,
				   imap_metasync_cmd_xmetasync.name) ||
	    !announce_open(ac))
		return;
	announce_send(ac, NULL, UINT64_MAX);
}

static void announce_command_post(struct client_command_context *cmd)
{
	struct announce_client *ac = announce_client_get(cmd->client);

	if (ac == NULL || ac->watch != NULL || cmd->cancel ||
	    cmd->state == CLIENT_COMMAND_STATE_DONE || cmd->name == NULL ||
	    strcasecmp(cmd->name, "IDLE") != 0 || !announce_open(ac))
		return;
	ac->watch = imap_long_command_watch_add(cmd->client,
		store_get_wake_path(ac->store), announce_changed, ac);
	/* what came before the watch */
	announce_command_pre(cmd);
}

void imap_metasync_announce_others(struct client *client, struct store *store,
				   const struct store_filter *watched,
				   uint64_t modseq)
{
	struct announce_client *ac = announce_client_get(client);

	if (ac != NULL && announce_is_possible(ac) && announce_use(ac, store))
		announce_send(ac, watched, modseq);
}

/* -- clients --------------------------------------------------------------- */

static void announce_client_destroy(struct client *client, const char *reason)
{
	struct announce_client *ac = ANNOUNCE_CONTEXT(client);

	imap_long_command_watch_remove(&ac->watch);
	timeout_remove(&ac->to_retry);
	ac->module_ctx.super.destroy(client, reason);
}

static void announce_enabled(struct client *client)
{
	struct announce_client *ac = ANNOUNCE_CONTEXT(client);

	/* not for a user without the plugin */
	if (ac != NULL)
		(void)announce_open(ac);
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
