/* Commands that let the tests reach every callback of imap-long-command.h.

   XTEST and XTESTBOX (the same, with the selected mailbox) do what their options
   say, and, while they wait, what the client's lines say:

     NAME token   the command's name in the log
     WATCH        watch the file of plugin setting long_command_test_path
     RAIN n       n bytes of output at each change of it, in one callback
     TIMER ms     timer 0
     STOP         stop it
     FIFO         what is written to the FIFO of plugin setting
                  long_command_test_fifo comes as a TIMER
     MAILBOX      watch the selected mailbox
     KEEPALIVE    start signs of life
     IDLETIME ms  Dovecot's time-out for a client that sends nothing
     OUT n        n bytes of output from more()
     LATER ms     the answer to DONE comes this much later
     DRAIN        the answer to DONE comes after the output
     NOINPUT      imap_long_command_no_input(); ends when OUT or TIMER has
     ECHO text    as a line only: comes back
     ANSWER n     n bytes of output after each ECHO
     END, BAD     end at once

   Output is rows of "* XTEST OUT " with the number of the row, so that a gap or a
   repetition shows. Every start and every finish is a line in the log, and so is the
   first time that the output was full: "xtest start NAME", "xtest blocked NAME",
   "xtest finish NAME why=…" with the number of calls of each callback.

   XTESTMIN has nothing but start(): the framework's own behaviour.
   XTESTARGS tells what arguments it got. */

#include "imap-common.h"
#include "ioloop-private.h"
#include "crc32.h"
#include "imap-arg.h"
#include "imap-long-command.h"
#include "compat-user.h"
#include "long-command-test.h"

#include <fcntl.h>
#include <unistd.h>

#define XTEST_ROW_SIZE 1024

enum xtest_timer {
	XTEST_TIMER_OPTION,
	XTEST_TIMER_DONE
};

struct xtest {
	char *name;
	uint64_t rows, rows_left;
	unsigned int later_msecs, rain, answer;
	bool drain, done, no_input, blocked;

	/* of the author's own: the framework does not know them */
	int fd;
	struct io *io;

	unsigned int changes, timers, lines, mores, keepalives;
};

static unsigned int xtest_number(const char *text)
{
	unsigned int number;

	return text != NULL && str_to_uint(text, &number) == 0 ? number : 0;
}

static bool xtest_send_row(struct imap_long_command *lc, struct xtest *x)
{
	char row[XTEST_ROW_SIZE + 1];
	uint32_t noise = x->rows;
	size_t len;

	if (i_snprintf(row, sizeof(row), "* XTEST OUT %010"PRIu64" ",
		       x->rows++) < 0)
		i_unreached();
	/* compression must not make it small */
	for (len = strlen(row); len < XTEST_ROW_SIZE - 2; len++) {
		noise = noise * 1664525 + 1013904223;
		row[len] = '0' + (noise >> 26);
	}
	memcpy(row + len, "\r\n", 2);
	return imap_long_command_send(lc, row, XTEST_ROW_SIZE);
}

/* Outside of the framework's callbacks: only says that there is something to do. */
static void xtest_fifo_input(struct imap_long_command *lc)
{
	struct xtest *x = lc->context;
	char buf[1024];

	if (read(x->fd, buf, sizeof(buf)) > 0)
		imap_long_command_set_timer(lc, XTEST_TIMER_OPTION, 0);
}

static void xtest_fifo(struct imap_long_command *lc)
{
	struct xtest *x = lc->context;
	const char *path = compat_user_setting(lc->client->user,
					       "long_command_test_fifo");

	i_assert(path != NULL && x->fd == -1);
	/* a writer of its own: no end of file when others close it */
	x->fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	i_assert(x->fd != -1);
	x->io = io_add(x->fd, IO_READ, xtest_fifo_input, lc);
}

/* Returns TRUE if the option took its value. */
static bool
xtest_option(struct imap_long_command *lc, const char *name, const char *value)
{
	struct xtest *x = lc->context;
	const char *path;

	if (strcasecmp(name, "WATCH") == 0) {
		path = compat_user_setting(lc->client->user,
					   "long_command_test_path");
		i_assert(path != NULL);
		imap_long_command_watch_path(lc, path);
		return FALSE;
	} else if (strcasecmp(name, "MAILBOX") == 0) {
		imap_long_command_watch_mailbox(lc);
		return FALSE;
	} else if (strcasecmp(name, "KEEPALIVE") == 0) {
		imap_long_command_keepalive(lc);
		return FALSE;
	} else if (strcasecmp(name, "STOP") == 0) {
		imap_long_command_stop_timer(lc, XTEST_TIMER_OPTION);
		return FALSE;
	} else if (strcasecmp(name, "FIFO") == 0) {
		xtest_fifo(lc);
		return FALSE;
	} else if (strcasecmp(name, "DRAIN") == 0) {
		x->drain = TRUE;
		return FALSE;
	} else if (strcasecmp(name, "NOINPUT") == 0) {
		x->no_input = TRUE;
		imap_long_command_no_input(lc);
		return FALSE;
	} else if (strcasecmp(name, "END") == 0) {
		imap_long_command_end(lc, "OK XTEST ended.");
		/* the first call counts */
		imap_long_command_end(lc, "NO XTEST ended twice.");
		return FALSE;
	} else if (strcasecmp(name, "BAD") == 0) {
		imap_long_command_bad(lc, "As you wish");
		return FALSE;
	}

	if (strcasecmp(name, "NAME") == 0) {
		i_free(x->name);
		x->name = i_strdup(value);
	} else if (strcasecmp(name, "TIMER") == 0) {
		imap_long_command_set_timer(lc, XTEST_TIMER_OPTION,
					    xtest_number(value));
	} else if (strcasecmp(name, "IDLETIME") == 0) {
		lc->client->to_idle->msecs = xtest_number(value);
		timeout_reset(lc->client->to_idle);
	} else if (strcasecmp(name, "RAIN") == 0) {
		x->rain = xtest_number(value);
	} else if (strcasecmp(name, "LATER") == 0) {
		x->later_msecs = xtest_number(value);
	} else if (strcasecmp(name, "ANSWER") == 0) {
		x->answer = xtest_number(value);
	} else if (strcasecmp(name, "OUT") == 0) {
		x->rows_left += xtest_number(value) / XTEST_ROW_SIZE;
		imap_long_command_more(lc);
	} else {
		imap_long_command_bad(lc, "Unknown option");
	}
	return TRUE;
}

static void
xtest_start(struct imap_long_command *lc, const struct imap_arg *args)
{
	struct xtest *x = i_new(struct xtest, 1);
	const char *name, *value;

	x->name = i_strdup("-");
	x->fd = -1;
	lc->context = x;
	for (; imap_arg_get_astring(args, &name); args++) {
		if (!imap_arg_get_astring(&args[1], &value))
			value = NULL;
		if (xtest_option(lc, name, value) && value != NULL)
			args++;
	}
	e_info(lc->client->event, "xtest start %s", x->name);
	if (!x->no_input)
		imap_long_command_send_line(lc, "+ idling");
}

static void xtest_done(struct imap_long_command *lc)
{
	struct xtest *x = lc->context;

	i_assert(!x->done);
	x->done = TRUE;
	if (x->later_msecs > 0) {
		imap_long_command_set_timer(lc, XTEST_TIMER_DONE,
					    x->later_msecs);
	} else if (!x->drain || x->rows_left == 0)
		imap_long_command_end(lc, "OK XTEST completed.");
}

static void xtest_echo(struct imap_long_command *lc, const char *text)
{
	struct xtest *x = lc->context;
	unsigned int i;

	imap_long_command_send_line(lc, t_strdup_printf(
		"* XTEST ECHO %s", text == NULL ? "" : text));
	for (i = 0; i < x->answer / XTEST_ROW_SIZE; i++)
		(void)xtest_send_row(lc, x);
}

static bool xtest_line(struct imap_long_command *lc, const char *line)
{
	static const char *const names[] = {
		"WATCH", "RAIN", "TIMER", "STOP", "MAILBOX", "KEEPALIVE", "OUT",
		"LATER", "DRAIN", "END", "BAD", NULL
	};
	struct xtest *x = lc->context;
	const char *value = strchr(line, ' ');
	const char *name = value == NULL ? line : t_strdup_until(line, value);

	x->lines++;
	if (value != NULL)
		value++;
	if (strcasecmp(name, "ECHO") == 0) {
		xtest_echo(lc, value);
		return TRUE;
	}
	if (!str_array_icase_find(names, name))
		return FALSE;
	(void)xtest_option(lc, name, value);
	return TRUE;
}

static void xtest_change(struct imap_long_command *lc)
{
	struct xtest *x = lc->context;
	unsigned int i;

	x->changes++;
	for (i = 0; i < x->rain / XTEST_ROW_SIZE; i++)
		(void)xtest_send_row(lc, x);
	imap_long_command_send_line(lc, "* XTEST CHANGE");
}

static void xtest_timer(struct imap_long_command *lc, unsigned int id)
{
	struct xtest *x = lc->context;

	x->timers++;
	if (id == XTEST_TIMER_DONE) {
		i_assert(x->done);
		imap_long_command_end(lc, "OK XTEST completed later.");
		return;
	}
	i_assert(id == XTEST_TIMER_OPTION);
	imap_long_command_send_line(lc, "* XTEST TIMER");
	if (x->no_input)
		imap_long_command_end(lc, "OK XTEST completed.");
}

static bool xtest_more(struct imap_long_command *lc)
{
	struct xtest *x = lc->context;
	unsigned int i;

	x->mores++;
	/* a part at a time, so that it is called again also without a full
	   output */
	for (i = 0; i < 16 && x->rows_left > 0; i++) {
		x->rows_left--;
		if (!xtest_send_row(lc, x)) {
			if (!x->blocked)
				e_info(lc->client->event, "xtest blocked %s",
				       x->name);
			x->blocked = TRUE;
			break;
		}
	}
	if (x->rows_left > 0)
		return TRUE;
	if (x->no_input || (x->done && x->drain))
		imap_long_command_end(lc, "OK XTEST completed.");
	return FALSE;
}

static void xtest_keepalive(struct imap_long_command *lc)
{
	struct xtest *x = lc->context;

	/* every second time the framework has to say something itself */
	if (x->keepalives++ % 2 == 0)
		imap_long_command_send_line(lc, "* XTEST KEEPALIVE");
}

static void
xtest_finish(struct imap_long_command *lc, enum imap_long_command_why why)
{
	static const char *const whys[] = {
		"ended", "wrong-line", "cancelled"
	};
	struct xtest *x = lc->context;

	e_info(lc->client->event, "xtest finish %s why=%s changes=%u timers=%u "
	       "lines=%u mores=%u keepalives=%u", x->name, whys[why],
	       x->changes, x->timers, x->lines, x->mores, x->keepalives);
	io_remove(&x->io);
	i_close_fd(&x->fd);
	i_free(x->name);
	i_free(x);
	lc->context = NULL;
}

static void
xtestmin_start(struct imap_long_command *lc,
	       const struct imap_arg *args ATTR_UNUSED)
{
	imap_long_command_keepalive(lc);
	imap_long_command_send_line(lc, "+ idling");
}

/* -- XTESTARGS ------------------------------------------------------------- */

static void
xtestargs_limits(struct imap_long_command *lc,
		 struct imap_long_command_limits *limits)
{
	const char *value = compat_user_setting(lc->client->user,
						"long_command_test_literal");

	if (value == NULL)
		return;
	limits->literal = xtest_number(value);
	limits->literal_text = t_strdup_printf("NO [LIMIT] More than %s.",
					       value);
	limits->total_text = "NO [LIMIT] Too much altogether.";
}

static void
xtestargs_tell(struct imap_long_command *lc, const struct imap_arg *args,
	       unsigned int depth)
{
	static const char *const types[] = {
		"nil", "atom", "string", "list", "literal"
	};

	for (; !IMAP_ARG_IS_EOL(args); args++) {
		i_assert(args->type < N_ELEMENTS(types));
		if (args->type == IMAP_ARG_LIST) {
			imap_long_command_send_line(lc, t_strdup_printf(
				"* XTESTARGS %u list", depth));
			xtestargs_tell(lc, imap_arg_as_list(args), depth + 1);
			continue;
		}
		imap_long_command_send_line(lc, t_strdup_printf(
			"* XTESTARGS %u %s%s %zu %08x", depth,
			types[args->type], args->literal8 ? "8" : "",
			args->type == IMAP_ARG_NIL ? 0 : args->str_len,
			args->type == IMAP_ARG_NIL ? 0 :
			crc32_data(args->_data.str, args->str_len)));
	}
}

static void
xtestargs_start(struct imap_long_command *lc, const struct imap_arg *args)
{
	xtestargs_tell(lc, args, 0);
	imap_long_command_end(lc, "OK XTESTARGS completed.");
}

/* -- the plugin ------------------------------------------------------------ */

#define XTEST_CALLBACKS \
	.start = xtest_start, .done = xtest_done, .line = xtest_line, \
	.change = xtest_change, .timer = xtest_timer, .more = xtest_more, \
	.keepalive = xtest_keepalive, .finish = xtest_finish

static const struct imap_long_command_def xtest_defs[] = {
	{ .name = "XTEST", XTEST_CALLBACKS },
	{ .name = "XTESTBOX", .uses_mailbox = TRUE, XTEST_CALLBACKS },
	{ .name = "XTESTMIN", .start = xtestmin_start },
	{ .name = "XTESTARGS", .limits = xtestargs_limits,
	  .start = xtestargs_start },
};

const char *imap_long_command_test_plugin_version = DOVECOT_ABI_VERSION;
const char *imap_long_command_test_plugin_dependencies[] = {
	"imap_long_command", NULL
};
const char imap_long_command_test_plugin_binary_dependency[] = "imap";

void imap_long_command_test_plugin_init(struct module *module ATTR_UNUSED)
{
	unsigned int i;

	for (i = 0; i < N_ELEMENTS(xtest_defs); i++)
		imap_long_command_register(&xtest_defs[i]);
}

void imap_long_command_test_plugin_deinit(void)
{
	unsigned int i;

	for (i = 0; i < N_ELEMENTS(xtest_defs); i++)
		imap_long_command_unregister(&xtest_defs[i]);
}
