/* Registers XKEYSYNC and XKEYADD, and their capability for users who have the
   metasync plugin. */

#include "imap-xkey.h"
#include "module-dir.h"
#include "imap-xkey-plugin.h"

static struct module *imap_xkey_module;
/* both commands are */
static bool imap_xkey_registered;
static imap_client_created_func_t *next_hook_client_created;

static void imap_xkey_client_created(struct client **client)
{
	if (imap_xkey_registered &&
	    mail_user_is_plugin_loaded((*client)->user, imap_xkey_module) &&
	    metasync_user_is_enabled((*client)->user))
		client_add_capability(*client, "XKEY");

	if (next_hook_client_created != NULL)
		next_hook_client_created(client);
}

const char *imap_xkey_plugin_version = DOVECOT_ABI_VERSION;
const char *imap_xkey_plugin_dependencies[] = {
	"imap_long_command", "metasync", NULL
};
const char imap_xkey_plugin_binary_dependency[] = "imap";

void imap_xkey_plugin_init(struct module *module)
{
	imap_xkey_module = module;
	imap_xkey_registered =
		imap_long_command_register(&imap_xkey_cmd_xkeysync) &&
		imap_long_command_register(&imap_xkey_cmd_xkeyadd);
	next_hook_client_created =
		imap_client_created_hook_set(imap_xkey_client_created);
}

void imap_xkey_plugin_deinit(void)
{
	imap_client_created_hook_set(next_hook_client_created);
	imap_long_command_unregister(&imap_xkey_cmd_xkeyadd);
	imap_long_command_unregister(&imap_xkey_cmd_xkeysync);
}
