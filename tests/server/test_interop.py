"""Clients that know nothing of Dovetail: Python's imaplib and imapflow from npm. Both can catch up with
ONCE; both can be taught to wait where they keep the order of lines."""

import imaplib
import json
import os
import shutil
import subprocess

import pytest

from metasync import Watch, last, put

A = b"/private/vendor/test/a"
HERE = os.path.dirname(os.path.abspath(__file__))


# -- imaplib ---------------------------------------------------------------------------------------

@pytest.fixture
def library(server, user):
    imaplib.Commands.setdefault("XMETASYNC", ("AUTH", "SELECTED"))
    imaplib.Commands.setdefault("XMETASET", ("AUTH", "SELECTED"))
    imaplib.Commands.setdefault("SETMETADATA", ("AUTH", "SELECTED"))
    imaplib.Commands.setdefault("GETMETADATA", ("AUTH", "SELECTED"))
    m = imaplib.IMAP4("127.0.0.1", server.port)
    m.login(user, "pass")
    yield m
    m.logout()


def flat(parts):
    """imaplib gives literals as (head, literal) tuples; back to what was on the wire."""
    return b"".join(p[0] + b"\r\n" + p[1] if isinstance(p, tuple) else p for p in parts)


def test_imaplib_once(library, client, user):
    c = client(user)
    big = b"two\r\nlines"
    kind, data = library.capability()
    assert b"XMETASYNC" in data[0].split()
    kind, data = library.xatom("XMETASET", '""', '(%s "1")' % A.decode())
    assert kind == "OK"
    tag = c.start(b'XMETASET "" (/private/vendor/test/b {%d+}\r\n%s)' % (len(big), big))
    assert c.until(tag)[-1].line.startswith(tag + b" OK")
    kind, data = library.xatom("XMETASYNC", "(ONCE DEPTH infinity)", '""', "/private")
    assert kind == "OK" and data[0].startswith(b"XMETASYNC completed")
    kind, data = library.response("METADATA")
    assert flat(data) == b'"" (' + A + b' "1")"" (/private/vendor/test/b {10}\r\n' + big + b")"
    # the markers are response codes of untagged OK
    codes = library.untagged_responses.get("XMETASYNC")
    assert codes and codes[-1].startswith(b"(") and codes[-1].endswith(b")")
    mark = codes[-1].decode()
    library.untagged_responses.clear()
    put(c, [(A, b"NIL")])
    kind, data = library.xatom("XMETASYNC", "(ONCE DEPTH infinity SINCE %s)" % mark, '""', "/private")
    assert kind == "OK"
    assert flat(library.response("METADATA")[1]) == b'"" (' + A + b" NIL)"


def test_imaplib_conflict(library, client, user):
    c = client(user)
    put(c, [(A, b'"theirs"')])
    kind, data = library.xatom("XMETASET", "(UNCHANGEDSINCE 0)", '""', '(%s "mine")' % A.decode())
    assert kind == "NO" and data[0].startswith(b"[XMETASET MODIFIED (")
    assert flat(library.response("METADATA")[1]) == b'"" (' + A + b' "theirs")'


def test_imaplib_waits(library, client, user):
    """With its own socket's lines in order: the continuation, a push, DONE."""
    c = client(user)
    tag = library._new_tag()
    library.send(tag + b' XMETASYNC (DEPTH infinity) "" /private\r\n')
    lines = []
    while not lines or lines[-1] != b"+ idling":
        lines.append(library.readline().rstrip(b"\r\n"))
    pos = put(c, [(A, b'"live"')])
    assert library.readline() == b'* METADATA "" (%s "live")\r\n' % A
    assert library.readline().startswith(b"* OK [XMETASYNC (%d %d " % pos)
    library.send(b"DONE\r\n")
    assert library.readline().startswith(tag + b" OK XMETASYNC completed")
    assert library.noop()[0] == "OK"


def test_imaplib_metadata(library, client, user):
    """Stock METADATA beside XMETASYNC, both directions, each change exactly once."""
    w = Watch(client(user), b'"" /private').catch_up()
    assert library.enable("METADATA")[0] == "OK"
    for i in range(20):
        before = len(w.entries())
        assert library.xatom("SETMETADATA", '""', '(%s "%d")' % (A.decode(), 2 * i))[0] == "OK"
        w.until("marker")
        assert w.entries()[before:] == [b'* METADATA "" (%s "%d")' % (A, 2 * i)]
        # its own change
        library.noop()
        assert library.response("METADATA")[1] == [None]
        # the other way
        put(client(user), [(A, b'"%d"' % (2 * i + 1))])
        w.until("marker")
        library.noop()
        assert library.response("METADATA")[1] == [b'"" ' + A]
        assert library.xatom("GETMETADATA", '""', A.decode())[0] == "OK"
        assert flat(library.response("METADATA")[1]) == b'"" (%s {%d}\r\n%d)' % (A, len(str(2 * i + 1)), 2 * i + 1)
    w.done()


# -- imapflow --------------------------------------------------------------------------------------

def node_modules():
    path = os.environ.get("DOVETAIL_NODE_MODULES", "")
    return path if os.path.isdir(os.path.join(path, "imapflow")) else None


@pytest.mark.skipif(shutil.which("node") is None or node_modules() is None,
                    reason="imapflow is not installed (npm's registry could not be reached)")
def test_imapflow(server, client, user):
    c = client(user)
    put(c, [(A, b'"1"'), (b"/private/vendor/test/b", b"{10+}\r\ntwo\r\nlines")])
    result = subprocess.run(
        ["node", os.path.join(HERE, "imapflow.js"), str(server.port), user],
        env=dict(os.environ, NODE_PATH=node_modules()), stdout=subprocess.PIPE, timeout=60)
    assert result.returncode == 0
    told = json.loads(result.stdout)
    assert told["first"] == [[A.decode(), "1"], ["/private/vendor/test/b", "two\r\nlines"]]
    assert told["second"] == [[A.decode(), "2"]]
    assert told["conflict"] == "NO"
    # what it wrote is there
    w = Watch(c, b'"" /private').catch_up().done()
    assert w.state[(b"", A)] == b"2"
    assert last(c, b"NOOP").startswith(b"T OK")
