/* A command whose plugin needs FUTURE, a later version of the framework, which tests/server/test_framework.py makes; or,
   for the same framework, one of another name, or with another START. */
#include <imap-long-command.h>

#ifndef NAME
#  define NAME "XFUTURE"
#endif
#ifndef START
#  define START xfuture_start
#endif

static void ATTR_UNUSED
xfuture_start(struct imap_long_command *lc, const struct imap_arg *args ATTR_UNUSED)
{
#ifdef FUTURE
	imap_long_command_future(lc);
#endif
	imap_long_command_end(lc, "OK Future completed.");
}

#ifdef FUTURE
static void xfuture_goodbye(struct imap_long_command *lc)
{
	e_info(lc->client->event, "xfuture goodbye");
}
#endif

static const struct imap_long_command_def xfuture = {
	.name = NAME,
	.start = START,
#ifdef FUTURE
	.goodbye = xfuture_goodbye
#endif
};

const char *imap_xfuture_plugin_version = DOVECOT_ABI_VERSION;
const char *imap_xfuture_plugin_dependencies[] = { "imap_long_command", NULL };
const char imap_xfuture_plugin_binary_dependency[] = "imap";

void imap_xfuture_plugin_init(struct module *module ATTR_UNUSED)
{
	bool registered = imap_long_command_register(&xfuture);

	i_info("xfuture %s", registered ? "registered" : "refused");
}

void imap_xfuture_plugin_deinit(void)
{
	imap_long_command_unregister(&xfuture);
}
