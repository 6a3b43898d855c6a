/* Registers commands with Dovecot, and the plugin itself. */

#include "long-command-private.h"
#include "array.h"
#include "settings-parser.h"
#include "imap-commands.h"
#include "compat-user.h"
#include "long-command-plugin.h"

static ARRAY(const struct imap_long_command_def *) long_command_defs;

unsigned int imap_long_command_get_msecs(struct client *client,
					 const char *key,
					 unsigned int default_msecs)
{
	const char *value = compat_user_setting(client->user, key), *error;
	unsigned int msecs;

	if (value == NULL)
		return default_msecs;
	if (settings_get_time_msecs(value, &msecs, &error) < 0 || msecs == 0) {
		e_error(client->event, "%s: Invalid time: %s - using %u ms",
			key, value, default_msecs);
		return default_msecs;
	}
	return msecs;
}

static const struct imap_long_command_def *
long_command_def_find(const char *name)
{
	const struct imap_long_command_def *def;

	array_foreach_elem(&long_command_defs, def) {
		if (strcasecmp(def->name, name) == 0)
			return def;
	}
	i_unreached();
}

void long_command_settings_get(struct client *client,
			       struct long_command_settings *set_r)
{
	set_r->output_timeout_msecs = imap_long_command_get_msecs(client,
		"imap_long_command_output_timeout", 5*60*1000);
	set_r->input_timeout_msecs = imap_long_command_get_msecs(client,
		"imap_long_command_input_timeout", 30*60*1000);
	set_r->check_interval_msecs = imap_long_command_get_msecs(client,
		"imap_long_command_check_interval", 30*1000);
}

static bool long_command_func(struct client_command_context *cmd)
{
	struct long_command_settings set;

	long_command_settings_get(cmd->client, &set);
	return long_command_start(cmd, long_command_def_find(cmd->name), &set);
}

void imap_long_command_register(const struct imap_long_command_def *def)
{
	array_push_back(&long_command_defs, &def);
	/* IDLE's flags for those that use the mailbox */
	command_register(def->name, long_command_func, !def->uses_mailbox ? 0 :
			 COMMAND_FLAG_BREAKS_SEQS |
			 COMMAND_FLAG_REQUIRES_SYNC |
			 COMMAND_FLAG_BREAKS_MAILBOX);
}

void imap_long_command_unregister(const struct imap_long_command_def *def)
{
	const struct imap_long_command_def *const *defp;

	array_foreach(&long_command_defs, defp) {
		if (*defp == def) {
			array_delete(&long_command_defs,
				array_foreach_idx(&long_command_defs, defp),
				1);
			command_unregister(def->name);
			return;
		}
	}
	i_unreached();
}

static void
long_command_hook_pre(struct client_command_context *cmd ATTR_UNUSED)
{
}

const char *imap_long_command_plugin_version = DOVECOT_ABI_VERSION;
const char imap_long_command_plugin_binary_dependency[] = "imap";

void imap_long_command_plugin_init(struct module *module ATTR_UNUSED)
{
	i_array_init(&long_command_defs, 8);
	command_hook_register(long_command_hook_pre, long_command_other_executed);
}

void imap_long_command_plugin_deinit(void)
{
	command_hook_unregister(long_command_hook_pre, long_command_other_executed);
	array_free(&long_command_defs);
}
