/* How entries, values and errors are written to the client. */

#include "imap-metasync.h"
#include "str.h"
#include "imap-quote.h"
#include "imap-utf7.h"

/* Values up to this size are quoted if their bytes allow it. */
#define METASYNC_QUOTED_MAX_SIZE 200
/* Collected before it is handed on. */
#define METASYNC_OUTPUT_SIZE (16*1024)

void imap_metasync_output_init(struct imap_metasync_output *output,
			       struct imap_long_command *lc)
{
	i_zero(output);
	output->lc = lc;
	output->buf = str_new(default_pool, 1024);
	output->vname = str_new(default_pool, 64);
	output->mailbox = str_new(default_pool, 64);
}

void imap_metasync_output_deinit(struct imap_metasync_output *output)
{
	str_free(&output->buf);
	str_free(&output->vname);
	str_free(&output->mailbox);
}

static bool output_send(struct imap_metasync_output *output)
{
	bool ret = imap_long_command_send(output->lc, str_data(output->buf),
					  str_len(output->buf));

	if (str_len(output->buf) <= METASYNC_OUTPUT_SIZE * 4)
		str_truncate(output->buf, 0);
	else {
		/* it held a large value: do not keep that much */
		str_free(&output->buf);
		output->buf = str_new(default_pool, 1024);
	}
	return ret;
}

void imap_metasync_output_flush(struct imap_metasync_output *output)
{
	if (str_len(output->buf) > 0)
		(void)output_send(output);
}

static void
output_append_mailbox(struct imap_metasync_output *output, const char *vname)
{
	if (str_len(output->mailbox) == 0 ||
	    strcmp(str_c(output->vname), vname) != 0) {
		str_truncate(output->vname, 0);
		str_append(output->vname, vname);
		str_truncate(output->mailbox, 0);
		T_BEGIN {
			const char *mutf7;

			if (t_imap_utf8_to_utf7(vname, &mutf7) < 0)
				i_unreached(); /* checked when it came in */
			imap_append_quoted(output->mailbox, mutf7);
		} T_END;
	}
	str_append_str(output->buf, output->mailbox);
}

static bool name_char_needs_no_quotes(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
		c == '/' || c == '.' || c == '_' || c == '-';
}

static void output_append_name(string_t *buf, const char *name)
{
	const char *p = name;

	while (name_char_needs_no_quotes(*p))
		p++;
	if (*p != '\0')
		imap_append_quoted(buf, name);
	else
		str_append_data(buf, name, p - name);
}

static bool value_can_be_quoted(const unsigned char *value, size_t size)
{
	unsigned char bits = 0;
	size_t i;

	if (size > METASYNC_QUOTED_MAX_SIZE)
		return FALSE;
	for (i = 0; i < size; i++)
		bits |= value[i];
	return bits < 0x80 && memchr(value, '\0', size) == NULL &&
		memchr(value, '\r', size) == NULL &&
		memchr(value, '\n', size) == NULL;
}

static void
output_append_quoted(string_t *buf, const unsigned char *value, size_t size)
{
	size_t i, start = 0;

	str_append_c(buf, '"');
	if (memchr(value, '"', size) != NULL ||
	    memchr(value, '\\', size) != NULL) {
		for (i = 0; i < size; i++) {
			if (value[i] != '"' && value[i] != '\\')
				continue;
			str_append_data(buf, value + start, i - start);
			str_append_c(buf, '\\');
			start = i;
		}
	}
	str_append_data(buf, value + start, size - start);
	str_append_c(buf, '"');
}

static void
output_append_value(string_t *buf, const unsigned char *value, size_t size)
{
	if (value_can_be_quoted(value, size)) {
		output_append_quoted(buf, value, size);
		return;
	}
	str_printfa(buf, "%s{%zu}\r\n",
		    memchr(value, '\0', size) != NULL ? "~" : "", size);
	str_append_data(buf, value, size);
}

bool imap_metasync_output_entry(struct imap_metasync_output *output,
				const struct store_entry *entry)
{
	string_t *buf = output->buf;
	size_t old_len = str_len(buf);

	str_append(buf, "* METADATA ");
	output_append_mailbox(output, entry->mailbox);
	str_append_c(buf, ' ');
	if (!entry->removed && entry->value == NULL) {
		output_append_name(buf, entry->name);
		str_append(buf, "\r\n");
	} else {
		str_append_c(buf, '(');
		output_append_name(buf, entry->name);
		str_append_c(buf, ' ');
		if (entry->removed)
			str_append(buf, "NIL");
		else
			output_append_value(buf, entry->value,
					    entry->value_size);
		str_append(buf, ")\r\n");
	}
	output->bytes += str_len(buf) - old_len;
	return str_len(buf) < METASYNC_OUTPUT_SIZE || output_send(output);
}

void imap_metasync_output_line(struct imap_metasync_output *output,
			       const char *line)
{
	str_append(output->buf, line);
	str_append(output->buf, "\r\n");
}

void imap_metasync_end_error(struct imap_long_command *lc,
			     const struct store_error *error)
{
	struct mail_user *user = lc->client->user;

	metasync_user_log(user, error);
	imap_long_command_end(lc, t_strconcat("NO ",
		metasync_error_text(user, error), NULL));
}
