/* The store of a mail user: settings, opening, errors for the log, upkeep. */

#include "metasync-private.h"
#include "ioloop.h"
#include "settings-parser.h"
#include "compat-user.h"

#include <sys/stat.h>

static MODULE_CONTEXT_DEFINE_INIT(metasync_user_module,
				  &mail_user_module_register);

struct metasync_user *metasync_user_get(struct mail_user *user)
{
	return MODULE_CONTEXT(user, metasync_user_module);
}

bool metasync_user_is_enabled(struct mail_user *user)
{
	return metasync_user_get(user) != NULL;
}

const struct store_limits *metasync_user_limits(struct mail_user *user)
{
	return &metasync_user_get(user)->set.limits;
}

/* -- settings -------------------------------------------------------------- */

static int
metasync_get_size(struct mail_user *user, const char *key, uint64_t max,
		  uint64_t *size)
{
	const char *value = compat_user_setting(user, key), *error;
	uoff_t num;

	if (value == NULL)
		return 0;
	if (settings_get_size(value, &num, &error) < 0) {
		user->error = p_strdup_printf(user->pool,
			"%s: Invalid size: %s (%s)", key, value, error);
		return -1;
	}
	if (num == 0 || num > max) {
		user->error = p_strdup_printf(user->pool,
			"%s: Must be 1 .. %"PRIu64", not %s", key, max, value);
		return -1;
	}
	*size = num;
	return 0;
}

static int
metasync_get_number(struct mail_user *user, const char *key, uint64_t max,
		    uint64_t *num)
{
	const char *value = compat_user_setting(user, key);
	uint64_t n;

	if (value == NULL)
		return 0;
	if (str_to_uint64(value, &n) < 0 || n == 0 || n > max) {
		user->error = p_strdup_printf(user->pool,
			"%s: Must be 1 .. %"PRIu64", not %s", key, max, value);
		return -1;
	}
	*num = n;
	return 0;
}

static int
metasync_get_msecs(struct mail_user *user, const char *key,
		   unsigned int *msecs)
{
	const char *value = compat_user_setting(user, key), *error;

	if (value == NULL)
		return 0;
	if (settings_get_time_msecs(value, msecs, &error) < 0 ||
	    *msecs == 0) {
		user->error = p_strdup_printf(user->pool,
			"%s: Must be a time above 0 like 5 s, not %s", key,
			value);
		return -1;
	}
	return 0;
}

static int
metasync_get_secs(struct mail_user *user, const char *key, uint64_t *secs)
{
	const char *value = compat_user_setting(user, key), *error;
	unsigned int num;

	if (value == NULL)
		return 0;
	if (settings_get_time(value, &num, &error) < 0 || num == 0) {
		user->error = p_strdup_printf(user->pool,
			"%s: Must be a time above 0 like 5 s, not %s", key,
			value);
		return -1;
	}
	*secs = num;
	return 0;
}

static int
metasync_get_limits(struct mail_user *user, struct store_settings *set)
{
	/* values have to fit into memory a few times over */
	if (metasync_get_size(user, "metasync_limit_value", 256*1024*1024,
			      &set->limits.value) < 0 ||
	    metasync_get_size(user, "metasync_limit_bytes", INT64_MAX,
			      &set->limits.bytes) < 0 ||
	    metasync_get_number(user, "metasync_limit_entries", INT32_MAX,
				&set->limits.entries) < 0 ||
	    metasync_get_number(user, "metasync_limit_name", 1024,
				&set->limits.name) < 0 ||
	    metasync_get_number(user, "metasync_limit_set", 100,
				&set->limits.set) < 0 ||
	    metasync_get_msecs(user, "metasync_busy_timeout",
			       &set->busy_timeout_msecs) < 0 ||
	    metasync_get_secs(user, "metasync_tombstones",
			      &set->tombstone_secs) < 0)
		return -1;
	return 0;
}

/* Returns 1 if there is a directory, 0 if not (logged), -1 on a wrong setting. */
static int metasync_get_dir(struct mail_user *user, const char **dir_r)
{
	const char *dir = compat_user_setting(user, "metasync_dir");

	if (dir == NULL || *dir == '\0')
		dir = "~/metasync";
	if (mail_user_try_home_expand(user, &dir) < 0 || *dir != '/') {
		if (compat_user_setting(user, "metasync_dir") == NULL) {
			e_warning(user->event, "metasync: User has no home "
				  "directory and metasync_dir is not set: "
				  "switched off for this user (set one of them, "
				  "or metasync_enabled=no)");
			return 0;
		}
		user->error = p_strdup_printf(user->pool,
			"metasync_dir: Must be an absolute path "
			"or below the home: %s", dir);
		return -1;
	}
	*dir_r = dir;
	return 1;
}

/* -- the store ------------------------------------------------------------- */

static void metasync_store_log(void *context, const char *message)
{
	struct metasync_user *muser = context;

	e_warning(muser->event, "%s", message);
}

static int
metasync_user_open(struct metasync_user *muser, struct store_error *error_r)
{
	enum store_status status;

	if (muser->store != NULL && store_is_replaced(muser->store)) {
		/* the other one may know other mailboxes */
		store_close(&muser->store);
		hash_table_clear(muser->checked_mailboxes, FALSE);
		muser->mailboxes_healed = FALSE;
	}
	if (muser->store != NULL)
		return 0;
	status = store_open(&muser->set, &muser->store, error_r);
	return status == STORE_OK ? 0 : -1;
}

void metasync_user_heal(struct metasync_user *muser)
{
	if (muser->store != NULL && !muser->mailboxes_healed)
		muser->mailboxes_healed = metasync_mailboxes_heal(muser);
}

int metasync_user_store(struct mail_user *user, struct store **store_r,
			struct store_error *error_r)
{
	struct metasync_user *muser = metasync_user_get(user);

	*store_r = NULL;
	if (metasync_user_open(muser, error_r) < 0)
		return -1;
	metasync_user_heal(muser);
	*store_r = muser->store;
	return 0;
}

void metasync_user_take_over(struct mail_user *user)
{
	metasync_user_get(user)->set.take_over = TRUE;
}

int metasync_user_existing_store(struct metasync_user *muser,
				 struct store **store_r,
				 struct store_error *error_r)
{
	struct stat st;

	*store_r = NULL;
	if (muser->store == NULL &&
	    stat(t_strconcat(muser->set.dir, "/store.db", NULL), &st) < 0 &&
	    errno == ENOENT)
		return 0;
	if (metasync_user_open(muser, error_r) < 0)
		return -1;
	*store_r = muser->store;
	return 0;
}

int metasync_user_store_if_any(struct mail_user *user, struct store **store_r,
			       struct store_error *error_r)
{
	if (metasync_user_existing_store(metasync_user_get(user), store_r,
					 error_r) < 0)
		return -1;
	/* compares the mailboxes, too */
	return *store_r == NULL ? 0 :
		metasync_user_store(user, store_r, error_r);
}

/* -- errors ---------------------------------------------------------------- */

const char *metasync_error_text(struct mail_user *user,
				const struct store_error *error)
{
	switch (error->status) {
	case STORE_VALUE_TOO_BIG:
		return t_strdup_printf("[METADATA MAXSIZE %"PRIu64"] "
				       "Value is too large.",
				       metasync_user_limits(user)->value);
	case STORE_TOO_MANY:
		return "[METADATA TOOMANY] Too many entries.";
	case STORE_OVER_BYTES:
		return "[OVERQUOTA] Entries take too much space.";
	case STORE_LIMIT:
		return "[LIMIT] Too many changes, or a name is too long.";
	case STORE_INVALID:
		return "[CANNOT] Invalid entry name.";
	case STORE_BUSY:
		return "[UNAVAILABLE] The store is busy, try again.";
	case STORE_CORRUPT:
		return "[CORRUPTION] The store is damaged.";
	case STORE_NEWER_SCHEMA:
	case STORE_REFUSED:
	case STORE_FAILED:
		return "[UNAVAILABLE] The store cannot be used.";
	case STORE_OK:
	case STORE_MODIFIED:
	case STORE_RESET:
		break;
	}
	i_unreached();
}

/* TRUE if it is a client's doing, and no trouble of the operator's. */
static bool metasync_error_is_clients(enum store_status status)
{
	return status == STORE_VALUE_TOO_BIG || status == STORE_TOO_MANY ||
		status == STORE_OVER_BYTES || status == STORE_LIMIT ||
		status == STORE_INVALID;
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
	case STORE_LIMIT:
		return "set";
	default:
		return NULL;
	}
}

static const char *metasync_failure_name(enum store_status status)
{
	switch (status) {
	case STORE_BUSY:
		return "busy";
	case STORE_CORRUPT:
		return "damaged";
	case STORE_NEWER_SCHEMA:
		return "newer";
	case STORE_REFUSED:
		return "refused";
	case STORE_FAILED:
		return "system";
	default:
		return NULL;
	}
}

void metasync_user_count(struct mail_user *user, enum store_status status)
{
	struct metasync_user *muser = metasync_user_get(user);
	const char *limit = metasync_limit_name(status);
	const char *failure = metasync_failure_name(status);

	if (limit != NULL) {
		e_debug(event_create_passthrough(muser->event)->
			set_name("metasync_limit_reached")->
			add_str("limit", limit)->event(),
			"Over the limit of %s", limit);
	} else if (failure != NULL) {
		e_debug(event_create_passthrough(muser->event)->
			set_name("metasync_failed")->
			add_str("reason", failure)->event(),
			"The store cannot be used: %s", failure);
	}
}

const char *metasync_error_log_text(const struct store_error *error)
{
	const char *advice = NULL;

	switch (error->status) {
	case STORE_CORRUPT:
		advice = "Nothing was deleted; restore the directory from a "
			"backup, or move it away";
		break;
	case STORE_NEWER_SCHEMA:
		advice = "Upgrade Dovetail on this host";
		break;
	case STORE_BUSY:
		advice = "If this repeats, fuser -v shows who has the file open";
		break;
	default:
		/* the message has it */
		break;
	}
	return advice == NULL ? error->message :
		t_strconcat(error->message, ". ", advice, NULL);
}

void metasync_user_log(struct mail_user *user, const struct store_error *error)
{
	struct metasync_user *muser = metasync_user_get(user);

	metasync_user_count(user, error->status);
	if (metasync_error_is_clients(error->status))
		return;
	if (muser->logged.status == error->status &&
	    strcmp(muser->logged.message, error->message) == 0 &&
	    muser->logged_at + METASYNC_LOG_INTERVAL_SECS > ioloop_time)
		return;
	muser->logged = *error;
	muser->logged_at = ioloop_time;
	e_error(muser->event, "%s", metasync_error_log_text(error));
}

/* -- upkeep ---------------------------------------------------------------- */

static void metasync_user_upkeep_timeout(struct metasync_user *muser)
{
	timeout_remove(&muser->to_upkeep);
	metasync_user_heal(muser);
	if (muser->store != NULL)
		store_idle(muser->store);
}

void metasync_user_upkeep(struct mail_user *user)
{
	struct metasync_user *muser = metasync_user_get(user);

	if (muser->to_upkeep == NULL) {
		muser->to_upkeep = timeout_add_short(0,
			metasync_user_upkeep_timeout, muser);
	}
}

/* -- the user -------------------------------------------------------------- */

/* Mailboxes can still be opened. */
static void metasync_user_deinit_pre(struct mail_user *user)
{
	struct metasync_user *muser = metasync_user_get(user);

	metasync_notes_flush(muser);
	muser->module_ctx.super.deinit_pre(user);
}

static void metasync_user_deinit(struct mail_user *user)
{
	struct metasync_user *muser = metasync_user_get(user);

	timeout_remove(&muser->to_upkeep);
	store_close(&muser->store);
	hash_table_destroy(&muser->checked_mailboxes);
	muser->module_ctx.super.deinit(user);
	event_unref(&muser->event);
}

/* Returns 1 if the user shall have a store, 0 if not, -1 on a wrong setting. */
static int
metasync_get_settings(struct mail_user *user, struct store_settings *set_r)
{
	const char *enabled = compat_user_setting(user, "metasync_enabled");

	store_settings_init(set_r);
	if (enabled != NULL && strcasecmp(enabled, "no") == 0)
		return 0;
	if (enabled != NULL && strcasecmp(enabled, "yes") != 0) {
		user->error = p_strdup_printf(user->pool,
			"metasync_enabled: Must be yes or no, not %s", enabled);
		return -1;
	}
	if (metasync_get_limits(user, set_r) < 0)
		return -1;
	return metasync_get_dir(user, &set_r->dir);
}

void metasync_mail_user_created(struct mail_user *user)
{
	struct mail_user_vfuncs *v = user->vlast;
	struct metasync_user *muser;
	struct store_settings set;

	if (metasync_owner_created(user))
		return;
	/* autocreated: deliveries' raw mail, or the session of an owner */
	if ((user->autocreated && user->creator == NULL) ||
	    metasync_get_settings(user, &set) <= 0)
		return;

	muser = p_new(user->pool, struct metasync_user, 1);
	muser->user = user;
	muser->event = event_create(user->event);
	event_set_append_log_prefix(muser->event, user->creator == NULL ?
		"metasync: " :
		t_strdup_printf("metasync: Owner %s: ", user->username));
	event_add_str(muser->event, "service", user->service);
	hash_table_create(&muser->checked_mailboxes, user->pool, 0, str_hash,
			  strcmp);
	muser->set = set;
	muser->set.dir = p_strdup(user->pool, set.dir);
	muser->set.owner = user->username;
	muser->set.log = metasync_store_log;
	muser->set.log_context = muser;

	muser->module_ctx.super = *v;
	user->vlast = &muser->module_ctx.super;
	v->deinit_pre = metasync_user_deinit_pre;
	v->deinit = metasync_user_deinit;
	MODULE_CONTEXT_SET(user, metasync_user_module, muser);
}
