"""What NOTIFY tells of, and when: beside Dovecot's own events, between and never inside other answers, to the end."""

import contextlib
import fcntl
import os
import re
import signal
import struct
import termios
import time

import pytest

from harness.server import imap_pid
from lifecycle import assert_quiet, await_blocked, private_kib
from lifecycle_matrix import SHARED
from metasync import Watch, ask, lines_until, ok, put, sane
from notify import A, B, BOTH, FENCE, MESSAGES, SERVER, change, line, metadata, notify, pushed
from notify import pair  # noqa: F401  (fixture)

# -- Dovecot's events beside ours ------------------------------------------------------------------

def inotify_watches(pid):
    count = 0
    for fd in os.listdir("/proc/%d/fdinfo" % pid):
        with contextlib.suppress(OSError), open("/proc/%d/fdinfo/%s" % (pid, fd)) as f:
            count += f.read().count("inotify wd:")
    return count


class SelectedWatch:
    """Made right after NOTIFY. Dovecot watches the selected mailbox only from a second after the last command on, also
    after what it tells itself; what changes before that is told with the next command."""

    def __init__(self, c):
        self.pid = imap_pid(c.sock)
        self.without = inotify_watches(self.pid)

    def wait(self):
        end = time.monotonic() + 30
        while inotify_watches(self.pid) <= self.without:
            assert time.monotonic() < end
            time.sleep(0.05)


def await_lines(c, told, *patterns):
    """The line told by us, and what Dovecot tells after a while. It may tell more."""
    patterns = [re.escape(told)] + list(patterns)
    while patterns:
        got = c.read_response().line
        left = [each for each in patterns if not re.match(each, got)]
        assert left != patterns or not got.startswith(b"* METADATA")
        patterns = left


def append(d, mailbox=b"INBOX", subject=b"hello"):
    message = b"From: a@example.org\r\nSubject: %s\r\n\r\ntext\r\n" % subject
    ok(d, b"APPEND %s {%d+}\r\n%s" % (mailbox, len(message), message))


@pytest.mark.valgrind
def test_messages_beside(pair):
    c, d = pair
    ok(d, b"CREATE Work")
    ok(c, b"SELECT INBOX")
    notify(c, b"(selected (MessageNew (UID BODY.PEEK[HEADER.FIELDS (Subject)]) MessageExpunge FlagChange)) "
              b"(subtree Work (MessageNew MessageExpunge MailboxMetadataChange)) "
              b"(personal (ServerMetadataChange MailboxName SubscriptionChange))")
    selected = SelectedWatch(c)
    selected.wait()
    append(d)
    change(d)
    await_lines(c, line(), rb"\* 1 EXISTS", rb"\* 1 FETCH \(UID 1 BODY\[HEADER.FIELDS \(SUBJECT\)\] \{18\}\r\nSubject: hello")
    ok(d, b"SELECT INBOX")
    selected.wait()
    ok(d, b"STORE 1 +FLAGS (\\Flagged)")
    change(d, b"Work")
    await_lines(c, line(b"Work"), rb"\* 1 FETCH \(FLAGS \(\\Flagged")
    append(d, b"Work")
    change(d, b"Work")
    await_lines(c, line(b"Work"), rb"\* STATUS Work \(MESSAGES 1 ")
    ok(d, b"CREATE New")
    ok(d, b"SUBSCRIBE New")
    change(d)
    await_lines(c, line(), rb'\* LIST \(.*\\Subscribed.*\) "/" New')
    selected.wait()
    ok(d, b"STORE 1 +FLAGS (\\Deleted)")
    ok(d, b"EXPUNGE")
    change(d, b"Work")
    await_lines(c, line(b"Work"), rb"\* 1 EXPUNGE")
    # metadata of INBOX was not asked for
    change(d, b"INBOX")
    assert metadata(pushed(c, d)) == []


def test_status(pair):
    """For message events only (RFC 5465 section 3.1)."""
    c, d = pair
    ok(d, b"CREATE Work")
    assert ask(c, b"NOTIFY SET STATUS " + BOTH) == [b"T OK NOTIFY completed."]
    lines = ask(c, b"NOTIFY SET STATUS (mailboxes Work (MessageNew MessageExpunge)) " + BOTH)
    assert len(lines) == 2 and lines[0].startswith(b"* STATUS Work ")
    change(d, b"Work")
    assert pushed(c, d) == [line(b"Work")]


def test_metadata_alone_is_selected_none(pair):
    """NOTIFY without "selected" ends message events (RFC 5465 section 3.1), as in Dovecot."""
    c, d = pair
    ok(c, b"SELECT INBOX")
    notify(c, BOTH)
    append(d)
    change(d)
    assert pushed(c, d) == [line()]
    assert b"* 1 EXISTS" not in ask(c, b"NOOP")


# -- what is told ----------------------------------------------------------------------------------

def test_own_changes_are_not_told(pair):
    c, d = pair
    notify(c, BOTH)
    change(c)
    ok(c, b'SETMETADATA INBOX (%s "mine")' % B)
    ok(c, b"CREATE box")
    change(c, b"box")
    ok(c, b"RENAME box box2")
    change(d, b"box2", B)
    assert pushed(c, d) == [line(b"box2", B)]
    ok(c, b"DELETE box2")
    # what others did in between comes at the latest before the next command's answer
    change(d)
    assert metadata(ask(c, b'XMETASET INBOX (%s "mine")' % A)) == [line()]
    assert pushed(c, d) == []


def test_removed_and_unchanged(pair):
    c, d = pair
    put(d, [(A, b'"1"'), (B, b'"1"')])
    notify(c, BOTH)
    put(d, [(A, b'"1"')])
    put(d, [(B, b"NIL")])
    assert pushed(c, d) == [line(b"", B)]
    put(d, [(A, b'"2"'), (B, b'"2"')], b"INBOX")
    assert sorted(pushed(c, d)) == [line(b"INBOX", A), line(b"INBOX", B)]


def test_names_that_need_quotes(pair):
    c, d = pair
    notify(c, BOTH)
    put(d, [(b'"/private/a b"', b'"1"')])
    ok(d, b'CREATE "a \\"b&AOQ-"')
    change(d, b'a \\"b&AOQ-')
    assert pushed(c, d) == [b'* METADATA "" "/private/a b"', line(b'a \\"b&AOQ-')]


def test_all_writers(pair, server, user):
    """SETMETADATA and doveadm, too."""
    c, d = pair
    notify(c, BOTH)
    ok(d, b'SETMETADATA INBOX (/shared/comment "x" /private/comment "y")')
    assert sorted(pushed(c, d)) == [line(b"INBOX", b"/private/comment"), line(b"INBOX", b"/shared/comment")]
    assert server.doveadm("metasync", "set", "-u", user, "INBOX", A.decode(), "new").returncode == 0
    assert pushed(c, d) == [line(b"INBOX")]


def test_new_epoch(pair):
    """The history is gone: all that exists, and is asked for, may be new."""
    c, d = pair
    change(d, b"INBOX")
    notify(c, SERVER)
    assert pushed(c, d) == []
    epoch, modseq, token = Watch(d, b'"" /private').catch_up().done().mark
    # a client that knows more than the store
    Watch(d, b'"" /private').catch_up((epoch, modseq + 100, token)).done()
    assert sorted(metadata(ask(c, b"NOOP"))) == [line(), line(b"", FENCE)]
    assert pushed(c, d) == []


def test_replaced_store(make_server, user):
    """Another store in the place of the one that is open: its changes are told, too."""
    server = make_server(plugin={"imap_long_command_check_interval": "1s"})
    c, d = server.login(user), server.login(user)
    change(d)
    notify(c, BOTH)
    assert pushed(c, d) == []
    store = server.home(user) + "/metasync"
    os.rename(store, store + "-old")
    change(d, b"INBOX")
    assert line(b"INBOX") in pushed(c, d)
    change(c, b"INBOX")
    change(d)
    assert pushed(c, d) == [line()]


# -- when ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mailbox", [b"", b"INBOX"])
def test_at_once_between_commands(pair, mailbox):
    c, d = pair
    if mailbox:
        ok(c, b"SELECT " + mailbox)
    notify(c, MESSAGES + b" " + BOTH)
    start = time.monotonic()
    for i in range(20):
        change(d)
        assert c.read_response().line == line()
        if i % 2:
            sane(c)
    # no timer of a second or of the slow check is behind it
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("mailbox", [b"", b"INBOX"])
def test_in_idle(pair, mailbox):
    """RFC 5465 section 4: exactly the same events."""
    c, d = pair
    if mailbox:
        ok(c, b"SELECT " + mailbox)
    notify(c, MESSAGES + b" " + SERVER)
    tag = c.start(b"IDLE")
    c.expect(rb"\+ idling")
    start = time.monotonic()
    for _ in range(20):
        change(d, b"INBOX")
        change(d)
        assert c.read_response().line == line()
    assert time.monotonic() - start < 10
    c.send(b"DONE\r\n")
    assert lines_until(c, tag) == [b"T OK Idle completed."]
    change(d)
    assert pushed(c, d) == [line()]


def test_before_a_command(pair):
    """A command finds all told that was there when it began, also if the event that wakes comes late."""
    c, d = pair
    notify(c, BOTH)
    for _ in range(20):
        change(d)
        lines = ask(c, b"NOOP")
        assert lines == [line(), b"T OK NOOP completed."]


LARGE = b"".join(b"%09d line\r\n" % i for i in range(1250000))


def assert_told_after(c, count):
    """What changed meanwhile comes by itself, each once."""
    lines = [c.read_response().line for _ in range(count)]
    assert lines == metadata(lines) and len(set(lines)) == count
    sane(c)


def many_changes(d):
    for i in range(50):
        change(d)
        change(d, b"INBOX", b"/private/many/%d" % i)
    return 51


def test_never_inside_a_fetch(pair, client, user):
    """A message of 20 MB is read slowly while entries change."""
    _, d = pair
    message = b"Subject: large\r\n\r\n" + LARGE
    ok(d, b"APPEND INBOX {%d+}\r\n%s" % (len(message), message))
    c = client(user, rcvbuf=65536)
    ok(c, b"SELECT INBOX")
    notify(c, MESSAGES + b" " + BOTH)
    tag = c.start(b"FETCH 1 BODY.PEEK[TEXT]")
    await_blocked(c)
    count = many_changes(d)
    responses = c.until(tag)
    assert [r.line[:20] for r in responses if r.line.startswith(b"* METADATA")] == []
    fetch = next(r for r in responses if b" FETCH " in r.line[:20])
    assert fetch.line.endswith(LARGE + b")")
    start = time.monotonic()
    assert_told_after(c, count)
    assert time.monotonic() - start < 10


def test_never_inside_dovecots_own_fetch(pair, client, user):
    """MessageNew with a text of 20 MB: Dovecot sends it between commands, without locking the output."""
    _, d = pair
    c = client(user, rcvbuf=65536)
    ok(c, b"SELECT INBOX")
    notify(c, b"(selected (MessageNew (UID BODY.PEEK[TEXT]) MessageExpunge)) " + BOTH)
    SelectedWatch(c).wait()
    message = b"Subject: large\r\n\r\n" + LARGE
    ok(d, b"APPEND INBOX {%d+}\r\n%s" % (len(message), message))
    await_blocked(c)
    count = many_changes(d)
    fetch = c.expect(rb"\* 1 FETCH ")
    assert fetch.line.endswith(LARGE + b")")
    assert_told_after(c, count)


def test_never_inside_getmetadata(make_server, user):
    server = make_server(plugin={"metasync_limit_value": "20M", "metasync_limit_bytes": "30M"})
    d = server.login(user)
    ok(d, b"SETMETADATA INBOX (%s {%d+}\r\n%s)" % (B, len(LARGE) - 5000000, LARGE[:-5000000]))
    c = server.login(user, rcvbuf=65536)
    notify(c, BOTH)
    tag = c.start(b"GETMETADATA INBOX " + B)
    await_blocked(c)
    count = many_changes(d)
    responses = c.until(tag)
    assert [r.parsed[3] for r in responses[:-1]] == [[B, LARGE[:-5000000]]]
    assert_told_after(c, count)


@pytest.mark.parametrize("how", ["notify", "enable"])
@pytest.mark.parametrize("start, end", [
    (b"APPEND INBOX {100}\r\n", b"x" * 98 + b"\r\n"),
    (b"SETMETADATA INBOX (%s {100}\r\n" % B, b"x" * 100 + b")"),
    (b"SEARCH SUBJECT {3}\r\n", b"abc"),
], ids=["APPEND", "SETMETADATA", "SEARCH"])
def test_not_while_a_literal_is_sent(pair, start, end, how):
    c, d = pair
    ok(c, b"SELECT INBOX")
    if how == "notify":
        notify(c, BOTH)
    else:
        ok(c, b"ENABLE METADATA")
    c.send(b"x " + start)
    assert c.read_response().line.startswith(b"+ ")
    change(d)
    # in pieces: the command is looked at again with each
    c.send(end[:2])
    change(d, b"INBOX")
    assert_nothing_comes(c)
    c.send(end[2:] + b"\r\n")
    lines = [c.read_response().line]
    while not lines[-1].startswith(b"x "):
        lines.append(c.read_response().line)
    assert metadata(lines) == [] and lines[-1].startswith(b"x OK")
    if how == "notify":
        assert {c.read_response().line for _ in range(2)} == {line(), line(b"INBOX")}
    else:
        assert sorted(metadata(ask(c, b"NOOP"))) == [line(), line(b"INBOX")]


def assert_nothing_comes(c):
    """For longer than the second after which it is tried again."""
    pid = imap_pid(c.sock)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        unread = struct.unpack("i", fcntl.ioctl(c.sock.fileno(), termios.FIONREAD, b"\0" * 4))[0]
        assert unread == 0, "process %d sends while it receives" % pid
        time.sleep(0.05)


def test_as_soon_as_a_command_is_done(pair):
    """Not only when it is tried again."""
    c, d = pair
    notify(c, BOTH)
    start = time.monotonic()
    for _ in range(10):
        c.send(b"x APPEND INBOX {6}\r\n")
        assert c.read_response().line.startswith(b"+ ")
        change(d)
        # the wake has been seen before the rest comes, or comes after it
        time.sleep(0.1)
        c.send(b"a: b\r\n\r\n")
        assert c.read_response().line.startswith(b"x OK ")
        assert c.read_response().line == line()
    assert time.monotonic() - start < 5 or "DOVETAIL_WRAPPER" in os.environ


def test_not_while_a_line_is_sent(pair):
    c, d = pair
    notify(c, BOTH)
    c.send(b"x NO")
    change(d)
    c.send(b"OP\r\n")
    lines = [c.read_response().line for _ in range(2)]
    assert sorted(lines)[0] == line() and any(each.startswith(b"x OK") for each in lines)


def test_pipelined(pair):
    """Each once, whole lines, before and after and between the answers."""
    c, d = pair
    notify(c, BOTH)
    names = [b"/private/n/%d" % i for i in range(20)]
    lines = []
    for name in names:
        c.send(b"".join(b"p%d NOOP\r\n" % i for i in range(20)))
        change(d, b"", name)
        lines += [r.line for r in c.until(b"p19")]
    assert metadata(lines + pushed(c, d)) == [line(b"", name) for name in names]
    sane(c)


@pytest.mark.skipif("DOVETAIL_WRAPPER" in os.environ, reason="measures the memory of the process")
def test_many_names_to_a_slow_reader(make_server):
    """15 MB of names do not pile up in the process, though no command runs."""
    server = make_server(plugin={"metasync_limit_entries": "100000", "metasync_limit_bytes": "100M"})
    d = server.login("u1")
    change(d)
    c = server.login("u1", rcvbuf=65536)
    notify(c, BOTH)
    name = b"/private/" + b"x" * 600
    count = 24000
    for start in range(0, count, 100):
        put(d, [(b"%s/%d" % (name, i), b'"1"') for i in range(start, start + 100)])
    await_blocked(c)
    assert private_kib(imap_pid(c.sock)) < 6000
    names = set()
    while len(names) < count:
        names.update(metadata([c.read_response().line]))
    assert pushed(c, d) == []


# -- XMETASYNC -------------------------------------------------------------------------------------

def test_not_what_xmetasync_watches(pair):
    """The command shows it; the rest is told after its markers. Nothing twice, nothing lost."""
    c, d = pair
    notify(c, BOTH)
    w = Watch(c, b'"" /private/vendor/test').catch_up()
    put(d, [(A, b'"1"'), (b"/private/other", b'"1"')])
    w.until("marker")
    assert w.state[(b"", A)] == b"1"
    assert c.read_response().line == line(b"", b"/private/other")
    change(d, b"INBOX")
    assert c.read_response().line == line(b"INBOX")
    w.done()
    # by itself again, from there on
    change(d)
    assert pushed(c, d) == [line()]


def test_what_is_not_asked_for_stays_so_in_xmetasync(pair):
    c, d = pair
    notify(c, SERVER)
    w = Watch(c, b'"" /private/vendor/test').catch_up()
    change(d, b"INBOX")
    change(d, b"", b"/private/other")
    assert c.read_response().line == line(b"", b"/private/other")
    w.done()
    assert w.entries() == [b'* METADATA "" (%s "%s")' % (A, w.state[(b"", A)])]


def test_changes_around_done(pair):
    """Each change is shown by the command, or told after it by itself."""
    c, d = pair
    notify(c, BOTH)
    shown = 0
    for i in range(200):
        w = Watch(c, b'"" /private/vendor/test').catch_up()
        tag = d.start(b'XMETASET "" (%s "around %d")' % (A, i))
        # before the commit, after it, and while it is being told
        time.sleep(i % 40 * 0.00005)
        c.send(b"DONE\r\n")
        w.until("end")
        if b'* METADATA "" (%s "around %d")' % (A, i) in w.log:
            shown += 1
        else:
            assert c.read_response().line == line()
        d.until(tag)
    assert pushed(c, d) == []
    assert 0 < shown < 200


def test_change_and_done_at_once(pair):
    """The process finds both: it has been woken for a command that ends."""
    c, d = pair
    notify(c, BOTH)
    pid = imap_pid(c.sock)
    start = time.monotonic()
    for _ in range(10):
        w = Watch(c, b'"" /private/vendor/test').catch_up()
        os.kill(pid, signal.SIGSTOP)
        change(d)
        c.send(b"DONE\r\n")
        os.kill(pid, signal.SIGCONT)
        kind = w.until("entry", "end")
        if kind == "entry":
            w.until("end")
        else:
            assert c.read_response().line == line()
    assert pushed(c, d) == []
    # not only with the look that comes a second after each event
    assert time.monotonic() - start < 5 or "DOVETAIL_WRAPPER" in os.environ


def test_more_than_fits_beside_xmetasync(make_server):
    """What XMETASYNC watches is not told, however much else there is to tell to a slow reader."""
    server = make_server(plugin={"metasync_limit_entries": "100000", "metasync_limit_bytes": "100M"})
    d = server.login("u1")
    change(d)
    c = server.login("u1", rcvbuf=65536)
    notify(c, BOTH)
    w = Watch(c, b'"" ' + A).catch_up()
    name, count = b"/private/" + b"x" * 1000, 10000
    for start in range(0, count, 50):
        put(d, [(b"%s/%d" % (name, i), b'"1"') for i in range(start, start + 50)] + [(A, b'"%d"' % start)])
    await_blocked(c)
    c.send(b"DONE\r\n")
    lines = lines_until(c, w.tag)
    assert not [each for each in lines if each == line()]
    told = [each for each in lines if each.startswith(b'* METADATA "" /private/x')]
    told += pushed(c, d)
    assert len(told) == len(set(told)) == count
    sane(c)


# -- the end ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("end", ["close", "reset", "half_close", "logout", "pipelined"])
def test_end_while_waiting(make_server, end):
    """Several sessions of one process: the end of one does not touch the others."""
    server = make_server(extra=SHARED, plugin={"long_command_test_path": "%h/wake"})
    d = server.login("u1")
    change(d)
    sessions = [server.login("u1") for _ in range(3)]
    for c in sessions:
        notify(c, BOTH)
    w = Watch(server.login("u1"), b'"" /private').catch_up()
    change(d)
    w.until("marker")
    for c in sessions:
        assert c.read_response().line == line()
    if end == "logout":
        change(d)
        lines = ask(sessions[1], b"LOGOUT")
        assert metadata(lines) == [line()] and lines[-1].startswith(b"T OK")
        w.until("marker")
        for i in (0, 2):
            assert sessions[i].read_response().line == line()
    elif end == "pipelined":
        sessions[1].send(b"x NOOP\r\ny IDLE\r\nDONE\r\nz LOGOUT\r\n")
        assert sessions[1].eof()[-1].line.startswith(b"z OK")
    else:
        getattr(sessions[1], end)()
    change(d)
    w.until("marker")
    for i in (0, 2):
        assert sessions[i].read_response().line == line()
    ok(sessions[0], b"NOTIFY NONE")
    w.done()
    change(d)
    assert sessions[2].read_response().line == line()
    assert metadata(ask(sessions[0], b"NOOP")) == []
    bystander = server.login("b")
    bystander.start(b"XTEST")
    bystander.expect(rb"\+ idling")
    assert_quiet([imap_pid(d.sock)], bystander)


def test_gone_in_the_middle_of_names(make_server):
    """The connection ends while names wait in the output."""
    server = make_server(extra=SHARED, plugin={"metasync_limit_entries": "100000", "metasync_limit_bytes": "100M"})
    d = server.login("u1")
    change(d)
    c, e = server.login("u1", rcvbuf=4096), server.login("u1")
    notify(c, BOTH)
    notify(e, SERVER)
    names = set()
    for start in range(0, 6000, 100):
        put(d, [(b"/private/%s/%d" % (b"x" * 600, i), b'"1"') for i in range(start, start + 100)])
    await_blocked(c)
    c.reset()
    while len(names) < 6000:
        names.add(e.read_response().line)
    assert pushed(e, d) == []


def test_kicked(server, pair):
    """SIGTERM, as from doveadm kick."""
    c, d = pair
    notify(c, BOTH)
    os.kill(imap_pid(c.sock), signal.SIGTERM)
    change(d)
    assert metadata([r.line for r in c.eof()]) in ([], [line()])


def test_two_users_in_a_process(make_server):
    server = make_server(extra=SHARED)
    sessions = [(server.login(u), server.login(u)) for u in ("u1", "u2")]
    for c, d in sessions:
        change(d)
        notify(c, BOTH)
    for i in range(5):
        for c, d in sessions:
            change(d, b"INBOX", b"/private/%d" % i)
    for c, d in sessions:
        assert pushed(c, d) == [line(b"INBOX", b"/private/%d" % i) for i in range(5)]
