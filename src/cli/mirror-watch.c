/* inotify on all folders of the mirrored one. A change among the folders themselves (new, moved, removed) is answered with a
   comparison of all, which finds and watches what is there now: simple, and without races between a new folder and its watch,
   since a folder is watched before it is read. */

#include "mirror-watch.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#define EVENTS (IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_CREATE | IN_DELETE_SELF | IN_MOVE_SELF | \
	IN_ONLYDIR | IN_EXCL_UNLINK)

struct folder {
	int wd;
	unsigned int round;
	char *path;
};

struct mirror_watch {
	struct mirror_watch_events events;
	void *context;
	int fd;
	/* sorted by wd */
	struct folder *folders;
	size_t count, allocated;
	/* of comparisons */
	unsigned int round;
	char error[200];
};

struct mirror_watch *mirror_watch_new(const struct mirror_watch_events *events, void *context)
{
	struct mirror_watch *watch = calloc(1, sizeof(*watch));

	if (watch == NULL)
		return NULL;
	watch->events = *events;
	watch->context = context;
	watch->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (watch->fd < 0) {
		snprintf(watch->error, sizeof(watch->error), "%s", errno == EMFILE ?
			 "fs.inotify.max_user_instances is used up" : strerror(errno));
	}
	return watch;
}

void mirror_watch_free(struct mirror_watch *watch)
{
	size_t i;

	if (watch == NULL)
		return;
	for (i = 0; i < watch->count; i++)
		free(watch->folders[i].path);
	free(watch->folders);
	if (watch->fd >= 0)
		close(watch->fd);
	free(watch);
}

int mirror_watch_fd(const struct mirror_watch *watch)
{
	return watch->fd;
}

const char *mirror_watch_error(const struct mirror_watch *watch)
{
	return watch->error[0] != '\0' ? watch->error : NULL;
}

/* Where wd is, or has to be inserted. */
static size_t folder_index(const struct mirror_watch *watch, int wd)
{
	size_t low = 0, high = watch->count, middle;

	while (low < high) {
		middle = low + (high - low) / 2;
		if (watch->folders[middle].wd < wd)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct folder *folder_find(struct mirror_watch *watch, int wd)
{
	size_t i = folder_index(watch, wd);

	return i < watch->count && watch->folders[i].wd == wd ? &watch->folders[i] : NULL;
}

static bool folder_set(struct mirror_watch *watch, int wd, const char *path)
{
	struct folder *folder = folder_find(watch, wd), *folders;
	char *copy = strdup(path);
	size_t i;

	if (copy == NULL)
		return false;
	if (folder != NULL) {
		free(folder->path);
		folder->path = copy;
		folder->round = watch->round;
		return true;
	}
	if (watch->count == watch->allocated) {
		folders = reallocarray(watch->folders, watch->allocated + 256, sizeof(*folders));
		if (folders == NULL) {
			free(copy);
			return false;
		}
		watch->folders = folders;
		watch->allocated += 256;
	}
	i = folder_index(watch, wd);
	memmove(watch->folders + i + 1, watch->folders + i, (watch->count - i) * sizeof(*watch->folders));
	watch->folders[i] = (struct folder){ .wd = wd, .round = watch->round, .path = copy };
	watch->count++;
	return true;
}

void mirror_watch_begin(struct mirror_watch *watch)
{
	watch->round++;
	if (watch->fd >= 0)
		watch->error[0] = '\0';
}

void mirror_watch_add(struct mirror_watch *watch, int fd, const char *path)
{
	char proc[64];
	int wd;

	if (watch->fd < 0)
		return;
	/* the open folder, whatever its path leads to now */
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	wd = inotify_add_watch(watch->fd, proc, EVENTS);
	if (wd >= 0 && folder_set(watch, wd, path))
		return;
	snprintf(watch->error, sizeof(watch->error), "%s", wd >= 0 ? "out of memory" : errno == ENOSPC ?
		 "fs.inotify.max_user_watches is used up" : strerror(errno));
}

void mirror_watch_end(struct mirror_watch *watch)
{
	size_t i, kept = 0;

	for (i = 0; i < watch->count; i++) {
		if (watch->folders[i].round == watch->round) {
			watch->folders[kept++] = watch->folders[i];
			continue;
		}
		(void)inotify_rm_watch(watch->fd, watch->folders[i].wd);
		free(watch->folders[i].path);
	}
	watch->count = kept;
}

static void event_read(struct mirror_watch *watch, const struct inotify_event *event)
{
	const struct folder *folder;
	char *path;

	if ((event->mask & IN_Q_OVERFLOW) != 0) {
		watch->events.rescan(watch->context);
		return;
	}
	folder = folder_find(watch, event->wd);
	/* of one that is not watched any more */
	if (folder == NULL)
		return;
	if ((event->mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT)) != 0) {
		if (*folder->path == '\0')
			watch->events.root(watch->context);
		else
			watch->events.rescan(watch->context);
		return;
	}
	if ((event->mask & IN_ISDIR) != 0) {
		watch->events.rescan(watch->context);
		return;
	}
	if (event->len == 0)
		return;
	if (asprintf(&path, *folder->path == '\0' ? "%s%s" : "%s/%s", folder->path, event->name) < 0) {
		watch->events.rescan(watch->context);
		return;
	}
	watch->events.file(watch->context, path);
	free(path);
}

void mirror_watch_read(struct mirror_watch *watch)
{
	char buffer[16384] __attribute__((aligned(__alignof__(struct inotify_event))));
	const struct inotify_event *event;
	ssize_t size, at;

	while (watch->fd >= 0 && (size = read(watch->fd, buffer, sizeof(buffer))) > 0) {
		for (at = 0; at < size; at += sizeof(*event) + event->len) {
			event = (const struct inotify_event *)(buffer + at);
			event_read(watch, event);
		}
	}
}
