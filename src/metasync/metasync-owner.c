/* Mailboxes that somebody else shares with the user: their /shared entries are
   in the owner's store, under the name that the mailbox has for the owner, so
   that owner and others see one state.

   For each shared namespace Dovecot makes a mail user for the owner, but one
   with the settings of the user who is logged in, userdb fields included, and
   without the owner's namespaces. So the first use of such entries makes another
   mail user, as the owner's own session has it: looked up in the userdb, with
   namespaces, and with the plugin's usual context. All that the plugin does with
   a user's own store (healing, limits, notes for dsync ...) works there as it
   does anywhere. It lives as long as Dovecot's mail user of the owner, which is
   as long as the namespace. */

#include "metasync-private.h"
#include "ioloop.h"
#include "ipwd.h"
#include "module-dir.h"
#include "settings-parser.h"
#include "mailbox-list-private.h"
#include "mail-storage-service.h"

#include <sys/stat.h>
#include <unistd.h>

#define METASYNC_OWNER(obj) \
	MODULE_CONTEXT(obj, metasync_owner_module)

/* Belongs to Dovecot's mail user of the owner. */
struct metasync_owner {
	union mail_user_module_context module_ctx;
	struct mail_user *user;

	/* The owner as in a session of their own; NULL: not made. */
	struct mail_user *session;
	/* when it was logged that it could not be made */
	time_t logged_at;
};

static MODULE_CONTEXT_DEFINE_INIT(metasync_owner_module,
				  &mail_user_module_register);

/* -- the owner's session --------------------------------------------------- */

static int
owner_lookup(struct metasync_owner *owner,
	     struct mail_storage_service_user **service_user_r,
	     const char **error_r)
{
	struct mail_storage_service_user *service_user =
		owner->user->creator->_service_user;
	const struct mail_storage_service_input *creator_input;
	struct mail_storage_service_input input;
	int ret;

	if (service_user == NULL) {
		*error_r = "The session was not made from a service";
		return -1;
	}
	creator_input = mail_storage_service_user_get_input(service_user);
	i_zero(&input);
	input.module = creator_input->module;
	input.service = creator_input->service;
	input.session_id = creator_input->session_id;
	input.local_ip = creator_input->local_ip;
	input.remote_ip = creator_input->remote_ip;
	input.local_port = creator_input->local_port;
	input.remote_port = creator_input->remote_port;
	input.username = owner->user->username;
	input.flags_override_add = MAIL_STORAGE_SERVICE_FLAG_USERDB_LOOKUP;
	/* doveadm's privileges stay as they are */
	input.flags_override_remove = MAIL_STORAGE_SERVICE_FLAG_TEMP_PRIV_DROP;
	ret = mail_storage_service_lookup(
		mail_storage_service_user_get_service_ctx(service_user),
		&input, service_user_r, error_r);
	if (ret <= 0) {
		*error_r = t_strdup_printf("Cannot be looked up: %s", *error_r);
		return -1;
	}
	/* plugins that only the owner has */
	module_dir_init(mail_storage_service_modules);
	return 0;
}

/* A store that another uid has made could not be used by the owner. */
static int
owner_check_uid(const struct mail_user_settings *set, const char **error_r)
{
	struct passwd pw;
	uid_t uid;

	if (*set->mail_uid == '\0')
		return 0;
	if (str_to_uid(set->mail_uid, &uid) < 0) {
		if (i_getpwnam(set->mail_uid, &pw) <= 0) {
			*error_r = t_strdup_printf("Unknown uid: %s",
						   set->mail_uid);
			return -1;
		}
		uid = pw.pw_uid;
	}
	if (uid != geteuid()) {
		*error_r = t_strdup_printf("Has uid %s, but this process is "
			"uid %s: metadata of shared mailboxes need one uid "
			"for all users", dec2str(uid), dec2str(geteuid()));
		return -1;
	}
	return 0;
}

static const struct setting_parser_info *
owner_settings_info(struct mail_storage_service_user *service_user)
{
	const struct setting_parser_info *const *roots =
		settings_parser_get_roots(
			mail_storage_service_user_get_settings_parser(
				service_user));

	while (strcmp((*roots)->module_name,
		      mail_user_setting_parser_info.module_name) != 0)
		roots++;
	return *roots;
}

/* Takes over the reference to service_user. */
static struct mail_user *
owner_session_alloc(struct metasync_owner *owner,
		    struct mail_storage_service_user *service_user,
		    const struct mail_user_settings *set)
{
	const struct mail_storage_service_input *input =
		mail_storage_service_user_get_input(service_user);
	struct mail_user *creator = owner->user->creator;
	struct mail_user *session;

	session = mail_user_alloc_nodup_set(event_get_parent(creator->event),
					    input->username,
					    owner_settings_info(service_user),
					    set);
	session->_service_user = service_user;
	/* tells metasync_owner_created() and the plugin's messages */
	session->creator = owner->user;
	mail_user_set_vars(session, creator->service, &creator->conn);
	session->uid = creator->uid;
	session->gid = creator->gid;
	session->session_id = p_strdup(session->pool, creator->session_id);
	if (input->userdb_fields != NULL) {
		session->userdb_fields = p_strarray_dup(session->pool,
							input->userdb_fields);
	}
	return session;
}

static int
owner_session_open(struct metasync_owner *owner, const char **error_r)
{
	struct mail_storage_service_user *service_user;
	const struct mail_user_settings *set;
	struct mail_user *session;

	if (owner_lookup(owner, &service_user, error_r) < 0)
		return -1;
	set = mail_storage_service_user_get_set(service_user)[0];
	session = owner_session_alloc(owner, service_user, set);
	/* nobody has logged in; but the namespaces are to be complete */
	session->autocreated = TRUE;
	if (owner_check_uid(set, error_r) < 0 ||
	    mail_user_init(session, error_r) < 0) {
		mail_user_unref(&session);
		return -1;
	}
	session->autocreated = FALSE;
	if (mail_namespaces_init(session, error_r) < 0) {
		mail_user_unref(&session);
		return -1;
	}
	owner->session = session;
	return 0;
}

/* NULL if it cannot be had: logged, and told to the storage. */
static struct mail_user *
owner_session(struct metasync_owner *owner, struct mailbox *box)
{
	struct mail_user *creator = owner->user->creator;
	const char *error;

	/* one's own mailboxes as others see them */
	if (strcmp(owner->user->username, creator->username) == 0)
		return creator;
	if (owner->session != NULL ||
	    owner_session_open(owner, &error) == 0)
		return owner->session;
	mail_storage_set_error(box->storage, MAIL_ERROR_UNAVAILABLE,
			       "[UNAVAILABLE] The owner's store cannot be used.");
	if (owner->logged_at + METASYNC_LOG_INTERVAL_SECS <= ioloop_time) {
		owner->logged_at = ioloop_time;
		e_error(creator->event, "metasync: Owner %s: %s",
			owner->user->username, error);
	}
	return NULL;
}

/* -- the owner's mailbox --------------------------------------------------- */

/* The same mailbox is the same directory (or file), whatever the prefixes,
   separators and layouts of the namespaces. */
static struct mail_namespace *
owner_find_namespace(struct mail_user *session, struct mailbox *box)
{
	const enum mailbox_list_path_type type = MAILBOX_LIST_PATH_TYPE_MAILBOX;
	struct mail_namespace *ns;
	struct stat st, own_st;
	const char *path;

	if (mailbox_get_path_to(box, type, &path) <= 0 || stat(path, &st) < 0)
		return NULL;
	for (ns = session->namespaces; ns != NULL; ns = ns->next) {
		if (metasync_namespace_is_own(ns) && ns->alias_for == NULL &&
		    mailbox_list_get_path(ns->list, mailbox_get_name(box),
					  type, &path) > 0 &&
		    stat(path, &own_st) == 0 &&
		    st.st_dev == own_st.st_dev && st.st_ino == own_st.st_ino)
			return ns;
	}
	return NULL;
}

bool metasync_owner_has(struct mailbox *box)
{
	const struct mail_namespace *ns = box->list->ns;

	return ns->type == MAIL_NAMESPACE_TYPE_SHARED && ns->owner != NULL &&
		METASYNC_OWNER(ns->owner) != NULL;
}

int metasync_owner_place(struct mailbox *box, struct metasync_place *place_r)
{
	struct metasync_owner *owner = METASYNC_OWNER(box->list->ns->owner);
	struct metasync_user *muser;
	struct mail_namespace *ns;
	struct mail_user *session;

	session = owner_session(owner, box);
	if (session == NULL)
		return -1;
	muser = metasync_user_get(session);
	if (muser == NULL)
		return 0;
	ns = owner_find_namespace(session, box);
	if (ns == NULL) {
		e_debug(muser->event, "No private namespace has mailbox %s: "
			"left to Dovecot", mailbox_get_vname(box));
		return 0;
	}
	place_r->muser = muser;
	place_r->ns = ns;
	place_r->mailbox = mailbox_list_get_vname(ns->list,
						  mailbox_get_name(box));
	return 1;
}

int metasync_owner_guid(struct mailbox *box, const struct metasync_place *place,
			guid_128_t guid_r)
{
	enum metasync_lookup lookup;
	struct mailbox *own_box;

	own_box = mailbox_alloc(place->ns->list, place->mailbox,
				MAILBOX_FLAG_IGNORE_ACLS);
	lookup = metasync_mailbox_lookup(own_box, guid_r);
	if (lookup != METASYNC_LOOKUP_OK) {
		e_error(place->muser->event, "Mailbox %s cannot be looked up: "
			"%s", place->mailbox,
			mailbox_get_last_internal_error(own_box, NULL));
		mail_storage_set_error(box->storage, MAIL_ERROR_UNAVAILABLE,
			"[UNAVAILABLE] Mailbox cannot be looked up.");
	}
	mailbox_free(&own_box);
	return lookup == METASYNC_LOOKUP_OK ? 0 : -1;
}

/* -- Dovecot's mail user of the owner -------------------------------------- */

static void metasync_owner_deinit(struct mail_user *user)
{
	struct metasync_owner *owner = METASYNC_OWNER(user);

	if (owner->session != NULL)
		mail_user_unref(&owner->session);
	owner->module_ctx.super.deinit(user);
}

bool metasync_owner_created(struct mail_user *user)
{
	struct mail_user_vfuncs *v = user->vlast;
	struct metasync_owner *owner;

	/* without a creator: deliveries' raw mail */
	if (!user->autocreated || user->creator == NULL ||
	    user->creator->autocreated)
		return FALSE;
	owner = p_new(user->pool, struct metasync_owner, 1);
	owner->user = user;
	owner->module_ctx.super = *v;
	user->vlast = &owner->module_ctx.super;
	v->deinit = metasync_owner_deinit;
	MODULE_CONTEXT_SET(user, metasync_owner_module, owner);
	return TRUE;
}
