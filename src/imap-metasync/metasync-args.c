/* Arguments of XMETASYNC and XMETASET, and the watch token. */

#include "imap-metasync.h"
#include "array.h"
#include "str.h"
#include "sha2.h"
#include "imap-arg.h"
#include "imap-utf7.h"
#include "strnum.h"

ARRAY_DEFINE_TYPE(store_change, struct store_change);

struct args_parser {
	struct imap_long_command *lc;
	struct imap_metasync_refusal *refusal;
	unsigned int entry_count;
	bool missing_is_error;
};

static int args_bad(struct args_parser *parser, const char *error)
{
	parser->refusal->text = p_strdup(parser->lc->pool, error);
	parser->refusal->syntax = TRUE;
	parser->refusal->limit = FALSE;
	return -1;
}

static int args_no(struct args_parser *parser, const char *text)
{
	parser->refusal->text = p_strdup(parser->lc->pool, text);
	parser->refusal->syntax = FALSE;
	parser->refusal->limit = FALSE;
	return -1;
}

static int args_limit(struct args_parser *parser, const char *text)
{
	(void)args_no(parser, t_strconcat("NO [LIMIT] ", text, NULL));
	parser->refusal->limit = TRUE;
	return -1;
}

/* -- elements -------------------------------------------------------------- */

static int
args_get_mailbox(struct args_parser *parser, const struct imap_arg *arg,
		 bool look, const char **vname_r, char *separator_r,
		 uint8_t guid_r[16], enum metasync_mailbox *result_r)
{
	struct mail_user *user = parser->lc->client->user;
	const char *mailbox, *vname;
	string_t *utf8 = t_str_new(64);

	if (!imap_arg_get_astring(arg, &mailbox) ||
	    strlen(mailbox) != arg->str_len)
		return args_bad(parser, "Invalid mailbox name.");
	if (imap_utf7_to_utf8(mailbox, utf8) < 0)
		return args_no(parser, "NO [CANNOT] "
			       "Mailbox name is not valid mUTF-7.");
	*result_r = metasync_mailbox_find(user, str_c(utf8), look, &vname,
					  separator_r, guid_r);
	switch (*result_r) {
	case METASYNC_MAILBOX_EXISTS:
	case METASYNC_MAILBOX_MISSING:
		*vname_r = p_strdup(parser->lc->pool, vname);
		return 0;
	case METASYNC_MAILBOX_INVALID:
		return args_no(parser, "NO [CANNOT] Invalid mailbox name.");
	case METASYNC_MAILBOX_FOREIGN:
		return args_no(parser, "NO [CANNOT] "
			       "Mailboxes of others are not synchronized.");
	case METASYNC_MAILBOX_NOPERM:
		return args_no(parser, "NO [NOPERM] Permission denied.");
	case METASYNC_MAILBOX_FAILED:
		return args_no(parser, "NO [UNAVAILABLE] "
			       "Mailbox cannot be looked up.");
	}
	i_unreached();
}

static int
args_get_entry(struct args_parser *parser, const struct imap_arg *arg,
	       bool filter, const char **name_r)
{
	const struct store_limits *limits =
		metasync_user_limits(parser->lc->client->user);
	const char *str;
	char *name;

	if (!imap_arg_get_astring(arg, &str))
		return args_bad(parser, "Invalid entry name.");
	name = p_malloc(parser->lc->pool, arg->str_len + 1);
	switch (store_name_normalize(str, arg->str_len, limits->name, filter,
				     name)) {
	case STORE_NAME_OK:
		break;
	case STORE_NAME_INVALID:
		return args_bad(parser, "Invalid entry name.");
	case STORE_NAME_TOO_LONG:
		return args_limit(parser, "Entry name is too long.");
	}
	if (++parser->entry_count > IMAP_METASYNC_MAX_ENTRIES)
		return args_limit(parser, "Too many entries.");
	*name_r = name;
	return 0;
}

static bool
args_get_number(const struct imap_arg *arg, uint64_t max, uint64_t *num_r)
{
	const char *str;

	return imap_arg_get_atom(arg, &str) &&
		str_to_uint64(str, num_r) == 0 && *num_r <= max;
}

/* (epoch modseq [watch]): as many elements as count says */
static int
args_get_pos(struct args_parser *parser, const struct imap_arg *arg,
	     unsigned int count, struct store_pos *pos_r, uint64_t *token_r)
{
	const struct imap_arg *list;
	unsigned int list_count;
	uint64_t epoch;
	const char *str;

	if (!imap_arg_get_list_full(arg, &list, &list_count) ||
	    list_count != count ||
	    !args_get_number(&list[0], UINT32_MAX, &epoch) || epoch == 0 ||
	    !args_get_number(&list[1], INT64_MAX, &pos_r->modseq) ||
	    pos_r->modseq == 0)
		return args_bad(parser, "Invalid position.");
	pos_r->epoch = epoch;
	if (count == 3 &&
	    (!imap_arg_get_atom(&list[2], &str) || strlen(str) > 16 ||
	     str_to_uint64_hex(str, token_r) < 0))
		return args_bad(parser, "Invalid watch token.");
	return 0;
}

/* -- XMETASYNC ------------------------------------------------------------- */

enum watch_option {
	WATCH_OPTION_SINCE = BIT(0),
	WATCH_OPTION_DEPTH = BIT(1),
	WATCH_OPTION_MAXSIZE = BIT(2),
	WATCH_OPTION_NAMES = BIT(3),
	WATCH_OPTION_ONCE = BIT(4)
};
static const char *const watch_option_names[] = {
	"SINCE", "DEPTH", "MAXSIZE", "NAMES", "ONCE", NULL
};
static const char *const watch_filter_names[] = {
	"SERVER", "PERSONAL", "SUBTREE", NULL
};

/* Returns the index of the keyword, or -1. */
static int args_get_keyword(const struct imap_arg *arg, const char *const *names)
{
	unsigned int i;

	for (i = 0; names[i] != NULL; i++) {
		if (imap_arg_atom_equals(arg, names[i]))
			return i;
	}
	return -1;
}

static int
args_get_depth(struct args_parser *parser, const struct imap_arg *arg,
	       enum store_depth *depth_r)
{
	if (imap_arg_atom_equals(arg, "0"))
		*depth_r = STORE_DEPTH_0;
	else if (imap_arg_atom_equals(arg, "1"))
		*depth_r = STORE_DEPTH_1;
	else if (imap_arg_atom_equals(arg, "infinity"))
		*depth_r = STORE_DEPTH_INFINITY;
	else
		return args_bad(parser, "Invalid DEPTH.");
	return 0;
}

static int
parse_watch_options(struct args_parser *parser, const struct imap_arg *arg,
		    struct imap_metasync_watch *watch)
{
	unsigned int seen = 0;
	int option;

	for (; !IMAP_ARG_IS_EOL(arg); arg++) {
		option = args_get_keyword(arg, watch_option_names);
		if (option < 0)
			return args_bad(parser, "Unknown option.");
		if ((seen & BIT(option)) != 0)
			return args_bad(parser, "Option is given twice.");
		seen |= BIT(option);

		switch (BIT(option)) {
		case WATCH_OPTION_SINCE:
			watch->have_since = TRUE;
			if (args_get_pos(parser, ++arg, 3, &watch->since,
					 &watch->since_token) < 0)
				return -1;
			break;
		case WATCH_OPTION_DEPTH:
			if (args_get_depth(parser, ++arg,
					   &watch->filter.depth) < 0)
				return -1;
			break;
		case WATCH_OPTION_MAXSIZE:
			watch->have_max_size = TRUE;
			if (!args_get_number(++arg, UINT32_MAX,
					     &watch->max_size))
				return args_bad(parser, "Invalid MAXSIZE.");
			break;
		case WATCH_OPTION_NAMES:
			watch->names = TRUE;
			break;
		case WATCH_OPTION_ONCE:
			watch->once = TRUE;
			break;
		}
	}
	return 0;
}

static int
parse_watch_filters(struct args_parser *parser, const struct imap_arg *arg,
		    struct store_selection *selection)
{
	struct store_scope *scopes;
	enum metasync_mailbox result;
	unsigned int count;

	for (count = 0; !IMAP_ARG_IS_EOL(&arg[count]); count++) ;
	if (count > IMAP_METASYNC_MAX_ENTRIES * 2)
		return args_limit(parser, "Too many filters.");
	scopes = p_new(parser->lc->pool, struct store_scope, I_MAX(count, 1));
	selection->scopes = scopes;
	for (; !IMAP_ARG_IS_EOL(arg); arg++, scopes++) {
		switch (args_get_keyword(arg, watch_filter_names)) {
		case 0:
			scopes->type = STORE_SCOPE_SERVER;
			break;
		case 1:
			scopes->type = STORE_SCOPE_PERSONAL;
			break;
		case 2:
			scopes->type = STORE_SCOPE_SUBTREE;
			arg++;
			if (args_get_mailbox(parser, arg, FALSE,
					     &scopes->mailbox,
					     &scopes->separator, NULL,
					     &result) < 0)
				return -1;
			break;
		default:
			return args_bad(parser, "Unknown filter.");
		}
		selection->scope_count++;
	}
	if (selection->scope_count == 0)
		return args_bad(parser, "Empty list of filters.");
	return 0;
}

static int
parse_watch_mailbox(struct args_parser *parser, const struct imap_arg *arg,
		    struct store_selection *selection)
{
	struct store_scope *scope =
		p_new(parser->lc->pool, struct store_scope, 1);
	enum metasync_mailbox result;
	uint8_t guid[16];
	const char *name;

	selection->scopes = scope;
	selection->scope_count = 1;
	if (imap_arg_get_astring(arg, &name) && arg->str_len == 0) {
		scope->type = STORE_SCOPE_SERVER;
		return 0;
	}
	scope->type = STORE_SCOPE_MAILBOX;
	if (args_get_mailbox(parser, arg, TRUE, &scope->mailbox,
			     &scope->separator, guid, &result) < 0)
		return -1;
	if (result == METASYNC_MAILBOX_MISSING && parser->missing_is_error)
		return args_no(parser, "NO [NONEXISTENT] No such mailbox.");
	return 0;
}

static int
parse_watch_entries(struct args_parser *parser, const struct imap_arg *arg,
		    struct store_selection *selection)
{
	const struct imap_arg *list;
	const char **entries;
	unsigned int i, count;

	if (!imap_arg_get_list_full(arg, &list, &count)) {
		list = arg;
		count = 1;
	}
	if (count == 0)
		return args_bad(parser, "Empty list of entries.");
	if (count > IMAP_METASYNC_MAX_ENTRIES)
		return args_limit(parser, "Too many entries.");
	entries = p_new(parser->lc->pool, const char *, count);
	for (i = 0; i < count; i++) {
		if (args_get_entry(parser, &list[i], TRUE, &entries[i]) < 0)
			return -1;
	}
	selection->entries = entries;
	selection->entry_count = count;
	return 0;
}

static int
parse_watch_selections(struct args_parser *parser, const struct imap_arg *args,
		       struct imap_metasync_watch *watch)
{
	ARRAY(struct store_selection) selections;
	struct store_selection *selection;
	const struct imap_arg *list;
	unsigned int count;
	int ret;

	p_array_init(&selections, parser->lc->pool, 4);
	for (; !IMAP_ARG_IS_EOL(args); args += 2) {
		selection = array_append_space(&selections);
		if (imap_arg_get_list(args, &list))
			ret = parse_watch_filters(parser, list, selection);
		else
			ret = parse_watch_mailbox(parser, args, selection);
		if (ret < 0)
			return -1;
		if (IMAP_ARG_IS_EOL(&args[1]))
			return args_bad(parser, "Missing entries.");
		if (parse_watch_entries(parser, &args[1], selection) < 0)
			return -1;
	}
	if (array_count(&selections) == 0)
		return args_bad(parser, "Missing arguments.");
	watch->filter.selections = array_get(&selections, &count);
	watch->filter.selection_count = count;
	return 0;
}

/* The token: what is selected, in an order that does not depend on how it was
   written, hashed. */

static void
token_add_sorted(string_t *str, ARRAY_TYPE(const_string) *strings)
{
	const char *elem, *prev = NULL;

	array_sort(strings, i_strcmp_p);
	array_foreach_elem(strings, elem) {
		/* length first: names may hold anything */
		if (prev == NULL || strcmp(prev, elem) != 0)
			str_printfa(str, "%zu:%s", strlen(elem), elem);
		prev = elem;
	}
	str_append_c(str, ';');
}

static const char *token_selection(const struct store_selection *selection)
{
	ARRAY_TYPE(const_string) strings;
	const char *elem;
	string_t *str = t_str_new(256);
	size_t i;

	t_array_init(&strings, 16);
	for (i = 0; i < selection->scope_count; i++) {
		const struct store_scope *scope = &selection->scopes[i];

		elem = t_strdup_printf("%d %s", (int)scope->type,
			scope->mailbox == NULL ? "" : scope->mailbox);
		array_push_back(&strings, &elem);
	}
	token_add_sorted(str, &strings);
	array_clear(&strings);
	array_append(&strings, selection->entries, selection->entry_count);
	token_add_sorted(str, &strings);
	return str_c(str);
}

static uint64_t watch_get_token(const struct imap_metasync_watch *watch)
{
	unsigned char digest[SHA256_RESULTLEN];
	ARRAY_TYPE(const_string) strings;
	string_t *str = t_str_new(512);
	const char *elem;
	uint64_t token = 0;
	size_t i;

	t_array_init(&strings, 16);
	for (i = 0; i < watch->filter.selection_count; i++) {
		elem = token_selection(&watch->filter.selections[i]);
		array_push_back(&strings, &elem);
	}
	token_add_sorted(str, &strings);
	str_printfa(str, "%d %d", (int)watch->filter.depth,
		    watch->names ? 1 : 0);
	if (watch->have_max_size)
		str_printfa(str, " %"PRIu64, watch->max_size);

	sha256_get_digest(str_data(str), str_len(str), digest);
	for (i = 0; i < sizeof(token); i++)
		token = (token << 8) | digest[i];
	return token;
}

int imap_metasync_parse_watch(struct imap_long_command *lc,
			      const struct imap_arg *args,
			      struct imap_metasync_watch *watch_r,
			      struct imap_metasync_refusal *refusal_r)
{
	struct args_parser parser = { .lc = lc, .refusal = refusal_r };
	const struct imap_arg *list;

	i_zero(watch_r);
	if (imap_arg_get_list(args, &list) &&
	    args_get_keyword(list, watch_filter_names) < 0) {
		if (IMAP_ARG_IS_EOL(list))
			return args_bad(&parser, "Empty list of options.");
		if (parse_watch_options(&parser, list, watch_r) < 0)
			return -1;
		args++;
	}
	parser.missing_is_error = !watch_r->have_since;
	if (parse_watch_selections(&parser, args, watch_r) < 0)
		return -1;
	watch_r->token = watch_get_token(watch_r);
	return 0;
}

/* -- XMETASET -------------------------------------------------------------- */

static int
parse_set_condition(struct args_parser *parser, const struct imap_arg *arg,
		    struct store_condition *condition)
{
	if (!imap_arg_atom_equals(arg, "UNCHANGEDSINCE"))
		return args_bad(parser, IMAP_ARG_IS_EOL(arg) ?
				"Empty list of options." : "Unknown option.");
	arg++;
	if (imap_arg_atom_equals(arg, "0"))
		condition->type = STORE_IF_ABSENT;
	else {
		condition->type = STORE_IF_UNCHANGED_SINCE;
		if (args_get_pos(parser, arg, 2, &condition->pos, NULL) < 0)
			return -1;
	}
	if (imap_arg_atom_equals(&arg[1], "UNCHANGEDSINCE"))
		return args_bad(parser, "Option is given twice.");
	if (!IMAP_ARG_IS_EOL(&arg[1]))
		return args_bad(parser, "Unknown option.");
	return 0;
}

static int
parse_set_change(struct args_parser *parser, const struct imap_arg *args,
		 struct store_change *change)
{
	const char *value;

	if (args_get_entry(parser, &args[0], FALSE, &change->name) < 0)
		return -1;
	switch (args[1].type) {
	case IMAP_ARG_NIL:
		break;
	case IMAP_ARG_STRING:
		if (!imap_arg_get_string(&args[1], &value))
			i_unreached();
		change->value = value;
		change->value_size = args[1].str_len;
		break;
	case IMAP_ARG_EOL:
		return args_bad(parser, "Missing value.");
	default:
		return args_bad(parser, "Invalid value.");
	}
	if (metasync_entry_is_reserved(change->mailbox, change->name))
		return args_no(parser, "NO [CANNOT] Entry cannot be set here.");
	return 0;
}

static int
parse_set_mailbox(struct args_parser *parser, const struct imap_arg *args,
		  ARRAY_TYPE(store_change) *changes)
{
	struct store_change change, *entry;
	const struct imap_arg *list;
	enum metasync_mailbox result;
	unsigned int count;
	uint8_t guid[16];
	const char *name;
	char separator;

	i_zero(&change);
	if (imap_arg_get_astring(&args[0], &name) && args[0].str_len == 0)
		change.mailbox = "";
	else {
		if (args_get_mailbox(parser, &args[0], TRUE, &change.mailbox,
				     &separator, guid, &result) < 0)
			return -1;
		if (result == METASYNC_MAILBOX_MISSING)
			return args_no(parser, "NO [NONEXISTENT] "
				       "No such mailbox.");
		change.mailbox_guid = p_memdup(parser->lc->pool, guid,
					       sizeof(guid));
	}
	if (!imap_arg_get_list_full(&args[1], &list, &count))
		return args_bad(parser, "Missing list of entries and values.");
	if (count == 0)
		return args_bad(parser, "Empty list of entries.");
	for (; !IMAP_ARG_IS_EOL(list); list += 2) {
		entry = array_append_space(changes);
		*entry = change;
		if (parse_set_change(parser, list, entry) < 0)
			return -1;
	}
	return 0;
}

static int
store_change_cmp(struct store_change *const *c1,
		 struct store_change *const *c2)
{
	int ret = strcmp((*c1)->mailbox, (*c2)->mailbox);

	return ret != 0 ? ret : strcmp((*c1)->name, (*c2)->name);
}

static bool set_has_duplicates(ARRAY_TYPE(store_change) *changes)
{
	ARRAY(struct store_change *) sorted;
	struct store_change *change, *prev = NULL;

	t_array_init(&sorted, array_count(changes));
	array_foreach_modifiable(changes, change)
		array_push_back(&sorted, &change);
	array_sort(&sorted, store_change_cmp);
	array_foreach_elem(&sorted, change) {
		if (prev != NULL && store_change_cmp(&prev, &change) == 0)
			return TRUE;
		prev = change;
	}
	return FALSE;
}

int imap_metasync_parse_set(struct imap_long_command *lc,
			    const struct imap_arg *args,
			    struct imap_metasync_set *set_r,
			    struct imap_metasync_refusal *refusal_r)
{
	struct args_parser parser = { .lc = lc, .refusal = refusal_r };
	ARRAY_TYPE(store_change) changes;
	const struct imap_arg *list;
	unsigned int count;

	i_zero(set_r);
	if (imap_arg_get_list(args, &list)) {
		if (parse_set_condition(&parser, list, &set_r->condition) < 0)
			return -1;
		args++;
	}
	p_array_init(&changes, lc->pool, 8);
	for (; !IMAP_ARG_IS_EOL(args); args += 2) {
		if (IMAP_ARG_IS_EOL(&args[1]))
			return args_bad(&parser, "Missing list of entries and values.");
		if (parse_set_mailbox(&parser, args, &changes) < 0)
			return -1;
	}
	if (array_count(&changes) == 0)
		return args_bad(&parser, "Missing arguments.");
	if (set_has_duplicates(&changes))
		return args_bad(&parser, "The same entry is set twice.");
	set_r->changes = array_get_modifiable(&changes, &count);
	set_r->count = count;
	return 0;
}

void imap_metasync_refuse(struct imap_long_command *lc,
			  const struct imap_metasync_refusal *refusal)
{
	if (refusal->syntax)
		imap_long_command_bad(lc, refusal->text);
	else
		imap_long_command_end(lc, refusal->text);
}
