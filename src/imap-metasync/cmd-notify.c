/* NOTIFY (RFC 5465). MailboxMetadataChange and ServerMetadataChange are told by
   metasync-announce.c; all other events are Dovecot's.

   Dovecot's function refuses the two, so this one stands in its place: it reads
   the arguments, takes the two events out, and calls Dovecot's function with the
   rest as text. A group of which nothing is left asks for "NONE". Only if Dovecot
   says OK, the two count. What is wrong about the rest is for Dovecot to say. */

#include "imap-metasync.h"
#include "array.h"
#include "istream.h"
#include "str.h"
#include "imap-arg.h"
#include "imap-commands.h"
#include "imap-utf7.h"
#include "imap-util.h"
#include "compat-imap.h"

/* Dovecot's own limit for the names of a namespace (cmd-notify.c there) */
#define NOTIFY_MAX_NAMES 100

enum notify_event {
	NOTIFY_EVENT_MAILBOX_METADATA = BIT(0),
	NOTIFY_EVENT_SERVER_METADATA = BIT(1),
	NOTIFY_EVENT_OTHER = BIT(2)
};

static const struct {
	const char *name;
	enum notify_event event;
} notify_events[] = {
	{ "MessageNew", NOTIFY_EVENT_OTHER },
	{ "MessageExpunge", NOTIFY_EVENT_OTHER },
	{ "FlagChange", NOTIFY_EVENT_OTHER },
	{ "MailboxName", NOTIFY_EVENT_OTHER },
	{ "SubscriptionChange", NOTIFY_EVENT_OTHER },
	{ "MailboxMetadataChange", NOTIFY_EVENT_MAILBOX_METADATA },
	{ "ServerMetadataChange", NOTIFY_EVENT_SERVER_METADATA }
};

enum notify_filter {
	NOTIFY_FILTER_UNKNOWN,
	NOTIFY_FILTER_SELECTED,
	NOTIFY_FILTER_PERSONAL,
	NOTIFY_FILTER_SUBSCRIBED,
	NOTIFY_FILTER_SUBTREE,
	NOTIFY_FILTER_MAILBOXES
};

static const struct {
	const char *name;
	enum notify_filter filter;
} notify_filters[] = {
	{ "selected", NOTIFY_FILTER_SELECTED },
	{ "selected-delayed", NOTIFY_FILTER_SELECTED },
	{ "personal", NOTIFY_FILTER_PERSONAL },
	/* it cannot be known which they are (RFC 5465 section 6.3) */
	{ "inboxes", NOTIFY_FILTER_PERSONAL },
	{ "subscribed", NOTIFY_FILTER_SUBSCRIBED },
	{ "subtree", NOTIFY_FILTER_SUBTREE },
	{ "mailboxes", NOTIFY_FILTER_MAILBOXES }
};

ARRAY_DEFINE_TYPE(store_scope, struct store_scope);

struct notify_parser {
	struct mail_user *user;
	pool_t pool;
	/* the arguments without our events; data stack */
	string_t *rest;

	/* what our events are for */
	bool server, personal, subscribed;
	ARRAY_TYPE(store_scope) names;
	unsigned int name_count;

	/* an event that neither we nor Dovecot have */
	bool unsupported;
	/* why the arguments are wrong */
	const char *error;
};

/* The command that ours stands in for. */
static struct command notify_dovecot;

/* -- the arguments --------------------------------------------------------- */

static enum notify_filter notify_filter_find(const struct imap_arg *arg)
{
	unsigned int i;

	for (i = 0; i < N_ELEMENTS(notify_filters); i++) {
		if (imap_arg_atom_equals(arg, notify_filters[i].name))
			return notify_filters[i].filter;
	}
	return NOTIFY_FILTER_UNKNOWN;
}

/* Returns 0 if there is no such event. */
static enum notify_event notify_event_find(const char *name)
{
	unsigned int i;

	for (i = 0; i < N_ELEMENTS(notify_events); i++) {
		if (strcasecmp(notify_events[i].name, name) == 0)
			return notify_events[i].event;
	}
	return 0;
}

/* One that does not exist, is not valid or is somebody else's is ignored (RFC
   5465 section 3.1): no change of it will ever be seen here. */
static void
notify_add_name(struct notify_parser *parser, const char *mailbox,
		enum store_scope_type type)
{
	string_t *utf8 = t_str_new(64);
	struct store_scope *scope;
	const char *vname;
	char separator;

	parser->name_count++;
	if (*mailbox == '\0' && type == STORE_SCOPE_SUBTREE) {
		/* as in Dovecot: everything below the root */
		parser->personal = TRUE;
	} else if (imap_utf7_to_utf8(mailbox, utf8) == 0 &&
		   metasync_mailbox_find(parser->user, str_c(utf8), FALSE,
					 &vname, &separator, NULL) ==
		   METASYNC_MAILBOX_EXISTS) {
		scope = array_append_space(&parser->names);
		scope->type = type;
		scope->mailbox = p_strdup(parser->pool, vname);
		scope->separator = separator;
	}
}

static bool notify_names_are_valid(const struct imap_arg *arg)
{
	const struct imap_arg *list;

	if (IMAP_ARG_IS_ASTRING(arg))
		return TRUE;
	if (!imap_arg_get_list(arg, &list) || IMAP_ARG_IS_EOL(list))
		return FALSE;
	while (IMAP_ARG_IS_ASTRING(list))
		list++;
	return IMAP_ARG_IS_EOL(list);
}

static void
notify_add_names(struct notify_parser *parser, const struct imap_arg *arg,
		 enum store_scope_type type)
{
	const struct imap_arg *list;

	if (!imap_arg_get_list(arg, &list)) {
		notify_add_name(parser, imap_arg_as_astring(arg), type);
		return;
	}
	for (; !IMAP_ARG_IS_EOL(list); list++)
		notify_add_name(parser, imap_arg_as_astring(list), type);
}

static void
notify_add_filter(struct notify_parser *parser, enum notify_filter filter,
		  const struct imap_arg *mailboxes)
{
	switch (filter) {
	case NOTIFY_FILTER_PERSONAL:
		parser->personal = TRUE;
		break;
	case NOTIFY_FILTER_SUBSCRIBED:
		parser->subscribed = TRUE;
		break;
	case NOTIFY_FILTER_SUBTREE:
		notify_add_names(parser, mailboxes, STORE_SCOPE_SUBTREE);
		break;
	case NOTIFY_FILTER_MAILBOXES:
		notify_add_names(parser, mailboxes, STORE_SCOPE_MAILBOX);
		break;
	case NOTIFY_FILTER_SELECTED:
	case NOTIFY_FILTER_UNKNOWN:
		i_unreached();
	}
}

/* Returns which of our events are in the list, and the others as text. */
static enum notify_event
notify_split_events(struct notify_parser *parser, const struct imap_arg *list,
		    string_t *others)
{
	enum notify_event ours = 0, event;
	const char *name;

	for (; !IMAP_ARG_IS_EOL(list); list++) {
		if (imap_arg_get_atom(list, &name)) {
			event = notify_event_find(name);
			if (event == 0)
				parser->unsupported = TRUE;
			else if (event != NOTIFY_EVENT_OTHER) {
				ours |= event;
				continue;
			}
		}
		if (str_len(others) > 0)
			str_append_c(others, ' ');
		imap_write_arg(others, list);
	}
	return ours;
}

/* A group that has our events. mailboxes: NULL if the filter has none. end:
   behind the list of events. */
static int
notify_check_group(struct notify_parser *parser, enum notify_filter filter,
		   const struct imap_arg *mailboxes,
		   const struct imap_arg *end)
{
	if (filter == NOTIFY_FILTER_SELECTED) {
		/* RFC 5465 section 6.1 */
		parser->error = "MailboxMetadataChange and ServerMetadataChange "
			"are not for the selected mailbox.";
		return -1;
	}
	if ((mailboxes != NULL && !notify_names_are_valid(mailboxes)) ||
	    !IMAP_ARG_IS_EOL(end))
		return -1;
	return 0;
}

/* The group up to its list of events, and what is left of the list. */
static void
notify_write_group(string_t *dest, const struct imap_arg *group,
		   const struct imap_arg *events, const char *others)
{
	str_append(dest, " (");
	for (; group != events; group++) {
		imap_write_arg(dest, group);
		str_append_c(dest, ' ');
	}
	if (*others == '\0')
		str_append(dest, "NONE)");
	else
		str_printfa(dest, "(%s))", others);
}

static int
notify_parse_group(struct notify_parser *parser, const struct imap_arg *group)
{
	enum notify_filter filter = notify_filter_find(group);
	const struct imap_arg *arg, *list, *mailboxes = NULL;
	string_t *others = t_str_new(128);
	enum notify_event ours = 0;

	if (filter != NOTIFY_FILTER_UNKNOWN) {
		arg = group + 1;
		if ((filter == NOTIFY_FILTER_SUBTREE ||
		     filter == NOTIFY_FILTER_MAILBOXES) &&
		    !IMAP_ARG_IS_EOL(arg))
			mailboxes = arg++;
		if (imap_arg_get_list(arg, &list))
			ours = notify_split_events(parser, list, others);
	}
	if (ours == 0) {
		/* NONE, and what is wrong, too */
		str_append(parser->rest, " (");
		imap_write_args(parser->rest, group);
		str_append_c(parser->rest, ')');
		return 0;
	}
	if (notify_check_group(parser, filter, mailboxes, arg + 1) < 0)
		return -1;
	if ((ours & NOTIFY_EVENT_SERVER_METADATA) != 0)
		parser->server = TRUE;
	if ((ours & NOTIFY_EVENT_MAILBOX_METADATA) != 0)
		notify_add_filter(parser, filter, mailboxes);
	notify_write_group(parser->rest, group, arg, str_c(others));
	return 0;
}

static int
notify_parse(struct notify_parser *parser, const struct imap_arg *args)
{
	const struct imap_arg *group;

	if (!imap_arg_atom_equals(args, "SET")) {
		imap_write_args(parser->rest, args);
		return 0;
	}
	str_append(parser->rest, "SET");
	for (args++; !IMAP_ARG_IS_EOL(args); args++) {
		if (!imap_arg_get_list(args, &group)) {
			str_append_c(parser->rest, ' ');
			imap_write_arg(parser->rest, args);
		} else if (notify_parse_group(parser, group) < 0)
			return -1;
	}
	return 0;
}

/* -- the result ------------------------------------------------------------ */

/* NO, since the list of RFC 5465 section 8 tells what is supported. */
static void notify_refuse_event(struct client_command_context *cmd)
{
	string_t *str = t_str_new(256);
	unsigned int i;

	str_append(str, "NO [BADEVENT (");
	for (i = 0; i < N_ELEMENTS(notify_events); i++) {
		if (i > 0)
			str_append_c(str, ' ');
		str_append(str, notify_events[i].name);
	}
	str_append(str, ")] Unsupported NOTIFY event.");
	client_send_tagline(cmd, str_c(str));
}

static bool notify_is_wanted(const struct notify_parser *parser)
{
	return parser->server || parser->personal || parser->subscribed ||
		array_count(&parser->names) > 0;
}

static void notify_add_scope(ARRAY_TYPE(store_scope) *scopes,
			     enum store_scope_type type)
{
	struct store_scope *scope = array_append_space(scopes);

	scope->type = type;
}

static void
notify_init_selection(struct store_selection *selection,
		      const ARRAY_TYPE(store_scope) *scopes)
{
	unsigned int count;

	selection->scopes = array_get(scopes, &count);
	selection->scope_count = count;
	selection->entries = imap_metasync_all_entries;
	selection->entry_count = N_ELEMENTS(imap_metasync_all_entries);
}

static struct imap_metasync_notify *
notify_finish(struct notify_parser *parser)
{
	pool_t pool = parser->pool;
	struct imap_metasync_notify *notify =
		p_new(pool, struct imap_metasync_notify, 1);
	struct store_selection *selections =
		p_new(pool, struct store_selection, 2);
	ARRAY_TYPE(store_scope) all_mailboxes;

	notify->pool = pool;
	notify->filter.depth = STORE_DEPTH_INFINITY;
	notify->filter.selections = selections;
	if (!notify_is_wanted(parser))
		return notify;

	if (parser->server)
		notify_add_scope(&parser->names, STORE_SCOPE_SERVER);
	if (parser->personal)
		notify_add_scope(&parser->names, STORE_SCOPE_PERSONAL);
	notify_init_selection(&selections[0], &parser->names);
	notify->filter.selection_count = 1;
	notify->always = notify->filter;
	if (parser->subscribed) {
		p_array_init(&all_mailboxes, pool, 1);
		notify_add_scope(&all_mailboxes, STORE_SCOPE_PERSONAL);
		notify_init_selection(&selections[1], &all_mailboxes);
		notify->filter.selection_count = 2;
		notify->subscribed = TRUE;
	}
	return notify;
}

/* -- the command ----------------------------------------------------------- */

static bool
notify_run_dovecot(struct client_command_context *cmd, string_t *rest)
{
	struct imap_parser *parser = cmd->parser;
	const char *args = cmd->args, *human_args = cmd->human_args;
	struct istream *input;
	bool finished;

	str_append(rest, "\r\n");
	input = i_stream_create_from_data(str_data(rest), str_len(rest));
	(void)i_stream_read(input);
	cmd->parser = compat_imap_parser_create(input, str_len(rest), 0);
	finished = notify_dovecot.func(cmd);

	imap_parser_unref(&cmd->parser);
	i_stream_unref(&input);
	cmd->parser = parser;
	/* for logging; it has added what it has read */
	cmd->args = args;
	cmd->human_args = human_args;
	event_add_str(cmd->event, "cmd_args", args);
	event_add_str(cmd->event, "cmd_human_args", human_args);
	return finished;
}

/* All is in order on our side. Takes notify over. */
static bool
notify_run(struct client_command_context *cmd,
	   struct imap_metasync_notify *notify, string_t *rest)
{
	struct client *client = cmd->client;
	struct store_error error;
	bool finished = TRUE, ok = FALSE;

	if (notify->filter.selection_count > 0 &&
	    imap_metasync_announce_prepare(client, &error) < 0) {
		metasync_user_log(client->user, &error);
		client_send_tagline(cmd, t_strconcat("NO ",
			metasync_error_text(client->user, &error), NULL));
	} else {
		finished = notify_run_dovecot(cmd, rest);
		/* it is there also if it is to be sent after a sync */
		ok = cmd->tagline_reply != NULL &&
			str_begins(cmd->tagline_reply, "OK ");
	}
	if (!ok)
		pool_unref(&notify->pool);
	imap_metasync_announce_notify(client, ok ? notify : NULL);
	return finished;
}

static bool notify_start(struct client_command_context *cmd,
			 const struct imap_arg *args, pool_t pool)
{
	struct notify_parser parser = {
		.user = cmd->client->user, .pool = pool,
		.rest = t_str_new(256)
	};

	p_array_init(&parser.names, pool, 4);
	if (notify_parse(&parser, args) < 0) {
		client_send_command_error(cmd, parser.error != NULL ?
					  parser.error : "Invalid arguments.");
	} else if (parser.unsupported) {
		notify_refuse_event(cmd);
	} else if (parser.name_count > NOTIFY_MAX_NAMES) {
		client_send_tagline(cmd, "NO [NOTIFICATIONOVERFLOW] "
				    "Too many mailbox names");
	} else {
		pool_ref(pool);
		return notify_run(cmd, notify_finish(&parser), parser.rest);
	}
	return TRUE;
}

static bool cmd_notify_metadata(struct client_command_context *cmd)
{
	const struct imap_arg *args;
	bool finished;
	pool_t pool;

	if (!imap_metasync_announce_is_known(cmd->client))
		return notify_dovecot.func(cmd);
	/* so that literals are written as literals */
	if (!client_read_args(cmd, 0, IMAP_PARSE_FLAG_LITERAL_TYPE, &args))
		return FALSE;
	pool = pool_alloconly_create("imap metasync notify", 512);
	finished = notify_start(cmd, args, pool);
	pool_unref(&pool);
	return finished;
}

void imap_metasync_cmd_notify_init(void)
{
	notify_dovecot = *command_find("NOTIFY");
	command_unregister("NOTIFY");
	command_register("NOTIFY", cmd_notify_metadata, notify_dovecot.flags);
}

void imap_metasync_cmd_notify_deinit(void)
{
	command_unregister("NOTIFY");
	command_register(notify_dovecot.name, notify_dovecot.func,
			 notify_dovecot.flags);
}
