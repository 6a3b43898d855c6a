/* Registers commands with Dovecot, and the plugin itself. */

#include "long-command-private.h"
#include "array.h"
#include "settings-parser.h"
#include "imap-commands.h"
#include "compat-user.h"
#include "long-command-plugin.h"

static ARRAY(struct long_command_reg *) long_command_regs;

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

/* Returns NULL if there is none. */
static struct long_command_reg *long_command_reg_find(const char *name)
{
	struct long_command_reg *reg;

	array_foreach_elem(&long_command_regs, reg) {
		if (strcasecmp(reg->def.name, name) == 0)
			return reg;
	}
	return NULL;
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
	return long_command_start(cmd, long_command_reg_find(cmd->name), &set);
}

/* Of a def only the name is where it is in all versions. */
static bool
long_command_version_is_known(const struct imap_long_command_def *def,
			      unsigned int major, unsigned int minor)
{
	if (major == IMAP_LONG_COMMAND_VERSION_MAJOR &&
	    minor <= IMAP_LONG_COMMAND_VERSION_MINOR)
		return TRUE;
	i_error("imap-long-command: %s is not available: its plugin was built "
		"for imap-long-command %u.%u, and this is %u.%u.%u (see "
		"docs/framework.md)",
		def->name != NULL ? def->name : "A command without a name",
		major, minor, IMAP_LONG_COMMAND_VERSION_MAJOR,
		IMAP_LONG_COMMAND_VERSION_MINOR,
		IMAP_LONG_COMMAND_VERSION_PATCH);
	return FALSE;
}

/* A plugin that makes a mistake here loses its command. It must not end each
   login. */
static bool long_command_can_register(const struct imap_long_command_def *def)
{
	if (def->name == NULL || def->start == NULL) {
		i_error("imap-long-command: %s is not available: its plugin's "
			"definition has no %s",
			def->name != NULL ? def->name : "A command",
			def->name == NULL ? "name" : "start()");
		return FALSE;
	}
	if (command_find(def->name) != NULL) {
		/* Dovecot would take either of them */
		i_error("imap-long-command: %s is registered already, by "
			"Dovecot or another plugin: ignoring the second one",
			def->name);
		return FALSE;
	}
	return TRUE;
}

/* No padding at the end, or a later version's first new member could be where an
   older plugin has no zeros. */
_Static_assert(offsetof(struct imap_long_command_def, finish) + sizeof(void *) ==
	       sizeof(struct imap_long_command_def),
	       "a definition ends with its last member");

bool imap_long_command_register_for(const struct imap_long_command_def *def,
				    unsigned int major, unsigned int minor,
				    size_t def_size)
{
	struct long_command_reg *reg;

	if (!long_command_version_is_known(def, major, minor))
		return FALSE;
	reg = i_new(struct long_command_reg, 1);
	memcpy(&reg->def, def, I_MIN(def_size, sizeof(reg->def)));
	reg->author_def = def;
	if (!long_command_can_register(&reg->def)) {
		i_free(reg);
		return FALSE;
	}
	array_push_back(&long_command_regs, &reg);
	/* IDLE's flags for those that use the mailbox */
	command_register(def->name, long_command_func, !def->uses_mailbox ? 0 :
			 COMMAND_FLAG_BREAKS_SEQS |
			 COMMAND_FLAG_REQUIRES_SYNC |
			 COMMAND_FLAG_BREAKS_MAILBOX);
	return TRUE;
}

void imap_long_command_unregister(const struct imap_long_command_def *def)
{
	struct long_command_reg *reg;
	unsigned int i;

	for (i = 0; i < array_count(&long_command_regs); i++) {
		reg = array_idx_elem(&long_command_regs, i);
		if (reg->author_def != def)
			continue;
		command_unregister(def->name);
		array_delete(&long_command_regs, i, 1);
		i_free(reg);
		return;
	}
}

static void
long_command_hook_pre(struct client_command_context *cmd ATTR_UNUSED)
{
}

const char *imap_long_command_plugin_version = DOVECOT_ABI_VERSION;
const char imap_long_command_plugin_binary_dependency[] = "imap";

void imap_long_command_plugin_init(struct module *module ATTR_UNUSED)
{
	i_array_init(&long_command_regs, 8);
	command_hook_register(long_command_hook_pre, long_command_other_executed);
}

void imap_long_command_plugin_deinit(void)
{
	command_hook_unregister(long_command_hook_pre, long_command_other_executed);
	array_free(&long_command_regs);
}
