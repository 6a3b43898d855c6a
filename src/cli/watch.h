#ifndef WATCH_H
#define WATCH_H

/* The parts of dovetail watch: what was seen of the replica, and the commands that are run. Used by cmd-watch.c only. */

#include "cli.h"

/* ---- What was seen (watch-view.c) ----

   A change is a difference between two looks at the replica, whoever made it: another device, or another process on
   this one that writes into the same replica (which the library's callback does not tell). For each entry its names
   and a hash of its value are kept in memory. */

struct watch_event {
	/* owned by the view's list */
	char *mailbox, *name;
	bool removed;
	/* 0: not on the server yet, or removed */
	uint64_t modseq;
};

struct watch_view;
/* mailbox NULL: all; name NULL: all. Both are copied. NULL: out of memory. */
struct watch_view *watch_view_new(struct cli *cli, const char *mailbox, const char *name);
void watch_view_free(struct watch_view *view);
/* Looks, and puts what is different from the last look into the list; after the first look with all that is there, if
   all. Only when the list is empty. An exit code. */
int watch_view_look(struct watch_view *view, bool all);
/* The next change, valid until the next call; NULL: no more. Removals first, then by modseq, then what is not on the
   server yet. */
const struct watch_event *watch_view_next(struct watch_view *view);

/* ---- Commands (watch-exec.c) ---- */

struct watch_exec {
	/* NULL-terminated */
	char **argv;
	/* -1: none runs; becomes readable when it has ended */
	int pid_fd;
	pid_t pid;
};

/* Splits the text into words (cli_word()): argv is one allocation, free(). An exit code. */
int watch_exec_split(struct cli *cli, char *text, char ***argv_r);
/* Whether it can be run at all: a file on PATH. An exit code. */
int watch_exec_find(struct cli *cli, const char *program);
/* Starts it for the change. A failure is told, and nothing runs then. entry: NULL if removed. */
void watch_exec_start(struct cli *cli, struct watch_exec *exec, const struct watch_event *event,
		      const struct dovetail_entry *entry);
/* After pid_fd is readable: tells a failure. */
void watch_exec_end(struct cli *cli, struct watch_exec *exec);
/* Ends what runs: SIGTERM, and after five seconds or another signal to us SIGKILL. */
void watch_exec_stop(struct cli *cli, struct watch_exec *exec);

#endif
