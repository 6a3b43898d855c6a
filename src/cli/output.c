/* What is printed on stdout: values and names made safe for terminals, and JSON. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* The octets of the UTF-8 character at p (RFC 3629), and its number; 0: none. */
static unsigned int utf8_char(const unsigned char *p, size_t left, uint32_t *char_r)
{
	static const uint32_t smallest[] = { 0, 0, 0x80, 0x800, 0x10000 };
	unsigned int i, length;
	uint32_t c;

	if (p[0] < 0x80) {
		*char_r = p[0];
		return 1;
	}
	length = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
	if (p[0] < 0xc2 || p[0] > 0xf4 || length > left)
		return 0;
	c = p[0] & (0xff >> (length + 1));
	for (i = 1; i < length; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3f);
	}
	if (c < smallest[length] || (c >= 0xd800 && c <= 0xdfff) || c > 0x10ffff)
		return 0;
	*char_r = c;
	return length;
}

/* Moves the cursor, changes the terminal, or turns the direction of what follows. */
static bool is_control(uint32_t c)
{
	return c < 0x20 || (c >= 0x7f && c <= 0x9f) || (c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

void cli_put_safe(FILE *out, const void *data, size_t size, bool lines)
{
	const unsigned char *p = data, *end = p + size;
	unsigned int length;
	uint32_t c;

	while (p < end) {
		length = utf8_char(p, end - p, &c);
		if (length > 0 && (!is_control(c) || (lines && (c == '\n' || c == '\t')))) {
			fwrite(p, 1, length, out);
			p += length;
			continue;
		}
		for (length = length == 0 ? 1 : length; length > 0; length--)
			fprintf(out, "\\x%02x", *p++);
	}
}

bool cli_is_text(const void *data, size_t size)
{
	const unsigned char *p = data, *end = p + size;
	unsigned int length;
	uint32_t c;

	for (; p < end; p += length) {
		length = utf8_char(p, end - p, &c);
		if (length == 0 || c == 0)
			return false;
	}
	return true;
}

void cli_put_json(FILE *out, const char *data, size_t size)
{
	const unsigned char *p = (const unsigned char *)data, *end = p + size;
	unsigned int length;
	uint32_t c;

	putc('"', out);
	for (; p < end; p += length > 0 ? length : 1) {
		length = utf8_char(p, end - p, &c);
		if (length == 0)
			c = 0xfffd;
		switch (c) {
		case '"':
		case '\\':
			putc('\\', out);
			putc(c, out);
			break;
		case '\n':
			fputs("\\n", out);
			break;
		case '\r':
			fputs("\\r", out);
			break;
		case '\t':
			fputs("\\t", out);
			break;
		default:
			if (is_control(c) || length == 0)
				fprintf(out, "\\u%04x", c);
			else
				fwrite(p, 1, length, out);
		}
	}
	putc('"', out);
}

static void put_base64(FILE *out, const unsigned char *p, size_t size)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	uint32_t bits;

	for (; size > 0; size -= size < 3 ? size : 3, p += 3) {
		bits = p[0] << 16 | (size > 1 ? p[1] << 8 : 0) | (size > 2 ? p[2] : 0);
		putc(digits[bits >> 18], out);
		putc(digits[bits >> 12 & 63], out);
		putc(size > 1 ? digits[bits >> 6 & 63] : '=', out);
		putc(size > 2 ? digits[bits & 63] : '=', out);
	}
}

void cli_put_json_value(FILE *out, const void *data, size_t size)
{
	if (cli_is_text(data, size)) {
		fputs(",\"value\":", out);
		cli_put_json(out, data, size);
		return;
	}
	fputs(",\"base64\":\"", out);
	put_base64(out, data, size);
	putc('"', out);
}

void cli_put_json_flags(FILE *out, unsigned int flags)
{
	static const struct { unsigned int flag; const char *name; } names[] = {
		{ DOVETAIL_ENTRY_PENDING, "pending" },
		{ DOVETAIL_ENTRY_REFUSED, "refused" },
		{ DOVETAIL_ENTRY_NOT_HERE, "not-here" },
		{ DOVETAIL_ENTRY_LOCKED, "locked" },
		{ DOVETAIL_ENTRY_DAMAGED, "damaged" },
	};
	const char *comma = "";
	size_t i;

	fputs(",\"flags\":[", out);
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if ((flags & names[i].flag) == 0)
			continue;
		fprintf(out, "%s\"%s\"", comma, names[i].name);
		comma = ",";
	}
	putc(']', out);
}

void cli_put_json_entry(FILE *out, const struct dovetail_entry *entry)
{
	fputs("\"mailbox\":", out);
	cli_put_json(out, entry->mailbox, strlen(entry->mailbox));
	fputs(",\"entry\":", out);
	cli_put_json(out, entry->name, strlen(entry->name));
	fprintf(out, ",\"modseq\":\"%llu\"", (unsigned long long)entry->modseq);
}

bool cli_output_good(struct cli *cli)
{
	if (ferror(stdout) != 0 && cli->output_error == 0)
		cli->output_error = errno;
	return ferror(stdout) == 0;
}

int cli_flush(struct cli *cli, int code)
{
	bool good = cli_output_good(cli);

	errno = 0;
	if (fflush(stdout) == 0 && good)
		return code;
	if (cli->output_error == 0)
		cli->output_error = errno;
	cli_error(cli, "cannot write to standard output: %s", strerror(cli->output_error));
	/* told once */
	clearerr(stdout);
	return CLI_SYSTEM;
}
