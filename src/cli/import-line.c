/* See import-line.h. */

#include <stdlib.h>
#include <string.h>
#include <jansson.h>

#include "import-line.h"

bool import_line_is_empty(const char *text, size_t size)
{
	for (; size > 0; text++, size--) {
		if (*text != ' ' && *text != '\t' && *text != '\r')
			return false;
	}
	return true;
}

static int base64_digit(char c)
{
	return c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26 : c >= '0' && c <= '9' ? c - '0' + 52 :
		c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* RFC 4648, section 4, strictly. false: it is not. */
static bool base64_decode(const char *text, size_t length, char *to, size_t *size_r)
{
	unsigned int padding = 0, bits = 0, have = 0;
	size_t i, size = 0;
	int digit;

	if (length % 4 != 0)
		return false;
	while (padding < 2 && padding < length && text[length - padding - 1] == '=')
		padding++;
	for (i = 0; i < length - padding; i++) {
		digit = base64_digit(text[i]);
		if (digit < 0)
			return false;
		bits = bits << 6 | digit;
		have += 6;
		if (have >= 8) {
			have -= 8;
			to[size++] = bits >> have & 0xff;
		}
	}
	/* what is left over of the last digit is 0 */
	if ((bits & ((1U << have) - 1)) != 0)
		return false;
	to[size] = '\0';
	*size_r = size;
	return true;
}

/* The member's text, NULL if it is not there. Returns false if it is no string. */
static bool member_text(const json_t *object, const char *key, const char **text_r, size_t *size_r)
{
	const json_t *member = json_object_get(object, key);

	*text_r = json_string_value(member);
	*size_r = json_string_length(member);
	return member == NULL || *text_r != NULL;
}

static const char *parse_names(struct import_line *line)
{
	size_t user_size, mailbox_size, entry_size;

	if (!member_text(line->json, "user", &line->user, &user_size) ||
	    !member_text(line->json, "mailbox", &line->mailbox, &mailbox_size) ||
	    !member_text(line->json, "entry", &line->entry, &entry_size))
		return "a member has a wrong type";
	if (line->mailbox == NULL)
		return "\"mailbox\" is missing";
	if (line->entry == NULL)
		return "\"entry\" is missing";
	if (strlen(line->mailbox) != mailbox_size || strlen(line->entry) != entry_size ||
	    (line->user != NULL && strlen(line->user) != user_size))
		return "a name has a NUL";
	return NULL;
}

static const char *parse_value(struct import_line *line)
{
	const json_t *removed = json_object_get(line->json, "removed");
	const char *value, *base64;
	size_t value_size, base64_size;

	if (!member_text(line->json, "value", &value, &value_size) ||
	    !member_text(line->json, "base64", &base64, &base64_size) || (removed != NULL && !json_is_boolean(removed)))
		return "a member has a wrong type";
	if ((value != NULL) + (base64 != NULL) + json_is_true(removed) != 1)
		return "one of \"value\", \"base64\" and \"removed\" is needed";
	if (value != NULL) {
		line->data = value;
		line->size = value_size;
	} else if (base64 != NULL) {
		line->decoded = malloc(base64_size / 4 * 3 + 1);
		if (line->decoded == NULL)
			return "out of memory";
		if (!base64_decode(base64, base64_size, line->decoded, &line->size))
			return "\"base64\" is not base64";
		line->data = line->decoded;
	}
	return NULL;
}

const char *import_line_parse(const char *text, size_t size, struct import_line *line)
{
	const char *error;

	memset(line, 0, sizeof(*line));
	/* without the parser's words: they may be the value's */
	line->json = json_loadb(text, size, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, NULL);
	if (line->json == NULL || !json_is_object((json_t *)line->json))
		error = "not a JSON object";
	else if ((error = parse_names(line)) == NULL)
		error = parse_value(line);
	if (error != NULL)
		import_line_free(line);
	return error;
}

void import_line_free(struct import_line *line)
{
	json_decref(line->json);
	free(line->decoded);
	memset(line, 0, sizeof(*line));
}
