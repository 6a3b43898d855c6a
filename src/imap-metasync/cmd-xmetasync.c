/* XMETASYNC: a catch-up from a bookmark or a snapshot, then each change as it
   is committed, until DONE.

   There is one loop for all of it, in xmetasync_more(): read on from the cursor
   until nothing is left, send a marker, wait. A wake only asks for another
   round. Nothing is kept about what was sent but the cursor, so a slow
   reader costs no memory and gets the newest value of an entry. */

#include "imap-metasync.h"

/* How much more() reads in one transaction. */
#define XMETASYNC_READ_SIZE (64*1024)
/* In a long catch-up, how much there is between two resumable marks. */
#define XMETASYNC_PARTIAL_SIZE (1024*1024)

struct xmetasync_context {
	struct imap_long_command *lc;
	struct store *store;
	struct imap_metasync_watch watch;
	struct imap_metasync_output output;

	struct store_cursor cursor;
	/* the position of the last consistent state, and of the last mark of
	   any kind that was sent */
	struct store_pos pos;
	uint64_t mark_modseq;
	/* since the last full marker: entries and bytes of values sent, and
	   the event of it, which began when there was a reason to look; NULL:
	   there was none */
	unsigned int sent;
	uint64_t sent_bytes;
	struct event *event;
	/* when xmetasync_entry() ends the round */
	uoff_t stop_at_bytes;

	/* something was sent since the last full marker */
	bool marker_due:1;
	/* the first marker was sent */
	bool live:1;
};

static void xmetasync_send_mark(struct xmetasync_context *ctx,
				const char *prefix, uint64_t modseq)
{
	imap_metasync_output_line(&ctx->output, t_strdup_printf(
		"* OK [XMETASYNC %s(%u %"PRIu64" %016"PRIx64")] %s", prefix,
		ctx->cursor.epoch, modseq, ctx->watch.token,
		*prefix == '\0' ? "Consistent." : "Resumable."));
	ctx->output.bytes = 0;
	ctx->mark_modseq = modseq;
}

static int xmetasync_start_snapshot(struct xmetasync_context *ctx,
				    struct store_error *error_r)
{
	ctx->mark_modseq = 0;
	ctx->marker_due = TRUE;
	if (store_cursor_snapshot(ctx->store, &ctx->cursor, error_r) != STORE_OK)
		return -1;
	return 0;
}

/* The event's duration is from the first reason to look to the marker. */
static void xmetasync_event_begin(struct xmetasync_context *ctx)
{
	if (ctx->event == NULL)
		ctx->event = event_create(ctx->lc->client->event);
}

/* For counting; never what was sent. */
static void xmetasync_event_sent(struct xmetasync_context *ctx)
{
	event_add_int(ctx->event, "entries", ctx->sent);
	event_add_int(ctx->event, "bytes", ctx->sent_bytes);
	event_add_str(ctx->event, "kind", ctx->live ? "push" : "catch-up");
	event_set_name(ctx->event, "metasync_sent");
	e_debug(ctx->event, "Sent %u entries", ctx->sent);
	ctx->sent = 0;
	ctx->sent_bytes = 0;
}

static int
xmetasync_reset(struct xmetasync_context *ctx, const char *reason,
		struct store_error *error_r)
{
	e_debug(event_create_passthrough(ctx->lc->client->event)->
		set_name("metasync_reset")->
		add_str("reason", reason)->event(),
		"Client has to forget what it knows: %s", reason);
	imap_metasync_output_line(&ctx->output, "* OK [XMETASYNC RESET] "
		"Forget what you know, a snapshot follows.");
	return xmetasync_start_snapshot(ctx, error_r);
}

static int xmetasync_init_cursor(struct xmetasync_context *ctx,
				 struct store_error *error_r)
{
	if (!ctx->watch.have_since)
		return xmetasync_start_snapshot(ctx, error_r);
	if (ctx->watch.since_token != ctx->watch.token)
		return xmetasync_reset(ctx, "watch", error_r);
	switch (store_cursor_since(ctx->store, &ctx->watch.since,
				   &ctx->cursor, error_r)) {
	case STORE_OK:
		ctx->mark_modseq = ctx->cursor.modseq;
		ctx->marker_due = TRUE;
		return 0;
	case STORE_RESET:
		return xmetasync_reset(ctx, "history", error_r);
	default:
		return -1;
	}
}

static void xmetasync_send_limits(struct xmetasync_context *ctx)
{
	const struct store_limits *limits =
		metasync_user_limits(ctx->lc->client->user);

	imap_metasync_output_line(&ctx->output, t_strdup_printf(
		"* OK [XMETASYNC LIMITS (VALUE %"PRIu64" ENTRIES %"PRIu64
		" BYTES %"PRIu64" NAME %"PRIu64" SET %"PRIu64")] Limits.",
		limits->value, limits->entries, limits->bytes, limits->name,
		limits->set));
}

static void xmetasync_start(struct imap_long_command *lc,
			    const struct imap_arg *args)
{
	struct xmetasync_context *ctx;
	struct imap_metasync_refusal refusal;
	struct store_error error;

	ctx = p_new(lc->pool, struct xmetasync_context, 1);
	ctx->lc = lc;
	lc->context = ctx;
	imap_metasync_output_init(&ctx->output, lc);
	xmetasync_event_begin(ctx);

	if (!metasync_user_is_enabled(lc->client->user)) {
		imap_long_command_bad(lc, "Unknown command.");
		return;
	}
	if (imap_metasync_parse_watch(lc, args, &ctx->watch, &refusal) < 0) {
		imap_metasync_refuse(lc, &refusal);
		return;
	}
	if (metasync_user_store(lc->client->user, &ctx->store, &error) < 0) {
		imap_metasync_end_error(lc, &error);
		return;
	}
	xmetasync_send_limits(ctx);
	if (ctx->watch.once)
		imap_long_command_no_input(lc);
	else {
		/* before the first read, so that no change falls between */
		imap_long_command_watch_path(lc,
			store_get_wake_path(ctx->store));
		imap_long_command_watch_mailbox(lc);
		imap_long_command_keepalive(lc);
	}
	if (xmetasync_init_cursor(ctx, &error) < 0)
		imap_metasync_end_error(lc, &error);
	else {
		imap_long_command_hold_lines(lc, TRUE);
		imap_long_command_more(lc);
	}
	imap_metasync_output_flush(&ctx->output);
}

static bool xmetasync_entry(const struct store_entry *entry, void *context)
{
	struct xmetasync_context *ctx = context;

	ctx->marker_due = TRUE;
	ctx->sent++;
	if (entry->value != NULL)
		ctx->sent_bytes += entry->value_size;
	return imap_metasync_output_entry(&ctx->output, entry) &&
		ctx->output.bytes < ctx->stop_at_bytes;
}

/* All watched changes up to the store's position are sent. Returns TRUE if others
   are still to be told by name. */
static bool xmetasync_consistent(struct xmetasync_context *ctx,
				 const struct store_pos *pos)
{
	bool others_left;

	ctx->pos = *pos;
	if (ctx->marker_due) {
		ctx->marker_due = FALSE;
		xmetasync_send_mark(ctx, "", pos->modseq);
		xmetasync_event_sent(ctx);
	}
	event_unref(&ctx->event);
	if (!ctx->live && !ctx->watch.once)
		imap_metasync_output_line(&ctx->output, "+ idling");
	ctx->live = TRUE;
	imap_metasync_output_flush(&ctx->output);
	others_left =
		imap_metasync_announce_others(ctx->lc->client, ctx->store,
					      &ctx->watch.filter, pos->modseq);
	if (!others_left && ctx->watch.once)
		imap_long_command_end(ctx->lc, "OK XMETASYNC completed.");
	return others_left;
}

/* All is sent below the cursor's modseq; of that one there may be more. */
static void xmetasync_partial(struct xmetasync_context *ctx,
			      const struct store_state *state)
{
	uint64_t modseq = ctx->cursor.modseq;

	if (ctx->output.bytes >= XMETASYNC_PARTIAL_SIZE &&
	    modseq > state->floor && modseq > ctx->mark_modseq + 1)
		xmetasync_send_mark(ctx, "PARTIAL ", modseq - 1);
}

static bool xmetasync_more(struct imap_long_command *lc)
{
	struct xmetasync_context *ctx = lc->context;
	const struct store_read req = {
		.filter = &ctx->watch.filter,
		.max_value_size = ctx->watch.have_max_size ?
			ctx->watch.max_size : UINT64_MAX,
		.without_values = ctx->watch.names
	};
	struct store_state state;
	struct store_error error;
	bool more = TRUE;

	xmetasync_event_begin(ctx);
	ctx->stop_at_bytes = ctx->output.bytes + XMETASYNC_READ_SIZE;
	switch (store_read(ctx->store, &req, &ctx->cursor, xmetasync_entry,
			   ctx, &state, &more, &error)) {
	case STORE_OK:
		if (more)
			xmetasync_partial(ctx, &state);
		else
			more = xmetasync_consistent(ctx, &state.pos);
		break;
	case STORE_RESET:
		if (xmetasync_reset(ctx, "history", &error) == 0) {
			more = TRUE;
			break;
		}
		/* fall through */
	default:
		imap_metasync_end_error(lc, &error);
		break;
	}
	imap_metasync_output_flush(&ctx->output);
	/* DONE waits for the marker */
	imap_long_command_hold_lines(lc, more);
	return more;
}

static void xmetasync_change(struct imap_long_command *lc)
{
	xmetasync_event_begin(lc->context);
	imap_long_command_more(lc);
}

/* Unwatched changes move the bookmark only here. */
static void xmetasync_keepalive(struct imap_long_command *lc)
{
	struct xmetasync_context *ctx = lc->context;

	if (ctx->live && !ctx->marker_due &&
	    ctx->pos.modseq > ctx->mark_modseq) {
		xmetasync_send_mark(ctx, "", ctx->pos.modseq);
		imap_metasync_output_flush(&ctx->output);
	}
}

static void xmetasync_finish(struct imap_long_command *lc,
			     enum imap_long_command_why why ATTR_UNUSED)
{
	struct xmetasync_context *ctx = lc->context;

	imap_metasync_output_deinit(&ctx->output);
	event_unref(&ctx->event);
	imap_metasync_announce_again(lc->client);
	if (ctx->store != NULL)
		metasync_user_upkeep(lc->client->user);
}

const struct imap_long_command_def imap_metasync_cmd_xmetasync = {
	.name = "XMETASYNC",
	.uses_mailbox = TRUE,
	.start = xmetasync_start,
	.change = xmetasync_change,
	.more = xmetasync_more,
	.keepalive = xmetasync_keepalive,
	.finish = xmetasync_finish
};
