/* The floor that a push cannot go below: what is left of it without IMAP and
   without a database. Two processes, as with two sessions. The writer reads a
   line from its client, writes it over old bytes of a file whose size does not
   change, makes it durable (fdatasync), overwrites a wake file and answers. The
   reader waits for inotify's event on the wake file, reads the line from the
   file and sends it to its client.

   Started by the bench package: "bench-floor DIR" makes its files in DIR and
   prints the writer's and the reader's port on 127.0.0.1. Each serves one
   client; when the writer's is gone, both end. */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* As large as the store's WAL, and gone through in the same way. */
#define DATA_SIZE (1024 * 1024)
#define LINE_SIZE (64 * 1024)

/* The wake file's content: where the newest line is. */
struct wake {
	uint32_t offset, size;
};

static void fail(const char *what)
{
	fprintf(stderr, "bench-floor: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int create(const char *name, size_t size)
{
	static const char zeros[4096];
	size_t done;
	int fd;

	fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd == -1)
		fail(name);
	for (done = 0; done < size; done += sizeof(zeros)) {
		size_t n = size - done < sizeof(zeros) ?
			size - done : sizeof(zeros);

		if (write(fd, zeros, n) != (ssize_t)n)
			fail(name);
	}
	if (fsync(fd) < 0)
		fail(name);
	return fd;
}

static int listen_loopback(uint16_t *port_r)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	socklen_t size = sizeof(addr);
	int fd;

	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd == -1 || bind(fd, (struct sockaddr *)&addr, size) < 0 ||
	    listen(fd, 8) < 0 ||
	    getsockname(fd, (struct sockaddr *)&addr, &size) < 0)
		fail("listen");
	*port_r = ntohs(addr.sin_port);
	return fd;
}

static int accept_client(int listener)
{
	int fd, on = 1;

	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd == -1)
		fail("accept");
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

static void
write_line(int data, int wake_fd, const char *line, size_t size,
	   struct wake *wake)
{
	wake->offset += wake->size;
	if (wake->offset + size > DATA_SIZE)
		wake->offset = 0;
	wake->size = size;
	if (pwrite(data, line, size, wake->offset) != (ssize_t)size ||
	    fdatasync(data) < 0 ||
	    pwrite(wake_fd, wake, sizeof(*wake), 0) != sizeof(*wake))
		fail("write");
}

static void writer(int listener, int data, int wake_fd)
{
	static const char answer[] = "OK\r\n";
	static char line[LINE_SIZE];
	struct wake wake = { 0, 0 };
	int fd = accept_client(listener);
	size_t size = 0;
	ssize_t ret;

	while ((ret = read(fd, line + size, sizeof(line) - size)) > 0) {
		size += ret;
		if (line[size - 1] != '\n')
			continue;
		write_line(data, wake_fd, line, size, &wake);
		if (write(fd, answer, sizeof(answer) - 1) < 0)
			break;
		size = 0;
	}
}

static void reader(int listener, int data, int wake_fd, const char *wake_name)
{
	static char line[LINE_SIZE];
	char events[4096];
	struct wake wake;
	int inotify, fd = accept_client(listener);

	inotify = inotify_init1(IN_CLOEXEC);
	if (inotify == -1 ||
	    inotify_add_watch(inotify, wake_name, IN_MODIFY) == -1)
		fail("inotify");
	/* like "+ idling": the watch is set */
	if (write(fd, "+\r\n", 3) != 3)
		fail("write");
	do {
		if (read(inotify, events, sizeof(events)) <= 0 ||
		    pread(wake_fd, &wake, sizeof(wake), 0) != sizeof(wake) ||
		    pread(data, line, wake.size, wake.offset) !=
		    (ssize_t)wake.size)
			fail("read");
	} while (write(fd, line, wake.size) == (ssize_t)wake.size);
}

int main(int argc, char *argv[])
{
	static const char wake_name[] = "wake";
	uint16_t writer_port, reader_port;
	int data, wake_fd, writer_listener, reader_listener;

	if (argc != 2) {
		fprintf(stderr, "usage: bench-floor DIR\n");
		return 2;
	}
	if (chdir(argv[1]) < 0)
		fail(argv[1]);
	(void)signal(SIGPIPE, SIG_IGN);
	data = create("data", DATA_SIZE);
	wake_fd = create(wake_name, sizeof(struct wake));
	writer_listener = listen_loopback(&writer_port);
	reader_listener = listen_loopback(&reader_port);
	printf("%u %u\n", writer_port, reader_port);
	fflush(stdout);

	switch (fork()) {
	case -1:
		fail("fork");
		break;
	case 0:
		(void)prctl(PR_SET_PDEATHSIG, SIGTERM);
		reader(reader_listener, data, wake_fd, wake_name);
		break;
	default:
		writer(writer_listener, data, wake_fd);
	}
	return 0;
}
