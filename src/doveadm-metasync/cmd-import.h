#ifndef CMD_IMPORT_H
#define CMD_IMPORT_H

/* Shared by import's two sources: cmd-import.c and cmd-import-dict.c. */

#include "doveadm-metasync.h"

/* A set has no more bytes of values than this, or one value. */
#define IMPORT_SET_BYTES (16*1024*1024)

struct metasync_import_cmd {
	struct metasync_cmd cmd;

	bool skip_missing;

	bool from_dict;
	/* NULL: mail_attribute_dict */
	const char *dict_uri;
	bool overwrite;
};

/* --from-dict: what init() and run() do. */
void metasync_import_dict_init(void);
int metasync_import_dict(struct metasync_import_cmd *cmd,
			 struct mail_user *user);

#endif
