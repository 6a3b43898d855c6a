"""Long commands together with what else happens on a connection: COMPRESS, and a FETCH whose output is not
read yet when the command starts."""

import threading
import zlib

import pytest

from lifecycle import (MESSAGE, MUCH, OK, ROW, assert_rows, await_blocked, await_finish, await_log, check_balance, done,
                       make_wake, reply, rows, settings, waiting, wake)
from metasync import ask, sane


# -- COMPRESS --------------------------------------------------------------------------------------

class Deflate:
    """The client's socket after COMPRESS DEFLATE."""

    def __init__(self, sock):
        self.sock = sock
        self.deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        self.inflate = zlib.decompressobj(-15)

    def __getattr__(self, name):
        return getattr(self.sock, name)

    def sendall(self, data):
        self.sock.sendall(self.deflate.compress(data) + self.deflate.flush(zlib.Z_SYNC_FLUSH))

    def recv(self, size):
        while True:
            data = self.sock.recv(size)
            plain = self.inflate.decompress(data)
            if plain or not data:
                return plain


@pytest.fixture(scope="module")
def compressing(make_module_server):
    server = make_module_server(plugin=settings(long_command_test_literal="2000000"), plugins="imap_zlib")
    yield server
    server.close_clients()
    server.stop()
    check_balance(server.log())


@pytest.fixture
def c(compressing, user):
    make_wake(compressing, user)
    client = compressing.login(user, rcvbuf=65536)
    assert reply(client.command(b"COMPRESS DEFLATE")[-1]).startswith(b"OK ")
    client.sock = Deflate(client.sock)
    return client


@pytest.mark.valgrind
def test_compressed_wake_and_done(compressing, c, user):
    tag = waiting(c, b"WATCH TIMER 10")
    c.next(rb"\* XTEST TIMER")
    wake(compressing, user)
    c.next(rb"\* XTEST CHANGE")
    c.send(b"ECHO one\r\nECHO two\r\n")
    c.next(rb"\* XTEST CHANGE|\* XTEST ECHO one")
    done(c, tag)


def test_compressed_wrong_line(c):
    tag = waiting(c)
    c.send(b"x {300000+}\r\n" + b"z" * 300000 + b"\r\n")
    assert [reply(r) for r in c.until(tag)] == [b"BAD Expected DONE"]
    sane(c)


def test_a_small_packet_that_is_a_large_argument(c):
    """A megabyte that fits into one packet: the rest of it is never announced by the socket."""
    for form in (b"{%d+}", b"~{%d+}"):
        data = b"x" * 1000000
        lines = ask(c, b"XTESTARGS %s\r\n%s" % (form % len(data), data))
        assert lines[-1] == b"T OK XTESTARGS completed."
        assert b" 1000000 %08x" % zlib.crc32(data) in lines[0]
    sane(c)


def test_a_small_packet_with_many_lines(c):
    tag = waiting(c)
    c.send(b"ECHO same\r\n" * 50000 + b"DONE\r\n")
    lines = [r.line for r in c.until(tag)]
    assert lines[:-1] == [b"* XTEST ECHO same"] * 50000
    sane(c)


def test_compressed_output_and_lines_at_the_same_time(c):
    tag = waiting(c, b"NAME both OUT %d DRAIN" % (2 * MUCH))
    # lines that come meanwhile, in a packet that is much larger than it looks
    c.send(b"ECHO same\r\n" * 50000 + b"DONE\r\n")
    responses = c.until(tag)
    assert_rows(responses, 2 * MUCH // ROW)
    assert len([r for r in responses if r.line == b"* XTEST ECHO same"]) == 50000
    assert reply(responses[-1]) == OK
    sane(c)


@pytest.mark.parametrize("end", ["close", "reset", "half_close"])
@pytest.mark.parametrize("state", ["waiting", "blocked"])
def test_a_compressed_connection_ends(compressing, c, state, end, user):
    name = ("%s-%s" % (state, end)).encode()
    waiting(c, b"WATCH NAME %s %s" % (name, b"OUT %d" % (2 * MUCH) if state == "blocked" else b""))
    if state == "blocked":
        await_blocked(c)
    getattr(c, end)()
    wake(compressing, user)
    if end == "half_close":
        assert_rows(c.eof())
    assert await_finish(compressing, name.decode()) == "cancelled"
    sane(compressing.login(user))


# -- beside a FETCH --------------------------------------------------------------------------------

SMALL = 2048
LARGE = 10000000


@pytest.fixture(scope="module")
def fetching(make_module_server):
    """A mailbox of many small messages and a large one; the flags make the small ones' rows large."""
    server = make_module_server(plugin=settings(), mail_location="mdbox:~/mail")
    d = server.login("fetch")
    large = b"Subject: large\r\n\r\n" + b"".join(b"%09d line\r\n" % i for i in range(LARGE // 16))
    server.large = large
    assert b" OK " in d.command(b"APPEND INBOX {%d+}\r\n%s" % (len(MESSAGE), MESSAGE))[-1].line
    assert b" OK " in d.command(b"SELECT INBOX")[-1].line
    keywords = b" ".join(b"keyword-%d-%s" % (i, b"k" * 38) for i in range(40))
    assert b" OK " in d.command(b"STORE 1 +FLAGS.SILENT (%s)" % keywords)[-1].line
    count = 1
    while count < SMALL:
        assert b" OK " in d.command(b"COPY 1:* INBOX")[-1].line
        count *= 2
    assert b" OK " in d.command(b"APPEND INBOX {%d+}\r\n%s" % (len(large), large))[-1].line
    d.logout()
    make_wake(server, "fetch")
    yield server
    server.close_clients()
    server.stop()
    check_balance(server.log())


class Rain:
    """Wakes all the time; once before the test goes on."""

    def __init__(self, server):
        self.server = server
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run, args=(server,))

    def run(self, server):
        while not self.stop.wait(0.002):
            wake(server, "fetch")

    def __enter__(self):
        wake(self.server, "fetch")
        self.thread.start()

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


def beside_fetch(server, name, options=b"RAIN 3000", command=b"XTEST"):
    """FETCH is blocked between two messages, the command has started."""
    c = server.login("fetch", rcvbuf=65536)
    assert b" OK " in c.command(b"SELECT INBOX")[-1].line
    c.send(b"f UID FETCH 1:* (FLAGS BODY.PEEK[])\r\nx %s NAME %s WATCH %s\r\n" % (command, name, options))
    return c


def assert_fetched(server, responses):
    """All messages, byte for byte."""
    fetched = [r for r in responses if b" FETCH (" in r.line[:40]]
    assert [int(r.line.split(b" ", 2)[1]) for r in fetched] == list(range(1, SMALL + 2))
    assert all(b"{%d}\r\n%s" % (len(MESSAGE), MESSAGE) in r.line for r in fetched[:-1])
    assert b"{%d}\r\n%s" % (len(server.large), server.large) in fetched[-1].line


@pytest.mark.parametrize("out", [b"", b"OUT %d" % MUCH], ids=["quiet", "loud"])
def test_changes_rain_into_a_fetch(fetching, out):
    name = "mixed-%d" % len(out)
    c = beside_fetch(fetching, name.encode(), b"RAIN 3000 " + out)
    await_log(fetching, "xtest start %s\n" % name)
    with Rain(fetching):
        responses = c.until(b"f")
    assert reply(responses[-1]).startswith(b"OK Fetch completed")
    assert_fetched(fetching, responses)
    # both commands spoke while the other had not ended
    assert b"* XTEST CHANGE" in [r.line for r in responses]
    c.send(b"DONE\r\n")
    tail = c.until(b"x")
    assert reply(tail[-1]) == OK
    numbers = rows(responses + tail)
    assert numbers == list(range(len(numbers)))
    sane(c)


@pytest.mark.valgrind
def test_done_during_a_fetch(fetching):
    c = beside_fetch(fetching, b"mixed-done")
    await_log(fetching, "xtest start mixed-done\n")
    c.send(b"DONE\r\nz NOOP\r\n")
    responses, tags = [], set()
    while tags != {b"f", b"x", b"z"}:
        responses.append(c.read_response())
        tags |= {responses[-1].tag} & {b"f", b"x", b"z"}
    assert_fetched(fetching, responses)
    assert await_finish(fetching, "mixed-done") == "ended"
    sane(c)


def test_a_command_with_the_mailbox_waits_for_the_fetch(fetching):
    c = beside_fetch(fetching, b"mixed-box", command=b"XTESTBOX")
    responses = c.until(b"f")
    assert_fetched(fetching, responses)
    assert len(responses) == SMALL + 2
    c.next(rb"\+ idling")
    c.send(b"DONE\r\n")
    assert reply(c.until(b"x")[-1]) == OK
    sane(c)


@pytest.mark.parametrize("end", ["reset", "kick"])
@pytest.mark.parametrize("where", ["between", "inside"])
def test_the_connection_ends_during_a_fetch(fetching, where, end):
    """Between two messages, and inside the large one's literal."""
    name = "mixed-%s-%s" % (where, end)
    c = beside_fetch(fetching, name.encode())
    await_log(fetching, "xtest start %s\n" % name)
    if where == "inside":
        c.expect(rb"\* %d FETCH" % SMALL)
        wake(fetching, "fetch")
        left = LARGE // 10
        while left > 0:
            left -= len(c.sock.recv(65536))
    if end == "reset":
        c.reset()
    else:
        assert fetching.doveadm("kick", "fetch").returncode == 0
        c.eof()
    assert await_finish(fetching, name) == "cancelled"
    sane(fetching.login("fetch"))
