#ifndef LONG_COMMAND_TEST_H
#define LONG_COMMAND_TEST_H

/* Called by Dovecot's module loader, found by name. */

struct module;

extern const char *imap_long_command_test_plugin_version;
extern const char *imap_long_command_test_plugin_dependencies[];
extern const char imap_long_command_test_plugin_binary_dependency[];

void imap_long_command_test_plugin_init(struct module *module);
void imap_long_command_test_plugin_deinit(void);

#endif
