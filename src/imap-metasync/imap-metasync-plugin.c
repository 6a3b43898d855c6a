/* Registers XMETASYNC, XMETASET and a NOTIFY that knows of metadata, and the
   capabilities for users who have the metasync plugin. */

#include "imap-metasync.h"
#include "imap-commands.h"
#include "module-dir.h"
#include "mail-storage-settings.h"
#include "imap-metasync-plugin.h"

static struct module *imap_metasync_module;
/* both commands are */
static bool imap_metasync_registered;
static imap_client_created_func_t *next_hook_client_created;

/* Core does it only where a dictionary for attributes is set. */
static void imap_metasync_add_metadata(struct client *client)
{
	const struct mail_storage_settings *set =
		mail_user_set_get_storage_set(client->user);

	if (client->set->imap_metadata && *set->mail_attribute_dict == '\0')
		client_add_capability(client, "METADATA");
}

static void imap_metasync_client_created(struct client **client)
{
	if (mail_user_is_plugin_loaded((*client)->user,
				       imap_metasync_module) &&
	    metasync_user_is_enabled((*client)->user)) {
		if (imap_metasync_registered)
			client_add_capability(*client, "XMETASYNC");
		imap_metasync_add_metadata(*client);
		imap_metasync_announce_client(*client);
	}

	if (next_hook_client_created != NULL)
		next_hook_client_created(client);
}

static void hide_args_pre(struct client_command_context *cmd ATTR_UNUSED)
{
}

/* Core gives a finished command's arguments to events and to the log. Those of
   GETMETADATA name entries. (SETMETADATA's are read by another way.) */
static void hide_args_post(struct client_command_context *cmd)
{
	if (cmd->name == NULL || strcasecmp(cmd->name, "GETMETADATA") != 0 ||
	    cmd->args == NULL || *cmd->args == '\0')
		return;
	cmd->args = "";
	cmd->human_args = "";
	event_add_str(cmd->event, "cmd_args", "");
	event_add_str(cmd->event, "cmd_human_args", "");
}

const char *imap_metasync_plugin_version = DOVECOT_ABI_VERSION;
const char *imap_metasync_plugin_dependencies[] = {
	"imap_long_command", "metasync", NULL
};
const char imap_metasync_plugin_binary_dependency[] = "imap";

void imap_metasync_plugin_init(struct module *module)
{
	imap_metasync_module = module;
	imap_metasync_announce_init();
	imap_metasync_cmd_notify_init();
	command_hook_register(hide_args_pre, hide_args_post);
	imap_metasync_registered =
		imap_long_command_register(&imap_metasync_cmd_xmetasync) &&
		imap_long_command_register(&imap_metasync_cmd_xmetaset);
	next_hook_client_created =
		imap_client_created_hook_set(imap_metasync_client_created);
}

void imap_metasync_plugin_deinit(void)
{
	imap_client_created_hook_set(next_hook_client_created);
	imap_long_command_unregister(&imap_metasync_cmd_xmetaset);
	imap_long_command_unregister(&imap_metasync_cmd_xmetasync);
	command_hook_unregister(hide_args_pre, hide_args_post);
	imap_metasync_cmd_notify_deinit();
	imap_metasync_announce_deinit();
}
