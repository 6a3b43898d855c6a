"""What an operator can count, and what he is warned of."""

import re

from lifecycle import await_log
from metasync import Watch, last, put

METRICS = "".join("metric %s {\n  filter = event=%s\n}\n" % (name, name) for name in (
    "metasync_committed", "metasync_conflict", "metasync_limit_reached", "metasync_failed", "metasync_sent",
    "metasync_reset")) + """
metric sent_by_kind {
  filter = event=metasync_sent
  group_by = kind
}
"""
A, B = b"/private/vendor/test/secret-name", b"/private/vendor/test/b"


def counts(server):
    """The metrics' counters; the statistics process gets events a moment later."""
    r = server.doveadm("stats", "dump", "-f", "count")
    assert r.returncode == 0, r.stderr
    return dict((name, int(n)) for name, n in re.findall(r"^(\S+)\tduration\t(\d+)$", r.stdout, re.M))


def test_events(make_server):
    server = make_server(plugin={"metasync_limit_entries": "3"}, extra=METRICS)
    c, d = server.login("u1"), server.login("u1")
    w = Watch(c, b'"" /private').catch_up()
    base = put(d, [(A, b'"secret-value"'), (B, b'"1"')])
    w.until("marker")
    assert last(d, b'SETMETADATA "" (%s "2")' % B).startswith(b"T OK")
    w.until("marker")
    w.done()
    assert last(d, b'XMETASET (UNCHANGEDSINCE (%d %d)) "" (%s "3")' % (*base, B)).startswith(b"T NO [XMETASET MODIFIED")
    assert last(d, b'XMETASET "" (/private/1 "" /private/2 "" /private/3 "")').startswith(b"T NO [METADATA TOOMANY]")
    Watch(c, b'"" /private').catch_up((1, 1, b"0" * 16)).done()
    c.logout()
    d.logout()
    server.await_no_session("u1")
    expected = {"metasync_committed": 2, "metasync_conflict": 1, "metasync_limit_reached": 1, "metasync_failed": 0,
                "metasync_sent": 4, "metasync_reset": 1, "sent_by_kind_push": 2, "sent_by_kind_catch-up": 2}
    for _ in range(100):
        seen = counts(server)
        if all(seen.get(name, 0) >= count for name, count in expected.items()):
            break
    assert {name: seen.get(name, 0) for name in expected} == expected
    assert "secret" not in server.log()


def test_warning_before_a_limit(make_server):
    server = make_server(plugin={"metasync_limit_entries": "100", "metasync_limit_bytes": "10000"})
    c = server.login("u1")
    put(c, [(b"/private/%d" % i, b'""') for i in range(79)])
    put(c, [(b"/private/79", b'""')])
    put(c, [(b"/private/80", b'""')])
    await_log(server, "80 of at most 100 entries are used")
    assert "bytes are used" not in server.log()
    put(c, [(b"/private/79", b'"%s"' % (b"x" * 8000))])
    await_log(server, r"\d+ of at most 10000 bytes are used")
    # once
    assert server.log().count("entries are used") == 1


def test_no_names_or_values_in_events(make_server):
    """Dovecot's own event of a finished command has its arguments, and may be logged or exported."""
    server = make_server(extra="log_debug = event=imap_command_finished\n")
    c = server.login("u1")
    for command in (b'GETMETADATA "" (%s)' % A, b'GETMETADATA (DEPTH infinity) "" /private/secret-tree',
                    b'SETMETADATA "" (%s "secret-value")' % A, b'SETMETADATA "" (%s {6+}\r\nsecret)' % A,
                    b'XMETASET "" (%s "secret-value")' % A, b'XMETASYNC (ONCE) "" ' + A):
        assert last(c, command).startswith(b"T OK")
    c.logout()
    server.await_no_session("u1")
    for name in ("GETMETADATA", "SETMETADATA", "XMETASET", "XMETASYNC"):
        await_log(server, "Command finished: " + name)
    assert "secret" not in server.log()
