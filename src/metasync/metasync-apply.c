/* The one way in which Dovecot's processes write to the store: the change set,
   what an operator can count (events), what he should know before a limit is
   reached, and the notes for dsync. */

#include "metasync-private.h"
#include "ioloop.h"

/* Of a limit, in percent. */
#define METASYNC_WARN_PERCENT 80
/* The same warning comes again after so long. */
#define METASYNC_WARN_INTERVAL_SECS (24*60*60)

/* Events say how much, never what. Their duration is the time that the store
   took. What is refused or fails is counted where it is told
   (metasync_user_count()). */
static void
metasync_apply_event(struct event *event, enum store_status status,
		     const struct store_change *changes, unsigned int count)
{
	size_t bytes = 0;
	unsigned int i;

	for (i = 0; i < count; i++)
		bytes += changes[i].value_size;
	event_add_int(event, "entries", count);
	event_add_int(event, "bytes", bytes);
	switch (status) {
	case STORE_OK:
		event_set_name(event, "metasync_committed");
		e_debug(event, "Committed %u entries", count);
		break;
	case STORE_MODIFIED:
	case STORE_RESET:
		event_set_name(event, "metasync_conflict");
		event_add_str(event, "reason", status == STORE_MODIFIED ?
			      "modified" : "reset");
		e_debug(event, "Condition failed for a set of %u entries",
			count);
		break;
	default:
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

/* While the mails are away the mailboxes are not those whose GUIDs the store has. */
static const struct store_change *
metasync_without_guids(const struct store_change *changes, unsigned int count)
{
	struct store_change *without;
	unsigned int i;

	without = t_new(struct store_change, count);
	memcpy(without, changes, count * sizeof(*changes));
	for (i = 0; i < count; i++)
		without[i].mailbox_guid = NULL;
	return without;
}

enum store_status
metasync_apply(struct mail_user *user, struct store *store,
	       const struct store_change *changes, unsigned int count,
	       const struct store_condition *condition, bool note,
	       struct store_pos *pos_r, bool *lost_r,
	       struct store_error *error_r)
{
	struct metasync_user *muser = metasync_user_get(user);
	struct event *event = event_create(muser->event);
	enum store_status status;

	if (metasync_mailboxes_are_held(muser))
		changes = metasync_without_guids(changes, count);
	status = store_apply(store, changes, count, condition, pos_r, lost_r,
			     error_r);
	metasync_apply_event(event, status, changes, count);
	event_unref(&event);
	if (status == STORE_OK) {
		metasync_warn_limits(muser, store);
		metasync_note(muser, changes, count, !note);
	}
	return status;
}
