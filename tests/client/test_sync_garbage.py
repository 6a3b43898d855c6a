"""Servers that do not keep to the protocol. None of them may crash, hang or grow the client, nor change what it has
but by a consistent state."""

import os
import threading

import pytest

from drive import Driver
from harness.imap import PATIENCE
from script import MARK, Connection, Script, literal
from syncing import A, B, C, ROOT, settled

# a client that has all of a reasonable account in memory is far above this;
# more where something looks at each octet of memory
PEAK_KIB = 64 * 1024 * (8 if os.environ.get("DOVETAIL_WRAPPER") == "asan" else 1)


@pytest.fixture
def driver():
    with Driver() as d:
        d.open()
        yield d
        assert d("memory")["peak_kib"] < PEAK_KIB * (8 if d.valgrind else 1)


def entry(name, value=b'"x"', mailbox=b'""'):
    return b"* METADATA %s (%s %s)\r\n" % (mailbox, name.encode(), value)


def marker(mark):
    return b"* OK [XMETASYNC %s] Consistent.\r\n" % mark


def after_capability(data):
    def serve(connection: Connection):
        connection.capability()
        connection.sync(data, mark=None)
        connection.rest()
    return serve


def instead_of_capability(data):
    def serve(connection):
        tag, _ = connection.command(b"CAPABILITY")
        connection.send(data.replace(b"TAG", tag))
    return serve


def endless(first, again):
    def serve(connection):
        connection.capability()
        connection.sync(first, mark=None)
        n = 0
        while True:
            connection.send(again(n))
            n += 1
    return serve


def many_entries(n):
    return b"".join(entry("%s/%d" % (ROOT, i)) for i in range(n * 1000, n * 1000 + 1000))


def answer(data):
    """To XMETASYNC."""
    def serve(connection):
        connection.capability()
        tag, _ = connection.command(b"XMETASYNC")
        connection.send(tag + data)
        connection.rest()
    return serve


BAD = {
    "closes": (lambda c: None, "network"),
    "garbage": (instead_of_capability(bytes(range(256)) * 100), "protocol"),
    "half a line": (instead_of_capability(b"* CAPABI"), "network"),
    "NUL": (instead_of_capability(b"* OK a\0b\r\n"), "protocol"),
    "LF only": (instead_of_capability(b"* OK a\n"), "protocol"),
    "CAPABILITY refused": (instead_of_capability(b"TAG BAD What?\r\n"), "protocol"),
    "nothing of METADATA": (lambda c: c.capability(b"IDLE"), "unsupported"),
    "BYE": (after_capability(b"* BYE Enough.\r\n"), "network"),
    "BAD": (answer(b" BAD What?\r\n"), "protocol"),
    "NOPERM": (answer(b" NO [NOPERM] No.\r\n"), "refused"),
    "UNAVAILABLE": (answer(b" NO [UNAVAILABLE] Later.\r\n"), "network"),
    "NO": (answer(b" NO Whatever.\r\n"), "network"),
    "OK at once": (answer(b" OK XMETASYNC completed.\r\n"), "protocol"),
    "another tag": (after_capability(b"zz9 OK Done.\r\n"), "protocol"),
    "wants something": (after_capability(b"+ go on\r\n"), "protocol"),
    "endless line": (endless(b"* OK ", lambda n: b"x" * 10000), "protocol"),
    "endless name": (endless(b'* METADATA "" (/private/', lambda n: b"x" * 10000), "protocol"),
    "endless entries": (endless(b"", many_entries), "limit"),
    "endless entries in a response": (endless(b'* METADATA "" (', lambda n: b"".join(
        b"%s/%d NIL " % (ROOT.encode(), i) for i in range(1000))), "limit"),
    "endless names": (endless(b"", lambda n: b'* METADATA "" /private/x\r\n' * 1000), "limit"),
    "endless literal": (endless(b'* METADATA "" (%s {99999999999}\r\n' % A.encode(), lambda n: b"x" * 65536), "limit"),
    "endless RESET": (endless(b"", lambda n: entry(A) + b"* OK [XMETASYNC RESET] Again.\r\n" + entry(A) * 50),
                      "protocol"),
    "huge literal": (after_capability(b'* METADATA "" (%s {99999999999999999999}\r\n' % A.encode()), "protocol"),
    "unbalanced": (after_capability(b'* METADATA "" (%s "x" %s)\r\n' % (A.encode(), B.encode())), "protocol"),
    "silence": (lambda c: (c.capability(), c.rest()), "network"),
    "silence at once": (lambda c: c.rest(), "network"),
}
MARKS = [b"(0 1 a)", b"(1 99999999999999999999 a)", b"(4294967296 1 a)", b"(1 -1 a)", b"(1 9223372036854775808 a)",
         b"(1 1)", b"()", b"(1 1 xyz)", b"(1 1 0123456789abcdef0)", b"(1 1 a", b"1 1 a", b"(1  1 a)", b"PARTIAL",
         b"PARTIAL (1 1)", b"what"]
for each in MARKS:
    BAD["mark " + each.decode()] = after_capability(entry(A) + marker(each)), "protocol"


@pytest.mark.parametrize("case", BAD)
def test_bad(driver, case):
    serve, status = BAD[case]
    options = {"max_entries": 20000, "max_bytes": 20000000}
    if "silence" in case:
        options["timeout"] = 400
    with Script(serve) as script:
        got = driver.once("r", script.port, "u", status=None, **options)
        assert got["reply"] == status, got
        assert got["text"]
        if status == "limit":
            assert ("octets" if "literal" in case else "entries") in got["text"]
        assert driver.list() == {}
        # the same live: it ends, or tries again
        driver.sync("r", script.port, "u", max_backoff=10, **options)
        if status in ("network", "protocol") and case not in ("BAD",):
            before = script.count
            driver.state("offline", status=status)
            driver.state("offline", status=status)
            assert script.count > before
        else:
            assert driver.wait("ended")["status"] == status
        driver("free", "r")
    assert driver.list() == {}


def states(*answers):
    """A connection for each: what XMETASYNC is answered with."""
    left = list(answers)

    def serve(connection):
        connection.capability()
        connection.sync(*left.pop(0))
        connection.rest()
    return serve


@pytest.mark.parametrize("mark", [b"(8 4 0123456789abcdef)", b"(7 2 0123456789abcdef)"])
def test_position_that_does_not_follow(driver, mark):
    """Another epoch without RESET, or an earlier position: changes are missing, so it is not believed."""
    with Script(states((entry(A),), (entry(B), mark), (entry(C), b"(7 4 0123456789abcdef)"))) as script:
        driver.once("r", script.port, "u")
        driver.once("r", script.port, "u", status="protocol")
        assert driver.list() == {("", A): b"x"}
        driver.once("r", script.port, "u")
        assert driver.list() == {("", A): b"x", ("", C): b"x"}


def test_ignored(driver):
    """What was not asked for, or has no valid name; what is left of the login."""
    strange = [entry("/private/vendor/other"), entry(ROOT + "x"), entry("/private"), entry("/private//x"),
               entry(A, b'"x"', b"INBOX"), entry(A, b'"x"', b'"&broken"'), entry(A, b'"x"', b'"\xff"'), entry(A + "/*"),
               entry('""'), entry(A + "/" + "x" * 1100),
               b"* 5 EXISTS\r\n* FLAGS (a b)\r\n* SOMETHING {3}\r\na\r\n more\r\n", b"* OK [ALERT] Hello.\r\n",
               b"* NO [XMETASYNC (1 1 a)] no marker\r\n", b"* OK Still here\r\n", entry(A.upper(), b'"kept"')]

    def serve(connection):
        connection.capability(before=b"old OK Logged in.\r\n+ what\r\n* OK [XMETASYNC (1 1 a)] x\r\n" +
                              entry(A, b'"old"') + b"* CAPABILITY IMAP4rev1\r\n")
        connection.sync(b"".join(strange))
        connection.rest()
    with Script(serve) as script:
        driver.once("r", script.port, "u")
    assert driver.list() == {("", A): b"kept"}


def test_progress_within_a_value(driver):
    """A large value on a slow line is seen to come."""
    seen = threading.Event()

    def serve(connection):
        connection.capability()
        connection.sync(entry(A, b"{1000000}\r\n")[:-3] + b"x" * 600000, mark=None)
        assert seen.wait(PATIENCE)
        connection.send(b"x" * 400000 + b")\r\n" + marker(MARK) + b"+ idling\r\n")
        connection.rest()
    with Script(serve) as script:
        driver.sync("r", script.port, "u")
        while driver.wait("progress")["bytes"] < 600000:
            pass
        seen.set()
        driver.state("live")


def test_newest_of_many(driver):
    lines = b"".join(entry(A, b'"%d"' % n) for n in range(1000)) + entry(B) + entry(B, b"NIL")
    with Script(states((lines,))) as script:
        driver.once("r", script.port, "u")
    assert driver.list() == {("", A): b"999"}
    assert len(driver.seen("change")) == 1


@pytest.mark.parametrize("live", [False, True])
def test_partial(driver, live):
    """A snapshot that is cut is resumed from its last PARTIAL mark; what came after that is dropped, by the same
    sync and by the next one."""
    lines = []
    snapshot = entry(A) + entry(B) + b"* OK [XMETASYNC PARTIAL (7 2 0123456789abcdef)] Go on.\r\n" + entry(C, b'"lost"')

    def serve(connection):
        connection.capability()
        if not lines:
            lines.append(connection.sync(snapshot, mark=None))
            return
        lines.append(connection.sync(entry(B, b"NIL")))
        connection.rest()
    with Script(serve) as script:
        if live:
            driver.sync("r", script.port, "u", max_backoff=10)
            driver.state("offline")
            assert driver.list() == {}
            driver.state("live")
        else:
            driver.once("r", script.port, "u", status="network")
            assert driver.list() == {}
            driver.once("r", script.port, "u")
        assert driver.list() == {("", A): b"x"}
        assert b"SINCE" not in lines[0] and b"SINCE (7 2 0123456789abcdef)" in lines[1]
        if live:
            driver("free", "r")


# -- writes

def writes(*answers, capability=b"LITERAL+ XMETASYNC", seen=None):
    """A server on which each XMETASET gets the next answer, the last one for ever. seen: what was sent."""
    left = list(answers)

    def serve(connection):
        connection.capability(capability)
        while True:
            connection.sync()
            connection.done()
            tag, line = connection.command(b"XMETASET")
            size = literal(line)
            while size:
                if size[1]:
                    connection.send(b"+ OK\r\n")
                data = connection.octets(size[0])
                rest = connection.line()
                line += b"\r\n" + data + rest
                size = literal(rest)
            if seen is not None:
                seen.append(line)
            connection.send((left.pop(0) if len(left) > 1 else left[0]).replace(b"TAG", tag))
    return serve


OK = b"TAG OK [XMETASET (7 4)] Done.\r\n"
MODIFIED = entry(A, b'"theirs"') + b"TAG NO [XMETASET MODIFIED (7 3)] Others.\r\n"


def test_writes_that_pass(driver):
    """UNAVAILABLE and the like: again later, and told."""
    with Script(writes(b"TAG NO [UNAVAILABLE] Busy.\r\n", b"TAG NO Internal.\r\n", OK)) as script:
        driver.set("r", ("", A, b"mine"))
        assert "Busy" in driver.once("r", script.port, "u", status="refused")["text"]
        driver.sync("r", script.port, "u", max_backoff=20)
        assert driver.state("live", status="refused")["text"] == "Internal."
        settled(driver)
        assert script.count == 2
        assert driver.refused() == []


@pytest.mark.parametrize("code", [b"NOPERM", b"OVERQUOTA", b"METADATA MAXSIZE 5", b"METADATA TOOMANY", b"NONEXISTENT",
                                  b"CANNOT", b"LIMIT", b"TOOBIG", None])
def test_writes_that_are_refused(driver, code):
    refusal = b"TAG BAD What?\r\n" if code is None else b"TAG NO [%s] No.\r\n" % code
    with Script(writes(refusal)) as script:
        driver.set("r", ("", A, b"mine"))
        driver.once("r", script.port, "u")
        assert [(e["name"], e["value"]) for e in driver.refused()] == [(A, b"mine")]
        assert (code or b"What?").decode() in driver.refused()[0]["reason"]
        assert driver("counts", "r")["pending"] == 0


@pytest.mark.parametrize("wrong", [b"TAG OK Done.\r\n", b"TAG OK [XMETASET (0 1)] Done.\r\n",
                                   b"TAG OK [XMETASET (7 4 a)] Done.\r\n",
                                   b"TAG NO [XMETASET MODIFIED ()] Others.\r\n", b"other OK [XMETASET (7 4)] Done.\r\n",
                                   b"+ what\r\n", b"* OK [XMETASYNC (7 9 a)] here?\r\n"])
def test_write_whose_answer_is_none(driver, wrong):
    """It stays in the queue, and is sent again."""
    with Script(writes(wrong, OK)) as script:
        driver.set("r", ("", A, b"mine"))
        driver.once("r", script.port, "u", status="protocol")
        assert driver("counts", "r")["pending"]
        driver.once("r", script.port, "u")
        assert driver("counts", "r")["pending"] == 0


@pytest.mark.parametrize("always", [MODIFIED, b"TAG NO [XMETASET RESET] Sync first.\r\n"])
def test_never_lets_a_write_through(driver, always):
    """No endless loop at full speed: once gives up, live waits longer and longer."""
    seen = []
    with Script(writes(always, seen=seen)) as script:
        driver.set("r", ("", A, b"mine"))
        assert driver.once("r", script.port, "u", status="refused", rule="mine")["text"]
        assert len(seen) <= 5
        driver.sync("r", script.port, "u", rule="mine")
        driver.state("live", status="refused")
        assert len(seen) <= 10
        assert driver("counts", "r")["pending"]


def test_modified_shows_strange_things(driver):
    """Entries that are not in the set, one twice, none of those that are."""
    strange = (entry(B, b'"not asked"') + entry(A, b'"1"') + entry(A, b'"2"') + entry("/private/x") +
               entry(A, b"NIL", b"Box"))
    with Script(writes(strange + b"TAG NO [XMETASET MODIFIED (7 3)] Others.\r\n",
                       b"TAG NO [XMETASET MODIFIED (7 3)] None.\r\n",
                       OK)) as script:
        driver.set("r", ("", A, b"mine"))
        driver.once("r", script.port, "u")
        assert driver("counts", "r")["pending"] == 0
        assert driver.list() == {("", A): b"mine"}


def test_modified_shows_large_things(driver):
    """What others have written in place of a set is not collected until its answer comes."""
    names = ["%s/m%d" % (ROOT, n) for n in range(8)]
    large = b"~{%d}\r\n%s" % (15 << 20, b"x" * (15 << 20))
    with Script(writes(b"".join(entry(name, large) for name in names) + b"TAG NO [XMETASET MODIFIED (7 3)] Others.\r\n",
                       OK)) as script:
        driver.set("r", *[("", name, b"mine") for name in names])
        driver.once("r", script.port, "u")
        assert driver("counts", "r")["pending"] == 0


@pytest.mark.parametrize("capability, waits", [(b"XMETASYNC", b"{5000}"), (b"XMETASYNC LITERAL-", b"{5000}"),
                                               (b"XMETASYNC LITERAL+", b"{5000+}")])
def test_literals(driver, capability, waits):
    seen = []
    with Script(writes(OK, capability=capability, seen=seen)) as script:
        driver.set("r", ("", A, b"x" * 5000), ("", B, b"a\0b"), ("", C, b'"quo\\ted"'))
        driver.once("r", script.port, "u")
    assert waits in seen[0] and b"x" * 5000 in seen[0] and b"~{3" in seen[0] and b'"\\"quo\\\\ted\\""' in seen[0]


def test_literal_refused_before_it_is_sent(driver):
    """NO in place of "+": the value is not sent, and the next command goes on."""
    def serve(connection):
        connection.capability(b"XMETASYNC")
        connection.sync()
        connection.done()
        tag, line = connection.command(b"XMETASET")
        assert literal(line) == (5000, True)
        connection.send(tag + b" NO [METADATA MAXSIZE 4999] Too large.\r\n")
        connection.sync()
        connection.rest()
    with Script(serve) as script:
        driver.set("r", ("", A, b"x" * 5000))
        driver.once("r", script.port, "u")
        assert [e["name"] for e in driver.refused()] == [A]


# -- without XMETASYNC

def polling(*answers):
    left = list(answers)

    def serve(connection):
        connection.capability(b"METADATA LITERAL+")
        while True:
            tag, _ = connection.line().split(b" ", 1)
            connection.send(left.pop(0).replace(b"TAG", tag) if left else tag + b" OK Done.\r\n")
    return serve


@pytest.mark.parametrize("reply, status", [(b"TAG NO [UNAVAILABLE] Later.\r\n", "network"),
                                           (b"TAG NO Whatever.\r\n", "network"),
                                           (b"TAG BAD What?\r\n", "protocol"), (b"* BYE Enough.\r\n", "network"),
                                           (b"* OK [XMETASYNC (1 1 a)] x\r\nTAG OK Done.\r\n", "ok"),
                                           (b"* LIST () NIL\r\n", "protocol"), (b"+ what\r\n", "protocol")])
def test_polling(driver, reply, status):
    """A NO does not mean that everything is gone."""
    with Script(polling(entry(A) + b"TAG OK Done.\r\n", b"", reply)) as script:
        driver.once("r", script.port, "u")
        script.serve = polling(reply)
        driver.once("r", script.port, "u", status=status)
        assert driver.list() == ({} if status == "ok" else {("", A): b"x"})


def test_a_write_that_cannot_be_compared_waits(driver):
    """What others have is looked at before it is written over; without an answer nothing is written."""
    asked = []

    def serve(connection):
        connection.capability(b"METADATA LITERAL+")
        while True:
            tag, word = connection.line().split(b" ", 2)[:2]
            asked.append(word)
            connection.send(tag + (b" NO [UNAVAILABLE] Later.\r\n" if len(asked) == 2 else b" OK Done.\r\n"))
    driver.set("r", ("", A, b"mine"))
    with Script(serve) as script:
        assert "refuses to read" in driver.once("r", script.port, "u", status="network")["text"]
        assert asked == [b"GETMETADATA", b"GETMETADATA"]
        assert driver("counts", "r")["pending"] == 1
        driver.once("r", script.port, "u")
        assert asked[2:5] == [b"GETMETADATA", b"GETMETADATA", b"SETMETADATA"]
        assert driver("counts", "r")["pending"] == 0


def test_lists_without_end(driver):
    def serve(connection):
        connection.capability(b"METADATA LITERAL+")
        connection.command(b"LIST")
        n = 0
        while True:
            connection.send(b"".join(b'* LIST () "/" "box %d"\r\n' % i for i in range(n, n + 1000)))
            n += 1000
    driver("parts", "r", "personal", "", ROOT)
    with Script(serve) as script:
        assert "mailboxes" in driver.once("r", script.port, "u", status="limit")["text"]


@pytest.mark.valgrind
def test_under_valgrind():
    cases = ["garbage", "another tag", "endless entries", "endless literal", "unbalanced", "BYE", "mark (1 1)"]
    with Driver(valgrind=True) as driver:
        driver.open()
        driver.set("r", ("", A, b"mine"))
        for case in cases:
            with Script(BAD[case][0]) as script:
                driver.once("r", script.port, "u", status=BAD[case][1], max_entries=2000, max_bytes=2000000)
        for reply in (MODIFIED, b"TAG NO [XMETASET RESET] x\r\n", b"TAG OK Done.\r\n", b"TAG NO [NOPERM] x\r\n"):
            with Script(writes(reply)) as script:
                driver.once("r", script.port, "u", status=None)
