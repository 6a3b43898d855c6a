/* Hooks the plugin into the storage. */

#include "metasync-private.h"
#include "metasync-plugin.h"

static struct mail_storage_hooks metasync_hooks = {
	.mail_user_created = metasync_mail_user_created,
	.mailbox_allocated = metasync_mailbox_allocated
};

const char *metasync_plugin_version = DOVECOT_ABI_VERSION;

void metasync_plugin_init(struct module *module)
{
	mail_storage_hooks_add(module, &metasync_hooks);
}

void metasync_plugin_deinit(void)
{
	mail_storage_hooks_remove(&metasync_hooks);
}
