/* A client on the public API, driven by a test (drive.py): commands are lines on stdin, fields separated by tabs, values in hex
   ("-": none); for each one line of JSON is printed, {"reply": ...}, and {"event": ...} for each callback. Its loop is the one that
   dovetail.h shows.

   Its clock can be put forward: clock_gettime() below is found before the C library's by libdovetail. */

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "dovetail.h"

#define SLOTS 4
#define FIELDS 512

struct slot {
	char name[32];
	struct dovetail *replica;
	struct dovetail_sync *sync;
	/* what the conflict callback says; "": nothing */
	char rule[16];
	unsigned char *rule_data;
	size_t rule_size;
	/* what the next change callback writes */
	char *write_mailbox, *write_name;
	/* changes are not printed */
	bool quiet;
};

static struct slot slots[SLOTS];
static long long slept_ms;

int clock_gettime(clockid_t id, struct timespec *now)
{
	int ret = syscall(SYS_clock_gettime, id, now);

	if (id == CLOCK_BOOTTIME)
		now->tv_sec += slept_ms / 1000;
	return ret;
}

/* ---- Printing ---- */

static void put_string(const char *text)
{
	putchar('"');
	for (; text != NULL && *text != '\0'; text++) {
		if (*text == '"' || *text == '\\')
			printf("\\%c", *text);
		else if ((unsigned char)*text < 0x20)
			printf("\\u%04x", *text);
		else
			putchar(*text);
	}
	putchar('"');
}

static void put_field(const char *name, const char *text)
{
	printf(", \"%s\": ", name);
	if (text == NULL)
		printf("null");
	else
		put_string(text);
}

static void put_value(const char *name, const void *data, size_t size)
{
	const unsigned char *octets = data;
	size_t i;

	printf(", \"%s\": ", name);
	if (data == NULL) {
		printf("null");
		return;
	}
	putchar('"');
	for (i = 0; i < size; i++)
		printf("%02x", octets[i]);
	putchar('"');
	if (octets[size] != '\0')
		printf(", \"no NUL\": true");
}

static void put_end(void)
{
	printf("}\n");
	fflush(stdout);
}

static void event(const struct slot *slot, const char *name)
{
	printf("{\"event\": \"%s\", \"replica\": \"%s\"", name, slot->name);
}

static void put_entry(const struct dovetail_entry *entry, bool value)
{
	put_field("mailbox", entry->mailbox);
	put_field("name", entry->name);
	if (value)
		put_value("value", entry->data, entry->size);
	printf(", \"size\": %zu, \"flags\": %u, \"modseq\": \"%llu\"", entry->size, entry->flags,
	       (unsigned long long)entry->modseq);
}

static void reply(const struct slot *slot, enum dovetail_status status)
{
	printf("{\"reply\": ");
	put_string(dovetail_status_name(status));
	put_field("text", status == DOVETAIL_OK || slot == NULL || slot->replica == NULL ? "" : dovetail_error(slot->replica));
}

/* ---- Callbacks ---- */

static void on_change(void *context, const struct dovetail_entry *entry)
{
	struct slot *slot = context;

	if (!slot->quiet) {
		event(slot, "change");
		put_entry(entry, true);
		put_end();
	}
	if (slot->write_name != NULL) {
		char *mailbox = slot->write_mailbox, *name = slot->write_name;

		slot->write_mailbox = slot->write_name = NULL;
		event(slot, "written");
		put_field("status", dovetail_status_name(dovetail_set(slot->replica, mailbox, name, "written", 7)));
		put_end();
		free(mailbox);
		free(name);
	}
}

static void on_consistent(void *context, bool reset)
{
	event(context, "consistent");
	printf(", \"reset\": %s", reset ? "true" : "false");
	put_end();
}

static int rule_number(const char *name)
{
	static const char *const names[] = { "lines", "server", "mine", "json", "value" };
	unsigned int i;

	for (i = 0; i < 5; i++) {
		if (strcmp(name, names[i]) == 0)
			return i;
	}
	return -1;
}

static void on_conflict(void *context, const struct dovetail_conflict *conflict, struct dovetail_resolution *resolution)
{
	struct slot *slot = context;

	event(slot, "conflict");
	put_field("mailbox", conflict->mailbox);
	put_field("name", conflict->name);
	put_value("base", conflict->base.data, conflict->base.size);
	put_value("mine", conflict->mine.data, conflict->mine.size);
	put_value("theirs", conflict->theirs.data, conflict->theirs.size);
	put_end();
	if (*slot->rule == '\0')
		return;
	resolution->rule = rule_number(slot->rule);
	resolution->data = slot->rule_data;
	resolution->size = slot->rule_size;
}

static void on_state(void *context, enum dovetail_state state, enum dovetail_status status, const char *text)
{
	static const char *const names[] = { "offline", "connecting", "syncing", "live", "polling", "failed" };
	const struct slot *slot = context;

	event(slot, "state");
	put_field("state", names[state]);
	put_field("status", dovetail_status_name(status));
	put_field("text", text);
	/* ms until the next try */
	if (state == DOVETAIL_STATE_OFFLINE && slot->sync != NULL)
		printf(", \"pause\": %d", dovetail_sync_timeout(slot->sync));
	put_end();
}

static void on_progress(void *context, uint64_t entries, uint64_t bytes, uint64_t writes)
{
	event(context, "progress");
	printf(", \"entries\": %llu, \"bytes\": %llu, \"writes\": %llu", (unsigned long long)entries, (unsigned long long)bytes,
	       (unsigned long long)writes);
	put_end();
}

static void on_notice(void *context, enum dovetail_notice notice, const char *mailbox, const char *entry, const char *text)
{
	static const char *const names[] = { "fallback", "reset", "refused", "unreadable", "rollback" };

	event(context, "notice");
	put_field("notice", names[notice]);
	put_field("mailbox", mailbox);
	put_field("name", entry);
	put_field("text", text);
	put_end();
}

static const struct dovetail_callbacks callbacks = {
	.change = on_change, .consistent = on_consistent, .conflict = on_conflict, .state = on_state,
	.progress = on_progress, .notice = on_notice,
};

/* ---- Commands ---- */

/* NULL: "-". Freed by the caller; *size_r octets. */
static unsigned char *unhex(const char *text, size_t *size_r)
{
	size_t i, size = strlen(text) / 2;
	unsigned char *data;
	char digits[3] = "";

	*size_r = 0;
	if (strcmp(text, "-") == 0)
		return NULL;
	data = malloc(size + 1);
	for (i = 0; i < size; i++) {
		memcpy(digits, text + i * 2, 2);
		data[i] = strtoul(digits, NULL, 16);
	}
	*size_r = size;
	return data;
}

static struct slot *find(const char *name)
{
	unsigned int i;

	for (i = 0; i < SLOTS; i++) {
		if (strcmp(slots[i].name, name) == 0)
			return &slots[i];
	}
	return NULL;
}

static void do_open(char **args, unsigned int count)
{
	struct slot *slot = find("");
	enum dovetail_status status;
	char *error = NULL;

	(void)count;
	snprintf(slot->name, sizeof(slot->name), "%s", args[0]);
	status = dovetail_open(args[1], DOVETAIL_OPEN_CREATE, &slot->replica, &error);
	reply(NULL, status);
	put_field("error", error);
	put_end();
	free(error);
	if (status != DOVETAIL_OK)
		*slot->name = '\0';
}

static void slot_close(struct slot *slot)
{
	dovetail_sync_free(slot->sync);
	dovetail_close(slot->replica);
	free(slot->rule_data);
	free(slot->write_mailbox);
	free(slot->write_name);
	memset(slot, 0, sizeof(*slot));
}

/* scope, mailbox, entry ... */
static enum dovetail_status do_parts(struct slot *slot, char **args, unsigned int count)
{
	struct dovetail_part parts[100];
	unsigned int i;

	for (i = 0; i * 3 < count; i++) {
		parts[i].scope = strcmp(args[i * 3], "personal") == 0 ? DOVETAIL_SCOPE_PERSONAL :
			strcmp(args[i * 3], "subtree") == 0 ? DOVETAIL_SCOPE_SUBTREE : DOVETAIL_SCOPE_MAILBOX;
		parts[i].mailbox = parts[i].scope == DOVETAIL_SCOPE_PERSONAL ? NULL : args[i * 3 + 1];
		parts[i].entry = args[i * 3 + 2];
	}
	return dovetail_set_parts(slot->replica, parts, i);
}

/* mailbox, name, value ...: one set */
static enum dovetail_status do_set(struct slot *slot, char **args, unsigned int count)
{
	struct dovetail_changes *changes;
	enum dovetail_status status;
	unsigned char *data;
	unsigned int i;
	size_t size;

	status = dovetail_changes_begin(slot->replica, &changes);
	if (status != DOVETAIL_OK)
		return status;
	for (i = 0; i + 2 < count && status == DOVETAIL_OK; i += 3) {
		data = unhex(args[i + 2], &size);
		status = dovetail_changes_add(changes, args[i], args[i + 1], data, size);
		free(data);
	}
	if (status != DOVETAIL_OK) {
		dovetail_changes_abort(changes);
		return status;
	}
	return dovetail_changes_commit(changes);
}

/* mailbox, prefix of names, number, octets of value: one set for each */
static enum dovetail_status do_many(struct slot *slot, char **args)
{
	unsigned long i, count = strtoul(args[2], NULL, 10), size = strtoul(args[3], NULL, 10);
	enum dovetail_status status = DOVETAIL_OK;
	char name[1100], *value = malloc(size + 1);

	memset(value, 'v', size + 1);
	for (i = 0; i < count && status == DOVETAIL_OK; i++) {
		snprintf(name, sizeof(name), "%s%lu", args[1], i);
		status = dovetail_set(slot->replica, args[0], name, value, size);
	}
	free(value);
	return status;
}

static enum dovetail_status do_list(struct slot *slot)
{
	struct dovetail_iter *iter;
	struct dovetail_entry entry;
	enum dovetail_status status;

	status = dovetail_iter_open(slot->replica, NULL, NULL, true, &iter);
	if (status != DOVETAIL_OK)
		return status;
	while ((status = dovetail_iter_next(iter, &entry)) == DOVETAIL_OK) {
		event(slot, "entry");
		put_entry(&entry, true);
		put_end();
	}
	dovetail_iter_close(iter);
	return status == DOVETAIL_NOT_FOUND ? DOVETAIL_OK : status;
}

static bool on_refused(void *context, const struct dovetail_refused *refused)
{
	event(context, "was refused");
	put_entry(&refused->entry, true);
	put_field("reason", refused->reason);
	put_end();
	return true;
}

static void do_counts(struct slot *slot)
{
	struct dovetail_counts counts = { .entries = 0 };

	reply(slot, dovetail_get_counts(slot->replica, &counts));
	printf(", \"entries\": %llu, \"bytes\": %llu, \"pending\": %llu, \"refused\": %llu, \"epoch\": %u, \"modseq\": \"%llu\"",
	       (unsigned long long)counts.entries, (unsigned long long)counts.bytes, (unsigned long long)counts.pending,
	       (unsigned long long)counts.refused, counts.epoch, (unsigned long long)counts.modseq);
	put_end();
}

/* key=value ... */
static void read_options(char **args, unsigned int count, struct dovetail_account *account, struct dovetail_sync_options *options)
{
	unsigned int i;
	char *value;
	unsigned long long n;

	for (i = 0; i < count; i++) {
		value = strchr(args[i], '=');
		*value++ = '\0';
		n = strtoull(value, NULL, 10);
		if (strcmp(args[i], "port") == 0)
			account->port = n;
		else if (strcmp(args[i], "user") == 0)
			account->user = value;
		else if (strcmp(args[i], "password") == 0)
			account->password = value;
		else if (strcmp(args[i], "timeout") == 0)
			account->timeout = n;
		else if (strcmp(args[i], "ca_file") == 0) {
			account->ca_file = value;
			account->tls = DOVETAIL_TLS_IMAPS;
			account->host = "localhost";
		} else if (strcmp(args[i], "rule") == 0)
			options->rule = rule_number(value);
		else if (strcmp(args[i], "poll_interval") == 0)
			options->poll_interval = n;
		else if (strcmp(args[i], "keepalive") == 0)
			options->keepalive = n;
		else if (strcmp(args[i], "max_value") == 0)
			options->max_value = n;
		else if (strcmp(args[i], "max_entries") == 0)
			options->max_entries = n;
		else if (strcmp(args[i], "max_bytes") == 0)
			options->max_bytes = n;
		else if (strcmp(args[i], "max_removals") == 0)
			options->max_removals = n;
		else if (strcmp(args[i], "max_backoff") == 0)
			options->max_backoff = n;
		else
			abort();
	}
}

static enum dovetail_status do_sync(struct slot *slot, char **args, unsigned int count, bool once)
{
	struct dovetail_account account = { .host = "127.0.0.1", .password = "pass", .tls = DOVETAIL_TLS_NONE };
	struct dovetail_sync_options options = { .rule = DOVETAIL_RULE_LINES };

	read_options(args, count, &account, &options);
	/* the next line on stdin ends it */
	if (once)
		return dovetail_sync_once(slot->replica, &account, &options, &callbacks, slot, STDIN_FILENO);
	return dovetail_sync_new(slot->replica, &account, &options, &callbacks, slot, &slot->sync);
}

static void do_memory(void)
{
	char line[256];
	FILE *f = fopen("/proc/self/status", "r");
	long peak = 0;

	while (fgets(line, sizeof(line), f) != NULL)
		sscanf(line, "VmHWM: %ld", &peak);
	fclose(f);
	printf("{\"reply\": \"ok\", \"peak_kib\": %ld", peak);
	put_end();
}

static void do_get(struct slot *slot, char **args)
{
	struct dovetail_entry entry;
	enum dovetail_status status = dovetail_get(slot->replica, args[0], args[1], &entry);

	reply(slot, status);
	if (status == DOVETAIL_OK)
		put_entry(&entry, true);
	put_end();
}

/* subtree, "pass:..." or a key file's path ("-": none), label or "hide" */
static enum dovetail_status do_crypt(struct slot *slot, const char *what, char **args)
{
	const struct dovetail_encrypt_options options = { .hide_names = strcmp(args[2], "hide") == 0 };
	struct dovetail_secret secret = { 0 };

	if (strncmp(args[1], "pass:", 5) == 0) {
		secret.passphrase = args[1] + 5;
		secret.passphrase_size = strlen(args[1] + 5);
	} else {
		secret.key_file = args[1];
	}
	if (strcmp(what, "begin") == 0)
		return dovetail_encrypt(slot->replica, args[0], &secret, &options);
	if (strcmp(what, "unlock") == 0)
		return dovetail_unlock(slot->replica, args[0], &secret);
	if (strcmp(what, "add") == 0)
		return dovetail_secret_add(slot->replica, args[0], args[2], &secret);
	if (strcmp(what, "remove") == 0)
		return dovetail_secret_remove(slot->replica, args[0], args[2]);
	if (strcmp(what, "rotate") == 0)
		return dovetail_rotate_key(slot->replica, args[0], args[2], &secret);
	abort();
}

static void command(char **fields, unsigned int count)
{
	struct slot *slot = count > 1 ? find(fields[1]) : NULL;
	char **args = fields + 2;
	enum dovetail_status status = DOVETAIL_OK;
	const char *word = fields[0];

	if (strcmp(word, "open") == 0) {
		do_open(fields + 1, count - 1);
		return;
	}
	if (strcmp(word, "memory") == 0) {
		do_memory();
		return;
	}
	if (strcmp(word, "sleep") == 0) {
		slept_ms += atoll(fields[1]);
	} else if (slot == NULL) {
		abort();
	} else if (strcmp(word, "close") == 0) {
		slot_close(slot);
		slot = NULL;
	} else if (strcmp(word, "parts") == 0) {
		status = do_parts(slot, args, count - 2);
	} else if (strcmp(word, "set") == 0) {
		status = do_set(slot, args, count - 2);
	} else if (strcmp(word, "many") == 0) {
		status = do_many(slot, args);
	} else if (strcmp(word, "unset") == 0) {
		status = dovetail_unset(slot->replica, args[0], args[1]);
	} else if (strcmp(word, "get") == 0) {
		do_get(slot, args);
		return;
	} else if (strcmp(word, "list") == 0) {
		status = do_list(slot);
	} else if (strcmp(word, "refused") == 0) {
		status = dovetail_refused_each(slot->replica, on_refused, slot);
	} else if (strcmp(word, "counts") == 0) {
		do_counts(slot);
		return;
	} else if (strcmp(word, "quiet") == 0) {
		slot->quiet = true;
	} else if (strcmp(word, "rule") == 0) {
		snprintf(slot->rule, sizeof(slot->rule), "%s", args[0]);
		free(slot->rule_data);
		slot->rule_data = unhex(args[1], &slot->rule_size);
	} else if (strcmp(word, "write on change") == 0) {
		slot->write_mailbox = strdup(args[0]);
		slot->write_name = strdup(args[1]);
	} else if (strcmp(word, "sync") == 0) {
		status = do_sync(slot, args, count - 2, false);
	} else if (strcmp(word, "once") == 0) {
		status = do_sync(slot, args, count - 2, true);
	} else if (strncmp(word, "crypt ", 6) == 0) {
		status = do_crypt(slot, word + 6, args);
	} else if (strcmp(word, "hurry") == 0) {
		dovetail_sync_hurry(slot->sync);
	} else if (strcmp(word, "free") == 0) {
		dovetail_sync_free(slot->sync);
		slot->sync = NULL;
	} else {
		abort();
	}
	reply(slot, status);
	put_end();
}

static void line(char *text)
{
	char *fields[FIELDS];
	unsigned int count = 0;
	char *field;

	while ((field = strsep(&text, "\t")) != NULL && count < FIELDS)
		fields[count++] = field;
	command(fields, count);
}

/* What has come on stdin, line by line; false: its end. */
static bool input(void)
{
	static char *buffer;
	static size_t used, size;
	char *end;
	ssize_t got;

	if (size - used < 65536)
		buffer = realloc(buffer, size += 1024 * 1024);
	got = read(STDIN_FILENO, buffer + used, size - used - 1);
	if (got <= 0) {
		free(buffer);
		return false;
	}
	used += got;
	while ((end = memchr(buffer, '\n', used)) != NULL) {
		*end = '\0';
		line(buffer);
		used -= end + 1 - buffer;
		memmove(buffer, end + 1, used);
	}
	return true;
}

static void dispatch(struct slot *slot)
{
	enum dovetail_status status = dovetail_sync_dispatch(slot->sync);

	if (status == DOVETAIL_OK)
		return;
	event(slot, "ended");
	put_field("status", dovetail_status_name(status));
	put_field("text", dovetail_error(slot->replica));
	put_end();
	dovetail_sync_free(slot->sync);
	slot->sync = NULL;
}

int main(void)
{
	struct pollfd fds[SLOTS + 1];
	unsigned int i;
	int timeout, t;

	for (;;) {
		fds[SLOTS].fd = STDIN_FILENO;
		fds[SLOTS].events = POLLIN;
		timeout = -1;
		for (i = 0; i < SLOTS; i++) {
			fds[i].fd = slots[i].sync == NULL ? -1 : dovetail_sync_fd(slots[i].sync);
			fds[i].events = POLLIN;
			t = slots[i].sync == NULL ? -1 : dovetail_sync_timeout(slots[i].sync);
			if (t >= 0 && (timeout < 0 || t < timeout))
				timeout = t;
		}
		if (poll(fds, SLOTS + 1, timeout) < 0 && errno != EINTR)
			return 1;
		if (fds[SLOTS].revents != 0 && !input())
			break;
		for (i = 0; i < SLOTS; i++) {
			if (slots[i].sync != NULL)
				dispatch(&slots[i]);
		}
	}
	for (i = 0; i < SLOTS; i++) {
		if (*slots[i].name != '\0')
			slot_close(&slots[i]);
	}
	return 0;
}
