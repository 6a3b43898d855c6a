/* What a command's author calls: see imap-long-command.h. Nothing here runs the
   command; the framework looks at what was asked for when the callback has
   returned. */

#include "long-command-private.h"
#include "ioloop.h"
#include "ostream.h"
#include "str.h"

static struct long_command *long_command_get(struct imap_long_command *lc)
{
	return container_of(lc, struct long_command, lc);
}

bool imap_long_command_send(struct imap_long_command *lc,
			    const void *data, size_t size)
{
	struct client *client = lc->client;

	if (client->output->closed)
		return FALSE;
	o_stream_nsend(client->output, data, size);
	client->last_output = ioloop_time;
	return long_command_has_room(long_command_get(lc));
}

bool imap_long_command_send_line(struct imap_long_command *lc,
				 const char *line)
{
	bool ret;

	T_BEGIN {
		string_t *str = t_str_new(strlen(line) + 2);

		str_append(str, line);
		str_append(str, "\r\n");
		ret = imap_long_command_send(lc, str_data(str), str_len(str));
	} T_END;
	return ret;
}

void imap_long_command_more(struct imap_long_command *lc)
{
	struct long_command *c = long_command_get(lc);

	i_assert(c->def->more != NULL);
	c->want_more = TRUE;
}

void imap_long_command_no_input(struct imap_long_command *lc)
{
	long_command_get(lc)->done = TRUE;
}

void imap_long_command_hold_lines(struct imap_long_command *lc, bool hold)
{
	long_command_get(lc)->lines_held = hold;
}

void imap_long_command_end(struct imap_long_command *lc, const char *text)
{
	struct long_command *c = long_command_get(lc);

	if (c->end_text == NULL)
		c->end_text = p_strdup(lc->pool, text);
}

void imap_long_command_bad(struct imap_long_command *lc, const char *error)
{
	struct long_command *c = long_command_get(lc);

	if (c->end_text == NULL) {
		c->end_is_bad = TRUE;
		c->end_text = p_strdup(lc->pool, error);
	}
}

void imap_long_command_set_timer(struct imap_long_command *lc,
				 unsigned int id, unsigned int msecs)
{
	struct long_command *c = long_command_get(lc);

	i_assert(id < IMAP_LONG_COMMAND_TIMERS);
	imap_long_command_stop_timer(lc, id);
	c->timers[id].to = timeout_add(msecs, long_command_timer_timeout,
				       &c->timers[id]);
}

void imap_long_command_stop_timer(struct imap_long_command *lc,
				  unsigned int id)
{
	struct long_command *c = long_command_get(lc);

	i_assert(id < IMAP_LONG_COMMAND_TIMERS);
	timeout_remove(&c->timers[id].to);
	c->timers[id].fired = FALSE;
}

void imap_long_command_watch_path(struct imap_long_command *lc,
				  const char *path)
{
	struct long_command *c = long_command_get(lc);

	imap_long_command_watch_remove(&c->watch);
	c->watch = long_command_watch_add(c, path);
}

void imap_long_command_watch_mailbox(struct imap_long_command *lc)
{
	struct long_command *c = long_command_get(lc);

	i_assert(c->def->uses_mailbox);
	if (lc->client->mailbox == NULL || c->mailbox_watched)
		return;
	mailbox_notify_changes(lc->client->mailbox,
			       long_command_mailbox_notify, c);
	c->mailbox_watched = TRUE;
	/* there may be changes already */
	c->mailbox_changed = TRUE;
}

void imap_long_command_keepalive(struct imap_long_command *lc)
{
	struct long_command *c = long_command_get(lc);

	if (c->to_keepalive == NULL)
		long_command_add_keepalive(c);
	if (c->to_keepalive != NULL)
		timeout_remove(&c->to_input);
}
