#ifndef DOVEADM_METASYNC_PLUGIN_H
#define DOVEADM_METASYNC_PLUGIN_H

/* Called by doveadm's module loader, found by name. */

struct module;

extern const char *doveadm_metasync_plugin_version;

void doveadm_metasync_plugin_init(struct module *module);
void doveadm_metasync_plugin_deinit(void);

#endif
