/* The wake file. Waiting sessions watch it, and the last small change sets are in
   it, so that who has seen all that was before need not ask the database.

   It has slots of a fixed size; the change set with modseq n is in slot n modulo
   their number, written in one piece after its commit. Two writers may write in
   another order than they have committed: each has its own slot, and each write
   makes an event. A reader who does not find exactly the next change set in its
   slot asks the database, which is the truth. The hash tells half-written slots.

   Written after the commit was durable, the file never shows a position that its
   store does not have. If it does, the store is an older copy. */

#include "store-private.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WAKE_SLOTS 8
/* The modseq of a slot of which nothing is known: ask the database. */
#define WAKE_ASK UINT64_MAX

/* In the byte order of the machine, as is all here: the file does not leave it. */
struct wake_header {
	uint64_t hash;		/* of what follows */
	uint64_t modseq;
	uint32_t epoch;
	uint32_t size;		/* of the entries; 0: ask the database */
};

struct wake_entry {
	int64_t id;
	uint16_t mailbox_size, name_size;	/* with their NULs */
	uint16_t value_size;
	uint16_t removed;
	/* mailbox, name, value */
};

struct wake_slot {
	struct wake_header header;
	unsigned char data[STORE_WAKE_DATA_SIZE];
};

/* -- the file */

enum store_status store_wake_open(struct store *store,
				  struct store_error *error_r)
{
	/* O_NONBLOCK: a FIFO must not hold us up. O_NOATIME: reading shall not
	   make work for the next commit. */
	const int flags = O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC |
		O_NONBLOCK;
	struct stat st;
	int fd;

	fd = openat(store->dir_fd, STORE_WAKE_NAME, flags | O_NOATIME, 0600);
	if (fd == -1 && errno == EPERM)
		fd = openat(store->dir_fd, STORE_WAKE_NAME, flags, 0600);
	if (fd == -1 && errno != ELOOP && errno != EISDIR)
		return store_fail_errno(error_r, store->wake_path, "open");
	if (fd == -1 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
	    st.st_uid != geteuid()) {
		if (fd != -1)
			(void)close(fd);
		return store_fail(error_r, STORE_REFUSED,
			"%s is not a regular file of the user (uid %ld): "
			"move it away", store->wake_path, (long)geteuid());
	}
	if (st.st_size == 0)
		(void)fchmod(fd, 0600);
	if (store->wake_fd != -1)
		(void)close(store->wake_fd);
	store->wake_fd = fd;
	store->wake_inode = st.st_ino;
	return STORE_OK;
}

static bool wake_reopen(struct store *store)
{
	struct store_error error;

	if (store_wake_open(store, &error) != STORE_OK) {
		if (!store->wake_failed)
			store_log(store, "%s", error.message);
		store->wake_failed = true;
		return false;
	}
	store_log(store, "%s was removed or replaced, opened it again",
		  store->wake_path);
	return true;
}

/* Only which file it is: one whose times are looked at gets new ones with its next
   write (multigrain timestamps, Linux 6.13), and the next commit has to wait for
   that inode, too. */
static bool wake_is_in_place(const struct store *store)
{
	struct statx st;

	if (statx(store->dir_fd, STORE_WAKE_NAME, AT_SYMLINK_NOFOLLOW,
		  STATX_INO, &st) < 0)
		return errno != ENOENT;
	return st.stx_ino == store->wake_inode;
}

/* FNV-1a */
static uint64_t slot_hash(const struct wake_slot *slot, uint32_t size)
{
	const unsigned char *p = (const unsigned char *)slot +
		sizeof(slot->header.hash);
	const unsigned char *end = slot->data + size;
	uint64_t hash = 0xcbf29ce484222325;

	for (; p < end; p++)
		hash = (hash ^ *p) * 0x100000001b3;
	return hash;
}

/* The slots; what the file does not have is 0. */
static void slots_read(const struct store *store, struct wake_slot *slots_r)
{
	ssize_t ret = pread(store->wake_fd, slots_r,
			    sizeof(*slots_r) * WAKE_SLOTS, 0);
	size_t size = ret < 0 ? 0 : ret;

	memset((unsigned char *)slots_r + size, 0,
	       sizeof(*slots_r) * WAKE_SLOTS - size);
}

static off_t slot_offset(uint64_t modseq)
{
	return modseq % WAKE_SLOTS * sizeof(struct wake_slot);
}

/* Something of this epoch, written as a whole. */
static bool slot_is_valid(const struct wake_slot *slot, uint32_t epoch)
{
	return slot->header.epoch == epoch &&
		slot->header.size <= sizeof(slot->data) &&
		slot_hash(slot, slot->header.size) == slot->header.hash;
}

/* -- writing */

void store_wake_set_start(struct store *store)
{
	store->wake_set.size = 0;
	store->wake_set.last_id = 0;
	store->wake_set.full = false;
}

void store_wake_set_add(struct store *store, const struct store_change *change,
			int64_t id)
{
	struct store_wake_set *set = &store->wake_set;
	size_t mailbox_size = strlen(change->mailbox) + 1;
	size_t name_size = strlen(change->name) + 1;
	size_t value_size = change->value == NULL ? 0 : change->value_size;
	size_t room = sizeof(set->data) - set->size;
	struct wake_entry entry;
	unsigned char *p = set->data + set->size;

	/* Readers stop at an id, as in the database */
	if (set->full || id <= set->last_id || value_size > room ||
	    sizeof(entry) + mailbox_size + name_size + value_size > room) {
		set->full = true;
		return;
	}
	memset(&entry, 0, sizeof(entry));
	entry.id = id;
	entry.mailbox_size = mailbox_size;
	entry.name_size = name_size;
	entry.value_size = value_size;
	entry.removed = change->value == NULL;
	memcpy(p, &entry, sizeof(entry));
	p += sizeof(entry);
	memcpy(p, change->mailbox, mailbox_size);
	p += mailbox_size;
	memcpy(p, change->name, name_size);
	p += name_size;
	if (value_size > 0)
		memcpy(p, change->value, value_size);
	set->size = p + value_size - set->data;
	set->last_id = id;
}

/* Our slot, if we were held up between commit and wake, may have been a newer
   change set's already. A reader who is woken for that one must not miss it: none
   goes by the slots until this one is written again. */
static void late_forget(struct store *store)
{
	struct wake_slot slots[WAKE_SLOTS];
	struct wake_header none = { .modseq = WAKE_ASK };
	unsigned int i;

	slots_read(store, slots);
	for (i = 0; i < WAKE_SLOTS; i++) {
		if (slots[i].header.modseq != WAKE_ASK &&
		    slots[i].header.modseq >
		    store->meta.modseq + WAKE_SLOTS / 2)
			break;
	}
	if (i < WAKE_SLOTS) {
		(void)!pwrite(store->wake_fd, &none, sizeof(none),
			      slot_offset(store->meta.modseq));
	}
}

void store_wake(struct store *store)
{
	const struct store_wake_set *set = &store->wake_set;
	struct wake_slot slot;
	ssize_t size;

	memset(&slot.header, 0, sizeof(slot.header));
	slot.header.modseq = store->meta.modseq;
	slot.header.epoch = store->meta.epoch;
	if (!set->full) {
		slot.header.size = set->size;
		memcpy(slot.data, set->data, set->size);
	}
	slot.header.hash = slot_hash(&slot, slot.header.size);
	size = sizeof(slot.header) + slot.header.size;

	if (!wake_is_in_place(store) && !wake_reopen(store))
		return;
	/* Never truncated first: one write, one event. */
	if (pwrite(store->wake_fd, &slot, size,
		   slot_offset(store->meta.modseq)) == size) {
		store->wake_failed = false;
		late_forget(store);
	} else if (!store->wake_failed) {
		store->wake_failed = true;
		store_log(store, "%s: write: %s; until it can be written "
			  "waiting sessions see changes late",
			  store->wake_path, strerror(errno));
	}
}

/* -- reading */

uint64_t store_wake_highest(const struct store *store, uint32_t epoch)
{
	struct wake_slot slots[WAKE_SLOTS];
	uint64_t highest = 0;
	unsigned int i;

	slots_read(store, slots);
	for (i = 0; i < WAKE_SLOTS; i++) {
		if (slot_is_valid(&slots[i], epoch) &&
		    slots[i].header.modseq > highest)
			highest = slots[i].header.modseq;
	}
	return highest;
}

/* The entry at *p, which moves behind it. Returns false if it cannot be one. */
static bool entry_parse(const unsigned char **p, const unsigned char *end,
			struct store_entry *entry_r, int64_t *id_r)
{
	struct wake_entry entry;
	const unsigned char *data = *p + sizeof(entry);

	if ((size_t)(end - *p) < sizeof(entry))
		return false;
	memcpy(&entry, *p, sizeof(entry));
	if (entry.mailbox_size == 0 || entry.name_size == 0 ||
	    (size_t)(end - data) < (size_t)entry.mailbox_size +
				   entry.name_size + entry.value_size ||
	    data[entry.mailbox_size - 1] != '\0' ||
	    data[entry.mailbox_size + entry.name_size - 1] != '\0')
		return false;
	*id_r = entry.id;
	entry_r->mailbox = (const char *)data;
	data += entry.mailbox_size;
	entry_r->name = (const char *)data;
	data += entry.name_size;
	entry_r->removed = entry.removed != 0;
	entry_r->value = data;
	entry_r->value_size = entry.value_size;
	*p = data + entry.value_size;
	return true;
}

/* Shows a slot's entries; moves the cursor. Returns false if the callback or what
   is there says stop: the database has the rest. */
static bool slot_show(const struct wake_slot *slot,
		      const struct store_read *req, struct store_cursor *cursor,
		      store_entry_callback_t *callback, void *context)
{
	const unsigned char *p = slot->data, *end = p + slot->header.size;
	struct store_entry entry;
	int64_t id;

	memset(&entry, 0, sizeof(entry));
	entry.modseq = slot->header.modseq;
	cursor->id = 0;
	cursor->modseq = slot->header.modseq;
	while (p < end) {
		if (!entry_parse(&p, end, &entry, &id))
			return false;
		if (entry.removed || req->without_values ||
		    entry.value_size > req->max_value_size)
			entry.value = NULL;
		if (store_filter_match(req->filter, entry.mailbox,
				       entry.name) &&
		    !callback(&entry, context)) {
			cursor->id = id;
			return false;
		}
	}
	cursor->id = INT64_MAX;
	return true;
}

bool store_wake_read(struct store *store, const struct store_read *req,
		     struct store_cursor *cursor,
		     store_entry_callback_t *callback, void *context,
		     bool *more_r)
{
	struct wake_slot slots[WAKE_SLOTS];
	uint64_t modseq = cursor->modseq + 1;
	const struct wake_slot *slot;
	unsigned int i;

	if (cursor->id != INT64_MAX)
		return false;
	slots_read(store, slots);
	slot = &slots[modseq % WAKE_SLOTS];
	if (slot->header.modseq != modseq || slot->header.size == 0 ||
	    !slot_is_valid(slot, cursor->epoch))
		return false;
	/* Several: of the same entry, the newest value is wanted. Any of them,
	   since a writer who was killed has not told. Or a new epoch */
	for (i = 0; i < WAKE_SLOTS; i++) {
		if (slots[i].header.modseq > modseq)
			return false;
	}
	*more_r = !slot_show(slot, req, cursor, callback, context);
	return true;
}
