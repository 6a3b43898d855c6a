"""What an operator is told without asking: warnings before limits are reached, and that neither the log nor any event
has entries' names or values, whatever happens. (Counters: test_metrics.py.)"""

import os
import sqlite3

import pytest

import stores
from lifecycle import await_log
from metasync import Watch, last, put
from xkey import Sync, add, make_keys, must_add, remove, tagged

# Every event of every process, with all of its fields, as a line in the log; and Dovecot's debug lines.
EVERYTHING = """
event_exporter log {
  format = json
  format_args = time-rfc3339
  transport = log
}
metric everything {
  filter = event=*
  exporter = log
  exporter_include = name hostname timestamps categories fields
}
mail_debug = yes
"""
# what may be found nowhere; names are kept in lower case
WORD = "zanzibar"
NAME, VALUE = b"/private/vendor/" + WORD.encode(), WORD.upper().encode()
plain_doveadm = pytest.mark.skipif(os.environ.get("DOVETAIL_WRAPPER") == "asan",
                                   reason="doveadm does not survive loading sanitized plugins")


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


def assert_silent(server, session_count):
    """All has been logged: the sessions' ends, and what the statistics process had got before them."""
    server.stop()
    log = server.log()
    assert log.count('{"event":"mail_user_session_finished"') >= session_count
    assert '"cmd_name":"XMETASET"' in log and "Debug: " in log
    found = [line for line in log.splitlines() if WORD in line.lower()]
    assert not found, "\n".join(line[:1000] for line in found)


@pytest.fixture
def talkative(make_server):
    return make_server(extra=EVERYTHING, plugin={
        "metasync_limit_value": "200", "metasync_limit_entries": "5", "metasync_busy_timeout": "100ms"})


def ends(server, c, user):
    c.logout()
    server.await_no_session(user)


def test_commands(talkative):
    """As they should be, and with each mistake."""
    c, d = talkative.login("u1"), talkative.login("u1")
    assert last(c, b"ENABLE METADATA").startswith(b"T OK")
    w = Watch(d, b'(SERVER PERSONAL) (/private %s)' % NAME).catch_up()
    large = VALUE * 100
    pairs = b'%s/a "%s"' % (NAME, VALUE)
    for answer, command in (
            (b"OK", b'XMETASET "" (%s)' % pairs),
            (b"OK", b'XMETASET INBOX (%s {%d+}\r\n%s)' % (NAME, len(VALUE), VALUE)),
            (b"OK", b'SETMETADATA "" (%s)' % pairs),
            (b"OK", b'SETMETADATA INBOX (%s {%d+}\r\n%s)' % (NAME, len(VALUE), VALUE)),
            (b"OK", b'GETMETADATA "" (%s)' % NAME),
            (b"OK", b'GETMETADATA (DEPTH infinity) "" (%s /private)' % NAME),
            (b"OK", b'GETMETADATA (MAXSIZE 1 DEPTH 1) INBOX %s' % NAME),
            (b"OK", b"NOOP"),
            (b"OK", b'XMETASYNC (ONCE DEPTH infinity) "" ' + NAME),
            (b"NO", b'XMETASET (UNCHANGEDSINCE 0) "" (%s)' % pairs),
            (b"NO", b'XMETASET (UNCHANGEDSINCE (1 1)) "" (%s)' % pairs),
            # what is wrong with names
            (b"BAD", b'XMETASET "" (%s/* "%s")' % (NAME, VALUE)),
            (b"BAD", b'XMETASET "" (/%s "%s")' % (VALUE, VALUE)),
            (b"BAD", b'XMETASET "" (%s "%s" %s "%s")' % (NAME, VALUE, NAME, VALUE)),
            (b"NO", b'XMETASET "" (%s/%s "1")' % (NAME, b"x" * 1100)),
            (b"BAD", b'SETMETADATA "" (%s/* "%s")' % (NAME, VALUE)),
            (b"BAD", b'SETMETADATA "" (/%s "%s")' % (VALUE, VALUE)),
            (b"NO", b'SETMETADATA "" (%s/%s "1")' % (NAME, b"x" * 1100)),
            (b"BAD", b'GETMETADATA "" (%s//%s)' % (NAME, VALUE)),
            (b"BAD", b'GETMETADATA "" (/%s)' % VALUE),
            (b"BAD", b'XMETASYNC "" (%s//%s)' % (NAME, VALUE)),
            (b"BAD", b'XMETASYNC "" (/%s)' % VALUE),
            (b"NO", b'XMETASET "" (/private/vendor/vendor.dovecot/pvt/%s "1")' % VALUE),
            (b"NO", b'SETMETADATA "" (/private/vendor/vendor.dovecot/pvt/%s "1")' % VALUE),
            # syntax
            (b"BAD", b'XMETASET "" (%s)' % NAME),
            (b"BAD", b'XMETASET "" (%s (%s))' % (NAME, VALUE)),
            (b"BAD", b'XMETASET "" %s' % pairs),
            (b"BAD", b'XMETASET (%s) "" (%s)' % (VALUE, pairs)),
            (b"BAD", b'SETMETADATA "" (%s)' % NAME),
            (b"BAD", b'SETMETADATA "" (%s (%s))' % (NAME, VALUE)),
            (b"BAD", b'GETMETADATA (%s) "" (%s)' % (VALUE, NAME)),
            (b"BAD", b'GETMETADATA (MAXSIZE %s) "" (%s)' % (VALUE, NAME)),
            (b"BAD", b'XMETASYNC (%s) "" (%s)' % (VALUE, NAME)),
            (b"BAD", b'XMETASYNC "" (%s "")' % NAME),
            # mailboxes
            (b"NO", b"XMETASET Nowhere (%s)" % pairs),
            (b"NO", b"SETMETADATA Nowhere (%s)" % pairs),
            (b"NO", b"GETMETADATA Nowhere (%s)" % NAME),
            (b"NO", b"XMETASYNC Nowhere (%s)" % NAME),
            # too much
            (b"NO", b'XMETASET "" (%s "%s")' % (NAME, large)),
            (b"NO", b'XMETASET "" (%s {%d}' % (NAME, 10000)),
            (b"NO", b'XMETASET "" (%s {%d+}\r\n%s)' % (NAME, len(large * 10), large * 10)),
            (b"NO", b'SETMETADATA "" (%s {%d+}\r\n%s)' % (NAME, len(large), large)),
            (b"NO", b'XMETASET "" (%s)' % b" ".join(b'%s/%d "%s"' % (NAME, i, VALUE) for i in range(9))),
            (b"NO", b'SETMETADATA "" (%s)' % b" ".join(b'%s/%d "%s"' % (NAME, i, VALUE) for i in range(9))),
            # removals
            (b"OK", b'XMETASET "" (%s/a NIL)' % NAME),
            (b"OK", b'SETMETADATA INBOX (%s NIL)' % NAME)):
        assert last(c, command).startswith(b"T " + answer), command
        assert last(c, b"NOOP").startswith(b"T OK")
    while w.state:
        w.until("marker")
    # a line that is not DONE
    d.send(b"%s %s {5+}\r\nabcde %s\r\n" % (NAME, VALUE, NAME))
    w.until("end")
    assert w.log[-1].startswith(w.tag + b" BAD ")
    d.logout()
    ends(talkative, c, "u1")
    # connections that end in the middle; there SETMETADATA leaks memory, stock Dovecot's, too
    for command in (b'XMETASET "" (%s {100+}\r\n%s' % (NAME, VALUE), b'GETMETADATA "" (%s' % NAME,
                    b'XMETASYNC "" (%s' % NAME, b'XMETASYNC "" (%s)\r\n' % NAME) + (
                    () if talkative.wrapper else (b'SETMETADATA "" (%s {100+}\r\n%s' % (NAME, VALUE),)):
        c = talkative.login("u1")
        c.send(b"x " + command)
        c.close()
    talkative.await_no_session("u1")
    assert_silent(talkative, 6 if talkative.wrapper else 7)


def test_keys(make_server):
    """Neither keys nor their fingerprints, by which they are named."""
    server = make_server(extra=EVERYTHING, plugin={"metasync_busy_timeout": "100ms", "imap_xkey_retry": "1 ms",
                                                   "imap_xkey_max_devices": "2"})
    c, d = server.login("u1"), server.login("u1")
    a, b, e, other = make_keys(4)
    s = Sync(d, other.fpr)
    s.first()
    must_add(c, a, b)
    s.until([a, b])
    for text, reply in ((a.pem, b"NO max devices"), (b"x" + a.pem, b"NO invalid"), (a.pem.ljust(1025), b"BAD ")):
        assert add(c, text).startswith(reply)
    assert last(c, b"XKEYADD (%s)" % a.fpr).startswith(b"T BAD ")
    assert last(c, b"XKEYSYNC %s0" % a.fpr).startswith(b"T BAD ")
    remove(c, a)
    s.until([b])
    assert add(c, b.pem).startswith(b"NO duplicate")
    db = sqlite3.connect(stores.directory(server, "u1") + "/store.db", isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    assert add(c, e.pem).startswith(b"NO [UNAVAILABLE] ")
    db.execute("ROLLBACK")
    db.close()
    d.send(b"%s %s {5+}\r\nabcde %s\r\n" % (a.fpr, VALUE, a.fpr))
    assert tagged(d, s.tag).startswith(b"BAD ")
    # a connection that ends in the middle
    for command in (b"XKEYADD {300+}\r\n" + a.pem, b"XKEYSYNC " + a.fpr, b"XKEYSYNC " + a.fpr + b"\r\n"):
        x = server.login("u1")
        x.send(b"x " + command)
        x.close()
    d.logout()
    ends(server, c, "u1")
    server.stop()
    log = server.log()
    for event, count in (("imap_xkey_added", 2), ("imap_xkey_refused", 3), ("imap_xkey_sent", 5), ("imap_command_finished", 10)):
        assert log.count('{"event":"%s"' % event) >= count, event
    for reason in ("devices", "invalid", "duplicate"):
        assert '"reason":"%s"' % reason in log
    secrets = [key.fpr for key in (a, b, e, other)] + [line for key in (a, b, e) for line in key.pem.split(b"\n")[2:-2]]
    for secret in secrets:
        assert secret.decode() not in log
        assert secret[:16].decode() not in log


def test_broken_stores(talkative):
    commands = (b'XMETASET "" (%s "%s")' % (NAME, VALUE), b'XMETASYNC (ONCE) "" ' + NAME, b'GETMETADATA "" (%s)' % NAME,
                b'SETMETADATA "" (%s "%s")' % (NAME, VALUE), b"ENABLE METADATA", b"DELETE Work", b"RENAME Work Job")
    broken = {"garbage": stores.damaged("garbage"), "half": stores.damaged("truncated"),
              "pages": stores.damaged("pages"), "newer": stores.newer,
              "linked": stores.linked, "away": stores.not_writable}
    for user, make in broken.items():
        stores.prepare(talkative, user, make, [(NAME, b'"%s"' % VALUE)])
        c = talkative.login(user)
        for command in commands:
            last(c, command)
        ends(talkative, c, user)
    # another program that holds the store
    c = talkative.login("busy")
    put(c, [(NAME, b'"%s"' % VALUE), (NAME + b"/b", b'"%s"' % VALUE)])
    db = sqlite3.connect(stores.directory(talkative, "busy") + "/store.db", isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    for command in commands:
        last(c, command)
    db.execute("ROLLBACK")
    db.close()
    ends(talkative, c, "busy")
    for user in list(broken) + ["busy"]:
        await_log(talkative, r"imap\(%s\).*: Error: metasync: " % user)
    assert_silent(talkative, 2 * len(broken) + 1)


@plain_doveadm
def test_the_administrators_commands(talkative):
    """What doveadm says, too: through doveadm-server that goes to a log."""
    name, value = NAME.decode(), VALUE.decode()
    c = talkative.login("u1")
    put(c, [(NAME, b'"%s"' % VALUE)], b"INBOX")
    remote = ["-S", talkative.root + "/run/doveadm-server"]

    def doveadm(code, *args, **kwargs):
        for where in ([], remote) if args[0] == "metasync" else ([],):
            r = talkative.doveadm(*args[:2], *where, "-u", "u1", *args[2:], **kwargs)
            assert r.returncode == code, (args, r.returncode, r.stderr)
            assert WORD not in r.stderr.lower(), r.stderr
    doveadm(0, "metasync", "set", "", name, value)
    doveadm(0, "metasync", "get", "", name)
    doveadm(0, "metasync", "list")
    doveadm(0, "metasync", "export")
    doveadm(0, "metasync", "check")
    doveadm(65, "metasync", "set", "-c", "0", "", name, value)
    doveadm(65, "metasync", "set", "-c", "999", "", name, value)
    doveadm(65, "metasync", "set", "", name, value * 100)
    doveadm(68, "metasync", "get", "", name + "/none")
    doveadm(68, "metasync", "set", "Nowhere", name, value)
    for line in (value, '{"%s":"%s"}' % (name, value), '{"mailbox":"","entry":"%s","value":["%s"]}' % (name, value),
                 '{"mailbox":"","entry":"%s/*","value":"%s"}' % (name, value),
                 '{"mailbox":"","entry":"%s","base64":"%s"}' % (name, value + "!"),
                 '{"mailbox":"","entry":"%s","value":"%s"}' % (name, value * 100)):
        doveadm(65, "metasync", "import", "-", input=line)
    doveadm(0, "metasync", "import", "-", input='{"mailbox":"","entry":"%s","value":"%s"}' % (name, value))
    doveadm(0, "metasync", "unset", "", name)
    for args in (("mailbox", "metadata", "set", "-u", "u1", "-s", "", name, value),
                 ("mailbox", "metadata", "get", "-u", "u1", "-s", "", name),
                 ("mailbox", "metadata", "list", "-u", "u1", "-s", ""),
                 ("mailbox", "metadata", "unset", "-u", "u1", "-s", "", name),
                 ("sync", "-u", "u1", "doveadm", "-c", talkative.config, "dsync-server", "-u", "u2"),
                 ("mailbox", "rename", "-u", "u1", "INBOX", "Old"), ("mailbox", "delete", "-u", "u1", "Old")):
        talkative.doveadm(*args)
    ends(talkative, c, "u1")
    # a mailbox that another process deleted
    c = talkative.login("u2")
    assert last(c, b"CREATE Work").startswith(b"T OK")
    put(c, [(NAME, b'"%s"' % VALUE)], b"Work")
    ends(talkative, c, "u2")
    assert talkative.doveadm("-o", "mail_plugins=", "mailbox", "delete", "-u", "u2", "Work").returncode == 0
    c = talkative.login("u2")
    last(c, b'XMETASYNC (ONCE) "" /private')
    await_log(talkative, "renamed or deleted without the plugin: moved the entries of 0, removed those of 1")
    ends(talkative, c, "u2")
    assert_silent(talkative, 3)
