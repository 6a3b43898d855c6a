/* Notes for dsync which attributes have changed: dsync looks for their names in
   the mailboxes' logs. Stock's way of setting does it in its own transaction
   (metasync-attribute.c); what comes through the store's other writers is noted
   here, a moment later, so that a client that sets much waits for one opening of
   a mailbox and not for each.

   The mailboxes of all writers are opened here, which tells if one has gone while
   its entries were set: who took it away has removed what was there then. */

#include "metasync-private.h"
#include "array.h"
#include "ioloop.h"

#define METASYNC_NOTE_MSECS 100

static int
metasync_note_cmp_attribute(const struct metasync_note *n1,
			    const struct metasync_note *n2)
{
	int ret = strcmp(n1->mailbox, n2->mailbox);

	if (ret == 0)
		ret = (n1->pvt ? 1 : 0) - (n2->pvt ? 1 : 0);
	return ret != 0 ? ret : null_strcmp(n1->key, n2->key);
}

static int
metasync_note_cmp(const struct metasync_note *n1, const struct metasync_note *n2)
{
	int ret = metasync_note_cmp_attribute(n1, n2);

	return ret != 0 ? ret : (n1->seq < n2->seq ? -1 : 1);
}

static struct mailbox *
metasync_note_open(struct metasync_user *muser, const char *mailbox)
{
	struct mail_namespace *ns;
	struct mailbox *box;

	if (*mailbox == '\0')
		mailbox = "INBOX";
	ns = mail_namespace_find(muser->user->namespaces, mailbox);
	box = mailbox_alloc(ns->list, mailbox, MAILBOX_FLAG_IGNORE_ACLS);
	if (mailbox_open(box) < 0) {
		/* nothing to sync if it does not exist any more */
		if (mailbox_get_last_mail_error(box) == MAIL_ERROR_NOTFOUND)
			muser->mailboxes_healed = FALSE;
		else {
			e_error(muser->event, "Mailbox %s cannot be opened "
				"to note changes for dsync, which will not "
				"carry them: %s", mailbox,
				mailbox_get_last_internal_error(box, NULL));
		}
		mailbox_free(&box);
	}
	return box;
}

static void
metasync_note_add(struct mailbox_transaction_context *t,
		  const struct metasync_note *note)
{
	if (note->removed) {
		mail_index_attribute_unset(t->itrans, note->pvt, note->key,
					   note->time);
	} else {
		mail_index_attribute_set(t->itrans, note->pvt, note->key,
					 note->time, note->size);
	}
}

/* Notes of one mailbox: from notes on, count of them. */
static void
metasync_note_mailbox(struct metasync_user *muser,
		      const struct metasync_note *notes, unsigned int count)
{
	struct mailbox *box = metasync_note_open(muser, notes[0].mailbox);
	struct mailbox_transaction_context *t;
	unsigned int i;

	if (box == NULL)
		return;
	t = mailbox_transaction_begin(box, MAILBOX_TRANSACTION_FLAG_EXTERNAL,
				      __func__);
	for (i = 0; i < count; i++) {
		/* of several the last */
		if (notes[i].key != NULL &&
		    (i + 1 == count ||
		     metasync_note_cmp_attribute(&notes[i], &notes[i + 1]) != 0))
			metasync_note_add(t, &notes[i]);
	}
	if (mailbox_transaction_commit(&t) < 0) {
		e_error(muser->event, "Mailbox %s: Changes cannot be noted "
			"for dsync, which will not carry them: %s",
			mailbox_get_vname(box),
			mailbox_get_last_internal_error(box, NULL));
	}
	mailbox_free(&box);
}

void metasync_notes_flush(struct metasync_user *muser)
{
	const struct metasync_note *notes;
	unsigned int i, count, first = 0;

	timeout_remove(&muser->to_notes);
	if (muser->notes_pool == NULL)
		return;
	array_sort(&muser->notes, metasync_note_cmp);
	notes = array_get(&muser->notes, &count);
	for (i = 1; i <= count; i++) {
		if (i < count &&
		    strcmp(notes[i].mailbox, notes[first].mailbox) == 0)
			continue;
		T_BEGIN {
			metasync_note_mailbox(muser, &notes[first], i - first);
		} T_END;
		first = i;
	}
	pool_unref(&muser->notes_pool);
	metasync_user_heal(muser);
}

void metasync_note(struct metasync_user *muser,
		   const struct store_change *changes, unsigned int count,
		   bool only_look)
{
	struct metasync_note *note;
	const char *key;
	unsigned int i;

	if (muser->notes_pool == NULL) {
		muser->notes_pool =
			pool_alloconly_create("metasync notes", 1024);
		p_array_init(&muser->notes, muser->notes_pool, 8);
		muser->to_notes = timeout_add_short(METASYNC_NOTE_MSECS,
						    metasync_notes_flush,
						    muser);
	}
	for (i = 0; i < count; i++) {
		/* the server is always there */
		if (only_look && *changes[i].mailbox == '\0')
			continue;
		note = array_append_space(&muser->notes);
		note->seq = array_count(&muser->notes);
		note->mailbox = p_strdup(muser->notes_pool,
					 changes[i].mailbox);
		note->pvt = str_begins(changes[i].name, "/private/");
		key = strchr(changes[i].name + 1, '/') + 1;
		note->key = only_look ? NULL : *note->mailbox != '\0' ?
			p_strdup(muser->notes_pool, key) :
			p_strconcat(muser->notes_pool,
				MAILBOX_ATTRIBUTE_PREFIX_DOVECOT_PVT_SERVER,
				key, NULL);
		note->removed = changes[i].value == NULL;
		note->size = changes[i].value_size;
		note->time = ioloop_time;
	}
}
