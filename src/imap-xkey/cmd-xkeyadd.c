/* XKEYADD: one key more, if there is room for it. The rules are about all keys
   together (how many, which), so it is read what there is, decided, and committed
   on condition that no key has changed since; else all of it once more. */

#include "imap-xkey.h"
#include "imap-arg.h"
#include "compat-user.h"

#define XKEYADD_DEFAULT_MAX_DEVICES 10
/* XKEYSYNC's command line has room for about so many. */
#define XKEYADD_HIGHEST_MAX_DEVICES 1000
#define XKEYADD_MAX_ARGS_SIZE (64*1024)

struct xkeyadd_context {
	struct imap_long_command *lc;
	struct xkey_keys keys;
	/* from lc->pool */
	struct xkey_parsed key;
	struct event *event;
};

static void xkeyadd_limits(struct imap_long_command *lc ATTR_UNUSED,
			   struct imap_long_command_limits *limits)
{
	limits->literal = XKEY_MAX_SIZE;
	limits->total = XKEYADD_MAX_ARGS_SIZE;
}

static void
xkeyadd_over_limits(struct imap_long_command *lc, bool literal ATTR_UNUSED)
{
	imap_long_command_bad(lc, "invalid key; too long");
}

static unsigned int xkeyadd_max_devices(struct client *client)
{
	const char *value = compat_user_setting(client->user,
						"imap_xkey_max_devices");
	unsigned int max;

	if (value == NULL)
		return XKEYADD_DEFAULT_MAX_DEVICES;
	if (str_to_uint(value, &max) < 0 || max == 0 ||
	    max > XKEYADD_HIGHEST_MAX_DEVICES) {
		e_error(client->event, "imap_xkey_max_devices: "
			"Must be 1 .. %u, not %s - using %u",
			XKEYADD_HIGHEST_MAX_DEVICES, value,
			XKEYADD_DEFAULT_MAX_DEVICES);
		return XKEYADD_DEFAULT_MAX_DEVICES;
	}
	return max;
}

/* reason is for the event. */
static void
xkeyadd_refuse(struct xkeyadd_context *ctx, const char *reason,
	       const char *text)
{
	event_add_str(ctx->event, "reason", reason);
	event_set_name(ctx->event, "imap_xkey_refused");
	e_debug(ctx->event, "Key refused: %s", reason);
	imap_long_command_end(ctx->lc, text);
}

static void xkeyadd_added(struct xkeyadd_context *ctx)
{
	event_set_name(ctx->event, "imap_xkey_added");
	e_debug(ctx->event, "Key added");
	imap_long_command_end(ctx->lc, t_strdup_printf(
		"OK [XKEYADD %s] key added", ctx->key.fpr));
}

/* Returns NULL or a syntax error. */
static const char *
xkeyadd_get_arg(struct xkeyadd_context *ctx, const struct imap_arg *args)
{
	struct imap_long_command *lc = ctx->lc;
	struct xkey_parsed parsed;
	const char *text;
	size_t size;

	if (!imap_arg_get_astring(&args[0], &text))
		return "invalid key";
	/* NIL has no size; it is no key either */
	size = args[0].type == IMAP_ARG_NIL ? 0 : args[0].str_len;
	if (size > XKEY_MAX_SIZE)
		return "invalid key; too long";
	if (!IMAP_ARG_IS_EOL(&args[1]))
		return "extra args";
	if (!xkey_parse(text, size, TRUE, &parsed)) {
		xkeyadd_refuse(ctx, "invalid", "NO invalid public key");
		return NULL;
	}
	ctx->key.fpr = p_strdup(lc->pool, parsed.fpr);
	ctx->key.pem = p_strdup(lc->pool, parsed.pem);
	imap_long_command_more(lc);
	return NULL;
}

static void xkeyadd_start(struct imap_long_command *lc,
			  const struct imap_arg *args)
{
	struct xkeyadd_context *ctx;
	const char *error;

	ctx = p_new(lc->pool, struct xkeyadd_context, 1);
	ctx->lc = lc;
	lc->context = ctx;
	xkey_keys_init(&ctx->keys, lc);
	ctx->event = event_create(lc->client->event);
	imap_long_command_no_input(lc);

	error = metasync_user_is_enabled(lc->client->user) ?
		xkeyadd_get_arg(ctx, args) : "Unknown command.";
	if (error != NULL)
		imap_long_command_bad(lc, error);
}

/* Is there room for it, and is it new? */
static bool xkeyadd_is_welcome(struct xkeyadd_context *ctx)
{
	const struct xkey *key;
	unsigned int count = 0;
	bool duplicate = FALSE;

	array_foreach(&ctx->keys.keys, key) {
		if (!key->stored)
			continue;
		count++;
		if (strcmp(key->fpr, ctx->key.fpr) == 0)
			duplicate = TRUE;
	}
	if (count >= xkeyadd_max_devices(ctx->lc->client)) {
		xkeyadd_refuse(ctx, "devices",
			       "NO max devices already reached");
		return FALSE;
	}
	if (duplicate) {
		xkeyadd_refuse(ctx, "duplicate", "NO duplicate public key");
		return FALSE;
	}
	return TRUE;
}

static bool xkeyadd_more(struct imap_long_command *lc)
{
	struct xkeyadd_context *ctx = lc->context;

	switch (xkey_keys_read(&ctx->keys)) {
	case XKEY_READ_TROUBLE:
		return FALSE;
	case XKEY_READ_MORE:
		return TRUE;
	case XKEY_READ_DONE:
		break;
	}
	if (!xkeyadd_is_welcome(ctx))
		return FALSE;
	switch (xkey_keys_add(&ctx->keys, &ctx->key)) {
	case STORE_OK:
		xkeyadd_added(ctx);
		return FALSE;
	case STORE_MODIFIED:
	case STORE_RESET:
		/* somebody was faster */
		return TRUE;
	default:
		return FALSE;
	}
}

static void xkeyadd_finish(struct imap_long_command *lc,
			   enum imap_long_command_why why ATTR_UNUSED)
{
	struct xkeyadd_context *ctx = lc->context;

	xkey_keys_deinit(&ctx->keys);
	event_unref(&ctx->event);
}

const struct imap_long_command_def imap_xkey_cmd_xkeyadd = {
	.name = "XKEYADD",
	/* it names the key */
	.private_reply = TRUE,
	.limits = xkeyadd_limits,
	.over_limits = xkeyadd_over_limits,
	.start = xkeyadd_start,
	.timer = xkey_timer,
	.more = xkeyadd_more,
	.finish = xkeyadd_finish
};
