/* Keeps settings of an account in step, live: prints "name value" for each change by others; a line "name value" on standard input
   sets, "name" alone removes. Works offline, too: what is written then is sent later.
   usage: PASSWORD=… follow HOST PORT USER REPLICA     (port 993: TLS) */
#include <dovetail.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BASE "/private/vendor/example"

static void change(void *context, const struct dovetail_entry *entry)
{
	(void)context;
	dprintf(1, "%s %s\n", entry->name + sizeof(BASE), entry->data != NULL ? (const char *)entry->data : "(removed)");
}

static void state(void *context, enum dovetail_state now, enum dovetail_status status, const char *text)
{
	(void)context, (void)now;
	if (status != DOVETAIL_OK)
		fprintf(stderr, "follow: %s\n", text);
}

int main(int argc, char **argv)
{
	const struct dovetail_part part = { .mailbox = "", .entry = BASE };
	const struct dovetail_callbacks callbacks = { .change = change, .state = state };
	struct dovetail_account account = { .password = getenv("PASSWORD") };
	struct dovetail *replica;
	struct dovetail_sync *sync;
	char line[4096], name[sizeof(BASE) + sizeof(line)], *value, *error;

	if (argc != 5)
		return fprintf(stderr, "usage: follow HOST PORT USER REPLICA\n"), 2;
	account.host = argv[1], account.port = atoi(argv[2]), account.user = argv[3],
	account.tls = account.port == 993 ? DOVETAIL_TLS_IMAPS : DOVETAIL_TLS_NONE;
	if (dovetail_open(argv[4], DOVETAIL_OPEN_CREATE, &replica, &error) != DOVETAIL_OK)
		return fprintf(stderr, "follow: %s\n", error), 1;
	if (dovetail_set_parts(replica, &part, 1) != DOVETAIL_OK ||
	    dovetail_sync_new(replica, &account, NULL, &callbacks, NULL, &sync) != DOVETAIL_OK)
		return fprintf(stderr, "follow: %s\n", dovetail_error(replica)), 1;
	setvbuf(stdin, NULL, _IONBF, 0); /* poll() has to see all of it */
	struct pollfd fds[] = { { .fd = dovetail_sync_fd(sync), .events = POLLIN }, { .fd = 0, .events = POLLIN } };
	while (dovetail_sync_dispatch(sync) == DOVETAIL_OK) {
		poll(fds, 2, dovetail_sync_timeout(sync));
		if (fds[1].revents == 0)
			continue;
		if (fgets(line, sizeof(line), stdin) == NULL)
			break;
		line[strcspn(line, "\n")] = '\0';
		value = line;
		snprintf(name, sizeof(name), BASE "/%s", strsep(&value, " "));
		if ((value != NULL ? dovetail_set(replica, "", name, value, strlen(value)) :
		     dovetail_unset(replica, "", name)) != DOVETAIL_OK)
			fprintf(stderr, "follow: %s\n", dovetail_error(replica));
	}
	dovetail_sync_free(sync);
	dovetail_close(replica);
}
