#ifndef MIRROR_H
#define MIRROR_H

/* dovetail mirror: what its files share. mirror.c is the command, its options and start; mirror-run.c the loop and the library's
   callbacks; mirror-scan.c compares all; mirror-work.c goes through what is due; mirror-step.c decides about one entry and its
   file; mirror-batch.c carries out what was decided, for many at once. */

#include "cli.h"
#include "mirror-dir.h"
#include "mirror-record.h"
#include "mirror-watch.h"

/* A write that the server has refused: not tried again until the file changes, or the next start; or by itself, if it was
   refused together with others. */
struct mirror_refused {
	char *name;
	/* its value; not for removals */
	unsigned char hash[MIRROR_HASH_SIZE];
	bool removal;
	enum mirror_sent sent;
	/* the record knows what is on the server: its refusal may be forgotten */
	bool noted;
};

/* Entries in one batch at most: a change set has no more. */
#define MIRROR_BATCH_MAX 100

/* What is done with one entry, and recorded when it is done. */
struct mirror_item {
	enum { MIRROR_NOTHING, MIRROR_SEND, MIRROR_PLACE, MIRROR_REMOVE } action;
	/* owned */
	char *name, *path;
	/* There is no value any more: the record has to forget it. Else the value's hash and the stat of the file with it. */
	bool gone;
	unsigned char hash[MIRROR_HASH_SIZE];
	struct mirror_stat stat;
	/* MIRROR_PLACE: the file, and what it replaces: stat, until it is placed */
	struct mirror_new new;
	bool replaces;
	/* it has failed: it is not recorded */
	bool failed;
};

struct mirror_batch {
	struct mirror_item items[MIRROR_BATCH_MAX];
	size_t count;
	/* what is to be sent; NULL: nothing. bytes of values, line: octets of the command's lines without them. */
	struct dovetail_changes *changes;
	size_t sends, bytes, line;
	/* octets in .dovetail/tmp */
	size_t written;
};

struct mirror {
	struct cli *cli;
	struct mirror_dir dir;
	struct mirror_record record;
	struct mirror_watch *watch;
	/* NULL with --once */
	struct dovetail_sync *sync;
	struct dovetail_sync_options sync_options;

	/* the subtree's entry; names in the record are what follows it and a slash */
	char *prefix;
	const char *mailbox;

	/* options */
	bool once, yes, all, dot_files, json, verbose;
	/* NULL-terminated */
	const char **ignore;
	uint64_t max_entries, max_bytes, max_value, max_removals, trash_days, trash_bytes;

	/* the replica has a consistent state */
	bool synced;
	/* What is to be compared as a whole; scan_at: when (ms), 0: not. */
	int64_t scan_at, scanned_at, pruned_at;
	bool compare;
	/* A comparison at the start or after a RESET: what is gone was not seen going, and the removal of all is none of a user.
	   */
	bool strict;
	/* the folder has gone */
	bool root_gone;
	/* a failure of a callback, to be returned by the loop: an exit code */
	int failed;
	/* sorted by name */
	struct mirror_refused *refused;
	size_t refused_count;
	/* of the step now: what could not be done and is to be tried again */
	uint64_t failures;
	/* those of them that will not go away in a moment: no rights, no room on the disk */
	uint64_t stuck;
	/* one is more than the server takes */
	bool limited;
	/* folders that the last comparison could not read */
	uint64_t unreadable;
	struct mirror_batch batch;
	/* entries in a change set: fewer than MIRROR_BATCH_MAX once the server has turned out to take fewer */
	size_t max_sends;
	/* what the replica has, with what is to be sent: for the caps */
	uint64_t entries, bytes;
	/* something was busy; names that begin with a dot were told of */
	bool any_busy, dot_told;
};

/* ---- mirror-scan.c ---- */

/* ms, monotonic */
int64_t mirror_now(void);
/* The record cannot be used: prints why. CLI_SYSTEM. */
int mirror_fail_record(struct mirror *mirror);
/* Relative name of an entry of the replica; NULL: it is not in our subtree. */
const char *mirror_short(const struct mirror *mirror, const char *mailbox, const char *name);
/* The other way. */
void mirror_full(const struct mirror *mirror, const char *name, char full_r[MIRROR_ENTRY_MAX + 1]);
/* By the patterns; path is relative. Any folder on the way may be what is ignored. */
bool mirror_is_ignored(struct mirror *mirror, const char *path);
/* One line on stderr, once in a run for the same words. */
void mirror_tell(struct mirror *mirror, const char *path, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Lists what differs between the folder and the record, or the replica and the record. An exit code. */
int mirror_scan_files(struct mirror *mirror);
int mirror_scan_entries(struct mirror *mirror);

/* ---- mirror-batch.c: all return an exit code; others than CLI_OK end the mirror ---- */

/* To be sent, with the file's hash and stat; data NULL: to be removed there. */
int mirror_batch_send(struct mirror *mirror, const char *name, const char *path, const void *data, const struct mirror_file *file);
/* To be written to the file. expect as for mirror_new_place(). */
int mirror_batch_place(struct mirror *mirror, const char *name, const char *path, const void *data, size_t size,
		       const unsigned char hash[MIRROR_HASH_SIZE], const struct mirror_stat *expect);
/* The file has been removed. */
int mirror_batch_removed(struct mirror *mirror, const char *name, const char *path);
/* Only to be recorded. hash NULL: it is not there any more. */
int mirror_batch_note(struct mirror *mirror, const char *name, const unsigned char *hash, const struct mirror_stat *stat);
/* There is room for one more. */
int mirror_batch_room(struct mirror *mirror);
/* Does all of it. */
int mirror_batch_flush(struct mirror *mirror);
/* Frees what was not done. */
void mirror_batch_drop(struct mirror *mirror);
/* A line on stdout: "written path". */
void mirror_event(struct mirror *mirror, const char *what, const char *name, const char *path);
/* The file could not be read, written or removed; the replica has refused: tells, and lists it again for later. */
int mirror_file_failed(struct mirror *mirror, const char *name, const char *path, enum mirror_result result);
int mirror_replica_failed(struct mirror *mirror, const char *name, const char *path, enum dovetail_status status);
/* Nothing is written to the folder or the server: it is looked at again in a minute. */
int mirror_left_alone(struct mirror *mirror, const char *name);

/* ---- mirror-step.c ---- */

/* Decides about one entry and its file; what is to be done goes into the batch. removals: whether it is time for these; *done_r
   is false if it is one, and it is not. An exit code. */
int mirror_step(struct mirror *mirror, const char *name, bool removals, bool *done_r);
/* The entry's file: path_r has room for MIRROR_INSIDE. false: it has none. */
bool mirror_step_path(struct mirror *mirror, const char *name, char path_r[MIRROR_PATH_MAX + 4]);

/* ---- mirror-work.c ---- */

/* Brings all that is due in step. What fails is listed again for later; after a signal the rest is. An exit code. */
int mirror_work(struct mirror *mirror);

/* ---- mirror-run.c ---- */

int mirror_run_once(struct mirror *mirror);
int mirror_run_live(struct mirror *mirror);

int cmd_mirror(struct cli *cli);

#endif
