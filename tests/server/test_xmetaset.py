"""XMETASET, rule by rule: conditions, atomicity, limits, names, literals (docs/protocol.md)."""

import pytest

from metasync import Watch, ask, last, lines_until, position, put, sane

A = b"/private/vendor/test/a"
B = b"/private/vendor/test/b"


def state(c, selection=b"(SERVER PERSONAL) (/private /shared)"):
    return Watch(c, selection).catch_up().done().state


# -- conditions ------------------------------------------------------------------------------------

@pytest.mark.valgrind
def test_unchangedsince_zero(client, user):
    c = client(user)
    put(c, [(A, b'"1"')], condition=b"(UNCHANGEDSINCE 0) ")
    lines = ask(c, b'XMETASET (UNCHANGEDSINCE 0) "" (%s "2" %s "2")' % (A, B))
    assert lines[0] == b'* METADATA "" (/private/vendor/test/a "1")'
    assert lines[1].startswith(b"T NO [XMETASET MODIFIED (")
    assert len(lines) == 2
    assert state(c) == {(b"", A): b"1"}
    # a removed entry does not exist
    put(c, [(A, b"NIL")])
    put(c, [(A, b'"3"')], condition=b"(UNCHANGEDSINCE 0) ")
    assert state(c) == {(b"", A): b"3"}


@pytest.mark.valgrind
def test_unchangedsince(client, user):
    c = client(user)
    base = put(c, [(A, b'"1"')])
    put(c, [(B, b'"1"')])
    put(c, [(A, b'"2"')], condition=b"(UNCHANGEDSINCE (%d %d)) " % base)
    lines = ask(c, b'XMETASET (UNCHANGEDSINCE (%d %d)) "" (%s "3")' % (base + (A,)))
    assert lines[0] == b'* METADATA "" (/private/vendor/test/a "2")'
    again = position(lines[1])
    # its position is a good base for trying again
    put(c, [(A, b'"3"')], condition=b"(UNCHANGEDSINCE (%d %d)) " % again)
    assert state(c) == {(b"", A): b"3", (b"", B): b"1"}


def test_unchangedsince_and_removal(client, user):
    c = client(user)
    base = put(c, [(A, b'"1"')])
    put(c, [(A, b"NIL")])
    lines = ask(c, b'XMETASET (UNCHANGEDSINCE (%d %d)) "" (%s "2")' % (base + (A,)))
    assert lines[0] == b'* METADATA "" (/private/vendor/test/a NIL)'
    put(c, [(A, b'"2"')], condition=b"(UNCHANGEDSINCE (%d %d)) " % position(lines[1]))
    assert state(c) == {(b"", A): b"2"}


def test_an_entry_that_never_was_is_unchanged(client, user):
    c = client(user)
    base = put(c, [(A, b'"1"')])
    put(c, [(A, b'"2"')])
    put(c, [(B, b'"1"')], condition=b"(UNCHANGEDSINCE (%d %d)) " % base)


def test_reset(client, user):
    c = client(user)
    epoch, modseq = put(c, [(A, b'"1"')])
    for pos in ((epoch % 4294967295 + 1, modseq), (epoch, modseq + 1),
                (epoch, 9223372036854775807)):
        line = last(c, b'XMETASET (UNCHANGEDSINCE (%d %d)) "" (%s "2")' % (pos + (A,)))
        assert line.startswith(b"T NO [XMETASET RESET] ")
    assert state(c) == {(b"", A): b"1"}
    sane(c)


def test_all_or_nothing_over_mailboxes(client, user):
    c = client(user)
    assert last(c, b"CREATE Work").startswith(b"T OK")
    base = put(c, [(A, b'"1"')])
    put(c, [(A, b'"2"')], mailbox=b"Work")
    lines = ask(c, b'XMETASET (UNCHANGEDSINCE (%d %d)) INBOX (%s "3") Work (%s "3") "" (%s "3")'
                % (base + (A, A, A)))
    assert lines[0] == b'* METADATA "Work" (/private/vendor/test/a "2")'
    assert lines[1].startswith(b"T NO [XMETASET MODIFIED ") and len(lines) == 2
    assert state(c) == {(b"", A): b"1", (b"Work", A): b"2"}
    pos = position(lines[1])
    line = last(c, b'XMETASET (UNCHANGEDSINCE (%d %d)) INBOX (%s "3") Work (%s "3") "" (%s NIL)'
                % (pos + (A, A, A)))
    assert position(line) == (pos[0], pos[1] + 1)
    assert state(c) == {(b"INBOX", A): b"3", (b"Work", A): b"3"}


def test_modified_shows_large_values(client, user):
    c = client(user)
    values = {}
    for i in range(20):
        name, value = b"/private/vendor/test/%02d" % i, b"%02d" % i + b"v" * 300000
        tag = c.start(b'XMETASET "" (%s {%d+}\r\n%s)' % (name, len(value), value))
        assert c.until(tag)[-1].line.startswith(tag + b" OK")
        values[name] = value
    # with the next commands pipelined behind it
    tag = c.start(b'XMETASET (UNCHANGEDSINCE 0) "" (%s)' % b" ".join(
        b'%s "x"' % name for name in sorted(values)))
    c.send(b"n1 NOOP\r\n")
    responses = c.until(tag)
    shown = {bytes(r.parsed[3][0]): bytes(r.parsed[3][1]) for r in responses[:-1]}
    assert shown == values
    assert responses[-1].line.startswith(tag + b" NO [XMETASET MODIFIED (")
    assert c.until(b"n1")[-1].line.startswith(b"n1 OK")


def test_the_position_of_modified_is_that_of_the_first_read(client, user):
    """What is written while the values are shown makes a retry fail."""
    c, d = client(user, rcvbuf=4096), client(user)
    value = b"v" * 1000000
    names = [b"/private/vendor/test/%02d" % i for i in range(15)]
    for name in names:
        tag = d.start(b'XMETASET "" (%s {%d+}\r\n%s)' % (name, len(value), value))
        assert d.until(tag)[-1].line.startswith(tag + b" OK")
    base = put(d, [(A, b'"1"')])
    tag = c.start(b'XMETASET (UNCHANGEDSINCE 0) "" (%s)' % b" ".join(b'%s "x"' % name for name in names))
    c.read_response()
    put(d, [(names[0], b'"later"')])
    assert position(lines_until(c, tag)[-1]) == base


# -- limits ----------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def small(make_module_server):
    """A server with small limits."""
    return make_module_server(plugin={
        "metasync_limit_value": "1000", "metasync_limit_entries": "5",
        "metasync_limit_bytes": "2500", "metasync_limit_name": "40"})


def test_limits_are_announced(small, user):
    c = small.login(user)
    line = ask(c, b'XMETASYNC (ONCE) "" /private')[0]
    assert line.startswith(b"* OK [XMETASYNC LIMITS (VALUE 1000 ENTRIES 5 BYTES 2500 NAME 40 SET 100)] ")


def test_value_limit(small, user):
    c = small.login(user)
    put(c, [(b"/private/a", b'"%s"' % (b"x" * 1000))])
    line = last(c, b'XMETASET "" (/private/a "%s")' % (b"y" * 1001))
    assert line.startswith(b"T NO [METADATA MAXSIZE 1000] ")
    # as literals: names may be longer than this value limit, so small ones are read first
    for size in (1001, 100000):
        line = last(c, b'XMETASET "" (/private/a {%d+}\r\n%s)' % (size, b"y" * size))
        assert line.startswith(b"T NO [METADATA MAXSIZE 1000] ")
    # a synchronizing one is refused before "+"
    lines = ask(c, b'XMETASET "" (/private/a {100000}')
    assert lines[0].startswith(b"T NO [METADATA MAXSIZE 1000] ") and len(lines) == 1
    assert state(c) == {(b"", b"/private/a"): b"x" * 1000}
    sane(c)


def test_a_name_may_be_longer_than_a_value(make_server, user):
    """As a literal, too: it is not known what a literal is until it is read."""
    with make_server(plugin={"metasync_limit_value": "10"}) as server:
        c = server.login(user)
        name = b"/private/" + b"n" * 1015
        tag = c.start(b'XMETASET "" ({%d+}\r\n%s "x")' % (len(name), name))
        assert lines_until(c, tag)[-1].startswith(b"T OK ")
        assert state(c) == {(b"", name): b"x"}


def test_a_smaller_set_limit(make_server, user):
    with make_server(plugin={"metasync_limit_set": "2"}) as server:
        c = server.login(user)
        assert b" SET 2)] " in ask(c, b'XMETASYNC (ONCE) "" /private')[0]
        put(c, [(A, b'"1"'), (B, b'"1"')])
        line = last(c, b'XMETASET "" (/private/1 "x" /private/2 "x" /private/3 "x")')
        assert line.startswith(b"T NO [LIMIT] ")
        assert state(c) == {(b"", A): b"1", (b"", B): b"1"}


def test_entry_limit(small, user):
    c = small.login(user)
    put(c, [(b"/private/%d" % i, b'""') for i in range(5)])
    assert last(c, b'XMETASET "" (/private/5 "")').startswith(b"T NO [METADATA TOOMANY] ")
    line = last(c, b'XMETASET "" (/private/0 "changed" /private/5 "")')
    assert line.startswith(b"T NO [METADATA TOOMANY] ")
    assert state(c)[(b"", b"/private/0")] == b""
    put(c, [(b"/private/0", b'"changed"')])
    put(c, [(b"/private/0", b"NIL"), (b"/private/5", b'""')])
    sane(c)


def test_byte_limit(small, user):
    c = small.login(user)
    put(c, [(b"/private/%d" % i, b'"%s"' % (b"x" * 800)) for i in range(3)])
    line = last(c, b'XMETASET "" (/private/3 "%s")' % (b"x" * 70))
    assert line.startswith(b"T NO [OVERQUOTA] ")
    put(c, [(b"/private/3", b'"%s"' % (b"x" * 60))])
    line = last(c, b'XMETASET "" (/private/3 "%s")' % (b"x" * 61))
    assert line.startswith(b"T NO [OVERQUOTA] ")
    put(c, [(b"/private/3", b"NIL")])
    sane(c)


def test_name_limit(small, user):
    c = small.login(user)
    put(c, [(b"/private/" + b"n" * 31, b'"x"')])
    line = last(c, b'XMETASET "" (/private/%s "x")' % (b"n" * 32))
    assert line.startswith(b"T NO [LIMIT] ")
    line = last(c, b'XMETASYNC (ONCE) "" /private/%s' % (b"n" * 32))
    assert line.startswith(b"T NO [LIMIT] ")
    sane(c)


def test_set_limit(client, user):
    c = client(user)
    pairs = b" ".join(b'/private/%d "x"' % i for i in range(101))
    assert last(c, b'XMETASET "" (%s)' % pairs).startswith(b"T NO [LIMIT] ")
    assert state(c) == {}
    sane(c)


# -- literals --------------------------------------------------------------------------------------

@pytest.mark.valgrind
@pytest.mark.parametrize("form", [b"{%d+}", b"~{%d+}", b"{%d}", b"~{%d}"])
@pytest.mark.parametrize("size", [0, 1, 5000, 1048576])
def test_literals(client, user, form, size):
    c = client(user)
    value = bytes(i % 251 + 1 for i in range(size))
    if form.startswith(b"~"):
        value = value.replace(b"\x07", b"\0")
    announcement = form % size
    tag = c.start(b'XMETASET "" (%s %s' % (A, announcement))
    if b"+" not in announcement:
        assert c.read_response().tag == b"+"
    c.send(value + b")\r\n")
    assert lines_until(c, tag)[-1].startswith(b"T OK ")
    assert state(c) == {(b"", A): value}


def test_names_and_mailboxes_as_literals(client, user):
    c = client(user)
    tag = c.start(b'XMETASET {5+}\r\nINBOX ({%d+}\r\n%s {1+}\r\nx {%d+}\r\n%s NIL)' %
                  (len(A), A, len(B), B))
    assert lines_until(c, tag)[-1].startswith(b"T OK ")
    assert state(c) == {(b"INBOX", A): b"x"}


def test_command_limit(client, user):
    """20 MiB in one command."""
    c = client(user)
    value = b"x" * 1048576
    tag = c.start(b'XMETASET "" (' + b" ".join(
        b"/private/%d {%d+}\r\n%s" % (i, len(value), value) for i in range(20)) + b")")
    assert lines_until(c, tag)[-1].startswith(b"T NO [LIMIT] ")
    assert state(c) == {}
    sane(c)


def test_a_literal_that_is_not_sent(client, user):
    c = client(user)
    c.send(b'l1 XMETASET "" (%s {10}\r\n' % A)
    assert c.read_response().tag == b"+"
    c.send(b"half")
    c.close()
    d = client(user)
    assert state(d) == {}


# -- what cannot be set ----------------------------------------------------------------------------

@pytest.mark.parametrize("name", [b"/shared/comment", b"/shared/admin",
                                  b"/private/vendor/vendor.dovecot/pvt/server/x",
                                  b"/shared/vendor/vendor.dovecot/pvt"])
def test_reserved_entries(client, user, name):
    c = client(user)
    assert last(c, b'XMETASET "" (%s "x")' % name).startswith(b"T NO [CANNOT] ")
    sane(c)


def test_special_use_is_configured(client, user):
    assert last(client(user), b'XMETASET INBOX (/private/specialuse "\\\\Sent")').startswith(b"T NO [CANNOT] ")


def test_what_only_begins_like_a_reserved_entry_can_be_set(client, user):
    c = client(user)
    put(c, [(b"/private/vendor/vendor.dovecot/pvtx", b'"x"')])
    sane(c)


def test_shared_comment_of_a_mailbox_can_be_set(client, user):
    c = client(user)
    put(c, [(b"/shared/comment", b'"x"')], mailbox=b"INBOX")
    assert state(c) == {(b"INBOX", b"/shared/comment"): b"x"}


@pytest.mark.valgrind
def test_rename_and_delete_in_a_wait(client, user):
    """One change set each: NIL under the old names, values under the new."""
    c, d = client(user), client(user)
    assert last(c, b"CREATE Work").startswith(b"T OK")
    assert last(c, b"CREATE Work/Sub").startswith(b"T OK")
    put(c, [(A, b'"1"')], mailbox=b"Work")
    put(c, [(A, b'"2"')], mailbox=b"Work/Sub")
    w = Watch(d, b"(PERSONAL) /private").catch_up()
    before = w.mark[1]
    assert last(c, b"RENAME Work Job").startswith(b"T OK")
    w.until("marker")
    assert w.state == {(b"Job", A): b"1", (b"Job/Sub", A): b"2"}
    assert w.mark[1] == before + 1
    assert last(c, b"DELETE Job/Sub").startswith(b"T OK")
    w.until("marker")
    assert w.state == {(b"Job", A): b"1"}
    assert last(c, b"DELETE Job").startswith(b"T OK")
    w.until("marker")
    assert w.state == {}
    assert last(c, b"CREATE Job").startswith(b"T OK")
    assert state(c) == {}
    w.done()
