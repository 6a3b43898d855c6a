#ifndef COMPAT_USER_H
#define COMPAT_USER_H

/* The one place that knows what differs between Dovecot versions; compat-imap.h
   has what only imap plugins need. */

#include "mail-user.h"

/* A plugin setting (plugin {} or a userdb field), or NULL. */
static inline const char *
compat_user_setting(struct mail_user *user, const char *key)
{
	return mail_user_plugin_getenv(user, key);
}

#endif
