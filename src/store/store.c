/* The part of the store that knows no engine: settings, errors, entry names
   and filters. Everything here works on the caller's memory and owns none. */

#include "store-private.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void store_settings_init(struct store_settings *set)
{
	memset(set, 0, sizeof(*set));
	set->limits.value = 1024 * 1024;
	set->limits.entries = 10000;
	set->limits.bytes = 16 * 1024 * 1024;
	set->limits.name = STORE_NAME_MAX_SIZE;
	set->limits.set = 100;
	set->busy_timeout_msecs = 5000;
	set->tombstone_secs = 90 * 24 * 60 * 60;
}

enum store_status store_fail(struct store_error *error,
			     enum store_status status, const char *format, ...)
{
	va_list args;

	error->status = status;
	va_start(args, format);
	(void)vsnprintf(error->message, sizeof(error->message), format, args);
	va_end(args);
	return status;
}

enum store_status store_fail_errno(struct store_error *error, const char *path,
				   const char *what)
{
	int err = errno;

	if (err == EACCES || err == EPERM) {
		return store_fail(error, STORE_FAILED,
				  "%s: %s: %s for uid %ld", path, what,
				  strerror(err), (long)geteuid());
	}
	return store_fail(error, STORE_FAILED, "%s: %s: %s", path, what,
			  strerror(err));
}

void store_log(struct store *store, const char *format, ...)
{
	char message[512];
	va_list args;

	if (store->set.log == NULL)
		return;
	va_start(args, format);
	(void)vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	store->set.log(store->set.log_context, message);
}

static char ascii_lower(char c)
{
	return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c;
}

static bool has_prefix(const char *name, size_t size, const char *prefix)
{
	size_t i;

	for (i = 0; prefix[i] != '\0'; i++) {
		if (i == size || ascii_lower(name[i]) != prefix[i])
			return false;
	}
	return true;
}

enum store_name store_name_check(const char *name, size_t size,
				 uint64_t max_size, bool filter,
				 bool any_case)
{
	size_t i, root_size;

	if (has_prefix(name, size, "/private"))
		root_size = strlen("/private");
	else if (has_prefix(name, size, "/shared"))
		root_size = strlen("/shared");
	else
		return STORE_NAME_INVALID;
	if (size == root_size ? !filter : name[root_size] != '/')
		return STORE_NAME_INVALID;
	if (name[size - 1] == '/')
		return STORE_NAME_INVALID;

	for (i = 0; i < size; i++) {
		unsigned char c = name[i];

		if (c < 0x20 || c > 0x7e || c == '*' || c == '%')
			return STORE_NAME_INVALID;
		if (c >= 'A' && c <= 'Z' && !any_case)
			return STORE_NAME_INVALID;
		if (c == '/' && i > 0 && name[i - 1] == '/')
			return STORE_NAME_INVALID;
	}
	return size > max_size ? STORE_NAME_TOO_LONG : STORE_NAME_OK;
}

enum store_name store_name_normalize(const char *name, size_t size,
				     uint64_t max_size, bool filter,
				     char *dest)
{
	enum store_name ret;
	size_t i;

	ret = store_name_check(name, size, max_size, filter, true);
	if (ret != STORE_NAME_OK)
		return ret;
	for (i = 0; i < size; i++)
		dest[i] = ascii_lower(name[i]);
	dest[size] = '\0';
	return STORE_NAME_OK;
}

static bool scope_match(const struct store_scope *scope, const char *mailbox)
{
	size_t size;

	switch (scope->type) {
	case STORE_SCOPE_MAILBOX:
		return strcmp(scope->mailbox, mailbox) == 0;
	case STORE_SCOPE_SERVER:
		return mailbox[0] == '\0';
	case STORE_SCOPE_PERSONAL:
		return mailbox[0] != '\0';
	case STORE_SCOPE_SUBTREE:
		size = strlen(scope->mailbox);
		return strncmp(scope->mailbox, mailbox, size) == 0 &&
			(size == 0 || mailbox[size] == '\0' ||
			 mailbox[size] == scope->separator);
	}
	return false;
}

static bool entry_match(const char *entry, enum store_depth depth,
			const char *name)
{
	size_t size = strlen(entry);

	if (strncmp(entry, name, size) != 0)
		return false;
	if (name[size] == '\0')
		return true;
	if (name[size] != '/' || depth == STORE_DEPTH_0)
		return false;
	return depth == STORE_DEPTH_INFINITY ||
		strchr(name + size + 1, '/') == NULL;
}

static bool selection_match(const struct store_selection *selection,
			    enum store_depth depth, const char *mailbox,
			    const char *name)
{
	size_t i;

	for (i = 0; i < selection->scope_count; i++) {
		if (scope_match(&selection->scopes[i], mailbox))
			break;
	}
	if (i == selection->scope_count)
		return false;
	for (i = 0; i < selection->entry_count; i++) {
		if (entry_match(selection->entries[i], depth, name))
			return true;
	}
	return false;
}

bool store_filter_match(const struct store_filter *filter,
			const char *mailbox, const char *name)
{
	size_t i;

	for (i = 0; i < filter->selection_count; i++) {
		if (selection_match(&filter->selections[i], filter->depth,
				    mailbox, name))
			return true;
	}
	return false;
}
