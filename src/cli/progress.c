/* The line on stderr that shows that something goes on. */

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

#define FIRST_AFTER 1000
#define EVERY 100
#define BAR_WIDTH 24
/* with a NUL; shorter than any terminal is wide */
#define TEXT_MAX 61

struct cli_progress {
	/* ms; when the work has begun, and when the line was drawn last, 0: never */
	int64_t begun, drawn;
	char text[TEXT_MAX];
};

int64_t cli_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static bool wanted(const struct cli *cli)
{
	const char *term = getenv("TERM");

	return !cli->quiet && isatty(STDERR_FILENO) == 1 && (term == NULL || strcmp(term, "dumb") != 0);
}

static void draw(const char *text, uint64_t done, uint64_t total)
{
	char bar[BAR_WIDTH + 1];
	unsigned int filled;

	fputs("\r", stderr);
	if (total > 0) {
		filled = done >= total ? BAR_WIDTH : (double)done / total * BAR_WIDTH;
		memset(bar, ' ', BAR_WIDTH);
		memset(bar, '#', filled);
		bar[BAR_WIDTH] = '\0';
		fprintf(stderr, "[%s] %3u %%  ", bar, (unsigned int)(done >= total ? 100 : (double)done / total * 100));
	}
	fprintf(stderr, "%s\033[K", text);
	fflush(stderr);
}

void cli_progress(struct cli *cli, const char *text, uint64_t done, uint64_t total)
{
	struct cli_progress *progress = cli->progress;
	int64_t now = cli_now();

	if (progress == NULL) {
		if (!wanted(cli))
			return;
		progress = cli->progress = calloc(1, sizeof(*progress));
		if (progress == NULL)
			return;
		progress->begun = now;
	}
	snprintf(progress->text, sizeof(progress->text), "%s", text);
	if (now - progress->begun < FIRST_AFTER || now - progress->drawn < EVERY)
		return;
	draw(progress->text, done, total);
	progress->drawn = now;
}

int cli_progress_wait(struct cli *cli)
{
	char text[TEXT_MAX];

	if (cli->progress == NULL)
		return -1;
	memcpy(text, cli->progress->text, sizeof(text));
	cli_progress(cli, text, 0, 0);
	return FIRST_AFTER;
}

void cli_progress_end(struct cli *cli)
{
	if (cli->progress == NULL)
		return;
	if (cli->progress->drawn != 0) {
		fputs("\r\033[K", stderr);
		fflush(stderr);
	}
	free(cli->progress);
	cli->progress = NULL;
}
