/* The clients of the benchmarks that count microseconds: one small program, so
   that its own share is the same for all that it compares. Started by the
   bench package:

       bench-driver BLOCKS NAME:KIND:N:PORT:WHO:ENTRIES …

   prints "writer|reader CLIENT-PORT SERVER-PORT" for each connection that it has
   opened, then "ready", and waits for a line on its standard input. Measures N
   samples of each subject in turn, BLOCKS times over, so that what else the
   machine does hits all of them alike; and prints "NAME seconds" for each
   sample in the end. A block more is measured first and forgotten.
   WHO is the user; for the floor's kinds the port of its reader. */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define VALUE_SIZE 100
#define TIMEOUT_SECS 60
#define SUBJECTS_MAX 16

struct conn {
	int fd;
	char buf[65536];
	size_t used;
	/* the last line taken, without CRLF */
	char line[8192];
};

struct subject {
	const char *name, *who;
	const struct kind *kind;
	unsigned int per_block, entries;
	int port;

	struct conn *writer, *reader;
	/* of the next sample */
	unsigned int seq;
	char value[VALUE_SIZE + 1];
	double *samples;
	unsigned int count;
};

struct kind {
	const char *name;
	void (*open)(struct subject *subject);
	/* Returns seconds. */
	double (*sample)(struct subject *subject);
};

static void __attribute__((noreturn, format(printf, 1, 2)))
fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("bench-driver: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	exit(1);
}

static double now(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* -- connections */

static struct conn *conn_open(int port)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	struct timeval timeout = { .tv_sec = TIMEOUT_SECS };
	struct conn *conn = calloc(1, sizeof(*conn));
	int on = 1;

	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	addr.sin_port = htons(port);
	if (conn == NULL)
		fail("out of memory");
	conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (conn->fd == -1 ||
	    connect(conn->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		fail("port %d: %s", port, strerror(errno));
	(void)setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void)setsockopt(conn->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout,
			 sizeof(timeout));
	return conn;
}

static void __attribute__((format(printf, 2, 3)))
conn_send(struct conn *conn, const char *format, ...)
{
	char text[8192];
	va_list args;
	int size;

	va_start(args, format);
	size = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (write(conn->fd, text, size) != size)
		fail("write: %s", strerror(errno));
}

/* Takes the next line out of the buffer, if it is there. */
static bool conn_take_line(struct conn *conn)
{
	const char *lf = memchr(conn->buf, '\n', conn->used);
	size_t size;

	if (lf == NULL)
		return false;
	size = lf - conn->buf;
	if (size >= sizeof(conn->line))
		fail("a line is too long");
	memcpy(conn->line, conn->buf, size);
	conn->line[size > 0 && lf[-1] == '\r' ? size - 1 : size] = '\0';
	conn->used -= size + 1;
	memmove(conn->buf, lf + 1, conn->used);
	return true;
}

/* Reads lines until one contains text. */
static void conn_wait(struct conn *conn, const char *text)
{
	ssize_t ret;

	for (;;) {
		while (conn_take_line(conn)) {
			if (strstr(conn->line, text) != NULL)
				return;
		}
		ret = read(conn->fd, conn->buf + conn->used,
			   sizeof(conn->buf) - conn->used);
		if (ret < 0 && errno == EINTR)
			continue;
		if (ret <= 0) {
			fail("waited for \"%s\", got %s; last line: %s", text,
			     ret == 0 ? "end of input" : strerror(errno),
			     conn->line);
		}
		conn->used += ret;
	}
}

/* Waits for the tagged reply. All commands have the tag "t". */
static void conn_wait_ok(struct conn *conn)
{
	do
		conn_wait(conn, "t ");
	while (strncmp(conn->line, "t ", 2) != 0);
	if (strncmp(conn->line, "t OK", 4) != 0)
		fail("%s", conn->line);
}

static struct conn *conn_login(const struct subject *subject)
{
	struct conn *conn = conn_open(subject->port);

	conn_wait(conn, "* OK");
	conn_send(conn, "t LOGIN %s pass\r\n", subject->who);
	conn_wait_ok(conn);
	return conn;
}

/* -- the next change: entries in an order without pattern, a new value */

static unsigned int next_change(struct subject *subject)
{
	subject->seq++;
	memset(subject->value, 'x', VALUE_SIZE);
	subject->value[snprintf(subject->value, VALUE_SIZE, "%08u.%u",
				subject->seq, (unsigned int)getpid())] = '.';
	return (unsigned int)(subject->seq * 2654435761U) % subject->entries;
}

static void send_xmetaset(struct subject *subject)
{
	unsigned int entry = next_change(subject);

	conn_send(subject->writer, "t XMETASET \"\" (/private/vendor/bench/e%06u "
		  "\"%s\")\r\n", entry, subject->value);
}

/* -- push: from the writer's command to the value at the reader */

static void push_dovetail_open(struct subject *subject)
{
	subject->writer = conn_login(subject);
	subject->reader = conn_login(subject);
	conn_send(subject->reader, "t XMETASYNC (DEPTH infinity) \"\" "
		  "/private/vendor/bench\r\n");
	conn_wait(subject->reader, "+ idling");
}

static double push_dovetail(struct subject *subject)
{
	double start = now(), end;

	send_xmetaset(subject);
	conn_wait(subject->reader, subject->value);
	end = now();
	conn_wait(subject->reader, "* OK [XMETASYNC (");
	conn_wait_ok(subject->writer);
	return end - start;
}

static void push_floor_open(struct subject *subject)
{
	subject->writer = conn_open(subject->port);
	subject->reader = conn_open(atoi(subject->who));
	conn_wait(subject->reader, "+");
}

static double push_floor(struct subject *subject)
{
	double start = now(), end;

	send_xmetaset(subject);
	conn_wait(subject->reader, subject->value);
	end = now();
	conn_wait(subject->writer, "OK");
	return end - start;
}

static void push_idle_open(struct subject *subject)
{
	subject->writer = conn_login(subject);
	subject->reader = conn_login(subject);
	conn_send(subject->reader, "t SELECT INBOX\r\n");
	conn_wait_ok(subject->reader);
	conn_send(subject->reader, "t IDLE\r\n");
	conn_wait(subject->reader, "+ idling");
}

static double push_idle(struct subject *subject)
{
	double start = now(), end;

	(void)next_change(subject);
	conn_send(subject->writer, "t APPEND INBOX {%zu+}\r\nSubject: %s\r\n\r\n"
		  "\r\n", strlen("Subject: \r\n\r\n") + VALUE_SIZE,
		  subject->value);
	conn_wait(subject->reader, " EXISTS");
	end = now();
	conn_wait_ok(subject->writer);
	return end - start;
}

/* -- xkey: from the command that adds a key to the key at the reader. It is removed
   again after each sample. */

/* RSA, 2048 bits; nobody has the private one */
static const char xkey_pem[] =
	"-----BEGIN PUBLIC KEY-----\n"
	"MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAmaKCNauD+v5RNGVqoxdl\n"
	"VR/3zz2RHx3fH2pQDcCeysrgdA0XwSoiPn/ncS8SSWSq4bE0imrRRb0d7nV4Qc5Q\n"
	"arHvaA+n90uZkdy0rfwzgY6Spze4EoSYG+rUV+Ae11n47ZC+O0ut4J0HmEi9uHpg\n"
	"r5qH4RAZNgKb3X5O3nhCkRr13fR6tF5+wP2UnTKVsvCayDJp2kBfqrBN9/2uVB9f\n"
	"KLexf1pqqUJuC4W2BeEY/sHzAqyot1Uipzs4MI/RCshtse5QZtrUq+HhYt5eklL9\n"
	"VWlAPG63WQKJQtDY1edEVKJT5RKLcFSbNWCzJBglLs7HogREe62cMvfTwGdwX4mS\n"
	"YQIDAQAB\n"
	"-----END PUBLIC KEY-----\n";
#define XKEY_ENTRY "/private/vendor/dovetail/xkey/" \
	"d3ccd0d55dca6c73a6fabf6438714e341b7a452116f6bd913ed2a5ebb9b6119e"
#define XKEY_POLL_SECS 3

static void xkey_remove(struct subject *subject)
{
	conn_send(subject->writer, "t XMETASET \"\" ("XKEY_ENTRY" NIL)\r\n");
	conn_wait_ok(subject->writer);
}

static void xkey_open(struct subject *subject)
{
	subject->writer = conn_login(subject);
	subject->reader = conn_login(subject);
	conn_send(subject->reader, "t XKEYSYNC\r\n");
	conn_wait(subject->reader, "+ OK");
}

/* The rest, after the key was written. */
static double xkey_finish(struct subject *subject, double start)
{
	double end;

	conn_wait(subject->reader, "-----END");
	end = now();
	conn_wait(subject->reader, "* XKEYSYNC OK");
	conn_wait_ok(subject->writer);
	xkey_remove(subject);
	conn_wait(subject->reader, "* XKEYSYNC OK");
	return end - start;
}

static void xkey_send_add(struct subject *subject)
{
	conn_send(subject->writer, "t XKEYADD {%zu+}\r\n%s\r\n",
		  strlen(xkey_pem), xkey_pem);
}

static double xkey_add(struct subject *subject)
{
	double start = now();

	xkey_send_add(subject);
	return xkey_finish(subject, start);
}

/* Without XKEYADD's checks of the key. */
static double xkey_set(struct subject *subject)
{
	double start = now();

	conn_send(subject->writer, "t XMETASET \"\" ("XKEY_ENTRY
		  " {%zu+}\r\n%s)\r\n", strlen(xkey_pem), xkey_pem);
	return xkey_finish(subject, start);
}

static void xkey_poll_open(struct subject *subject)
{
	subject->writer = conn_login(subject);
	subject->reader = conn_login(subject);
}

static void sleep_until(double time)
{
	double seconds = time - now();
	struct timespec ts = { .tv_sec = seconds };

	if (seconds <= 0)
		return;
	ts.tv_nsec = (seconds - ts.tv_sec) * 1e9;
	while (nanosleep(&ts, &ts) < 0 && errno == EINTR) ;
}

/* A reader that asks for the list every three seconds. Keys are added at moments
   that are spread over the time between two polls: by the golden section. */
static double xkey_poll(struct subject *subject)
{
	double tick = now(), start, end;
	double phase = ++subject->seq * 0.6180339887498949;

	phase -= (unsigned int)phase;
	sleep_until(tick + phase * XKEY_POLL_SECS);
	start = now();
	xkey_send_add(subject);
	conn_wait_ok(subject->writer);
	sleep_until(tick + XKEY_POLL_SECS);
	conn_send(subject->reader, "t XKEYSYNC\r\nDONE\r\n");
	conn_wait(subject->reader, "-----END");
	end = now();
	conn_wait_ok(subject->reader);
	xkey_remove(subject);
	return end - start;
}

/* -- set: from the command to its tagged reply */

static void set_open(struct subject *subject)
{
	subject->writer = conn_login(subject);
}

static double set_xmetaset(struct subject *subject)
{
	double start = now();

	send_xmetaset(subject);
	conn_wait_ok(subject->writer);
	return now() - start;
}

static double set_setmetadata(struct subject *subject)
{
	double start = now();
	unsigned int entry = next_change(subject);

	conn_send(subject->writer, "t SETMETADATA \"\" "
		  "(/private/vendor/bench/e%06u \"%s\")\r\n", entry,
		  subject->value);
	conn_wait_ok(subject->writer);
	return now() - start;
}

static void set_floor_open(struct subject *subject)
{
	subject->writer = conn_open(subject->port);
}

static double set_floor(struct subject *subject)
{
	double start = now();

	send_xmetaset(subject);
	conn_wait(subject->writer, "OK");
	return now() - start;
}

static const struct kind kinds[] = {
	{ "push-dovetail", push_dovetail_open, push_dovetail },
	{ "push-floor", push_floor_open, push_floor },
	{ "push-idle", push_idle_open, push_idle },
	{ "xkey-add", xkey_open, xkey_add },
	{ "xkey-set", xkey_open, xkey_set },
	{ "xkey-poll", xkey_poll_open, xkey_poll },
	{ "set-xmetaset", set_open, set_xmetaset },
	{ "set-setmetadata", set_open, set_setmetadata },
	{ "set-floor", set_floor_open, set_floor },
};

/* -- */

static void
subject_parse(struct subject *subject, char *text, unsigned int blocks)
{
	const char *fields[6];
	size_t i;

	for (i = 0; i < 6; i++) {
		fields[i] = strsep(&text, ":");
		if (fields[i] == NULL)
			fail("a subject is NAME:KIND:N:PORT:WHO:ENTRIES");
	}
	subject->name = fields[0];
	for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (strcmp(kinds[i].name, fields[1]) == 0)
			subject->kind = &kinds[i];
	}
	subject->per_block = atoi(fields[2]);
	subject->port = atoi(fields[3]);
	subject->who = fields[4];
	subject->entries = atoi(fields[5]);
	if (subject->kind == NULL || subject->per_block == 0 ||
	    subject->entries == 0)
		fail("%s: unknown kind, or zero where it may not be",
		     subject->name);
	subject->samples = calloc(blocks * subject->per_block,
				  sizeof(*subject->samples));
	if (subject->samples == NULL)
		fail("out of memory");
}

static void print_connection(const char *role, const struct conn *conn)
{
	struct sockaddr_in client, server;
	socklen_t size = sizeof(client);

	if (conn == NULL)
		return;
	if (getsockname(conn->fd, (struct sockaddr *)&client, &size) < 0 ||
	    getpeername(conn->fd, (struct sockaddr *)&server, &size) < 0)
		fail("getsockname: %s", strerror(errno));
	printf("%s %u %u\n", role, ntohs(client.sin_port),
	       ntohs(server.sin_port));
}

static void run_block(struct subject *subject, bool keep)
{
	unsigned int i;

	for (i = 0; i < subject->per_block; i++) {
		double seconds = subject->kind->sample(subject);

		if (keep)
			subject->samples[subject->count++] = seconds;
	}
}

int main(int argc, char *argv[])
{
	static struct subject subjects[SUBJECTS_MAX];
	unsigned int i, j, count = argc - 2, blocks;

	if (argc < 3 || argc - 2 > SUBJECTS_MAX) {
		fprintf(stderr, "usage: bench-driver BLOCKS "
			"NAME:KIND:N:PORT:WHO:ENTRIES ...\n");
		return 2;
	}
	blocks = atoi(argv[1]);
	for (i = 0; i < count; i++) {
		subject_parse(&subjects[i], argv[i + 2], blocks);
		subjects[i].kind->open(&subjects[i]);
		print_connection("writer", subjects[i].writer);
		print_connection("reader", subjects[i].reader);
	}
	printf("ready\n");
	fflush(stdout);
	if (getchar() == EOF)
		return 1;
	for (i = 0; i <= blocks; i++) {
		for (j = 0; j < count; j++)
			run_block(&subjects[j], i > 0);
	}
	for (i = 0; i < count; i++) {
		for (j = 0; j < subjects[i].count; j++) {
			printf("%s %.9f\n", subjects[i].name,
			       subjects[i].samples[j]);
		}
	}
	return 0;
}
