/* Reads the arguments of a command, with literals that are larger than the input
   buffer, and lines that nobody wants.

   Dovecot's client_read_args() needs the whole command line in the input
   buffer and disconnects clients whose literals don't fit in it. Here the line
   is copied out of the buffer as it arrives, literals are checked against the
   limits when they are announced, and the parser runs over the whole in the
   end. The line's LF is consumed last, so the input is always at a line's start afterwards.

   Called by long-command.c, which owns the struct. */

#include "long-command-private.h"
#include "buffer.h"
#include "istream.h"
#include "ostream.h"
#include "compat-imap.h"

#include <ctype.h>

/* What is kept of a line that is dropped: enough for a literal's announcement,
   "{" 20 digits "+}". */
#define LONG_COMMAND_TAIL_SIZE 24
/* Each open list takes memory in the parser, a parenthesis one octet. */
#define LONG_COMMAND_MAX_LISTS 1000

struct long_command_args {
	buffer_t *buf;
	/* where the current line starts in buf */
	size_t line_start;
	/* bytes of the announced literal that have not arrived */
	uoff_t literal_left;
	/* bytes of the arguments so far */
	uoff_t total;

	struct imap_long_command_limits limits;
	char *literal_text, *total_text;
	size_t max_line_size;

	/* why the line is not wanted; then nothing is kept */
	char *refusal;
	enum long_command_refusal refusal_kind;
	bool literal_minus;
};

struct long_command_args *
long_command_args_init(const struct imap_long_command_limits *limits,
		       size_t max_line_size, bool literal_minus)
{
	struct long_command_args *args = i_new(struct long_command_args, 1);

	args->buf = buffer_create_dynamic(default_pool, 256);
	args->limits = *limits;
	args->literal_text = i_strdup(limits->literal_text);
	args->total_text = i_strdup(limits->total_text);
	args->max_line_size = max_line_size;
	args->literal_minus = literal_minus;
	return args;
}

struct long_command_args *long_command_args_init_drop(const char *refusal)
{
	struct long_command_args *args = i_new(struct long_command_args, 1);

	args->buf = buffer_create_dynamic(default_pool, 64);
	args->refusal = i_strdup(refusal);
	return args;
}

void long_command_args_free(struct long_command_args **_args)
{
	struct long_command_args *args = *_args;

	*_args = NULL;
	buffer_free(&args->buf);
	i_free(args->literal_text);
	i_free(args->total_text);
	i_free(args->refusal);
	i_free(args);
}

static void
args_refuse(struct long_command_args *args, enum long_command_refusal kind,
	    const char *text)
{
	if (args->refusal != NULL)
		return;
	args->refusal = i_strdup(text);
	args->refusal_kind = kind;
	/* keep the line's end: it may announce a literal */
	buffer_delete(args->buf, 0, args->line_start);
	args->line_start = 0;
}

static void
args_append_text(struct long_command_args *args, const unsigned char *data,
		 size_t size)
{
	args->total += size;
	if (args->refusal == NULL) {
		if (memchr(data, '\0', size) != NULL)
			args_refuse(args, LONG_COMMAND_REFUSAL_SYNTAX,
				    "NULs not allowed outside literals");
		else if (args->buf->used - args->line_start + size >
			 args->max_line_size)
			args_refuse(args, LONG_COMMAND_REFUSAL_SYNTAX,
				    "Too long argument.");
		else if (args->total > args->limits.total)
			args_refuse(args, LONG_COMMAND_REFUSAL_TOTAL,
				    args->total_text);
	}
	buffer_append(args->buf, data, size);
	if (args->refusal != NULL && args->buf->used > LONG_COMMAND_TAIL_SIZE) {
		buffer_delete(args->buf, 0,
			      args->buf->used - LONG_COMMAND_TAIL_SIZE);
	}
}

/* Does the line end in an announcement: [~]{number[+]}? Returns 1 if so, 0 if
   not, -1 if the number is larger than any literal can be. */
static int
args_parse_literal(const char *line, size_t len, uoff_t *size_r, bool *sync_r)
{
	size_t end = len, start;

	if (end == 0 || line[--end] != '}')
		return 0;
	*sync_r = TRUE;
	if (end > 0 && line[end-1] == '+') {
		*sync_r = FALSE;
		end--;
	}
	start = end;
	while (start > 0 && i_isdigit(line[start-1]))
		start--;
	if (start == end || start == 0 || line[start-1] != '{')
		return 0;
	return str_to_uoff(t_strdup_until(line + start, line + end),
			   size_r) < 0 ? -1 : 1;
}

static void args_drop_line(struct long_command_args *args)
{
	buffer_set_used_size(args->buf, 0);
	args->line_start = 0;
}

/* A line ended: either the command is complete, or a literal follows. */
static enum long_command_args_result
args_line_end(struct long_command_args *args, struct ostream *output)
{
	const char *line;
	size_t len;
	uoff_t size;
	bool sync;
	int ret;

	if (args->buf->used > args->line_start &&
	    ((const char *)args->buf->data)[args->buf->used-1] == '\r')
		buffer_set_used_size(args->buf, args->buf->used - 1);
	line = CONST_PTR_OFFSET(args->buf->data, args->line_start);
	len = args->buf->used - args->line_start;

	ret = args_parse_literal(line, len, &size, &sync);
	if (ret < 0)
		args_refuse(args, LONG_COMMAND_REFUSAL_SYNTAX,
			    "Literal size too large");
	if (ret <= 0)
		return args->refusal != NULL ? LONG_COMMAND_ARGS_REFUSED :
			LONG_COMMAND_ARGS_COMPLETE;

	if (args->refusal != NULL)
		;
	else if (args->literal_minus && !sync && size > 4096)
		args_refuse(args, LONG_COMMAND_REFUSAL_SYNTAX,
			    "Non-synchronizing literal size too large");
	else if (size > args->limits.literal)
		args_refuse(args, LONG_COMMAND_REFUSAL_LITERAL,
			    args->literal_text);
	else if (size > args->limits.total - args->total)
		args_refuse(args, LONG_COMMAND_REFUSAL_TOTAL,
			    args->total_text);
	if (args->refusal != NULL) {
		/* without "+" the client will not send it */
		if (sync)
			return LONG_COMMAND_ARGS_REFUSED;
		args_drop_line(args);
	} else {
		buffer_append(args->buf, "\r\n", 2);
		args->total += size;
		if (sync)
			o_stream_nsend(output, "+ OK\r\n", 6);
	}
	args->literal_left = size;
	return LONG_COMMAND_ARGS_MORE;
}

static void
args_read_literal(struct long_command_args *args, struct istream *input,
		  const unsigned char *data, size_t size)
{
	size = I_MIN(size, args->literal_left);
	if (args->refusal == NULL)
		buffer_append(args->buf, data, size);
	i_stream_skip(input, size);
	args->literal_left -= size;
	if (args->literal_left == 0 && args->refusal == NULL)
		args->line_start = args->buf->used;
}

enum long_command_args_result
long_command_args_read(struct long_command_args *args, struct istream *input,
		       struct ostream *output)
{
	const unsigned char *data, *lf;
	enum long_command_args_result ret;
	size_t size;

	for (;;) {
		data = i_stream_get_data(input, &size);
		if (size == 0)
			return LONG_COMMAND_ARGS_MORE;
		if (args->literal_left > 0) {
			args_read_literal(args, input, data, size);
			continue;
		}
		lf = memchr(data, '\n', size);
		args_append_text(args, data,
				 lf == NULL ? size : (size_t)(lf - data));
		i_stream_skip(input, lf == NULL ? size :
			      (size_t)(lf - data) + 1);
		if (lf == NULL)
			continue;
		T_BEGIN {
			ret = args_line_end(args, output);
		} T_END;
		if (ret == LONG_COMMAND_ARGS_MORE) {
			if (args->literal_left == 0 && args->refusal == NULL)
				args->line_start = args->buf->used;
			continue;
		}
		return ret;
	}
}

enum long_command_refusal
long_command_args_get_refusal(struct long_command_args *args,
			      const char **text_r)
{
	*text_r = args->refusal;
	return args->refusal_kind;
}

int long_command_args_parse(struct long_command_args *args,
			    struct imap_parser **parser_r,
			    const struct imap_arg **args_r,
			    const char **error_r)
{
	enum imap_parser_error parse_error;
	struct istream *input;
	int ret;

	buffer_append(args->buf, "\r\n", 2);
	input = i_stream_create_from_data(args->buf->data, args->buf->used);
	(void)i_stream_read(input);
	*parser_r = compat_imap_parser_create(input, args->buf->used,
					      LONG_COMMAND_MAX_LISTS);
	ret = imap_parser_read_args(*parser_r, 0, IMAP_PARSE_FLAG_LITERAL8,
				    args_r);
	if (ret == -1)
		*error_r = t_strdup(imap_parser_get_error(*parser_r,
							  &parse_error));
	else if (ret == -2)
		*error_r = "Missing arguments";
	if (ret < 0)
		imap_parser_unref(parser_r);
	/* the parser has copied everything */
	i_stream_unref(&input);
	return ret < 0 ? -1 : 0;
}
