#ifndef COMPAT_IMAP_H
#define COMPAT_IMAP_H

/* What differs between Dovecot versions and is needed by imap plugins only. */

#include "imap-parser.h"

/* A parser over input that never answers the client and has no limit of its own
   below max_size bytes. Debian 12's 2.3.19.1 has a fourth argument (a security
   fix that came later upstream). */
static inline struct imap_parser *
compat_imap_parser_create(struct istream *input, size_t max_size)
{
	return imap_parser_create(input, NULL, max_size, NULL);
}

#endif
