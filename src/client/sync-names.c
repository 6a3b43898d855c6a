/* Names of mailboxes as the server writes them, in modified UTF-7 (RFC 3501 section 5.1.3; the sync never does ENABLE UTF8=ACCEPT,
   so servers keep to it). Pure functions; what they return is the caller's. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "sync-private.h"

static const char base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,";

/* One character of valid UTF-8; -1: not valid. */
static int utf8_next(const unsigned char **text)
{
	static const int least[] = { 0, 0x80, 0x800, 0x10000 };
	const unsigned char *p = *text;
	int i, more, c = *p++;

	if (c >= 0x80) {
		if (c < 0xc2 || c > 0xf4)
			return -1;
		more = c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
		c &= 0x3f >> more;
		for (i = 0; i < more; i++) {
			if ((*p & 0xc0) != 0x80)
				return -1;
			c = c << 6 | (*p++ & 0x3f);
		}
		if (c < least[more] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
			return -1;
	}
	*text = p;
	return c;
}

static bool is_direct(int c)
{
	return c >= 0x20 && c < 0x7f;
}

/* A run of characters that are not direct, from *text; returns the end of what was written. */
static char *encode_run(const unsigned char **text, char *out)
{
	const unsigned char *ahead;
	unsigned int units[2], count, i, bits = 0, have = 0;
	int c;

	*out++ = '&';
	while (**text != '\0') {
		ahead = *text;
		c = utf8_next(&ahead);
		if (c < 0)
			return NULL;
		if (is_direct(c))
			break;
		*text = ahead;
		if (c < 0x10000) {
			units[0] = c;
			count = 1;
		} else {
			units[0] = 0xd800 | (c - 0x10000) >> 10;
			units[1] = 0xdc00 | ((c - 0x10000) & 0x3ff);
			count = 2;
		}
		for (i = 0; i < count; i++) {
			bits = bits << 16 | units[i];
			for (have += 16; have >= 6; have -= 6)
				*out++ = base64[bits >> (have - 6) & 0x3f];
			bits &= (1U << have) - 1;
		}
	}
	if (have > 0)
		*out++ = base64[bits << (6 - have) & 0x3f];
	*out++ = '-';
	return out;
}

char *sync_mailbox_encode(const char *name)
{
	const unsigned char *text = (const unsigned char *)name;
	/* a control character between direct ones takes five octets */
	char *wire = malloc(strlen(name) * 5 + 1), *out = wire;

	if (wire == NULL)
		return NULL;
	while (*text != '\0') {
		if (*text == '&') {
			*out++ = '&';
			*out++ = '-';
			text++;
		} else if (is_direct(*text)) {
			*out++ = *text++;
		} else if ((out = encode_run(&text, out)) == NULL) {
			free(wire);
			errno = EINVAL;
			return NULL;
		}
	}
	*out = '\0';
	return wire;
}

static char *utf8_put(char *out, unsigned int c)
{
	if (c < 0x80) {
		*out++ = c;
	} else if (c < 0x800) {
		*out++ = 0xc0 | c >> 6;
		*out++ = 0x80 | (c & 0x3f);
	} else if (c < 0x10000) {
		*out++ = 0xe0 | c >> 12;
		*out++ = 0x80 | (c >> 6 & 0x3f);
		*out++ = 0x80 | (c & 0x3f);
	} else {
		*out++ = 0xf0 | c >> 18;
		*out++ = 0x80 | (c >> 12 & 0x3f);
		*out++ = 0x80 | (c >> 6 & 0x3f);
		*out++ = 0x80 | (c & 0x3f);
	}
	return out;
}

/* After "&", up to and with "-". */
static char *decode_run(const char **wire, char *out)
{
	const char *digit, *p = *wire;
	unsigned int bits = 0, have = 0, unit, high = 0;

	for (; *p != '-'; p++) {
		if (*p == '\0' || (digit = strchr(base64, *p)) == NULL)
			return NULL;
		bits = bits << 6 | (digit - base64);
		have += 6;
		if (have < 16)
			continue;
		have -= 16;
		unit = bits >> have & 0xffff;
		bits &= (1U << have) - 1;
		if (unit >= 0xd800 && unit < 0xdc00) {
			if (high != 0)
				return NULL;
			high = unit;
		} else if (unit >= 0xdc00 && unit < 0xe000) {
			if (high == 0)
				return NULL;
			out = utf8_put(out, 0x10000 + ((high & 0x3ff) << 10 | (unit & 0x3ff)));
			high = 0;
		} else if (high != 0 || unit == 0 || is_direct(unit)) {
			return NULL;
		} else {
			out = utf8_put(out, unit);
		}
	}
	/* padding: less than a digit, of zeros */
	if (high != 0 || have >= 6 || bits != 0)
		return NULL;
	*wire = p + 1;
	return out;
}

char *sync_mailbox_decode(const char *wire)
{
	/* four digits at most for what takes three octets in UTF-8: never longer */
	char *name = malloc(strlen(wire) + 4), *out = name;

	if (name == NULL)
		return NULL;
	while (*wire != '\0') {
		if (!is_direct((unsigned char)*wire)) {
			out = NULL;
		} else if (*wire != '&') {
			*out++ = *wire++;
		} else if (wire[1] == '-') {
			*out++ = '&';
			wire += 2;
		} else {
			wire++;
			out = decode_run(&wire, out);
		}
		if (out == NULL) {
			free(name);
			errno = EINVAL;
			return NULL;
		}
	}
	*out = '\0';
	/* it has one name here */
	if (strcasecmp(name, "INBOX") == 0)
		memcpy(name, "INBOX", 5);
	return name;
}
