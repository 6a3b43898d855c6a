"""ENABLE METADATA (RFC 5464 section 4.4): what others change is told by name."""

import os
import time

import pytest

from lifecycle import assert_quiet, await_blocked, private_kib
from lifecycle_matrix import SHARED
from metasync import Watch, ask, last, put, sane
from harness.server import imap_pid

A, B = b"/private/vendor/test/a", b"/private/vendor/test/b"


def told(lines):
    return [line[len(b"* METADATA "):] for line in lines if line.startswith(b"* METADATA ")]


def enable(c):
    assert ask(c, b"ENABLE METADATA") == [b"* ENABLED METADATA", b"T OK Enabled."]
    return c


def noop(c):
    return told(ask(c, b"NOOP"))


class Idle:
    def __init__(self, c):
        self.c = c
        self.tag = c.start(b"IDLE")
        assert c.expect(rb"\+ idling")

    def next(self):
        return self.c.read_response().line

    def done(self):
        self.c.send(b"DONE\r\n")
        return told([r.line for r in self.c.until(self.tag)])


@pytest.fixture
def pair(client, user):
    """A session that is told, and another one that changes things."""
    c, d = client(user), client(user)
    put(d, [(A, b'"old"')])
    return enable(c), d


def test_only_after_enable(client, user):
    c, d = client(user), client(user)
    put(d, [(A, b'"1"')])
    assert noop(c) == []
    enable(c)
    # what was there before is not news
    assert noop(c) == []


@pytest.mark.valgrind
def test_noop(pair):
    c, d = pair
    put(d, [(A, b'"1"'), (B, b'"2"')])
    put(d, [(A, b'"3"')])
    assert last(d, b'SETMETADATA INBOX (/shared/comment "x")').startswith(b"T OK")
    assert sorted(noop(c)) == [b'"" ' + A, b'"" ' + B, b'"INBOX" /shared/comment']
    assert noop(c) == []
    put(d, [(A, b"NIL")])
    assert noop(c) == [b'"" ' + A]


@pytest.mark.parametrize("command", [b"CAPABILITY", b"SELECT INBOX", b"STATUS INBOX (MESSAGES)", b'LIST "" "*"',
                                     b'GETMETADATA "" ' + A, b"CHECK"])
def test_other_commands(pair, command):
    c, d = pair
    put(d, [(B, b'"1"')])
    assert told(ask(c, command))[0] == b'"" ' + B
    assert noop(c) == []


@pytest.mark.parametrize("mailbox", [b"", b"INBOX"])
def test_idle(pair, mailbox):
    c, d = pair
    if mailbox:
        assert last(c, b"SELECT " + mailbox).startswith(b"T OK")
    idle = Idle(c)
    for i in range(3):
        put(d, [(A, b'"%d"' % i)])
        assert idle.next() == b'* METADATA "" ' + A
    assert idle.done() == []
    assert noop(c) == []
    # once more, after other things
    put(d, [(B, b'"1"')])
    idle = Idle(c)
    put(d, [(A, b'"x"')])
    lines = [idle.next() for _ in range(1)]
    assert lines == [b'* METADATA "" ' + A], "the one before IDLE came before it"
    assert idle.done() == []


def test_idle_as_fast_as_xmetasync(pair, client, user):
    """The same event wakes both."""
    c, d = pair
    w = Watch(client(user), b'"" /private').catch_up()
    idle = Idle(c)
    start = time.monotonic()
    for i in range(20):
        put(d, [(A, b'"%d"' % i)])
        assert idle.next() == b'* METADATA "" ' + A
        w.until("marker")
    # no timer of a second or of the slow check is behind it
    assert time.monotonic() - start < 10
    idle.done()
    w.done()


def test_own_changes_are_not_told(pair):
    c, d = pair
    put(c, [(A, b'"mine"')])
    assert last(c, b'SETMETADATA "" (%s "mine")' % B).startswith(b"T OK")
    assert last(c, b"CREATE box").startswith(b"T OK")
    put(c, [(A, b'"mine"')], b"box")
    assert last(c, b"RENAME box box2").startswith(b"T OK")
    assert last(c, b"DELETE box2").startswith(b"T OK")
    assert noop(c) == []
    # others' between one's own: before the next command runs
    put(d, [(B, b'"2"')])
    assert told(ask(c, b'XMETASET "" (/private/c "3")')) == [b'"" ' + B]
    put(c, [(A, b'"4"')])
    put(d, [(A, b'"5"')])
    assert noop(c) == [b'"" ' + A]
    put(d, [(B, b'"6"')])
    assert told(ask(c, b'XMETASET "" (%s "6")' % B)) == [b'"" ' + B]
    # setting what is there already is nobody's change
    assert noop(c) == noop(d) == []


def test_renamed_by_others(pair):
    c, d = pair
    assert last(d, b"CREATE box").startswith(b"T OK")
    put(d, [(A, b'"1"')], b"box")
    assert noop(c) == [b'"box" ' + A]
    assert last(d, b"RENAME box box2").startswith(b"T OK")
    assert sorted(noop(c)) == [b'"box" ' + A, b'"box2" ' + A]


def test_names_that_need_quotes(pair):
    c, d = pair
    put(d, [(b'"/private/a b"', b'"1"')])
    assert noop(c) == [b'"" "/private/a b"']
    assert last(d, b'CREATE "a&AOQ-"').startswith(b"T OK")
    put(d, [(A, b'"1"')], b'"a&AOQ-"')
    assert noop(c) == [b'"a&AOQ-" ' + A]


def test_never_inside_a_literal(pair, client, user):
    """A message of 20 MB is read slowly while entries change."""
    _, d = pair
    text = b"".join(b"%09d line\r\n" % i for i in range(1250000))
    message = b"Subject: large\r\n\r\n" + text
    assert last(d, b"APPEND INBOX {%d+}\r\n%s" % (len(message), message)).startswith(b"T OK")
    c = enable(client(user, rcvbuf=65536))
    assert last(c, b"SELECT INBOX").startswith(b"T OK")
    tag = c.start(b"FETCH 1 BODY[TEXT]")
    n = c.start(b"NOOP")
    await_blocked(c)
    for i in range(50):
        put(d, [(A, b'"%d"' % i), (b"/private/many/%d" % i, b'"1"')])
    responses = c.until(tag)
    fetch = next(r for r in responses if b" FETCH " in r.line[:20])
    assert fetch.line.endswith(text + b")")
    lines = told([r.line for r in responses] + [r.line for r in c.until(n)])
    assert len(lines) == len(set(lines)) == 51
    sane(c)


def test_not_what_xmetasync_watches(pair):
    """The command shows it; the rest is told after its markers. Nothing twice, nothing lost."""
    c, d = pair
    w = Watch(c, b'"" /private/vendor/test').catch_up()
    put(d, [(A, b'"1"'), (b"/private/other", b'"1"')])
    w.until("marker")
    assert w.state == {(b"", A): b"1"}
    assert c.read_response().line == b'* METADATA "" /private/other'
    put(d, [(b"/private/other", b'"2"')])
    assert c.read_response().line == b'* METADATA "" /private/other'
    w.done()
    assert noop(c) == []
    put(d, [(A, b'"2"')])
    assert noop(c) == [b'"" ' + A]


def test_new_epoch(pair):
    """The history is gone: all that exists may be new."""
    c, d = pair
    put(d, [(B, b'"1"')])
    assert noop(c) == [b'"" ' + B]
    w = Watch(d, b'"" /private').catch_up().done()
    epoch, modseq, token = w.mark
    # a client that knows more than the store
    Watch(d, b'"" /private').catch_up((epoch, modseq + 100, token)).done()
    assert sorted(noop(c)) == [b'"" ' + A, b'"" ' + B]
    assert noop(c) == []


@pytest.mark.skipif("DOVETAIL_WRAPPER" in os.environ, reason="measures the memory of the process")
def test_many_names_to_a_slow_reader(make_server):
    """15 MB of names do not pile up in the process."""
    server = make_server(plugin={"metasync_limit_entries": "100000", "metasync_limit_bytes": "100M"})
    d = server.login("u1")
    put(d, [(A, b'"0"')])
    c = enable(server.login("u1", rcvbuf=65536))
    name = b"/private/" + b"x" * 600
    count = 24000
    for start in range(0, count, 100):
        put(d, [(b"%s/%d" % (name, i), b'"1"') for i in range(start, start + 100)])
    pid = imap_pid(c.sock)
    tag = c.start(b"IDLE")
    await_blocked(c)
    assert private_kib(pid) < 6000
    names = set()
    while len(names) < count:
        names.update(told([c.read_response().line]))
    c.send(b"DONE\r\n")
    c.until(tag)
    sane(c)


def test_a_store_that_is_replaced_under_xmetasync(make_server):
    """XMETASYNC tells names, too, and goes on with the store that it reads until it ends."""
    server = make_server(plugin={"imap_long_command_check_interval": "1s"})
    d = server.login("u1")
    for i in range(8):
        put(d, [(b"%s/%d" % (B, i), b"{1000000+}\r\n" + b"y" * 1000000)])
    c = enable(server.login("u1", rcvbuf=65536))
    w = Watch(c, b'"" /private').start()
    await_blocked(c)
    store = server.home("u1") + "/metasync"
    os.rename(store, store + "-elsewhere")
    put(d, [(A, b'"new"')])
    assert w.until("idling", "end") == "idling"
    assert len(w.state) == 8
    assert w.until("end") == "end"
    assert w.log[-1] == w.tag + b" NO [UNAVAILABLE] The store cannot be used."
    # its own changes are no news to it in the new store either
    put(c, [(B, b'"own"')])
    assert B not in b"".join(noop(c))
    w = Watch(c, b'"" /private').catch_up()
    assert w.state == {(b"", A): b"new", (b"", B): b"own"}
    w.done()
    assert noop(c) == []


@pytest.mark.parametrize("end", ["close", "reset", "logout"])
def test_end_in_idle(make_server, end):
    """Several sessions of one process: the end of one does not touch the others."""
    server = make_server(extra=SHARED, plugin={"long_command_test_path": "%h/wake"})
    d = server.login("u1")
    put(d, [(A, b'"0"')])
    sessions = [enable(server.login("u1")) for _ in range(3)]
    idles = [Idle(c) for c in sessions]
    w = Watch(server.login("u1"), b'"" /private').catch_up()
    put(d, [(A, b'"1"')])
    w.until("marker")
    for idle in idles:
        assert idle.next() == b'* METADATA "" ' + A
    if end == "logout":
        sessions[1].send(b"DONE\r\nz LOGOUT\r\n")
        sessions[1].eof()
    else:
        getattr(sessions[1], end)()
    put(d, [(A, b'"2"')])
    w.until("marker")
    for i in (0, 2):
        assert idles[i].next() == b'* METADATA "" ' + A
        assert idles[i].done() == []
    w.done()
    # nobody watches any more
    put(d, [(A, b'"3"')])
    assert noop(sessions[0]) == [b'"" ' + A]
    bystander = server.login("b")
    bystander.start(b"XTEST")
    bystander.expect(rb"\+ idling")
    assert_quiet([imap_pid(d.sock)], bystander)


def test_user_without_the_plugin(make_server):
    server = make_server(plugin={"metasync_enabled": "no"})
    c = server.login("u1")
    ask(c, b"ENABLE METADATA")
    assert noop(c) == []
    idle = Idle(c)
    assert idle.done() == []
