/* XTAIL file [seconds]: the lines of ~/xtail/<file>, and each new one when it is written, until DONE. */
#include <imap-long-command.h>
#include <imap-quote.h>
#include <istream.h>
#include <str.h>
#include <fcntl.h>

static void xtail_start(struct imap_long_command *lc, const struct imap_arg *args)
{
	const char *name, *home, *path, *number = "0";
	unsigned int secs;
	int fd;

	if (!imap_arg_get_astring(args++, &name) || *name == '.' || strchr(name, '/') != NULL ||
	    (imap_arg_get_atom(args, &number) && !IMAP_ARG_IS_EOL(++args)) ||
	    !IMAP_ARG_IS_EOL(args) || str_to_uint(number, &secs) < 0 || secs > 86400)
		return imap_long_command_bad(lc, "Expected a file's name and, maybe, seconds");
	path = mail_user_get_home(lc->client->user, &home) <= 0 ? "" : t_strconcat(home, "/xtail/", name, NULL);
	if ((fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)) == -1)
		return imap_long_command_end(lc, "NO [NONEXISTENT] There is no such file.");
	lc->context = i_stream_create_fd_autoclose(&fd, 8192);
	imap_long_command_watch_path(lc, path);	/* before it is read: no change falls between */
	if (secs > 0)
		imap_long_command_set_timer(lc, 0, secs * 1000);
	imap_long_command_keepalive(lc);
	imap_long_command_send_line(lc, "+ OK");
	imap_long_command_more(lc);
}
static bool xtail_more(struct imap_long_command *lc)	/* FALSE: that was all, until the file changes */
{
	struct istream *input = lc->context;
	const char *line = "";
	bool room = TRUE;

	for (int i = 0; i < 100 && room && (line = i_stream_read_next_line(input)) != NULL; i++) {
		string_t *str = t_str_new(256);
		str_append(str, "* XTAIL ");
		imap_append_string(str, line);
		room = imap_long_command_send_line(lc, str_c(str));
	}
	if (input->stream_errno != 0)
		imap_long_command_end(lc, "NO The file cannot be read.");
	return line != NULL;
}
static void xtail_timer(struct imap_long_command *lc, unsigned int id ATTR_UNUSED)
{
	imap_long_command_end(lc, "OK Time is over.");
}
static void xtail_finish(struct imap_long_command *lc, enum imap_long_command_why why ATTR_UNUSED)
{
	struct istream *input = lc->context;	/* NULL: start() has refused */
	i_stream_unref(&input);
}
static const struct imap_long_command_def xtail = { .name = "XTAIL", .uses_mailbox = TRUE, .start = xtail_start,
	.change = imap_long_command_more, .more = xtail_more, .timer = xtail_timer, .finish = xtail_finish };
const char *imap_xtail_plugin_version = DOVECOT_ABI_VERSION;
const char imap_xtail_plugin_binary_dependency[] = "imap";
const char *imap_xtail_plugin_dependencies[] = { "imap_long_command", NULL };
void imap_xtail_plugin_init(struct module *m ATTR_UNUSED) { imap_long_command_register(&xtail); }
void imap_xtail_plugin_deinit(void) { imap_long_command_unregister(&xtail); }
