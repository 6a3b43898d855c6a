/* XKEYSYNC: the difference between the keys that the client knows and those that
   are stored, then each change, until DONE.

   It is told in packets: one event for each key of which the client does not
   know what has become, in the order of the fingerprints, then "* XKEYSYNC OK".
   What the client knows is what it said at the beginning and what was sent since.
   A change only asks for another packet; one that comes while a packet is being
   sent, and concerns a key that was passed already, is told in the next. */

#include "imap-xkey.h"
#include "str.h"
#include "imap-arg.h"
#include "imap-quote.h"

/* A thousand fingerprints. */
#define XKEYSYNC_MAX_ARGS_SIZE (66*1024)

struct xkeysync_context {
	struct imap_long_command *lc;
	struct xkey_keys keys;
	/* In a packet: the key that was looked at last. It stays in the list
	   until the packet's end. NULL: none was. */
	const char *last_fpr;
	unsigned int created, deleted;
	/* begins when there is a reason to look, ends with the packet */
	struct event *event;
	/* the first packet was sent */
	bool live;
};

static void xkeysync_limits(struct imap_long_command *lc ATTR_UNUSED,
			    struct imap_long_command_limits *limits)
{
	limits->literal = XKEY_FPR_SIZE;
	limits->total = XKEYSYNC_MAX_ARGS_SIZE;
}

static void xkeysync_over_limits(struct imap_long_command *lc, bool literal)
{
	if (literal)
		imap_long_command_bad(lc, "invalid fingerprint");
}

static void xkeysync_event_begin(struct xkeysync_context *ctx)
{
	if (ctx->event == NULL)
		ctx->event = event_create(ctx->lc->client->event);
}

/* How many, never which. */
static void xkeysync_event_sent(struct xkeysync_context *ctx)
{
	if (ctx->created + ctx->deleted > 0) {
		event_add_int(ctx->event, "created", ctx->created);
		event_add_int(ctx->event, "deleted", ctx->deleted);
		event_add_str(ctx->event, "kind",
			      ctx->live ? "push" : "catch-up");
		event_set_name(ctx->event, "imap_xkey_sent");
		e_debug(ctx->event, "Sent %u created and %u deleted keys",
			ctx->created, ctx->deleted);
	}
	event_unref(&ctx->event);
	ctx->created = ctx->deleted = 0;
}

static bool
xkeysync_get_args(struct xkeysync_context *ctx, const struct imap_arg *args)
{
	const char *fpr;

	for (; !IMAP_ARG_IS_EOL(args); args++) {
		/* a NUL is in a literal, which is not longer than that */
		if (!imap_arg_get_astring(args, &fpr) ||
		    strlen(fpr) != XKEY_FPR_SIZE)
			return FALSE;
		xkey_keys_add_told(&ctx->keys, t_str_lcase(fpr));
	}
	return TRUE;
}

static void xkeysync_start(struct imap_long_command *lc,
			   const struct imap_arg *args)
{
	struct xkeysync_context *ctx;

	ctx = p_new(lc->pool, struct xkeysync_context, 1);
	ctx->lc = lc;
	lc->context = ctx;
	xkey_keys_init(&ctx->keys, lc);
	ctx->keys.watch = TRUE;
	ctx->keys.want_pem = TRUE;
	xkeysync_event_begin(ctx);

	if (!metasync_user_is_enabled(lc->client->user))
		imap_long_command_bad(lc, "Unknown command.");
	else if (!xkeysync_get_args(ctx, args))
		imap_long_command_bad(lc, "invalid fingerprint");
	else {
		imap_long_command_hold_lines(lc, TRUE);
		imap_long_command_more(lc);
	}
}

/* Returns FALSE if the output is full. */
static bool xkeysync_send_event(struct xkeysync_context *ctx, struct xkey *key)
{
	string_t *str = t_str_new(XKEY_MAX_SIZE + 128);

	if (key->stored) {
		str_printfa(str, "* XKEYSYNC CREATED {%zu}\r\n%s",
			    strlen(key->pem), key->pem);
		i_free(key->pem);
		ctx->created++;
	} else {
		str_append(str, "* XKEYSYNC DELETED ");
		imap_append_astring(str, key->fpr);
		ctx->deleted++;
	}
	key->told = key->stored;
	return imap_long_command_send_line(ctx->lc, str_c(str));
}

/* Returns TRUE if there is another packet to send. */
static bool xkeysync_end_packet(struct xkeysync_context *ctx)
{
	if (ctx->created + ctx->deleted > 0)
		imap_long_command_send_line(ctx->lc, "* XKEYSYNC OK");
	xkeysync_event_sent(ctx);
	if (!ctx->live) {
		imap_long_command_send_line(ctx->lc, "+ OK");
		imap_long_command_keepalive(ctx->lc);
		ctx->live = TRUE;
	}
	ctx->last_fpr = NULL;
	ctx->keys.trouble.tv_sec = 0;
	return xkey_keys_clean(&ctx->keys);
}

/* Returns TRUE if there is more to send. */
static bool xkeysync_send(struct xkeysync_context *ctx)
{
	struct xkey *key;
	unsigned int i = 0;
	bool room = TRUE;

	if (ctx->last_fpr != NULL)
		i = xkey_keys_find(&ctx->keys, ctx->last_fpr) + 1;
	for (; room && i < array_count(&ctx->keys.keys); i++) T_BEGIN {
		key = array_idx_modifiable(&ctx->keys.keys, i);
		ctx->last_fpr = key->fpr;
		if (key->stored != key->told)
			room = xkeysync_send_event(ctx, key);
	} T_END;
	return !room || xkeysync_end_packet(ctx);
}

static bool xkeysync_more(struct imap_long_command *lc)
{
	struct xkeysync_context *ctx = lc->context;
	bool more;

	xkeysync_event_begin(ctx);
	switch (xkey_keys_read(&ctx->keys)) {
	case XKEY_READ_TROUBLE:
		return FALSE;
	case XKEY_READ_MORE:
		return TRUE;
	case XKEY_READ_DONE:
		break;
	}
	more = xkeysync_send(ctx);
	/* not in the middle of a packet, nor before the first one */
	imap_long_command_hold_lines(lc, more);
	return more;
}

static void xkeysync_change(struct imap_long_command *lc)
{
	xkeysync_event_begin(lc->context);
	imap_long_command_more(lc);
}

static void xkeysync_done(struct imap_long_command *lc)
{
	imap_long_command_end(lc, "OK xkeysync complete.");
}

static void xkeysync_keepalive(struct imap_long_command *lc)
{
	imap_long_command_send_line(lc, "* OK still syncing");
}

static void xkeysync_finish(struct imap_long_command *lc,
			    enum imap_long_command_why why ATTR_UNUSED)
{
	struct xkeysync_context *ctx = lc->context;

	xkey_keys_deinit(&ctx->keys);
	event_unref(&ctx->event);
}

const struct imap_long_command_def imap_xkey_cmd_xkeysync = {
	.name = "XKEYSYNC",
	/* many keys are much output */
	.uses_mailbox = TRUE,
	.wrong_line_text = "BAD expected DONE.",
	.limits = xkeysync_limits,
	.over_limits = xkeysync_over_limits,
	.start = xkeysync_start,
	.done = xkeysync_done,
	.change = xkeysync_change,
	.timer = xkey_timer,
	.more = xkeysync_more,
	.keepalive = xkeysync_keepalive,
	.finish = xkeysync_finish
};
