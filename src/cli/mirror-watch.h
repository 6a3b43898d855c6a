#ifndef MIRROR_WATCH_H
#define MIRROR_WATCH_H

/* Being told what changes in the mirrored folder (mirror-watch.c): inotify. Knows nothing of entries. */

#include <stdbool.h>
#include <stddef.h>

struct mirror_watch;

struct mirror_watch_events {
	/* A file was closed after writing, was moved in or out, or removed. path is relative to the root. */
	void (*file)(void *context, const char *path);
	/* Folders have come, gone or moved, or events were lost: all is to be compared, with mirror_watch_begin(). */
	void (*rescan)(void *context);
	/* the root itself was moved, removed or unmounted */
	void (*root)(void *context);
};

/* NULL: out of memory. If inotify cannot be used mirror_watch_fd() is -1. */
struct mirror_watch *mirror_watch_new(const struct mirror_watch_events *events, void *context);
void mirror_watch_free(struct mirror_watch *watch);
int mirror_watch_fd(const struct mirror_watch *watch);
/* Why there is no inotify, or not for all folders; NULL: it works. */
const char *mirror_watch_error(const struct mirror_watch *watch);
/* Reads what has come and calls events. */
void mirror_watch_read(struct mirror_watch *watch);

/* A comparison of all: begin, add() for each folder before it is read, end: folders that were not added are not watched any more.
   */
void mirror_watch_begin(struct mirror_watch *watch);
void mirror_watch_add(struct mirror_watch *watch, int fd, const char *path);
void mirror_watch_end(struct mirror_watch *watch);

#endif
