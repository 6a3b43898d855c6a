"""XMETASYNC, rule by rule (docs/protocol.md)."""

import re

import pytest

from lifecycle import MESSAGE, await_log
from metasync import MARK, Watch, ask, last, lines_until, put, sane

A = b"/private/vendor/test/a"
B = b"/private/vendor/test/b"


@pytest.mark.valgrind
def test_capability_after_login_only(client, user):
    c = client(user, login=False)
    assert b"XMETASYNC" not in ask(c, b"CAPABILITY")[0]
    assert last(c, b"LOGIN %s pass" % user.encode()).startswith(b"T OK")
    assert b" XMETASYNC" in ask(c, b"CAPABILITY")[0]


def test_stock_metadata_is_announced_if_switched_on(make_server, client, user):
    assert b" METADATA" in ask(client(user), b"CAPABILITY")[0]
    with make_server(extra="protocol imap {\n  imap_metadata = no\n}\n") as server:
        line = ask(server.login(user), b"CAPABILITY")[0]
        assert b" XMETASYNC" in line and b" METADATA" not in line


@pytest.mark.valgrind
def test_first_sync_of_an_empty_account(client, user):
    c = client(user)
    w = Watch(c, b'"" /private').catch_up()
    assert re.match(rb"\* OK \[XMETASYNC LIMITS \(VALUE 1048576 ENTRIES 10000 BYTES 16777216 "
                    rb"NAME 1024 SET 100\)\] ", w.log[0])
    assert MARK.match(w.log[1])
    assert w.log[2:] == [b"+ idling"]
    assert w.mark[1] == 1
    w.done()
    sane(c)


@pytest.mark.valgrind
def test_snapshot_push_and_resume(client, user):
    c, d = client(user), client(user)
    first = put(c, [(A, b'"1"'), (B, b'""')])
    w = Watch(d, b'"" /private/vendor/test').catch_up()
    assert w.state == {(b"", A): b"1", (b"", B): b""}
    assert w.mark[:2] == first
    # a push, with its value and a marker
    second = put(c, [(A, b'"2"')])
    assert second == (first[0], first[1] + 1)
    w.until("marker")
    assert w.log[-2] == b'* METADATA "" (/private/vendor/test/a "2")'
    assert w.mark[:2] == second
    w.done()
    assert w.log.count(b"+ idling") == 1
    # away, missing three changes
    put(c, [(A, b'"3"')])
    put(c, [(B, b"NIL")])
    third = put(c, [(b"/private/vendor/test/c", b'"new"')])
    w.catch_up(w.mark)
    assert w.entries() == [b'* METADATA "" (/private/vendor/test/a "3")',
                           b'* METADATA "" (/private/vendor/test/b NIL)',
                           b'* METADATA "" (/private/vendor/test/c "new")']
    assert w.mark[:2] == third
    w.done()
    # nothing missed
    w.catch_up(w.mark)
    assert w.entries() == []
    w.done()


def test_newest_value_only(client, user):
    c, d = client(user), client(user)
    w = Watch(d, b'"" /private').catch_up().done()
    for i in range(5):
        put(c, [(A, b'"%d"' % i)])
    w.catch_up(w.mark)
    assert w.entries() == [b'* METADATA "" (/private/vendor/test/a "4")']
    w.done()


def test_a_snapshot_has_no_removed_entries(client, user):
    c = client(user)
    put(c, [(A, b'"1"'), (B, b'"2"')])
    put(c, [(B, b"NIL")])
    w = Watch(c, b'"" /private').catch_up()
    assert w.entries() == [b'* METADATA "" (/private/vendor/test/a "1")']
    w.done()


def test_own_writes_come_back(client, user):
    c = client(user)
    w = Watch(c, b'"" /private').catch_up().done()
    pos = put(c, [(A, b'"mine"')])
    w.catch_up(w.mark)
    assert w.state == {(b"", A): b"mine"} and w.mark[:2] == pos
    w.done()


def test_equal_value_is_no_change_and_wakes_nobody(client, user):
    c, d = client(user), client(user)
    pos = put(c, [(A, b'"1"')])
    w = Watch(d, b'"" /private').catch_up()
    assert put(c, [(A, b'"1"')]) == pos
    assert put(c, [(B, b"NIL")]) == pos
    put(c, [(B, b'"x"')])
    w.until("marker")
    assert w.log[-2:-1] == [b'* METADATA "" (/private/vendor/test/b "x")']
    assert w.mark[1] == pos[1] + 1
    w.done()


def test_a_set_has_one_modseq_and_one_marker(client, user):
    c, d = client(user), client(user)
    w = Watch(d, b'"" /private').catch_up()
    put(c, [(b"/private/vendor/test/%03d" % i, b'"%d"' % i) for i in range(100)])
    w.until("marker")
    assert len(w.state) == 100 and w.mark[1] == 2
    w.done()


# -- scopes, entries, depth ------------------------------------------------------------------------

def names(w):
    return sorted((m.decode(), n.decode()) for m, n in w.state)


@pytest.fixture
def tree(client, user):
    c = client(user)
    for box in (b"Work", b"Work/Old", b"Workshop", b"Play"):
        assert last(c, b"CREATE " + box).startswith(b"T OK")
    put(c, [(b"/private/vendor/t", b'"0"'), (b"/private/vendor/t/a", b'"1"'),
            (b"/private/vendor/t/a/b", b'"2"'), (b"/private/vendor/tt", b'"no"'),
            (b"/shared/vendor/t", b'"s"')])
    for box in (b"INBOX", b"Work", b"Work/Old", b"Workshop", b"Play"):
        put(c, [(b"/private/comment", b'"%s"' % box)], mailbox=b'"%s"' % box)
    return c


@pytest.mark.parametrize("depth, expected", [
    (b"", ["/private/vendor/t"]),
    (b"DEPTH 0", ["/private/vendor/t"]),
    (b"DEPTH 1", ["/private/vendor/t", "/private/vendor/t/a"]),
    (b"depth INFINITY", ["/private/vendor/t", "/private/vendor/t/a", "/private/vendor/t/a/b"]),
])
def test_depth(tree, depth, expected):
    w = Watch(tree, b'"" /private/vendor/t', options=depth).catch_up().done()
    assert names(w) == [("", n) for n in expected]


@pytest.mark.parametrize("selection, expected", [
    (b'"" /shared', [""]),
    (b"(SERVER) /shared", [""]),
    (b"Work /private", ["Work"]),
    (b'"Work" (/private)', ["Work"]),
    (b"inbox /private", ["INBOX"]),
    (b"(PERSONAL) /private", ["INBOX", "Play", "Work", "Work/Old", "Workshop"]),
    (b"(SUBTREE Work) /private", ["Work", "Work/Old"]),
    (b"(SERVER SUBTREE Work) (/private/comment /shared/vendor)", ["", "Work", "Work/Old"]),
    (b'Work /private Play /private "" /shared', ["", "Play", "Work"]),
    (b"(SUBTREE Nothing) /private", []),
])
def test_scopes(tree, selection, expected):
    w = Watch(tree, selection).catch_up().done()
    assert sorted(m for m, n in names(w)) == expected


def test_personal_covers_mailboxes_of_the_future(client, user):
    c, d = client(user), client(user)
    w = Watch(c, b"(PERSONAL) /private").catch_up()
    assert last(d, b"CREATE Later").startswith(b"T OK")
    put(d, [(b"/private/comment", b'"x"')], mailbox=b"Later")
    w.until("marker")
    assert names(w) == [("Later", "/private/comment")]
    w.done()


def test_mailbox_names_in_utf7(client, user):
    c = client(user)
    assert last(c, b'CREATE "&AMQ-rger"').startswith(b"T OK")
    put(c, [(b"/private/comment", b'"x"')], mailbox=b'"&AMQ-rger"')
    w = Watch(c, b'"&AMQ-rger" /private').catch_up().done()
    assert w.entries() == [b'* METADATA "&AMQ-rger" (/private/comment "x")']


def test_unwatched_changes_move_the_bookmark_with_the_keepalive(make_server):
    with make_server(extra="imap_idle_notify_interval = 1s\n") as server:
        c, d = server.login("u1"), server.login("u1")
        w = Watch(d, b'"" /private/vendor/watched').catch_up()
        pos = put(c, [(b"/private/vendor/other", b'"1"')])
        while w.mark[:2] != pos:
            assert w.until("marker", "other") and not w.entries()
        # nothing more: a sign of life
        assert w.until("marker", "other") == "other"
        assert w.log[-1] == b"* OK Still here"
        w.done()


# -- NAMES, MAXSIZE, ONCE --------------------------------------------------------------------------

def test_names(client, user):
    c = client(user)
    put(c, [(A, b'"1"'), (B, b'""')])
    w = Watch(c, b'"" /private', options=b"NAMES DEPTH infinity").catch_up().done()
    assert w.entries() == [b'* METADATA "" /private/vendor/test/a',
                           b'* METADATA "" /private/vendor/test/b']
    put(c, [(B, b"NIL")])
    w.catch_up(w.mark).done()
    assert w.entries() == [b'* METADATA "" (/private/vendor/test/b NIL)']


def test_maxsize(client, user):
    c = client(user)
    put(c, [(A, b'"12345"'), (B, b'"123456"')])
    w = Watch(c, b'"" /private', options=b"MAXSIZE 5 DEPTH infinity").catch_up().done()
    assert w.entries() == [b'* METADATA "" (/private/vendor/test/a "12345")',
                           b'* METADATA "" /private/vendor/test/b']
    w = Watch(c, b'"" /private', options=b"MAXSIZE 0 DEPTH infinity").catch_up().done()
    assert w.entries() == [b'* METADATA "" /private/vendor/test/a',
                           b'* METADATA "" /private/vendor/test/b']
    put(c, [(A, b'""')])
    w.catch_up(w.mark).done()
    assert w.entries() == [b'* METADATA "" (/private/vendor/test/a "")']


@pytest.mark.valgrind
def test_once(client, user):
    c = client(user)
    put(c, [(A, b'"1"')])
    tag = c.start(b'XMETASYNC (ONCE DEPTH infinity) "" /private')
    c.send(b"x1 NOOP\r\n")
    lines = lines_until(c, tag)
    assert [line.split(b" ")[1] for line in lines[:-1]] == [b"OK", b"METADATA", b"OK"]
    assert MARK.match(lines[2])
    assert lines[-1] == b"T OK XMETASYNC completed."
    assert c.read_response().line.startswith(b"x1 OK")
    # nothing that mail or keepalive would add, and no "+"
    assert not [line for line in lines if line.startswith(b"+")]


# -- bookmarks -------------------------------------------------------------------------------------

def reset_expected(w):
    assert w.log[1].startswith(b"* OK [XMETASYNC RESET] "), w.log


def test_reset_for_a_bookmark_of_another_watch(client, user):
    c = client(user)
    put(c, [(A, b'"1"')])
    w = Watch(c, b'"" /private/vendor/test').catch_up().done()
    for options, selection in [
            (b"DEPTH 1", b'"" /private/vendor/test'),
            (b"DEPTH infinity NAMES", b'"" /private/vendor/test'),
            (b"DEPTH infinity MAXSIZE 9", b'"" /private/vendor/test'),
            (b"DEPTH infinity", b'"" /private'),
            (b"DEPTH infinity", b'"" (/private/vendor/test /shared)'),
            (b"DEPTH infinity", b"INBOX /private/vendor/test")]:
        other = Watch(c, selection, options=options).catch_up(w.mark).done()
        reset_expected(other)
        assert other.mark[2] != w.mark[2]


def test_a_bookmark_is_good_for_the_same_watch_in_other_words(client, user):
    c = client(user)
    put(c, [(A, b'"1"')])
    w = Watch(c, b'"" (/private/x /private/vendor) INBOX /shared').catch_up().done()
    for selection in (b'inbox /SHARED "" (/private/vendor /private/x)',
                      b'"INBOX" (/shared) "" (/private/X /private/vendor /private/x)'):
        other = Watch(c, selection).catch_up(w.mark).done()
        assert not other.entries() and other.mark == w.mark


@pytest.mark.parametrize("one, two, options", [
    (b"Work /private", b"(SUBTREE Work) /private", b""),
    (b'"" (/private/a /private/b)', b'"" /private/a/private/b', b""),
    (b'"" /private/a Work /private/b', b'"" /private/b Work /private/a', b""),
    (b'"" /private', b'"" /private', b"MAXSIZE 0"),
])
def test_reset_for_a_bookmark_of_a_watch_that_looks_alike(client, user, one, two, options):
    c = client(user)
    assert last(c, b"CREATE Work").startswith(b"T OK")
    w = Watch(c, one, options=b"").catch_up().done()
    other = Watch(c, two, options=options).catch_up(w.mark).done()
    reset_expected(other)
    assert other.mark[2] != w.mark[2]


def test_a_bookmark_is_good_with_and_without_once(client, user):
    c = client(user)
    w = Watch(c, b'"" /private').catch_up().done()
    lines = ask(c, b'XMETASYNC (ONCE DEPTH infinity SINCE (%d %d %s)) "" /private' % w.mark)
    assert len(lines) == 3 and MARK.match(lines[1]), lines


def test_reset_for_another_epoch_and_beyond_the_store(client, user):
    c = client(user)
    put(c, [(A, b'"1"')])
    w = Watch(c, b'"" /private').catch_up().done()
    epoch, modseq, token = w.mark
    w.catch_up((epoch % 4294967295 + 1, modseq, token)).done()
    reset_expected(w)
    assert w.mark == (epoch, modseq, token) and w.state == {(b"", A): b"1"}
    # a position of this epoch that was never given out: the store is an old copy
    w.catch_up((epoch, modseq + 1, token)).done()
    reset_expected(w)
    assert w.mark[0] != epoch and w.state == {(b"", A): b"1"}
    # but not again at once
    new = w.mark
    w.catch_up((new[0], 9223372036854775807, token)).done()
    reset_expected(w)
    assert w.mark[0] == new[0]


def test_reset_below_the_floor(client, server, user):
    """Removals that are no longer remembered: a bookmark from before them cannot be continued."""
    c = client(user)
    put(c, [(A, b'"1"'), (B, b'"2"')])
    w = Watch(c, b'"" /private').catch_up().done()
    before = w.mark
    put(c, [(B, b"NIL")])
    assert server.doveadm("metasync", "purge", "-a", "-u", user).stdout == "purged=1\n"
    line = last(c, b'XMETASET (UNCHANGEDSINCE (%d %d)) "" (%s "x")' % (before[:2] + (B,)))
    assert line.startswith(b"T NO [XMETASET MODIFIED (")
    put(c, [(A, b'"3"')], condition=b"(UNCHANGEDSINCE (%d %d)) " % before[:2])
    w.catch_up(before).done()
    reset_expected(w)
    assert w.state == {(b"", A): b"3"} and w.mark[0] == before[0]
    # from here on it can
    w.catch_up(w.mark).done()
    assert not w.entries() and len(w.log) == 4


def test_reset_while_waiting(client, user):
    c, d = client(user), client(user)
    put(c, [(A, b'"1"')])
    w = Watch(d, b'"" /private').catch_up()
    epoch, modseq, token = w.mark
    other = Watch(c, b'"" /private').catch_up((epoch, modseq + 7, token)).done()
    assert other.mark[0] != epoch
    w.until("reset")
    w.until("marker")
    assert w.mark == other.mark and w.state == {(b"", A): b"1"}
    put(c, [(A, b'"2"')])
    w.until("marker")
    assert w.state == {(b"", A): b"2"}
    w.done()


def test_partial_marks_after_a_reset(client, user):
    c, d = client(user), client(user)
    value = b"v" * 100000
    for i in range(15):
        tag = c.start(b'XMETASET "" (/private/vendor/test/%d {%d+}\r\n%s)' % (i, len(value), value))
        assert c.until(tag)[-1].line.startswith(tag + b" OK")
    w = Watch(d, b'"" /private').catch_up()
    epoch, modseq, token = w.mark
    Watch(c, b'"" /private').catch_up((epoch, modseq + 7, token)).done()
    w.until("reset")
    assert w.until("partial", "marker") == "partial"
    w.until("marker")
    w.done()


# -- DONE and other lines --------------------------------------------------------------------------

@pytest.mark.parametrize("done", [b"DONE", b"done", b"DoNe"])
def test_done_in_any_case(client, user, done):
    c = client(user)
    w = Watch(c, b'"" /private').catch_up()
    c.send(done + b"\r\n")
    w.until("end")
    assert w.log[-1] == w.tag + b" OK XMETASYNC completed."
    sane(c)


@pytest.mark.valgrind
def test_done_pipelined_with_the_command(client, user):
    c = client(user)
    put(c, [(A, b'"1"')])
    c.send(b'p1 XMETASYNC (DEPTH infinity) "" /private\r\ndone\r\np2 NOOP\r\n')
    lines = lines_until(c, b"p1")
    assert lines[1] == b'* METADATA "" (/private/vendor/test/a "1")'
    assert MARK.match(lines[2])
    assert lines[-1] == b"T OK XMETASYNC completed."
    assert c.until(b"p2")[-1].line.startswith(b"p2 OK")


def test_done_pipelined_with_a_long_catch_up(client, user):
    """It goes on to its first marker."""
    c = client(user)
    value = b"v" * 100000
    for i in range(60):
        put(c, [(b"/private/vendor/test/%02d" % i, b"{%d+}\r\n%s" % (len(value), value))])
    w = Watch(c, b'"" /private').start()
    c.send(b"DONE\r\n")
    w.until("end")
    assert w.log[-1] == w.tag + b" OK XMETASYNC completed."
    assert MARK.match(w.log[-3]) and w.log[-2] == b"+ idling"
    assert len([line for line in w.log if MARK.match(line)]) == 1
    assert len(w.entries()) == len(w.state) == 60
    sane(c)


@pytest.mark.parametrize("line", [b"NOOP", b"", b"DONE ", b" DONE", b"x2 NOOP", b"DONE\0"])
def test_a_wrong_line(client, user, line):
    c = client(user)
    w = Watch(c, b'"" /private').catch_up()
    c.send(line + b"\r\n")
    w.until("end")
    assert w.log[-1] == w.tag + b" BAD Expected DONE."
    sane(c)


def test_a_wrong_line_with_a_literal_is_not_run(client, user):
    c = client(user)
    w = Watch(c, b'"" /private').catch_up()
    c.send(b"x2 APPEND INBOX {18+}\r\nx9 DELETE INBOX\r\n\r\n {3+}\r\nabc\r\n")
    w.until("end")
    assert w.log[-1] == w.tag + b" BAD Expected DONE."
    sane(c)
    # synchronizing: the client gets its BAD instead of a "+"
    w = Watch(c, b'"" /private').catch_up()
    c.send(b"x3 APPEND INBOX {18}\r\n")
    w.until("end")
    assert w.log[-1] == w.tag + b" BAD Expected DONE."
    sane(c)


def test_a_line_before_idling(client, user):
    c = client(user)
    c.send(b'q1 XMETASYNC "" /private\r\nq2 NOOP\r\n')
    assert lines_until(c, b"q1")[-1] == b"T BAD Expected DONE."
    sane(c)


# -- mail in the same wait -------------------------------------------------------------------------

def append(c, box=b"INBOX"):
    tag = c.start(b"APPEND %s {%d+}\r\n%s" % (box, len(MESSAGE), MESSAGE))
    assert c.until(tag)[-1].line.startswith(tag + b" OK")


@pytest.mark.valgrind
def test_mail_and_state_in_one_wait(client, user):
    c, d = client(user), client(user)
    assert last(d, b"SELECT INBOX").startswith(b"T OK")
    w = Watch(d, b'"" /private').catch_up()
    append(c)
    w.client.expect(rb"\* 1 EXISTS$")
    put(c, [(A, b'"1"')])
    w.until("marker")
    assert w.state == {(b"", A): b"1"}
    w.done()


def reported(session, tag, pattern, count):
    """What a session is told of its mailbox up to as many lines that match; then DONE. Without \\Recent, which only one
    session is told."""
    lines = []
    while len([line for line in lines if re.match(pattern, line)]) < count:
        lines.append(session.read_response().line)
    session.send(b"DONE\r\n")
    lines += [r.line for r in session.until(tag)[:-1]]
    return [line.replace(b"\\Recent", b"").replace(b" )", b")") for line in lines if not line.endswith(b" RECENT")]


@pytest.mark.parametrize("action, pattern, count", [
    (b"STORE 2:3 +FLAGS (\\Flagged keyword)", rb"\* \d FETCH", 2),
    (b"STORE 1 FLAGS ()", rb"\* 1 FETCH", 1),
    (b"UID MOVE 1:2 Other", rb"\* \d EXPUNGE", 2),
    (b"EXPUNGE", rb"\* 1 EXPUNGE", 1),
    (b"COPY 1:3 INBOX", rb"\* 6 EXISTS", 1),
])
@pytest.mark.parametrize("qresync", [False, True])
def test_mailbox_changes_are_those_of_idle(client, user, action, pattern, count, qresync):
    c, idle, d = client(user), client(user), client(user)
    assert last(c, b"CREATE Other").startswith(b"T OK")
    for _ in range(3):
        append(c)
    for session in (c, idle, d):
        if qresync and session is not c:
            assert last(session, b"ENABLE QRESYNC").startswith(b"T OK")
            pattern = pattern.replace(rb"\d EXPUNGE", b"VANISHED").replace(rb"1 EXPUNGE", b"VANISHED")
        assert last(session, b"SELECT INBOX").startswith(b"T OK")
    assert last(c, b"STORE 1 +FLAGS.SILENT (\\Deleted)").startswith(b"T OK")
    for session in (idle, d):
        sane(session)
    tag = idle.start(b"IDLE")
    idle.next(rb"\+ idling")
    w = Watch(d, b'"" /private').catch_up()
    assert last(c, action).startswith(b"T OK")
    if b"VANISHED" in pattern:
        count = 1
    assert reported(d, w.tag, pattern, count) == reported(idle, tag, pattern, count)
    sane(d)


@pytest.mark.parametrize("command", [b"IDLE", b'XMETASYNC "" /private'])
def test_mail_that_came_before_the_wait(client, user, command):
    c, d = client(user), client(user)
    assert last(d, b"SELECT INBOX").startswith(b"T OK")
    append(c)
    tag = d.start(command)
    d.expect(rb"\* 1 EXISTS")
    d.send(b"DONE\r\n")
    assert d.until(tag)[-1].line.startswith(tag + b" OK")


@pytest.fixture(scope="module", params=[{}, {"client_limit": 200, "service_count": 0}], ids=["own", "shared"])
def deleting(request, make_module_server):
    server = make_module_server(**request.param)
    server.shared = bool(request.param)
    return server


@pytest.mark.parametrize("before", [b"NOOP", b"ENABLE METADATA"])
@pytest.mark.parametrize("command", [b"IDLE", b'XMETASYNC "" /private'])
def test_the_selected_mailbox_is_deleted(deleting, user, command, before):
    """The goodbye is IDLE's, and so is the line in the log: it names the user, with others in the same process, too (in
    which stock Dovecot's IDLE names one of them)."""
    other, c, d = deleting.login(user + "-other"), deleting.login(user), deleting.login(user)
    Watch(other, b'"" /private').catch_up()
    put(c, [(A, b'"1"')])
    assert last(d, before).startswith(b"T OK")
    assert last(c, b"CREATE Work").startswith(b"T OK")
    assert last(d, b"SELECT Work").startswith(b"T OK")
    d.start(command)
    d.expect(rb"\+ idling")
    assert last(c, b"DELETE Work").startswith(b"T OK")
    assert [r.line for r in d.eof()] == [b"* BYE IMAP session state is inconsistent, please relogin."]
    if command != b"IDLE" or not deleting.shared:
        await_log(deleting, r"imap\(%s\)<\S+: Info: Disconnected: IMAP session state is inconsistent" % user)


def test_mail_is_not_reported_without_a_selected_mailbox_or_with_once(client, user):
    c, d = client(user), client(user)
    w = Watch(d, b'"" /private').catch_up()
    append(c)
    put(c, [(A, b'"1"')])
    w.until("marker")
    assert not [line for line in w.log if b"EXISTS" in line]
    w.done()
    assert last(d, b"SELECT INBOX").startswith(b"T OK")
    append(c)
    lines = ask(d, b'XMETASYNC (ONCE) "" /private')
    assert not [line for line in lines if b"EXISTS" in line]


# -- how it is written -----------------------------------------------------------------------------

@pytest.mark.parametrize("value, written", [
    (b"", b'""'),
    (b"plain", b'"plain"'),
    (b'qu"ote\\', b'"qu\\"ote\\\\"'),
    (b"back\\slash", b'"back\\\\slash"'),
    (b"x" * 200, b'"%s"' % (b"x" * 200)),
    (b"x" * 201, b"{201}\r\n%s" % (b"x" * 201)),
    (b"two\r\nlines", b"{10}\r\ntwo\r\nlines"),
    (b"line\nfeed", b"{9}\r\nline\nfeed"),
    (b"carriage\rreturn", b"{15}\r\ncarriage\rreturn"),
    (b"\xc3\xa4", b"{2}\r\n\xc3\xa4"),
    (b"nul\0", b"~{4}\r\nnul\0"),
    (b"\x01\x7f\t", b'"\x01\x7f\t"'),
])
def test_values(client, user, value, written):
    c = client(user)
    tag = c.start(b'XMETASET "" (%s ~{%d+}\r\n%s)' % (A, len(value), value))
    assert c.until(tag)[-1].line.startswith(tag + b" OK")
    w = Watch(c, b'"" /private').catch_up().done()
    assert w.state == {(b"", A): value}
    assert w.entries() == [b'* METADATA "" (%s %s)' % (A, written)]


@pytest.mark.parametrize("name, written", [
    (b"/private/a-b_c.d/9", b"/private/a-b_c.d/9"),
    (b"/private/az09", b"/private/az09"),
    (b'"/private/with space"', b'"/private/with space"'),
    (b'"/private/q\\"\\\\"', b'"/private/q\\"\\\\"'),
    (b"/private/plus+", b'"/private/plus+"'),
    (b"/PRIVATE/Upper", b"/private/upper"),
    (b"/PRIVATE/AZ", b"/private/az"),
    (b'"/private/~"', b'"/private/~"'),
])
def test_names_are_quoted_if_they_must_be(client, user, name, written):
    c = client(user)
    put(c, [(name, b'"v"')])
    lines = ask(c, b'XMETASYNC (ONCE) "" ' + name)
    assert lines[1] == b'* METADATA "" (%s "v")' % written


def test_mailbox_names_are_escaped(client, user):
    c = client(user)
    name = b'"a \\"b\\" \\\\c"'
    assert last(c, b"CREATE " + name).startswith(b"T OK")
    put(c, [(A, b'"x"')], mailbox=name)
    w = Watch(c, name + b" /private").catch_up().done()
    assert w.entries() == [b'* METADATA %s (%s "x")' % (name, A)]


def outside_literals(line):
    literal = re.search(rb"\{(\d+)\}\r\n", line)
    return len(line) - int(literal[1]) if literal else len(line)


def test_lines_are_not_longer_than_promised(client, user):
    """8,000 octets outside literals: names that are as long as they can be, with all octets escaped; values of all sizes;
    many entries."""
    c = client(user)
    box = b'"' + b"a&AOQ-" * 30 + b'\\"' * 40 + b'"'
    assert last(c, b"CREATE " + box).startswith(b"T OK")
    for size in (200, 201, 4000, 8000):
        put(c, [(b'"/private/%d%s"' % (size, b'\\"' * 1010), b'"%s"' % (b'\\"' * size))], mailbox=box)
    put(c, [(b"/private/vendor/test/%d" % i, b'"%s"' % (b"x" * 200)) for i in range(100)])
    for options in (b"DEPTH infinity", b"DEPTH infinity NAMES"):
        w = Watch(c, b"(SERVER PERSONAL) /private", options=options).catch_up().done()
        assert len(w.state) == 104 and box in w.entries()[0]
        assert 2000 < max(map(outside_literals, w.log)) <= 8000


def test_a_megabyte_of_every_octet(client, user):
    c, d = client(user), client(user)
    w = Watch(d, b'"" /private').catch_up()
    value = bytes(range(256)) * 4096
    tag = c.start(b'XMETASET "" (%s ~{%d+}\r\n%s)' % (A, len(value), value))
    assert c.until(tag)[-1].line.startswith(tag + b" OK")
    w.until("marker")
    assert w.state == {(b"", A): value}
    w.done()


def test_partial_marks_resume(client, user):
    c, d = client(user), client(user)
    value = b"v" * 100000
    for i in range(30):
        tag = c.start(b'XMETASET "" (/private/vendor/test/%d {%d+}\r\n%s)' % (i, len(value), value))
        assert c.until(tag)[-1].line.startswith(tag + b" OK")
    w = Watch(d, b'"" /private').start()
    w.until("partial")
    seen = len(w.entries())
    assert 10 <= seen < 20
    # the connection is lost here; what was told up to the mark may be kept
    w.commit()
    d.reset()
    e = client(user)
    w.client = e
    put(c, [(b"/private/vendor/test/0", b"NIL")])
    w.catch_up(w.partial)
    assert [n for m, n in names(w)] == sorted("/private/vendor/test/%d" % i for i in range(1, 30))
    # told again at most the one change at the mark
    assert len([e for e in w.entries() if b"NIL" not in e]) <= 30 - seen + 1
    w.done()


def test_partial_marks_split_no_set(client, user):
    c, d = client(user), client(user)
    first = put(c, [(A, b'"1"')])
    value = b"v" * 100000
    big = {b"/private/vendor/test/%02d" % i: value for i in range(40)}
    tag = c.start(b'XMETASET "" (%s)' % b" ".join(b"%s {%d+}\r\n%s" % (n, len(v), v) for n, v in big.items()))
    assert c.until(tag)[-1].line.startswith(tag + b" OK")
    w = Watch(d, b'"" /private').catch_up().done()
    # one, and it stands before the set in the middle of which it is sent
    assert len([line for line in w.log if b"PARTIAL" in line]) == 1
    assert w.partial[:2] == first
    w = Watch(d, b'"" /private').catch_up(w.partial).done()
    assert {n: v for (m, n), v in w.state.items()} == big


def test_partial_marks_come_about_once_in_a_mib(client, user):
    c = client(user)
    value = b"v" * 50000
    for i in range(60):
        tag = c.start(b'XMETASET "" (/private/vendor/test/%d {%d+}\r\n%s)' % (i, len(value), value))
        assert c.until(tag)[-1].line.startswith(tag + b" OK")
    w = Watch(c, b'"" /private').catch_up().done()
    assert len([line for line in w.log if b"PARTIAL" in line]) == 2


def test_mailbox_must_exist_without_since(client, user):
    c = client(user)
    assert last(c, b'XMETASYNC "Nowhere" /private').startswith(b"T NO [NONEXISTENT] ")
    sane(c)
    assert last(c, b"CREATE Gone").startswith(b"T OK")
    put(c, [(b"/private/comment", b'"x"')], mailbox=b"Gone")
    w = Watch(c, b"Gone /private").catch_up().done()
    assert last(c, b"DELETE Gone").startswith(b"T OK")
    w.catch_up(w.mark).done()
    assert w.entries() == [b'* METADATA "Gone" (/private/comment NIL)']
    assert w.state == {}


def test_many_watchers(client, user):
    writer = client(user)
    watches = [Watch(client(user), b'"" /private').catch_up() for _ in range(8)]
    pos = put(writer, [(A, b'"1"')])
    for w in watches:
        w.until("marker")
        assert w.mark[:2] == pos and w.state == {(b"", A): b"1"}
    # one goes, the others stay
    watches[3].client.reset()
    watches[5].done()
    pos = put(writer, [(A, b'"2"')])
    for i in (0, 1, 2, 4, 6, 7):
        watches[i].until("marker")
        assert watches[i].mark[:2] == pos
        watches[i].done()


def test_options_in_any_order(client, user):
    c = client(user)
    put(c, [(A, b'"1"')])
    for options in (b"ONCE NAMES DEPTH infinity", b"depth infinity once names",
                    b"NAMES MAXSIZE 3 ONCE DEPTH infinity"):
        assert b'* METADATA "" ' + A in ask(c, b'XMETASYNC (%s) "" /private' % options)
