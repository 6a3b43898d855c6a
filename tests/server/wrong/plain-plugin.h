#ifndef PLAIN_PLUGIN_H
#define PLAIN_PLUGIN_H

/* Called by Dovecot's module loader, found by name. */

struct module;

extern const char *imap_plain_plugin_version;
extern const char imap_plain_plugin_binary_dependency[];

void imap_plain_plugin_init(struct module *module);
void imap_plain_plugin_deinit(void);

#endif
