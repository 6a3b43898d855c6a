/* Passwords in a netrc file, see netrc(5). libcurl reads such files too, but not for a user that it has been told, and goes on
   without a password if it finds none. Called by transport.c at each login, so that a changed file counts; owns nothing in
   between. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "transport-private.h"

#define MAX_FILE (1024 * 1024)

/* The whole file with a NUL, to be freed with secret_free() after its NULs have been ruled out; NULL with *error_r. */
static char *read_file(const char *path, char **error_r)
{
	/* not for waiting on a FIFO */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char *text = NULL;
	const char *wrong = NULL;
	struct stat st;
	size_t used = 0;
	ssize_t n = 1;

	if (fd < 0 || fstat(fd, &st) < 0)
		wrong = strerror(errno);
	else if (!S_ISREG(st.st_mode))
		wrong = "not a regular file";
	else if ((st.st_mode & (S_IRWXG | S_IRWXO)) != 0)
		wrong = "others may read or write it (chmod 600)";
	else if (st.st_size > MAX_FILE)
		wrong = "too large";
	else if ((text = calloc(1, st.st_size + 1)) == NULL)
		wrong = "out of memory";
	while (wrong == NULL && n > 0 && used < (size_t)st.st_size) {
		n = read(fd, text + used, st.st_size - used);
		if (n > 0)
			used += n;
		else if (n < 0 && errno == EINTR)
			n = 1;
		else if (n < 0)
			wrong = strerror(errno);
	}
	if (fd >= 0)
		close(fd);
	if (wrong == NULL && memchr(text, '\0', used) != NULL)
		wrong = "not a text";
	if (wrong == NULL)
		return text;
	if (text != NULL)
		explicit_bzero(text, st.st_size);
	free(text);
	if (asprintf(error_r, "netrc file %s: %s", path, wrong) < 0)
		*error_r = NULL;
	return NULL;
}

/* The next word, in place; in quotes with \" \\ \n \r \t as curl has them. NULL at the end. Comments go to the line's end. */
static char *next_word(char **rest)
{
	char *p = *rest, *to, *word;

	for (;;) {
		p += strspn(p, " \t\r\n");
		if (*p != '#')
			break;
		p += strcspn(p, "\n");
	}
	if (*p == '\0')
		return NULL;
	word = to = p;
	if (*p == '"') {
		for (p++; *p != '\0' && *p != '"'; p++) {
			if (*p == '\\' && p[1] != '\0') {
				p++;
				*to++ = *p == 'n' ? '\n' : *p == 'r' ? '\r' : *p == 't' ? '\t' : *p;
			} else {
				*to++ = *p;
			}
		}
	} else {
		while (*p != '\0' && strchr(" \t\r\n", *p) == NULL)
			*to++ = *p++;
	}
	*rest = *p == '\0' ? p : p + 1;
	*to = '\0';
	return word;
}

/* A macro goes to the next empty line. */
static void skip_macro(char **rest)
{
	char *end = strstr(*rest, "\n\n");

	*rest = end == NULL ? *rest + strlen(*rest) : end + 2;
}

/* An entry of the file as it is being read. */
struct netrc_entry {
	/* of this host */
	bool matches;
	const char *login, *password;
};

static const char *entry_password(const struct netrc_entry *entry, const char *user)
{
	if (!entry->matches || (entry->login != NULL && strcmp(entry->login, user) != 0))
		return NULL;
	return entry->password;
}

static const char *find_password(char *text, const char *host, const char *user)
{
	struct netrc_entry entry = { .matches = false };
	const char *word, *name, *found = NULL;

	while (found == NULL && (word = next_word(&text)) != NULL) {
		if (strcmp(word, "machine") == 0 || strcmp(word, "default") == 0) {
			found = entry_password(&entry, user);
			name = *word == 'm' ? next_word(&text) : host;
			entry = (struct netrc_entry){ .matches = name != NULL && strcasecmp(name, host) == 0 };
		} else if (strcmp(word, "login") == 0) {
			entry.login = next_word(&text);
		} else if (strcmp(word, "password") == 0) {
			entry.password = next_word(&text);
		} else if (strcmp(word, "account") == 0) {
			(void)next_word(&text);
		} else if (strcmp(word, "macdef") == 0) {
			skip_macro(&text);
		}
	}
	return found != NULL ? found : entry_password(&entry, user);
}

char *netrc_password(const char *path, const char *host, const char *user, char **error_r)
{
	char *text, *password = NULL;
	const char *found;
	size_t size;

	*error_r = NULL;
	text = read_file(path, error_r);
	if (text == NULL)
		return NULL;
	size = strlen(text);
	found = find_password(text, host, user);
	if (found != NULL)
		password = strdup(found);
	else if (asprintf(error_r, "netrc file %s: no password for %s on %s", path, user, host) < 0)
		*error_r = NULL;
	explicit_bzero(text, size);
	free(text);
	return password;
}
