/* Registers the commands.

   There is no list of dependencies: doveadm looks for those among its own
   modules only, where the metasync plugin is not. Without it this module cannot
   be linked, and doveadm leaves it out. */

#include "doveadm-metasync.h"
#include "doveadm-metasync-plugin.h"

const char *doveadm_metasync_plugin_version = DOVECOT_ABI_VERSION;

void doveadm_metasync_plugin_init(struct module *module ATTR_UNUSED)
{
	doveadm_cmd_register_ver2(&doveadm_metasync_cmd_list);
	doveadm_cmd_register_ver2(&doveadm_metasync_cmd_get);
	doveadm_cmd_register_ver2(&doveadm_metasync_cmd_set);
	doveadm_cmd_register_ver2(&doveadm_metasync_cmd_unset);
	doveadm_cmd_register_ver2(&doveadm_metasync_cmd_watch);
	doveadm_cmd_register_ver2(&doveadm_metasync_cmd_export);
	doveadm_cmd_register_ver2(&doveadm_metasync_cmd_import);
	doveadm_cmd_register_ver2(&doveadm_metasync_cmd_status);
	doveadm_cmd_register_ver2(&doveadm_metasync_cmd_check);
	doveadm_cmd_register_ver2(&doveadm_metasync_cmd_purge);
	doveadm_cmd_register_ver2(&doveadm_metasync_cmd_new_epoch);
}

void doveadm_metasync_plugin_deinit(void)
{
}
