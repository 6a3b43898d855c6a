"""Input that is wrong: each gets its answer, and the next command still works."""

import pytest

from metasync import Watch, ask, last, put, sane

N = b"/private/vendor/test/a"
MARK = b"(1 1 0)"

BAD = b"T BAD "


@pytest.mark.parametrize("arguments, answer", [
    # options
    (b'(BOGUS) "" ' + N, BAD),
    (b'(ONCE BOGUS) "" ' + N, BAD),
    (b'(ONCE ONCE) "" ' + N, BAD),
    (b'(DEPTH 1 DEPTH 1) "" ' + N, BAD),
    (b'(SINCE (1 1 0) SINCE (1 1 0)) "" ' + N, BAD),
    (b'() "" ' + N, BAD),
    (b'(DEPTH) "" ' + N, BAD),
    (b'(DEPTH 2) "" ' + N, BAD),
    (b'(DEPTH (1)) "" ' + N, BAD),
    (b'(MAXSIZE) "" ' + N, BAD),
    (b'(MAXSIZE x) "" ' + N, BAD),
    (b'(MAXSIZE -1) "" ' + N, BAD),
    (b'(MAXSIZE 4294967296) "" ' + N, BAD),
    (b'(MAXSIZE 99999999999999999999) "" ' + N, BAD),
    (b'(MAXSIZE "1") "" ' + N, BAD),
    (b'((ONCE)) "" ' + N, BAD),
    (b'"ONCE" ' + N, b"T NO [NONEXISTENT] "),
    # bookmarks
    (b'(SINCE) "" ' + N, BAD),
    (b'(SINCE 5) "" ' + N, BAD),
    (b'(SINCE ()) "" ' + N, BAD),
    (b'(SINCE (1 1)) "" ' + N, BAD),
    (b'(SINCE (1 1 0 0)) "" ' + N, BAD),
    (b'(SINCE (0 1 0)) "" ' + N, BAD),
    (b'(SINCE (1 0 0)) "" ' + N, BAD),
    (b'(SINCE (4294967296 1 0)) "" ' + N, BAD),
    (b'(SINCE (1 9223372036854775808 0)) "" ' + N, BAD),
    (b'(SINCE (1 18446744073709551616 0)) "" ' + N, BAD),
    (b'(SINCE (-1 1 0)) "" ' + N, BAD),
    (b'(SINCE (1 -1 0)) "" ' + N, BAD),
    (b'(SINCE (x 1 0)) "" ' + N, BAD),
    (b'(SINCE (1 x 0)) "" ' + N, BAD),
    (b'(SINCE (1 1 xyz)) "" ' + N, BAD),
    (b'(SINCE (1 1 00000000000000000)) "" ' + N, BAD),
    (b'(SINCE (1 1 NIL)) "" ' + N, BAD),
    # structure
    (b"", BAD),
    (b'""', BAD),
    (b'"" ' + N + b' ""', BAD),
    (b'"" ()', BAD),
    (b'"" ((' + N + b"))", BAD),
    (b'"" (' + N, BAD),
    (b'"" ' + N + b")", BAD),
    (b'(ONCE "" ' + N, BAD),
    # as an astring NIL is a name like any other (RFC 3501)
    (b'NIL ' + N, b"T NO [NONEXISTENT] "),
    (b'"" NIL', BAD),
    # scopes
    (b"(SERVER BOGUS) " + N, BAD),
    (b"(SUBTREE) " + N, BAD),
    (b"(SUBTREE (A)) " + N, BAD),
    (b"((SERVER)) " + N, BAD),
    (b'"Nowhere" ' + N, b"T NO [NONEXISTENT] "),
    (b'"&bad" ' + N, b"T NO [CANNOT] "),
    (b'"\xc3\xa4" ' + N, b"T NO [CANNOT] "),
    (b'"a//b" ' + N, b"T NO [CANNOT] "),
    (b'{3+}\r\na\0b ' + N, BAD),
    (b"(" + b" ".join([b"SERVER"] * 201) + b") " + N, b"T NO [LIMIT] "),
    # entries
    (b'"" vendor/test', BAD),
    (b'"" /vendor/test', BAD),
    (b'"" /publ', BAD),
    (b'"" ""', BAD),
    (b'"" /', BAD),
    (b'"" /private/', BAD),
    (b'"" /private//x', BAD),
    (b'"" /privatex/y', BAD),
    (b'"" "/private/*"', BAD),
    (b'"" "/private/a%"', BAD),
    (b'"" "/private/\xc3\xa4"', BAD),
    (b'"" "/private/\x01"', BAD),
    (b'"" "/private/\x1f"', BAD),
    (b'"" "/private/\x7f"', BAD),
    (b'"" {11+}\r\n/private/a\0', BAD),
    (b'"" {11+}\r\n/private/\r\n', BAD),
    (b'"" /private/' + b"x" * 1016, b"T NO [LIMIT] "),
    (b'"" /private' + b"/x" * 1000, b"T NO [LIMIT] "),
    (b'"" (' + b" ".join(b"/private/%d" % i for i in range(101)) + b")", b"T NO [LIMIT] "),
    (b'"" (' + b" ".join(b"/private/%d" % i for i in range(60)) + b") INBOX (" +
     b" ".join(b"/private/%d" % i for i in range(41)) + b")", b"T NO [LIMIT] "),
])
def test_xmetasync(client, user, arguments, answer):
    c = client(user)
    lines = ask(c, b"XMETASYNC " + arguments if arguments else b"XMETASYNC")
    assert lines[-1].startswith(answer), lines
    assert len(lines) == 1
    sane(c)


@pytest.mark.parametrize("arguments, answer", [
    (b"", BAD),
    (b'""', BAD),
    (b'"" ()', BAD),
    (b'"" (' + N + b")", BAD),
    (b'"" (' + N + b' "x" ' + N + b")", BAD),
    (b'"" (' + N + b' "x" ' + N + b' "y")', BAD),
    (b'"" (/private/A "x" /PRIVATE/a "y")', BAD),
    (b'"" (' + N + b' "x" /private/b "y" ' + N + b' "z")', BAD),
    (b'INBOX (' + N + b' "x") inbox (' + N + b' "y")', BAD),
    (b'"" ' + N + b' "x"', BAD),
    (b'"" (' + N + b" x)", BAD),
    (b'"" (' + N + b" 5)", BAD),
    (b'"" (' + N + b' ("x"))', BAD),
    (b'"" (("x") "y")', BAD),
    (b'"" (' + N + b' "x"', BAD),
    (b'"" (' + N + b' "x") trailing', BAD),
    (b'() "" (' + N + b' "x")', BAD),
    (b'(BOGUS) "" (' + N + b' "x")', BAD),
    (b'(UNCHANGEDSINCE) "" (' + N + b' "x")', BAD),
    (b'(UNCHANGEDSINCE 1) "" (' + N + b' "x")', BAD),
    (b'(UNCHANGEDSINCE (1)) "" (' + N + b' "x")', BAD),
    (b'(UNCHANGEDSINCE (1 1 0)) "" (' + N + b' "x")', BAD),
    (b'(UNCHANGEDSINCE (0 1)) "" (' + N + b' "x")', BAD),
    (b'(UNCHANGEDSINCE (1 0)) "" (' + N + b' "x")', BAD),
    (b'(UNCHANGEDSINCE (1 9223372036854775808)) "" (' + N + b' "x")', BAD),
    (b'(UNCHANGEDSINCE 0 UNCHANGEDSINCE 0) "" (' + N + b' "x")', BAD),
    (b'(UNCHANGEDSINCE 0 BOGUS) "" (' + N + b' "x")', BAD),
    (b'"" (/private "x")', BAD),
    (b'"" (/shared "x")', BAD),
    (b'"" ("/private/a*" "x")', BAD),
    (b'"" ("/private/a%" "x")', BAD),
    (b'"" (/private/a/ "x")', BAD),
    (b'"" (/a "x")', BAD),
    (b'"" ("/private/\xff" "x")', BAD),
    (b'"" ({11+}\r\n/private/a\0 "x")', BAD),
    (b'"" (/private/' + b"x" * 1016 + b' "x")', b"T NO [LIMIT] "),
    (b'"" (/private' + b"/x" * 1000 + b' "x")', b"T NO [LIMIT] "),
    (b'"Nowhere" (' + N + b' "x")', b"T NO [NONEXISTENT] "),
    (b'"&bad" (' + N + b' "x")', b"T NO [CANNOT] "),
    (b'"\xc3\xa4" (' + N + b' "x")', b"T NO [CANNOT] "),
    (b'(PERSONAL) (' + N + b' "x")', BAD),
])
def test_xmetaset(client, user, arguments, answer):
    c = client(user)
    lines = ask(c, b"XMETASET " + arguments if arguments else b"XMETASET")
    assert lines[-1].startswith(answer), lines
    assert len(lines) == 1
    w = Watch(c, b"(SERVER PERSONAL) (/private /shared)").catch_up().done()
    assert w.state == {}
    sane(c)


def test_longest_and_deepest_names(client, user):
    c = client(user)
    for name in (b"/private/" + b"x" * 1015, b"/private" + b"/y" * 508):
        assert len(name) == 1024
        put(c, [(name, b'"v"')])
        lines = ask(c, b'XMETASYNC (ONCE) "" ' + name)
        assert lines[1] == b'* METADATA "" (%s "v")' % name


def test_a_hundred_entries(client, user):
    c = client(user)
    entries = b" ".join(b"/private/%d" % i for i in range(100))
    assert last(c, b'XMETASYNC (ONCE) "" (%s)' % entries).startswith(b"T OK ")


@pytest.mark.parametrize("arguments", [
    b'(ONCE MAXSIZE 4294967295) "" ' + N,
    b'(ONCE SINCE (4294967295 9223372036854775807 ffffffffffffffff)) "" ' + N,
    b"(ONCE) (" + b" ".join([b"SERVER"] * 200) + b") " + N,
])
def test_the_largest_that_is_right(client, user, arguments):
    c = client(user)
    assert last(c, b"XMETASYNC " + arguments).startswith(b"T OK ")


@pytest.mark.parametrize("command", [b'XMETASYNC "" ' + N, b'XMETASET "" (' + N + b' "x")'])
def test_before_login(client, user, command):
    c = client(user, login=False)
    assert last(c, command).startswith(BAD)
    assert last(c, b"LOGIN %s pass" % user.encode()).startswith(b"T OK")
    sane(c)


def test_many_mistakes_disconnect_as_stock(client, user):
    """Dovecot says BYE after 20 bad commands in a row, whosever they are."""
    c = client(user)
    for _ in range(19):
        assert last(c, b"XMETASYNC").startswith(BAD)
    sane(c)
    for _ in range(19):
        assert last(c, b"XMETASYNC").startswith(BAD)
    c.start(b"XMETASYNC")
    c.expect(rb"\* BYE Too many invalid IMAP commands")
