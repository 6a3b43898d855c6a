/* Options and arguments of all commands, and the help that comes from the same tables. */

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

#define COMMON_MAX 12

struct parser {
	struct cli *cli;
	struct cli_option common[COMMON_MAX];
	const struct cli_option *own;
	char **argv;
};

static void parser_init(struct parser *parser, struct cli *cli, const struct cli_option *own)
{
	const struct cli_option common[COMMON_MAX] = {
		{ .letter = 'a', .name = "account", .arg = "NAME", .string = &cli->account_name,
		  .help = "the account to use, if not \"default\"" },
		{ .name = "config", .arg = "FILE", .string = &cli->config_path, .help = "the account file, by its path" },
		{ .letter = 'm', .name = "mailbox", .arg = "MAILBOX", .string = &cli->mailbox,
		  .help = "entries of this mailbox, not of the account" },
		{ .letter = 't', .name = "timeout", .arg = "SECONDS", .number = &cli->timeout, .min = 1,
		  .help = "wait so long for each answer of the server" },
		{ .name = "offline", .flag = &cli->offline, .help = "do not connect to the server" },
		{ .name = "online", .flag = &cli->online, .help = "fail if the server cannot be reached" },
		{ .letter = 'q', .name = "quiet", .flag = &cli->quiet, .help = "no warnings and no progress" },
		{ .letter = 'h', .name = "help", .flag = &cli->help, .help = "this help" },
		{ .name = "version", .flag = &cli->version, .help = "the version" },
	};

	memset(parser, 0, sizeof(*parser));
	memcpy(parser->common, common, sizeof(common));
	parser->cli = cli;
	parser->own = own;
}

static const struct cli_option *option_find(const struct cli_option *options, const char *name, size_t length, char letter)
{
	for (; options != NULL && options->name != NULL; options++) {
		if (letter != 0 ? options->letter == letter :
		    strlen(options->name) == length && memcmp(options->name, name, length) == 0)
			return options;
	}
	return NULL;
}

static bool option_number(struct parser *parser, const struct cli_option *option, const char *value)
{
	unsigned long long number;
	char *end;

	errno = 0;
	number = strtoull(value, &end, 10);
	if (value[0] < '0' || value[0] > '9' || *end != '\0' || errno != 0) {
		cli_usage(parser->cli, "--%s needs a number, not \"%s\"", option->name, value);
		return false;
	}
	if (number < option->min) {
		cli_usage(parser->cli, "--%s is at least %llu", option->name, (unsigned long long)option->min);
		return false;
	}
	*option->number = number;
	return true;
}

static bool option_append(struct parser *parser, const struct cli_option *option, const char *value)
{
	const char **list = *option->list;
	size_t count = 0;

	while (list != NULL && list[count] != NULL)
		count++;
	list = realloc(list, (count + 2) * sizeof(*list));
	if (list == NULL) {
		cli_fail_memory(parser->cli);
		return false;
	}
	list[count] = value;
	list[count + 1] = NULL;
	*option->list = list;
	return true;
}

static bool option_set(struct parser *parser, const struct cli_option *option, const char *value)
{
	if (option->flag != NULL)
		*option->flag = true;
	else if (option->number != NULL)
		return option_number(parser, option, value);
	else if (option->list != NULL)
		return option_append(parser, option, value);
	else
		*option->string = value;
	return true;
}

/* "--name", "--name=value", "--name value" */
static bool parse_long(struct parser *parser, const char *text)
{
	size_t length = strcspn(text, "=");
	const char *value = text[length] == '=' ? text + length + 1 : NULL;
	const struct cli_option *option = option_find(parser->own, text, length, 0);

	if (option == NULL)
		option = option_find(parser->common, text, length, 0);
	if (option == NULL) {
		cli_usage(parser->cli, "there is no option --%.*s", (int)length, text);
		return false;
	}
	if (option->flag != NULL && value != NULL) {
		cli_usage(parser->cli, "--%s takes no value", option->name);
		return false;
	}
	if (option->flag == NULL && value == NULL) {
		value = *++parser->argv;
		if (value == NULL) {
			parser->argv--;
			cli_usage(parser->cli, "--%s needs a value", option->name);
			return false;
		}
	}
	return option_set(parser, option, value);
}

/* "-q", "-lq", "-mWork", "-m Work" */
static bool parse_short(struct parser *parser, const char *letters)
{
	const struct cli_option *option;
	const char *value;

	for (; *letters != '\0'; letters++) {
		option = option_find(parser->own, NULL, 0, *letters);
		if (option == NULL)
			option = option_find(parser->common, NULL, 0, *letters);
		if (option == NULL) {
			cli_usage(parser->cli, "there is no option -%c", *letters);
			return false;
		}
		if (option->flag != NULL) {
			option_set(parser, option, NULL);
			continue;
		}
		value = letters[1] != '\0' ? letters + 1 : *++parser->argv;
		if (value == NULL) {
			parser->argv--;
			cli_usage(parser->cli, "-%c needs a value", *letters);
			return false;
		}
		return option_set(parser, option, value);
	}
	return true;
}

/* Parses one option at *parser->argv and goes behind it. */
static bool parse_option(struct parser *parser)
{
	const char *arg = *parser->argv;
	bool ret = arg[1] == '-' ? parse_long(parser, arg + 2) : parse_short(parser, arg + 1);

	parser->argv++;
	return ret;
}

static bool is_option(const char *arg)
{
	/* "-" is standard input */
	return arg[0] == '-' && arg[1] != '\0';
}

bool cli_parse_common(struct cli *cli, char **argv, char ***next_r, int *exit_r)
{
	struct parser parser;

	parser_init(&parser, cli, NULL);
	parser.argv = argv;
	while (*parser.argv != NULL && is_option(*parser.argv) && strcmp(*parser.argv, "--") != 0) {
		if (!parse_option(&parser)) {
			*exit_r = CLI_USAGE;
			return false;
		}
	}
	*next_r = parser.argv;
	return true;
}

/* ---- Help ---- */

static void help_options(const struct cli_option *options)
{
	char left[80];

	for (; options->name != NULL; options++) {
		snprintf(left, sizeof(left), "--%s%s%s", options->name, options->arg != NULL ? " " : "",
			 options->arg != NULL ? options->arg : "");
		if (options->letter != 0)
			printf("  -%c, %-26s %s\n", options->letter, left, options->help);
		else
			printf("      %-26s %s\n", left, options->help);
	}
}

static void help_print(const struct parser *parser)
{
	const struct cli_command *command = parser->cli->command;

	printf("usage: dovetail %s [OPTION...]%s%s\n\n%c%s.\n", command->name, command->args[0] != '\0' ? " " : "",
	       command->args, command->summary[0] - 'a' + 'A', command->summary + 1);
	if (command->details != NULL)
		printf("\n%s", command->details);
	if (parser->own != NULL && parser->own->name != NULL) {
		printf("\nOptions:\n");
		help_options(parser->own);
	}
	printf("\nOptions of all commands:\n");
	help_options(parser->common);
}

/* ---- A command's arguments ---- */

/* Options are parsed, the other arguments moved to the front. Returns false after an error. */
static bool parse_all(struct parser *parser, bool rest)
{
	struct cli *cli = parser->cli;
	char **to = cli->argv;

	parser->argv = cli->argv;
	cli->args = cli->argv;
	while (*parser->argv != NULL) {
		if (strcmp(*parser->argv, "--") == 0) {
			parser->argv++;
			if (rest) {
				cli->rest = parser->argv;
				break;
			}
			while (*parser->argv != NULL)
				*to++ = *parser->argv++;
			break;
		}
		if (!is_option(*parser->argv))
			*to++ = *parser->argv++;
		else if (!parse_option(parser))
			return false;
	}
	cli->arg_count = to - cli->args;
	*to = NULL;
	return true;
}

/* What the common options must not be. */
static bool check_common(struct cli *cli)
{
	if (cli->offline && cli->online) {
		cli_usage(cli, "--offline and --online exclude each other");
		return false;
	}
	if (cli->timeout > 24 * 60 * 60) {
		cli_usage(cli, "--timeout is at most a day");
		return false;
	}
	return true;
}

static bool parse(struct cli *cli, const struct cli_option *options, bool rest, unsigned int min, unsigned int max, int *exit_r)
{
	struct parser parser;

	parser_init(&parser, cli, options);
	*exit_r = CLI_USAGE;
	if (!cli->help && !parse_all(&parser, rest))
		return false;
	if (cli->help) {
		help_print(&parser);
		*exit_r = CLI_OK;
		return false;
	}
	if (!check_common(cli))
		return false;
	if (cli->version) {
		printf("dovetail %s\n", dovetail_version());
		*exit_r = CLI_OK;
		return false;
	}
	if (cli->arg_count < min) {
		cli_usage(cli, "%s needs %s", cli->command->name, cli->command->args);
		return false;
	}
	if (cli->arg_count > max) {
		cli_usage(cli, "%s: what is \"%s\"?", cli->command->name, cli->args[max]);
		return false;
	}
	*exit_r = CLI_OK;
	return true;
}

bool cli_parse(struct cli *cli, const struct cli_option *options, unsigned int min, unsigned int max, int *exit_r)
{
	return parse(cli, options, false, min, max, exit_r);
}

bool cli_parse_rest(struct cli *cli, const struct cli_option *options, unsigned int min, unsigned int max, int *exit_r)
{
	return parse(cli, options, true, min, max, exit_r);
}

int cli_usage(struct cli *cli, const char *format, ...)
{
	va_list args;
	char *text;

	va_start(args, format);
	if (vasprintf(&text, format, args) < 0)
		text = NULL;
	va_end(args);
	cli_error(cli, "%s; see \"dovetail help%s%s\"", text != NULL ? text : "wrong arguments", cli->command != NULL ? " " : "",
		  cli->command != NULL ? cli->command->name : "");
	free(text);
	return CLI_USAGE;
}
