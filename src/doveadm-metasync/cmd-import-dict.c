/* doveadm metasync import --from-dict: what stock METADATA has kept in a dictionary
   (mail_attribute_dict).

   The dictionary is read by its keys (lib-storage/mailbox-attribute.h):

   priv|shared/<GUID of a mailbox>/<entry>
   priv|shared/<GUID of INBOX>/vendor/vendor.dovecot/pvt/server/<server's entry>

   and is not changed. All of it is read first: one that cannot be read to its end
   changes nothing. Then the entries are written, in sets. What the store cannot
   take is told one by one, and does not hold up the others. */

#include "cmd-import.h"
#include "array.h"
#include "dict.h"
#include "hash.h"
#include "mail-storage-private.h"
#include "str.h"
#include "str-sanitize.h"
#include "var-expand.h"

struct dict_mailbox {
	const char *vname;
	guid_128_t guid;
};

struct dict_entry {
	/* the dictionary's */
	const char *key;
	/* the change's name is not written as the key has it */
	bool lowered;
	struct store_change change;
};

struct metasync_import_dict {
	struct metasync_import_cmd *cmd;
	struct mail_user *user;
	/* of all below */
	pool_t pool;

	HASH_TABLE(const uint8_t *, struct dict_mailbox *) mailboxes;
	ARRAY(struct dict_entry) entries;

	struct metasync_cmd_written written;
	uint64_t internal, failed;
};

/* -- what the store cannot take -------------------------------------------- */

/* doveadm-server writes errors to the log, where names of entries must not be: there
   the GUID and the mailbox's name have to do. */
static void
dict_refuse(struct metasync_import_dict *import, const char *key,
	    const char *mailbox, const char *error, int code)
{
	bool cli = import->cmd->cmd.ctx.cctx->conn_type ==
		DOVEADM_CONNECTION_TYPE_CLI;
	const char *guid = strchr(key, '/') + 1;

	if (!cli)
		key = t_strconcat(t_strdup_until(key, strchr(guid, '/')),
				  "/...", NULL);
	i_error("%s%s: %s", str_sanitize(key, SIZE_MAX), mailbox == NULL ? "" :
		t_strdup_printf(" (%s)", str_sanitize(mailbox, SIZE_MAX)),
		error);
	import->failed++;
	(void)metasync_cmd_exit(&import->cmd->cmd, code);
}

static void
dict_refuse_entry(struct metasync_import_dict *import,
		  const struct dict_entry *entry, const char *error, int code)
{
	dict_refuse(import, entry->key, *entry->change.mailbox == '\0' ?
		    "INBOX" : entry->change.mailbox, error, code);
}

/* -- reading --------------------------------------------------------------- */

static void
dict_mailbox_add(const char *vname, const uint8_t *guid, void *context)
{
	struct metasync_import_dict *import = context;
	struct dict_mailbox *mailbox =
		p_new(import->pool, struct dict_mailbox, 1);
	const uint8_t *key = mailbox->guid;

	mailbox->vname = p_strdup(import->pool, vname);
	guid_128_copy(mailbox->guid, guid);
	hash_table_insert(import->mailboxes, key, mailbox);
}

/* FALSE if it is no key of a mailbox's attribute. */
static bool dict_key_parse(const char *key, bool *pvt_r, guid_128_t guid_r,
			   const char **attribute_r)
{
	const char *p;

	*pvt_r = str_begins(key, DICT_PATH_PRIVATE);
	if (*pvt_r)
		key += strlen(DICT_PATH_PRIVATE);
	else if (str_begins(key, DICT_PATH_SHARED))
		key += strlen(DICT_PATH_SHARED);
	else
		return FALSE;
	p = strchr(key, '/');
	if (p == NULL ||
	    guid_128_from_string(t_strdup_until(key, p), guid_r) < 0)
		return FALSE;
	*attribute_r = p + 1;
	return TRUE;
}

static void
dict_entry_add(struct metasync_import_dict *import, const char *key,
	       const struct dict_mailbox *mailbox, bool server,
	       const char *name, const char *value)
{
	struct dict_entry *entry;
	const char *lower, *error;

	error = metasync_cmd_name(import->user, name, &lower);
	if (error != NULL) {
		dict_refuse(import, key, mailbox->vname, error,
			    DOVEADM_EX_NOTPOSSIBLE);
		return;
	}
	if (metasync_entry_is_reserved(server ? "" : mailbox->vname, lower)) {
		import->internal++;
		return;
	}
	entry = array_append_space(&import->entries);
	entry->key = p_strdup(import->pool, key);
	entry->lowered = strcmp(name, lower) != 0;
	entry->change.mailbox = server ? "" : mailbox->vname;
	entry->change.mailbox_guid = server ? NULL : mailbox->guid;
	entry->change.name = p_strdup(import->pool, lower);
	entry->change.value = p_strdup(import->pool, value);
	entry->change.value_size = strlen(value);
}

static void
dict_key_add(struct metasync_import_dict *import, const char *key,
	     const char *value)
{
	const struct dict_mailbox *mailbox;
	const uint8_t *guid_p;
	const char *attribute, *name;
	guid_128_t guid;
	bool pvt, server;

	if (!dict_key_parse(key, &pvt, guid, &attribute) ||
	    !metasync_attribute_entry(pvt, attribute, &server, &name)) {
		import->internal++;
		return;
	}
	guid_p = guid;
	mailbox = hash_table_lookup(import->mailboxes, guid_p);
	if (mailbox == NULL) {
		dict_refuse(import, key, NULL, "No mailbox of the user's own "
			    "has this GUID", DOVEADM_EX_NOTFOUND);
	} else if (server && strcmp(mailbox->vname, "INBOX") != 0) {
		dict_refuse(import, key, mailbox->vname, "Entry of the server, "
			    "but not INBOX's", DOVEADM_EX_NOTFOUND);
	} else {
		dict_entry_add(import, key, mailbox, server, name, value);
	}
}

static int
dict_read_prefix(struct metasync_import_dict *import, struct dict *dict,
		 const char *prefix)
{
	struct dict_iterate_context *iter;
	const char *key, *value, *error;
	bool more;

	iter = dict_iterate_init(dict,
				 mail_user_get_dict_op_settings(import->user),
				 prefix, DICT_ITERATE_FLAG_RECURSE);
	do T_BEGIN {
		more = dict_iterate(iter, &key, &value);
		if (more)
			dict_key_add(import, key, value);
	} T_END;
	while (more && !doveadm_is_killed());
	if (dict_iterate_deinit(&iter, &error) < 0) {
		i_error("Reading the dictionary failed: %s", error);
		return metasync_cmd_exit(&import->cmd->cmd, EX_TEMPFAIL);
	}
	if (doveadm_is_killed()) {
		i_error("Interrupted");
		return metasync_cmd_exit(&import->cmd->cmd, EX_TEMPFAIL);
	}
	return 0;
}

/* Mailbox for mailbox, which is also the way to read a dictionary that many users
   share. */
static int
dict_read_mailboxes(struct metasync_import_dict *import, struct dict *dict)
{
	struct hash_iterate_context *iter;
	struct dict_mailbox *mailbox;
	const uint8_t *guid;
	int ret = 0;

	iter = hash_table_iterate_init(import->mailboxes);
	while (ret == 0 && hash_table_iterate(iter, import->mailboxes, &guid,
					      &mailbox)) T_BEGIN {
		const char *id = guid_128_to_string(guid);

		if (dict_read_prefix(import, dict,
				     t_strconcat(DICT_PATH_PRIVATE, id, "/",
						 NULL)) < 0 ||
		    dict_read_prefix(import, dict,
				     t_strconcat(DICT_PATH_SHARED, id, "/",
						 NULL)) < 0)
			ret = -1;
	} T_END;
	hash_table_iterate_deinit(&iter);
	return ret;
}

/* Returns NULL if there is none (told). */
static const char *dict_uri(struct metasync_import_dict *import)
{
	struct mail_user *user = import->user;
	struct mail_namespace *ns = mail_namespace_find_inbox(user->namespaces);
	const char *uri, *error;
	string_t *str;

	if (import->cmd->dict_uri == NULL) {
		/* as index_storage_get_user_dict() has it */
		uri = mail_namespace_get_default_storage(ns)->set->
			mail_attribute_dict;
		if (*uri != '\0')
			return uri;
		i_error("mail_attribute_dict is not set: name the dictionary "
			"with --dict-uri");
		(void)metasync_cmd_exit(&import->cmd->cmd,
					DOVEADM_EX_NOTPOSSIBLE);
		return NULL;
	}
	str = t_str_new(128);
	if (var_expand_with_funcs(str, import->cmd->dict_uri,
				  mail_user_var_expand_table(user),
				  mail_user_var_expand_func_table, user,
				  &error) <= 0) {
		i_error("--dict-uri: %s", error);
		(void)metasync_cmd_exit(&import->cmd->cmd, EX_USAGE);
		return NULL;
	}
	return str_c(str);
}

static int dict_read(struct metasync_import_dict *import)
{
	struct dict_settings set = {
		.base_dir = import->user->set->base_dir,
		.event_parent = import->user->event
	};
	const char *uri, *error;
	struct dict *dict;
	int ret;

	uri = dict_uri(import);
	if (uri == NULL)
		return -1;
	if (dict_init(uri, &set, &dict, &error) < 0) {
		i_error("The dictionary cannot be opened: %s", error);
		return metasync_cmd_exit(&import->cmd->cmd,
					 DOVEADM_EX_NOTPOSSIBLE);
	}
	if (!metasync_mailboxes_list(import->user, dict_mailbox_add, import)) {
		i_error("Not all mailboxes can be looked up: entries of those "
			"that cannot stay in the dictionary");
		(void)metasync_cmd_exit(&import->cmd->cmd, EX_TEMPFAIL);
	}
	if (import->cmd->skip_missing)
		ret = dict_read_mailboxes(import, dict);
	else {
		ret = dict_read_prefix(import, dict, DICT_PATH_PRIVATE) < 0 ||
			dict_read_prefix(import, dict, DICT_PATH_SHARED) < 0 ?
			-1 : 0;
	}
	dict_deinit(&dict);
	return ret;
}

/* -- one entry for each name ----------------------------------------------- */

/* Of the same name, what is written in lower case comes first. */
static int
dict_entry_cmp(const struct dict_entry *e1, const struct dict_entry *e2)
{
	int ret = strcmp(e1->change.mailbox, e2->change.mailbox);

	if (ret == 0)
		ret = strcmp(e1->change.name, e2->change.name);
	if (ret == 0)
		ret = (e1->lowered ? 1 : 0) - (e2->lowered ? 1 : 0);
	return ret != 0 ? ret : strcmp(e1->key, e2->key);
}

/* Keys that differ by case only are one entry. Dovecot itself finds only what is in
   lower case, so that one counts. */
static void dict_unique(struct metasync_import_dict *import)
{
	const struct dict_entry *first, *entry;
	unsigned int i = 1;

	array_sort(&import->entries, dict_entry_cmp);
	while (i < array_count(&import->entries)) {
		first = array_idx(&import->entries, i - 1);
		entry = array_idx(&import->entries, i);
		if (strcmp(first->change.mailbox, entry->change.mailbox) != 0 ||
		    strcmp(first->change.name, entry->change.name) != 0) {
			i++;
			continue;
		}
		if (strcmp(first->change.value, entry->change.value) == 0)
			import->written.unchanged++;
		else {
			dict_refuse_entry(import, entry, "Another key that "
					  "differs by upper case only has "
					  "another value",
					  DOVEADM_EX_NOTPOSSIBLE);
		}
		array_delete(&import->entries, i, 1);
	}
}

/* -- writing --------------------------------------------------------------- */

/* The entry's own doing; others may fit. */
static bool dict_error_is_entrys(enum store_status status)
{
	return status == STORE_TOO_MANY || status == STORE_OVER_BYTES ||
		status == STORE_VALUE_TOO_BIG || status == STORE_LIMIT ||
		status == STORE_INVALID;
}

static int
dict_write_set(struct metasync_import_dict *import, struct store *store,
	       const struct dict_entry *entries, unsigned int count)
{
	struct store_change *changes = t_new(struct store_change, count);
	struct store_error error;
	const char *text;
	unsigned int i;
	int code;

	for (i = 0; i < count; i++)
		changes[i] = entries[i].change;
	if (metasync_cmd_write_set(import->user, store, changes, count,
				   !import->cmd->overwrite, &import->written,
				   &error) == STORE_OK)
		return 0;
	if (!dict_error_is_entrys(error.status))
		return metasync_cmd_failed(&import->cmd->cmd, import->user,
					   &error);
	if (count == 1) {
		text = metasync_cmd_error(import->user, &error, &code);
		dict_refuse_entry(import, entries, text, code);
		return 0;
	}
	/* those that fit, and words for each of the others */
	for (i = 0; i < count; i++) {
		if (dict_write_set(import, store, entries + i, 1) < 0)
			return -1;
	}
	return 0;
}

static int
dict_write(struct metasync_import_dict *import, struct store *store)
{
	const struct store_limits *limits = metasync_user_limits(import->user);
	const struct dict_entry *entries;
	unsigned int i, size, count;
	uint64_t bytes;
	int ret = 0;

	entries = array_get(&import->entries, &count);
	for (i = 0; i < count && ret == 0; i += size) {
		bytes = entries[i].change.value_size;
		for (size = 1; size < limits->set && i + size < count; size++) {
			bytes += entries[i + size].change.value_size;
			if (bytes > IMPORT_SET_BYTES)
				break;
		}
		if (doveadm_is_killed()) {
			i_error("Interrupted");
			return metasync_cmd_exit(&import->cmd->cmd, EX_TEMPFAIL);
		}
		T_BEGIN {
			ret = dict_write_set(import, store, entries + i, size);
		} T_END;
	}
	return ret;
}

static int dict_import(struct metasync_import_dict *import)
{
	struct metasync_cmd *cmd = &import->cmd->cmd;
	struct store *store;
	int ret = 0;

	/* no store for a user whose dictionary has nothing for it */
	if (metasync_cmd_store_if_any(cmd, import->user, &store) < 0 ||
	    dict_read(import) < 0)
		return -1;
	dict_unique(import);
	if (array_count(&import->entries) > 0) {
		ret = metasync_cmd_store(cmd, import->user, &store);
		if (ret == 0)
			ret = dict_write(import, store);
	}
	doveadm_print_num(import->written.set);
	doveadm_print_num(import->written.unchanged);
	doveadm_print_num(import->written.kept);
	doveadm_print_num(import->internal);
	doveadm_print_num(import->failed);
	return import->failed > 0 ? -1 : ret;
}

int metasync_import_dict(struct metasync_import_cmd *cmd,
			 struct mail_user *user)
{
	struct metasync_import_dict import;
	int ret;

	i_zero(&import);
	import.cmd = cmd;
	import.user = user;
	import.pool = pool_alloconly_create("metasync import dict", 16*1024);
	hash_table_create(&import.mailboxes, import.pool, 0, guid_128_hash,
			  guid_128_cmp);
	i_array_init(&import.entries, 128);
	ret = dict_import(&import);
	array_free(&import.entries);
	hash_table_destroy(&import.mailboxes);
	pool_unref(&import.pool);
	return ret;
}

void metasync_import_dict_init(void)
{
	metasync_cmd_print_number_header("set");
	metasync_cmd_print_number_header("unchanged");
	metasync_cmd_print_number_header("kept");
	metasync_cmd_print_number_header("internal");
	metasync_cmd_print_number_header("failed");
}
