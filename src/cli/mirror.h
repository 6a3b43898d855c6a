#ifndef MIRROR_H
#define MIRROR_H

/* dovetail mirror: what its files share. mirror.c is the command, its options and start; mirror-run.c the loop and the library's callbacks;
   mirror-scan.c compares all; mirror-step.c brings one entry and its file in step. */

#include "cli.h"
#include "mirror-dir.h"
#include "mirror-record.h"
#include "mirror-watch.h"

/* A write that the server has refused: not tried again until the file changes, or the next start. */
struct mirror_refused {
	char *name;
	unsigned char hash[MIRROR_HASH_SIZE];
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
	bool once, yes, all, json, verbose;
	/* NULL-terminated */
	const char **ignore;
	uint64_t max_entries, max_bytes, max_value, max_removals, trash_days, trash_bytes;

	/* the replica has a consistent state */
	bool synced;
	/* What is to be compared as a whole; scan_at: when (ms), 0: not. */
	int64_t scan_at, scanned_at, pruned_at;
	bool compare;
	/* A comparison at the start or after a RESET: what is gone was not seen going, and the removal of all is none of a user. */
	bool strict;
	/* the folder has gone */
	bool root_gone;
	/* a failure of a callback, to be returned by the loop: an exit code */
	int failed;
	struct mirror_refused *refused;
	size_t refused_count;
	bool refused_tried;
	/* of the step now: what could not be done and is to be tried again */
	uint64_t failures;
	/* one is more than the server takes */
	bool limited;
	/* files and entries moved since the start, for progress */
	uint64_t moved;
};

/* ms, monotonic */
int64_t mirror_now(void);
/* The record cannot be used: prints why. CLI_SYSTEM. */
int mirror_fail_record(struct mirror *mirror);
/* Relative name of an entry of the replica; NULL: it is not in our subtree. */
const char *mirror_short(const struct mirror *mirror, const char *mailbox, const char *name);
/* By the patterns; path is relative. Any folder on the way may be what is ignored. */
bool mirror_is_ignored(const struct mirror *mirror, const char *path);
/* One line on stderr, once in a run for the same words. */
void mirror_tell(struct mirror *mirror, const char *path, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* (mirror-step.c) Brings all that is due in step. What fails is listed again for later. An exit code: others than CLI_OK end the mirror. */
int mirror_step_all(struct mirror *mirror);
/* (mirror-scan.c) Lists what differs between the folder and the record, or the replica and the record. An exit code. */
int mirror_scan_files(struct mirror *mirror);
int mirror_scan_entries(struct mirror *mirror);
/* (mirror-run.c) */
int mirror_run_once(struct mirror *mirror);
int mirror_run_live(struct mirror *mirror);

int cmd_mirror(struct cli *cli);

#endif
