#ifndef IMAP_XKEY_PLUGIN_H
#define IMAP_XKEY_PLUGIN_H

/* Called by Dovecot's module loader, found by name. */

struct module;

extern const char *imap_xkey_plugin_version;
extern const char *imap_xkey_plugin_dependencies[];
extern const char imap_xkey_plugin_binary_dependency[];

void imap_xkey_plugin_init(struct module *module);
void imap_xkey_plugin_deinit(void);

#endif
