/* Commands in the way of Dovecot's cmd-idle.c, without the framework. XPLAIN and XPLAINONCE
   are right. Each of the others is one of them with one mistake; which, the table at the
   end says. test_wrong_plugins.py shows what comes of it, and docs/writing-commands.md why.

   XPLAIN waits for DONE, and says at each tick of its timer whose it is. The line BYE
   disconnects the client. XPLAINONCE ends at its first tick; what the client sends
   meanwhile are its next commands. */

#include "imap-common.h"
#include "ioloop.h"
#include "istream.h"
#include "ostream.h"
#include "imap-commands.h"
#include "compat-user.h"
#include "plain-plugin.h"

#include <fcntl.h>
#include <unistd.h>

#define PLAIN_TICK_MSECS 100

enum plain_mistake {
	PLAIN_RIGHT,
	/* who frees the command, and when */
	PLAIN_FREE_IN_FUNC,
	PLAIN_NOT_FREED,
	PLAIN_FREE_THEN_USE,
	PLAIN_TIMER_LEFT,
	PLAIN_CANCEL_IGNORED,
	PLAIN_NO_CONTEXT,
	/* who destroys a client */
	PLAIN_DESTROY_IN_FUNC,
	PLAIN_DESTROY_THEN_CONTINUE,
	/* who must disconnect at the end of the input */
	PLAIN_EOF_IGNORED,
	PLAIN_FULL_IGNORED,
	/* when pending input is continued */
	PLAIN_NOT_CONTINUED,
	PLAIN_NOT_CONTINUED_TIMER,
	PLAIN_CONTINUE_IN_FUNC,
	PLAIN_CONTINUE_NOT_LAST,
	/* what the sessions of a process have in common */
	PLAIN_STATIC,
	PLAIN_BLOCKING
};

struct plain {
	struct client *client;
	struct client_command_context *cmd;
	struct timeout *to;
	enum plain_mistake mistake;
	bool once;
};

/* PLAIN_STATIC: the one that started last */
static struct plain *plain_current;

static enum plain_mistake plain_find_mistake(const char *name);

static void plain_finish(struct plain *p, const char *reply)
{
	if (p->mistake != PLAIN_TIMER_LEFT)
		timeout_remove(&p->to);
	if (!p->once)
		io_remove(&p->client->io);
	client_send_tagline(p->cmd, reply);
}

/* From one's own callbacks only: nobody above frees the command. */
static void plain_end(struct plain *p, const char *reply)
{
	struct client *client = p->client;
	struct client_command_context *cmd = p->cmd;
	enum plain_mistake mistake = p->mistake;

	o_stream_cork(client->output);
	plain_finish(p, reply);
	if (mistake != PLAIN_CONTINUE_NOT_LAST)
		o_stream_uncork(client->output);

	if (mistake != PLAIN_NOT_FREED)
		client_command_free(&cmd);
	if (mistake == PLAIN_FREE_THEN_USE) {
		/* p was allocated from cmd->pool */
		client = p->client;
	}
	if (mistake != PLAIN_NOT_CONTINUED &&
	    mistake != PLAIN_NOT_CONTINUED_TIMER)
		client_continue_pending_input(client);
	if (mistake == PLAIN_CONTINUE_NOT_LAST) {
		/* the client may be gone */
		o_stream_uncork(client->output);
	}
}

/* Until somebody opens the FIFO for writing. */
static void plain_block(struct client *client)
{
	const char *path = compat_user_setting(client->user, "plain_fifo");
	int fd;

	i_assert(path != NULL);
	fd = open(path, O_RDONLY);
	i_assert(fd != -1);
	i_close_fd(&fd);
}

static void plain_tick(struct plain *p)
{
	struct client *client = p->mistake == PLAIN_STATIC ?
		plain_current->client : p->client;

	if (p->mistake == PLAIN_BLOCKING) {
		plain_block(client);
		/* once is enough */
		p->mistake = PLAIN_RIGHT;
	}
	o_stream_cork(client->output);
	client_send_line(client, t_strconcat("* PLAIN tick of ",
					     p->client->user->username, NULL));
	o_stream_uncork(client->output);
	if (p->once)
		plain_end(p, "OK Plain completed.");
}

/* The next whole line, without what is left of the command's own. */
static const char *plain_next_line(struct client *client)
{
	const char *line;

	while ((line = i_stream_next_line(client->input)) != NULL) {
		if (!client->input_skip_line)
			return line;
		client->input_skip_line = FALSE;
	}
	return NULL;
}

static const char *plain_reply(const char *line)
{
	return strcasecmp(line, "DONE") == 0 ?
		"OK Plain completed." : "BAD Expected DONE.";
}

static void plain_input(struct plain *p)
{
	struct client *client = p->client;
	const char *line;

	client->last_input = ioloop_time;
	timeout_reset(client->to_idle);

	switch (i_stream_read(client->input)) {
	case -1:
		if (p->mistake == PLAIN_EOF_IGNORED)
			return;
		if (p->mistake == PLAIN_DESTROY_THEN_CONTINUE)
			client_destroy(client, NULL);
		else
			client_disconnect(client, NULL);
		client_continue_pending_input(client);
		return;
	case -2:
		if (p->mistake == PLAIN_FULL_IGNORED)
			return;
		client->input_skip_line = TRUE;
		plain_end(p, "BAD Expected DONE.");
		return;
	}

	if ((line = plain_next_line(client)) == NULL)
		return;
	if (strcasecmp(line, "BYE") != 0)
		plain_end(p, plain_reply(line));
	else {
		client_disconnect_with_error(client, "As you wish.");
		client_continue_pending_input(client);
	}
}

/* Called by core: when the client is destroyed, and for input if core reads it. */
static bool plain_continue(struct client_command_context *cmd)
{
	struct plain *p = cmd->context;

	if (!cmd->cancel || p->mistake == PLAIN_CANCEL_IGNORED)
		return FALSE;
	plain_finish(p, "NO Cancelled.");
	return TRUE;
}

/* The lines that came with the command. From here it is core that frees it. */
static bool plain_first_line(struct plain *p, const char *line)
{
	struct client *client = p->client;

	if (strcasecmp(line, "BYE") == 0) {
		if (p->mistake == PLAIN_DESTROY_IN_FUNC)
			client_destroy(client, NULL);
		else
			client_disconnect_with_error(client, "As you wish.");
	}
	plain_finish(p, plain_reply(line));
	if (p->mistake == PLAIN_FREE_IN_FUNC)
		client_command_free(&p->cmd);
	if (p->mistake == PLAIN_CONTINUE_IN_FUNC)
		client_continue_pending_input(client);
	return TRUE;
}

static bool cmd_plain(struct client_command_context *cmd)
{
	struct client *client = cmd->client;
	struct plain *p;
	const char *line;

	p = p_new(cmd->pool, struct plain, 1);
	p->client = client;
	p->cmd = cmd;
	p->mistake = plain_find_mistake(cmd->name);
	p->once = strcasecmp(cmd->name, "XPLAINONCE") == 0 ||
		p->mistake == PLAIN_NOT_CONTINUED_TIMER;
	p->to = timeout_add_short(PLAIN_TICK_MSECS, plain_tick, p);
	plain_current = p;
	cmd->func = plain_continue;
	if (p->mistake != PLAIN_NO_CONTEXT)
		cmd->context = p;
	client_send_line(client, "+ waiting");
	if (p->once)
		return FALSE;

	io_remove(&client->io);
	client->io = io_add_istream(client->input, plain_input, p);
	line = plain_next_line(client);
	return line != NULL && plain_first_line(p, line);
}

/* -- the plugin ------------------------------------------------------------ */

static const struct {
	const char *name;
	enum plain_mistake mistake;
} plain_commands[] = {
	{ "XPLAIN", PLAIN_RIGHT },
	{ "XPLAINONCE", PLAIN_RIGHT },
	{ "XFREEINFUNC", PLAIN_FREE_IN_FUNC },
	{ "XNOTFREED", PLAIN_NOT_FREED },
	{ "XFREETHENUSE", PLAIN_FREE_THEN_USE },
	{ "XTIMERLEFT", PLAIN_TIMER_LEFT },
	{ "XCANCELIGNORED", PLAIN_CANCEL_IGNORED },
	{ "XNOCONTEXT", PLAIN_NO_CONTEXT },
	{ "XDESTROYINFUNC", PLAIN_DESTROY_IN_FUNC },
	{ "XDESTROYTHENCONTINUE", PLAIN_DESTROY_THEN_CONTINUE },
	{ "XEOFIGNORED", PLAIN_EOF_IGNORED },
	{ "XFULLIGNORED", PLAIN_FULL_IGNORED },
	{ "XNOTCONTINUED", PLAIN_NOT_CONTINUED },
	{ "XNOTCONTINUEDTIMER", PLAIN_NOT_CONTINUED_TIMER },
	{ "XCONTINUEINFUNC", PLAIN_CONTINUE_IN_FUNC },
	{ "XCONTINUENOTLAST", PLAIN_CONTINUE_NOT_LAST },
	{ "XSTATIC", PLAIN_STATIC },
	{ "XBLOCKING", PLAIN_BLOCKING }
};

/* PLAIN_STATIC: the one that started last */
static struct plain *plain_current;

static enum plain_mistake plain_find_mistake(const char *name)
{
	unsigned int i;

	for (i = 0; i < N_ELEMENTS(plain_commands); i++) {
		if (strcasecmp(plain_commands[i].name, name) == 0)
			return plain_commands[i].mistake;
	}
	i_unreached();
}

const char *imap_plain_plugin_version = DOVECOT_ABI_VERSION;
const char imap_plain_plugin_binary_dependency[] = "imap";

void imap_plain_plugin_init(struct module *module ATTR_UNUSED)
{
	unsigned int i;

	for (i = 0; i < N_ELEMENTS(plain_commands); i++)
		command_register(plain_commands[i].name, cmd_plain, 0);
}

void imap_plain_plugin_deinit(void)
{
	unsigned int i;

	for (i = 0; i < N_ELEMENTS(plain_commands); i++)
		command_unregister(plain_commands[i].name);
}
