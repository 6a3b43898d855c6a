/* XMETASET: one change set, all or nothing, with a condition. A short command: it
   ends in start(), unless it lost against the condition and has values to show. */

#include "imap-metasync.h"

/* Names and mailboxes may come as literals, too. */
#define XMETASET_MIN_LITERAL_SIZE 4096
/* How much is read in one transaction when the winner's values are shown. */
#define XMETASET_READ_SIZE (64*1024)

struct xmetaset_context {
	struct imap_long_command *lc;
	struct store *store;
	struct imap_metasync_output output;

	/* entries that lost, those before lost_next have been shown */
	struct store_key *lost;
	size_t lost_count, lost_next;
	/* the position of the first read */
	struct store_pos pos;
};

static void xmetaset_limits(struct imap_long_command *lc,
			    struct imap_long_command_limits *limits)
{
	struct store_error error = { .status = STORE_VALUE_TOO_BIG };
	const struct store_limits *store_limits;

	if (!metasync_user_is_enabled(lc->client->user))
		return;
	store_limits = metasync_user_limits(lc->client->user);
	limits->literal = I_MAX(store_limits->value,
				XMETASET_MIN_LITERAL_SIZE);
	limits->total = I_MAX(limits->total, store_limits->value +
			      XMETASET_MIN_LITERAL_SIZE * 16);
	limits->literal_text = t_strconcat("NO ",
		metasync_error_text(lc->client->user, &error), NULL);
}

static void xmetaset_over_limits(struct imap_long_command *lc, bool literal)
{
	if (metasync_user_is_enabled(lc->client->user)) {
		metasync_user_count(lc->client->user, literal ?
				    STORE_VALUE_TOO_BIG : STORE_LIMIT);
	}
}

static bool xmetaset_lost_entry(const struct store_entry *entry, void *context)
{
	struct xmetaset_context *ctx = context;

	ctx->lost_next++;
	return imap_metasync_output_entry(&ctx->output, entry) &&
		ctx->output.bytes < XMETASET_READ_SIZE;
}

static bool xmetaset_more(struct imap_long_command *lc)
{
	struct xmetaset_context *ctx = lc->context;
	struct store_pos pos;
	struct store_error error;
	bool first = ctx->lost_next == 0, more = FALSE;

	ctx->output.bytes = 0;
	if (store_get(ctx->store, ctx->lost + ctx->lost_next,
		      ctx->lost_count - ctx->lost_next, xmetaset_lost_entry,
		      ctx, &pos, &error) != STORE_OK) {
		imap_metasync_end_error(lc, &error);
	} else {
		/* what was shown is not older than the first read: whatever
		   changes after that makes a retry fail again */
		if (first)
			ctx->pos = pos;
		more = ctx->lost_next < ctx->lost_count;
		if (!more) {
			imap_long_command_end(lc, t_strdup_printf(
				"NO [XMETASET MODIFIED (%u %"PRIu64")] "
				"Changed by others.",
				ctx->pos.epoch, ctx->pos.modseq));
		}
	}
	imap_metasync_output_flush(&ctx->output);
	return more;
}

static void
xmetaset_lost(struct xmetaset_context *ctx,
	      const struct imap_metasync_set *set, const bool *lost)
{
	size_t i;

	ctx->lost = p_new(ctx->lc->pool, struct store_key, set->count);
	for (i = 0; i < set->count; i++) {
		if (lost[i]) {
			ctx->lost[ctx->lost_count].mailbox =
				set->changes[i].mailbox;
			ctx->lost[ctx->lost_count].name = set->changes[i].name;
			ctx->lost_count++;
		}
	}
	imap_long_command_more(ctx->lc);
}

static void
xmetaset_apply(struct xmetaset_context *ctx,
	       const struct imap_metasync_set *set)
{
	struct imap_long_command *lc = ctx->lc;
	struct store_error error;
	struct store_pos pos;
	bool *lost;

	if (metasync_user_store(lc->client->user, &ctx->store, &error) < 0) {
		imap_metasync_end_error(lc, &error);
		return;
	}
	lost = t_new(bool, set->count);
	switch (metasync_apply(lc->client->user, ctx->store, set->changes,
			       set->count, &set->condition, TRUE, &pos, lost,
			       &error)) {
	case STORE_OK:
		imap_long_command_end(lc, t_strdup_printf(
			"OK [XMETASET (%u %"PRIu64")] XMETASET completed.",
			pos.epoch, pos.modseq));
		break;
	case STORE_MODIFIED:
		xmetaset_lost(ctx, set, lost);
		break;
	case STORE_RESET:
		imap_long_command_end(lc, "NO [XMETASET RESET] "
			"No such position, synchronize first.");
		break;
	default:
		imap_metasync_end_error(lc, &error);
		break;
	}
}

static void xmetaset_start(struct imap_long_command *lc,
			   const struct imap_arg *args)
{
	struct imap_metasync_refusal refusal;
	struct imap_metasync_set set;
	struct xmetaset_context *ctx;

	ctx = p_new(lc->pool, struct xmetaset_context, 1);
	ctx->lc = lc;
	lc->context = ctx;
	imap_metasync_output_init(&ctx->output, lc);
	imap_long_command_no_input(lc);

	if (!metasync_user_is_enabled(lc->client->user))
		imap_long_command_bad(lc, "Unknown command.");
	else if (imap_metasync_parse_set(lc, args, &set, &refusal) == 0)
		xmetaset_apply(ctx, &set);
	else {
		if (refusal.limit)
			metasync_user_count(lc->client->user, STORE_LIMIT);
		imap_metasync_refuse(lc, &refusal);
	}
}

static void xmetaset_finish(struct imap_long_command *lc,
			    enum imap_long_command_why why ATTR_UNUSED)
{
	struct xmetaset_context *ctx = lc->context;

	imap_metasync_output_deinit(&ctx->output);
	if (ctx->store != NULL)
		metasync_user_upkeep(lc->client->user);
}

const struct imap_long_command_def imap_metasync_cmd_xmetaset = {
	.name = "XMETASET",
	/* the values that won may be large */
	.uses_mailbox = TRUE,
	.limits = xmetaset_limits,
	.over_limits = xmetaset_over_limits,
	.start = xmetaset_start,
	.more = xmetaset_more,
	.finish = xmetaset_finish
};
