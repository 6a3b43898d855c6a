#ifndef MIRROR_RECORD_H
#define MIRROR_RECORD_H

/* What was last in step (mirror-record.c): for each entry the hash of the value that both the file and the replica had, and the
   file's stat then. Without it nobody could tell an edit here from one elsewhere, nor a removal from a new file. A small SQLite
   database beside the mirror's replica. It also has the lists of this run: what has to be looked at and when, and what a
   comparison has seen. What is written is durable when a function returns (in a transaction: when that ends), but for the lists.
   */

#include <sqlite3.h>

#include "mirror-dir.h"

struct mirror_record {
	sqlite3 *db;
	/* by number of the statements in mirror-record.c */
	sqlite3_stmt *statements[32];
	unsigned int statement_count;
	const char *sql[32];
	char error[512];
};

struct mirror_base {
	/* false: not in step, or not there */
	bool known;
	/* Both sides have changed it, and the library has dropped what was written here: the file is no version of what is on the
	   server. */
	bool conflict;
	unsigned char hash[MIRROR_HASH_SIZE];
	struct mirror_stat stat;
	/* The file had the value of this hash, and was about to be sent with it; whether it was is not recorded. */
	bool intended;
	unsigned char intent[MIRROR_HASH_SIZE];
};

/* false in all functions: record->error */
bool mirror_record_open(struct mirror_record *record, const char *path);
void mirror_record_close(struct mirror_record *record);

/* A text that is kept, "" if there is none; at most size - 1 octets. */
bool mirror_record_meta(struct mirror_record *record, const char *key, char *value_r, size_t size);
/* Nothing was ever in step. Sets the texts "marker" and "target". */
bool mirror_record_begin_anew(struct mirror_record *record, const char *marker, const char *target);

bool mirror_record_get(struct mirror_record *record, const char *name, struct mirror_base *base_r);
/* These two end the intent. */
bool mirror_record_put(struct mirror_record *record, const char *name, const struct mirror_base *base);
bool mirror_record_remove(struct mirror_record *record, const char *name);
bool mirror_record_count(struct mirror_record *record, uint64_t *count_r);
/* See struct mirror_base. */
bool mirror_record_intend(struct mirror_record *record, const char *name, const unsigned char hash[MIRROR_HASH_SIZE]);
/* What is written until this is called with false survives the process, but not a power cut. */
bool mirror_record_quick(struct mirror_record *record, bool quick);

/* ---- The lists of this run ---- */

/* The entry is to be looked at, not before due (ms). What is listed already keeps the earlier of both times. */
bool mirror_record_look(struct mirror_record *record, const char *name, int64_t due);
/* Moves the list of all that is due at now to the work of one step; *count_r of them, *known_r of these have a base. */
bool mirror_record_begin(struct mirror_record *record, int64_t now, uint64_t *count_r, uint64_t *known_r);
/* The next of the work behind after, in order; first: the first one. */
bool mirror_record_next(struct mirror_record *record, const char *after, bool first, char name_r[MIRROR_ENTRY_MAX + 1],
			bool *found_r);
/* It is done. */
bool mirror_record_done(struct mirror_record *record, const char *name);
/* All that is still in the work is to be looked at again. */
bool mirror_record_put_back(struct mirror_record *record, int64_t due);
/* When the next is due; -1: none. */
bool mirror_record_due(struct mirror_record *record, int64_t *due_r);

/* Since when (ms) looking at it finds it busy: *since_r, now if it was not until now. */
bool mirror_record_busy(struct mirror_record *record, const char *name, int64_t now, int64_t *since_r);
bool mirror_record_not_busy(struct mirror_record *record, const char *name);

/* How its last write in this run was sent: not at all, with others, as the only one, or by itself since it was refused before,
   which it stays then. */
enum mirror_sent { MIRROR_SENT_NOT, MIRROR_SENT_WITH_OTHERS, MIRROR_SENT_ONLY, MIRROR_SENT_ALONE };
bool mirror_record_set_sent(struct mirror_record *record, const char *name, enum mirror_sent how);
bool mirror_record_sent(struct mirror_record *record, const char *name, enum mirror_sent *how_r);

enum { MIRROR_SEEN_FILE = 1, MIRROR_SEEN_ENTRY = 2 };
bool mirror_record_unsee(struct mirror_record *record);
bool mirror_record_see(struct mirror_record *record, const char *name, unsigned int what);
/* All with a base that were not seen as what are to be looked at. */
bool mirror_record_look_unseen(struct mirror_record *record, unsigned int what, int64_t due);

/* false if this was told already in this run */
bool mirror_record_tell(struct mirror_record *record, const char *text);

/* Begins or ends (commits) one; also quicker for many changes of the lists. */
bool mirror_record_transaction(struct mirror_record *record, bool begin);

#endif
