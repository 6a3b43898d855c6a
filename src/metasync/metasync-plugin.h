#ifndef METASYNC_PLUGIN_H
#define METASYNC_PLUGIN_H

/* Called by Dovecot's module loader, found by name. */

struct module;

extern const char *metasync_plugin_version;

void metasync_plugin_init(struct module *module);
void metasync_plugin_deinit(void);

#endif
