/* Two devices with an encrypted subtree, and their server (crypt-devices.h). */

#include "crypt-devices.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct dovetail_secret secret_of(struct devices *f, unsigned int which)
{
	return (struct dovetail_secret){ .key_file = f->key[which] };
}

int devices_setup(void **state)
{
	struct devices *f = calloc(1, sizeof(*f));
	unsigned int i;

	make_base(f->base, sizeof(f->base));
	server_init(&f->server, 7);
	for (i = 0; i < 3; i++) {
		snprintf(f->key[i], sizeof(f->key[i]), "%s/key%u", f->base, i);
		assert_int_equal(dovetail_key_file_create(f->key[i], NULL), DOVETAIL_OK);
	}
	snprintf(f->a.path, sizeof(f->a.path), "%s/a", f->base);
	snprintf(f->b.path, sizeof(f->b.path), "%s/b", f->base);
	f->a.replica = must_open(f->a.path, DOVETAIL_OPEN_CREATE);
	f->b.replica = must_open(f->b.path, DOVETAIL_OPEN_CREATE);
	set_parts(f->a.replica);
	set_parts(f->b.replica);
	*state = f;
	return 0;
}

int devices_teardown(void **state)
{
	struct devices *f = *state;

	dovetail_close(f->a.replica);
	dovetail_close(f->b.replica);
	server_free(&f->server);
	remove_base(f->base);
	free(f);
	return 0;
}

void device_reopen(struct device *device)
{
	dovetail_close(device->replica);
	device->replica = must_open(device->path, 0);
}

static void noticed(void *context, enum dovetail_notice notice, const char *mailbox, const char *entry, const char *text)
{
	struct device *device = context;
	size_t size = strlen(device->notices);

	assert_true(*text != '\0');
	snprintf(device->notices + size, sizeof(device->notices) - size, "%s %s%s;",
		 notice == DOVETAIL_NOTICE_ROLLBACK ? "rollback" : "unreadable", mailbox, entry);
}

void catch_up(struct devices *f, struct device *device)
{
	struct dovetail_entry entry;
	char mark[64];
	bool reset;

	assert_true(server_stage(&f->server, device->replica, 0, 0, mark));
	must(device->replica, replica_stage_consistent(device->replica, mark, 0, &reset));
	while (replica_changed_next(device->replica, &entry) == DOVETAIL_OK) ;
	must(device->replica, crypt_replica_step(device->replica, noticed, device));
}

static void answer(struct devices *f, struct device *device, const struct request *request)
{
	struct replica_theirs theirs[100];

	if (server_apply(&f->server, request) == ANSWER_OK)
		must(device->replica, replica_queue_done(device->replica, request->id, server_pos(&f->server)));
	else
		must(device->replica, replica_queue_modified(device->replica, request->id, server_pos(&f->server), theirs,
							     server_theirs(&f->server, request, theirs)));
}

unsigned int send_sets(struct devices *f, struct device *device, unsigned int most)
{
	struct request request;
	struct replica_set set;
	unsigned int sent = 0;

	while (sent < most && replica_queue_next(device->replica, 0, DOVETAIL_RULE_LINES, NULL, NULL, &set) == DOVETAIL_OK) {
		sent++;
		request_set(&request, &set);
		answer(f, device, &request);
		request_free(&request);
	}
	return sent;
}

void send_late(struct devices *f, struct device *device, struct device *first)
{
	struct request requests[8];
	struct replica_set set = { .id = 0 };
	unsigned int i, count = 0;

	catch_up(f, device);
	while (replica_queue_next(device->replica, set.id, DOVETAIL_RULE_LINES, NULL, NULL, &set) == DOVETAIL_OK) {
		assert_true(count < 8);
		request_set(&requests[count++], &set);
	}
	device_sync(f, first);
	for (i = 0; i < count; i++) {
		answer(f, device, &requests[i]);
		request_free(&requests[i]);
	}
}

void device_sync(struct devices *f, struct device *device)
{
	unsigned int rounds = 0;

	do {
		assert_true(rounds++ < 100);
		catch_up(f, device);
	} while (send_sets(f, device, 1000) > 0);
	catch_up(f, device);
}

const char *notices(struct device *device)
{
	static char text[4096];

	strcpy(text, device->notices);
	device->notices[0] = '\0';
	return text;
}

void encrypt_at(struct devices *f, struct device *device, bool hide, unsigned int key)
{
	const struct dovetail_encrypt_options options = { .hide_names = hide };
	const struct dovetail_secret secret = secret_of(f, key);

	must(device->replica, dovetail_encrypt(device->replica, S, &secret, &options));
}

enum dovetail_status unlock(struct devices *f, struct device *device, unsigned int key)
{
	const struct dovetail_secret secret = secret_of(f, key);

	return dovetail_unlock(device->replica, S, &secret);
}

void both(struct devices *f, bool hide)
{
	device_sync(f, &f->a);
	encrypt_at(f, &f->a, hide, 0);
	device_sync(f, &f->a);
	device_sync(f, &f->b);
	assert_int_equal(unlock(f, &f->b, 0), DOVETAIL_OK);
	device_sync(f, &f->b);
	assert_string_equal(notices(&f->a), "");
	assert_string_equal(notices(&f->b), "");
}

bool server_has(struct devices *f, const char *text)
{
	unsigned int i;

	for (i = 0; i < f->server.count; i++) {
		if (f->server.entries[i].value != NULL &&
		    (strstr(f->server.entries[i].value, text) != NULL || strstr(f->server.entries[i].name, text) != NULL))
			return true;
	}
	return false;
}

char *server_value(struct devices *f, const char *mailbox, const char *name)
{
	struct server_entry *entry = server_find(&f->server, mailbox, name);

	assert_non_null(entry);
	assert_non_null(entry->value);
	return strdup(entry->value);
}

const char *all(struct dovetail *replica)
{
	static char text[8192];
	struct dovetail_entry entry;
	struct dovetail_iter *iter;
	const char *value;
	size_t size = 0;

	text[0] = '\0';
	must(replica, dovetail_iter_open(replica, NULL, NULL, true, &iter));
	while (dovetail_iter_next(iter, &entry) == DOVETAIL_OK) {
		value = entry.data != NULL ? entry.data : (entry.flags & DOVETAIL_ENTRY_LOCKED) != 0 ? "LOCKED" : "DAMAGED";
		size += snprintf(text + size, sizeof(text) - size, "%s%s=%s;", entry.mailbox,
				 entry.name + strlen("/private/vendor/example"), value);
	}
	dovetail_iter_close(iter);
	return text;
}
