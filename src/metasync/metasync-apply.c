/* The one way in which Dovecot's processes write to the store: the change set,
   what an operator can count (events), what he should know before a limit is
   reached, and the notes for dsync. */

#include "metasync-private.h"
#include "ioloop.h"

/* Of a limit, in percent. */
#define METASYNC_WARN_PERCENT 80
/* The same warning comes again after so long. */
#define METASYNC_WARN_INTERVAL_SECS (24*60*60)

/* Events say how much and how long, never what. */
static struct event_passthrough *
metasync_event(struct metasync_user *muser, const char *name,
	       const struct store_change *changes, unsigned int count,
	       const struct timeval *start)
{
	struct timeval now;
	size_t bytes = 0;
	unsigned int i;

	for (i = 0; i < count; i++)
		bytes += changes[i].value_size;
	i_gettimeofday(&now);
	return event_create_passthrough(muser->event)->
		set_name(name)->
		add_int("entries", count)->
		add_int("bytes", bytes)->
		add_int("usecs", timeval_diff_usecs(&now, start));
}

static const char *metasync_limit_name(enum store_status status)
{
	switch (status) {
	case STORE_VALUE_TOO_BIG:
		return "value";
	case STORE_TOO_MANY:
		return "entries";
	case STORE_OVER_BYTES:
		return "bytes";
	default:
		return "set";
	}
}

static void
metasync_apply_event(struct metasync_user *muser, enum store_status status,
		     const struct store_change *changes, unsigned int count,
		     const struct timeval *start)
{
	switch (status) {
	case STORE_OK:
		e_debug(metasync_event(muser, "metasync_committed", changes,
				       count, start)->event(),
			"Committed %u entries", count);
		break;
	case STORE_MODIFIED:
	case STORE_RESET:
		e_debug(metasync_event(muser, "metasync_conflict", changes,
				       count, start)->event(),
			"Condition failed for a set of %u entries", count);
		break;
	case STORE_VALUE_TOO_BIG:
	case STORE_TOO_MANY:
	case STORE_OVER_BYTES:
	case STORE_LIMIT:
		e_debug(metasync_event(muser, "metasync_limit_reached", changes,
				       count, start)->
			add_str("limit", metasync_limit_name(status))->event(),
			"Over the limit of %s", metasync_limit_name(status));
		break;
	default:
		e_debug(metasync_event(muser, "metasync_failed", changes,
				       count, start)->event(),
			"A set of %u entries failed", count);
		break;
	}
}

static void
metasync_warn(struct metasync_user *muser, time_t *warned, const char *what,
	      const char *setting, uint64_t used, uint64_t limit)
{
	if (used < limit / 100 * METASYNC_WARN_PERCENT ||
	    limit < 100 ||
	    *warned + METASYNC_WARN_INTERVAL_SECS > ioloop_time)
		return;
	*warned = ioloop_time;
	e_warning(muser->event, "%"PRIu64" of at most %"PRIu64" %s are used "
		  "(%s)", used, limit, what, setting);
}

static void
metasync_warn_limits(struct metasync_user *muser, const struct store *store)
{
	const struct store_limits *limits = &muser->set.limits;
	struct store_state state;

	store_get_last_state(store, &state);
	metasync_warn(muser, &muser->warned_entries, "entries",
		      "metasync_limit_entries", state.entries,
		      limits->entries);
	metasync_warn(muser, &muser->warned_bytes, "bytes",
		      "metasync_limit_bytes", state.bytes, limits->bytes);
}

enum store_status
metasync_apply(struct mail_user *user, struct store *store,
	       const struct store_change *changes, unsigned int count,
	       const struct store_condition *condition, bool note,
	       struct store_pos *pos_r, bool *lost_r,
	       struct store_error *error_r)
{
	struct metasync_user *muser = metasync_user_get(user);
	enum store_status status;
	struct timeval start;

	i_gettimeofday(&start);
	status = store_apply(store, changes, count, condition, pos_r, lost_r,
			     error_r);
	metasync_apply_event(muser, status, changes, count, &start);
	if (status == STORE_OK) {
		metasync_warn_limits(muser, store);
		metasync_note(muser, changes, count, !note);
	}
	return status;
}
