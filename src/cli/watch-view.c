/* What dovetail watch has seen; see watch.h. The list of entries is in the order of the library's iterator, so that a
   look is a merge. */

#include <stdlib.h>
#include <string.h>

#include "watch.h"

struct item {
	char *mailbox, *name;
	uint64_t modseq, hash;
	size_t size;
	unsigned int flags;
};

struct items {
	struct item *at;
	size_t count, room;
};

struct watch_view {
	struct cli *cli;
	char *mailbox, *name;
	struct items items;
	struct watch_event *events;
	size_t event_count, event_room, event_next;
	bool looked;
};

static bool items_add(struct items *items, const struct item *item)
{
	struct item *grown;

	if (items->count == items->room) {
		grown = realloc(items->at, (items->room * 2 + 64) * sizeof(*grown));
		if (grown == NULL)
			return false;
		items->at = grown;
		items->room = items->room * 2 + 64;
	}
	items->at[items->count++] = *item;
	return true;
}

static void item_free(struct item *item)
{
	free(item->mailbox);
	free(item->name);
	memset(item, 0, sizeof(*item));
}

static void items_free(struct items *items)
{
	size_t i;

	for (i = 0; i < items->count; i++)
		item_free(&items->at[i]);
	free(items->at);
	memset(items, 0, sizeof(*items));
}

static bool events_add(struct watch_view *view, const struct item *item, bool removed)
{
	struct watch_event *grown, *event;

	if (view->event_count == view->event_room) {
		grown = realloc(view->events, (view->event_room * 2 + 64) * sizeof(*grown));
		if (grown == NULL)
			return false;
		view->events = grown;
		view->event_room = view->event_room * 2 + 64;
	}
	event = &view->events[view->event_count];
	event->mailbox = strdup(item->mailbox);
	event->name = strdup(item->name);
	event->removed = removed;
	event->modseq = removed || (item->flags & DOVETAIL_ENTRY_PENDING) != 0 ? 0 : item->modseq;
	if (event->mailbox == NULL || event->name == NULL) {
		free(event->mailbox);
		free(event->name);
		return false;
	}
	view->event_count++;
	return true;
}

static void events_clear(struct watch_view *view)
{
	size_t i;

	for (i = 0; i < view->event_count; i++) {
		free(view->events[i].mailbox);
		free(view->events[i].name);
	}
	view->event_count = view->event_next = 0;
}

static int event_compare(const void *va, const void *vb)
{
	const struct watch_event *a = va, *b = vb;
	uint64_t x, y;

	if (a->removed != b->removed)
		return a->removed ? -1 : 1;
	x = a->modseq != 0 ? a->modseq : UINT64_MAX;
	y = b->modseq != 0 ? b->modseq : UINT64_MAX;
	if (x != y)
		return x < y ? -1 : 1;
	/* as the iterator has them */
	x = strcmp(a->mailbox, b->mailbox);
	return x != 0 ? (int)x : strcmp(a->name, b->name);
}

/* ---- Looking ---- */

/* FNV-1a: finds out whether a value is another one, where modseq and size do not tell. */
static uint64_t hash(const void *data, size_t size)
{
	const unsigned char *p = data;
	uint64_t value = 14695981039346656037ULL;

	for (; size > 0; size--)
		value = (value ^ *p++) * 1099511628211ULL;
	return value;
}

/* The value's hash; 0 if there is none to be read. */
static enum dovetail_status item_hash(struct watch_view *view, struct item *item)
{
	struct dovetail_entry entry;
	enum dovetail_status status;

	status = dovetail_get(view->cli->replica, item->mailbox, item->name, &entry);
	if (status == DOVETAIL_OK && entry.data != NULL)
		item->hash = hash(entry.data, entry.size);
	/* removed meanwhile: the next look tells it */
	return status == DOVETAIL_NOT_FOUND ? DOVETAIL_OK : status;
}

/* One entry of the new look, old: what it was before, or NULL. */
static enum dovetail_status
look_at(struct watch_view *view, const struct dovetail_entry *entry, const struct item *old, bool tell, struct items *items)
{
	struct item item = { .modseq = entry->modseq, .size = entry->size, .flags = entry->flags };
	enum dovetail_status status = DOVETAIL_OK;
	const unsigned int kind = DOVETAIL_ENTRY_NOT_HERE | DOVETAIL_ENTRY_LOCKED | DOVETAIL_ENTRY_DAMAGED;
	bool changed;

	item.mailbox = strdup(entry->mailbox);
	item.name = strdup(entry->name);
	if (item.mailbox == NULL || item.name == NULL) {
		item_free(&item);
		return DOVETAIL_SYSTEM;
	}
	if (old != NULL && old->modseq == item.modseq && old->size == item.size && old->flags == item.flags &&
	    (item.flags & DOVETAIL_ENTRY_PENDING) == 0)
		item.hash = old->hash;
	else
		status = item_hash(view, &item);
	if (status != DOVETAIL_OK) {
		item_free(&item);
		return status;
	}
	changed = old == NULL || old->hash != item.hash || (old->flags & kind) != (item.flags & kind) ||
		(old->size != item.size && (item.flags & kind) != 0);
	if (!items_add(items, &item)) {
		item_free(&item);
		return DOVETAIL_SYSTEM;
	}
	return !changed || !tell || events_add(view, &item, false) ? DOVETAIL_OK : DOVETAIL_SYSTEM;
}

static int item_compare(const struct item *item, const struct dovetail_entry *entry)
{
	int ret = strcmp(item->mailbox, entry->mailbox);

	return ret != 0 ? ret : strcmp(item->name, entry->name);
}

static enum dovetail_status look(struct watch_view *view, bool tell, struct items *items)
{
	struct items *old = &view->items;
	struct dovetail_entry entry;
	struct dovetail_iter *iter;
	enum dovetail_status status;
	size_t next = 0;
	bool same;

	status = dovetail_iter_open(view->cli->replica, view->mailbox, view->name, false, &iter);
	if (status != DOVETAIL_OK)
		return status;
	while ((status = dovetail_iter_next(iter, &entry)) == DOVETAIL_OK) {
		for (; next < old->count && item_compare(&old->at[next], &entry) < 0 && status == DOVETAIL_OK; next++) {
			if (!events_add(view, &old->at[next], true))
				status = DOVETAIL_SYSTEM;
		}
		same = next < old->count && item_compare(&old->at[next], &entry) == 0;
		if (status == DOVETAIL_OK)
			status = look_at(view, &entry, same ? &old->at[next] : NULL, tell, items);
		if (status != DOVETAIL_OK)
			break;
		if (same)
			next++;
	}
	dovetail_iter_close(iter);
	if (status != DOVETAIL_NOT_FOUND)
		return status;
	for (; next < old->count; next++) {
		if (!events_add(view, &old->at[next], true))
			return DOVETAIL_SYSTEM;
	}
	return DOVETAIL_OK;
}

int watch_view_look(struct watch_view *view, bool all)
{
	struct items items = { .at = NULL };
	enum dovetail_status status;

	status = look(view, view->looked || all, &items);
	if (status != DOVETAIL_OK) {
		items_free(&items);
		events_clear(view);
		return cli_fail(view->cli, status, NULL);
	}
	items_free(&view->items);
	view->items = items;
	view->looked = true;
	if (view->event_count > 0)
		qsort(view->events, view->event_count, sizeof(*view->events), event_compare);
	return CLI_OK;
}

const struct watch_event *watch_view_next(struct watch_view *view)
{
	if (view->event_next < view->event_count)
		return &view->events[view->event_next++];
	events_clear(view);
	return NULL;
}

struct watch_view *watch_view_new(struct cli *cli, const char *mailbox, const char *name)
{
	struct watch_view *view = calloc(1, sizeof(*view));

	if (view == NULL)
		return NULL;
	view->cli = cli;
	view->mailbox = mailbox != NULL ? strdup(mailbox) : NULL;
	view->name = name != NULL ? strdup(name) : NULL;
	if ((mailbox == NULL || view->mailbox != NULL) && (name == NULL || view->name != NULL))
		return view;
	watch_view_free(view);
	return NULL;
}

void watch_view_free(struct watch_view *view)
{
	if (view == NULL)
		return;
	events_clear(view);
	items_free(&view->items);
	free(view->events);
	free(view->mailbox);
	free(view->name);
	free(view);
}
