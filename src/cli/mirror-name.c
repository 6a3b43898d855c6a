/* File names from entry names, and back. One component at a time:

   - octets that an entry can have stay as they are;
   - a capital letter is "^" and the small letter in the entry: entries have no capitals;
   - any other octet, and "^" and "=" themselves, and the first of ".dovetail", is "=" and two hexadecimal digits in the entry.

   So each file name has its entry, and no two have the same. Not each entry is made in this way: others may call theirs "..",
   "x=zz" or ".dovetail". Such a component is called "%=" and itself as a file, and only then: it is what the file name "%=x=zz"
   means if "x=zz" could not be had in any other way. So each entry has its file name, and no two have the same. "%=" alone is the
   value of an entry that has others below it. */

#include "mirror-name.h"

#include <stdio.h>
#include <string.h>

static bool is_entry_octet(unsigned char c)
{
	return c >= 0x20 && c <= 0x7e && c != '*' && c != '%' && c != '/' && !(c >= 'A' && c <= 'Z');
}

static bool is_entry_component(const char *name, size_t size)
{
	size_t i;

	for (i = 0; i < size && is_entry_octet(name[i]); i++)
		;
	return size > 0 && i == size;
}

static bool is_own(const char *name, size_t size)
{
	return size == strlen(MIRROR_OWN) && memcmp(name, MIRROR_OWN, size) == 0;
}

/* Writes at most max octets; returns the number, or 0 if they are too few. */
static size_t escape(const char *name, size_t size, char *to, size_t max)
{
	static const char hex[] = "0123456789abcdef";
	size_t i, n = 0;
	/* the library has its keys below entries of that name */
	bool own = is_own(name, size);

	for (i = 0; i < size; i++) {
		unsigned char c = name[i];

		if (max - n < 3)
			return 0;
		if (c >= 'A' && c <= 'Z') {
			to[n++] = '^';
			to[n++] = c + ('a' - 'A');
		} else if (is_entry_octet(c) && c != '^' && c != '=' && !(own && i == 0)) {
			to[n++] = c;
		} else {
			to[n++] = '=';
			to[n++] = hex[c >> 4];
			to[n++] = hex[c & 15];
		}
	}
	return n;
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* At most size octets; returns the number, or 0 if it is not what escape() writes. */
static size_t unescape(const char *name, size_t size, char *to)
{
	size_t i, n = 0;

	for (i = 0; i < size; i++) {
		if (name[i] == '^') {
			if (++i == size || name[i] < 'a' || name[i] > 'z')
				return 0;
			to[n++] = name[i] - ('a' - 'A');
		} else if (name[i] == '=') {
			if (size - i < 3 || hex_digit(name[i + 1]) < 0 || hex_digit(name[i + 2]) < 0)
				return 0;
			to[n++] = hex_digit(name[i + 1]) << 4 | hex_digit(name[i + 2]);
			i += 2;
		} else {
			to[n++] = name[i];
		}
	}
	return n;
}

static bool is_file_name(const char *name, size_t size, bool top)
{
	if (size == 0 || size > MIRROR_FILE_MAX || memchr(name, '/', size) != NULL || memchr(name, '\0', size) != NULL)
		return false;
	if (name[0] == '.' && (size == 1 || (size == 2 && name[1] == '.')))
		return false;
	if (size == 2 && memcmp(name, MIRROR_INSIDE, 2) == 0)
		return false;
	return !top || !is_own(name, size);
}

/* Whether the entry's component is what escape() makes of a file name, which is put to file (size octets are enough). With "%="
   in front of a component of which this is not so, that name is taken. The recursion ends: the name gets shorter. */
static size_t plain_file(const char *name, size_t size, bool top, char *file)
{
	char again[3 * MIRROR_FILE_MAX + 3], deeper[MIRROR_ENTRY_MAX];
	size_t n;

	n = unescape(name, size, file);
	if (n == 0 || !is_file_name(file, n, top))
		return 0;
	if (escape(file, n, again, sizeof(again)) != size || memcmp(again, name, size) != 0)
		return 0;
	if (n > 2 && memcmp(file, MIRROR_INSIDE, 2) == 0 && is_entry_component(file + 2, n - 2) &&
	    plain_file(file + 2, n - 2, top, deeper) == 0)
		return 0;
	return n;
}

/* Returns the number of octets written to entry, 0 if max are too few. */
static size_t component_entry(const char *name, size_t size, bool top, char *entry, size_t max)
{
	char file[MIRROR_ENTRY_MAX];

	if (size > 2 && memcmp(name, MIRROR_INSIDE, 2) == 0 && is_entry_component(name + 2, size - 2) &&
	    plain_file(name + 2, size - 2, top, file) == 0) {
		if (size - 2 > max)
			return 0;
		memcpy(entry, name + 2, size - 2);
		return size - 2;
	}
	return escape(name, size, entry, max);
}

bool mirror_name_entry(const char *path, size_t max, char entry_r[MIRROR_ENTRY_MAX + 1])
{
	char entry[MIRROR_ENTRY_MAX + 4];
	size_t size, n, used = 0;
	bool top = true;

	if (max > MIRROR_ENTRY_MAX)
		max = MIRROR_ENTRY_MAX;
	for (; ; path += size + 1, top = false) {
		size = strcspn(path, "/");
		if (path[size] == '\0' && strcmp(path, MIRROR_INSIDE) == 0)
			break;
		if (!is_file_name(path, size, top))
			return false;
		if (!top)
			entry[used++] = '/';
		/* escape() wants room for three octets at each */
		n = component_entry(path, size, top, entry + used, sizeof(entry) - 1 - used);
		used += n;
		if (n == 0 || used > max)
			return false;
		if (path[size] == '\0')
			break;
	}
	memcpy(entry_r, entry, used);
	entry_r[used] = '\0';
	return true;
}

bool mirror_name_path(const char *entry, char path_r[MIRROR_PATH_MAX + 1])
{
	char file[MIRROR_ENTRY_MAX];
	size_t size, n, used = 0;
	bool top = true;

	if (strlen(entry) > MIRROR_ENTRY_MAX)
		return false;
	if (*entry == '\0') {
		strcpy(path_r, MIRROR_INSIDE);
		return true;
	}
	for (; ; entry += size + 1, top = false) {
		size = strcspn(entry, "/");
		if (!is_entry_component(entry, size))
			return false;
		if (!top)
			path_r[used++] = '/';
		n = plain_file(entry, size, top, file);
		if (n == 0 && size + 2 > MIRROR_FILE_MAX)
			return false;
		if (n == 0) {
			memcpy(path_r + used, MIRROR_INSIDE, 2);
			memcpy(path_r + used + 2, entry, size);
			n = size + 2;
		} else {
			memcpy(path_r + used, file, n);
		}
		used += n;
		if (entry[size] == '\0')
			break;
	}
	path_r[used] = '\0';
	return true;
}

const char *mirror_name_leaf(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash != NULL ? slash + 1 : path;
}

bool mirror_name_conflict(const char *path, const char *id, unsigned int number, char path_r[MIRROR_PATH_MAX + 1])
{
	const char *leaf = mirror_name_leaf(path);
	char end[100], part[MIRROR_FILE_MAX + 1];
	size_t room, size = strlen(leaf);

	if (number > 1)
		snprintf(end, sizeof(end), ".conflict-%s-%u", id, number);
	else
		snprintf(end, sizeof(end), ".conflict-%s", id);
	room = MIRROR_FILE_MAX - strlen(end);
	if (size > room) {
		size = room;
		/* not within a character of UTF-8 */
		while (size > room - 3 && ((unsigned char)leaf[size] & 0xc0) == 0x80)
			size--;
	}
	memcpy(part, leaf, size);
	part[size] = '\0';
	return snprintf(path_r, MIRROR_PATH_MAX + 1, "%.*s%s%s", (int)(leaf - path), path, part, end) <= MIRROR_PATH_MAX;
}
