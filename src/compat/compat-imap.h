#ifndef COMPAT_IMAP_H
#define COMPAT_IMAP_H

/* What differs between Dovecot versions and is needed by imap plugins only. */

#include "imap-parser.h"

/* A parser over input that never answers the client and has no limit of its own
   below max_size bytes, but for the number of lists: each takes memory. Debian
   12's 2.3.19.1 has the fourth argument (a security fix that came later
   upstream). */
static inline struct imap_parser *
compat_imap_parser_create(struct istream *input, size_t max_size,
			  unsigned int max_lists)
{
	const struct imap_parser_params params = {
		.list_count_limit = max_lists
	};

	return imap_parser_create(input, NULL, max_size, &params);
}

#endif
