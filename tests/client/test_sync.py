"""libdovetail's sync against a real Dovecot: what is on one device comes to the other, whatever happens in between."""

import os
import re

import pytest

from drive import NOT_HERE, PENDING, Driver
from harness.imap import PATIENCE
from syncing import A, ALL, B, C, LARGE, ROOT, live, settled

# -- what comes

def test_first_sync(driver, server, user, other):
    other.put((A, b"one"), (B, ALL), (C, b""))
    driver.open()
    driver.once("r", server, user)
    assert driver.list() == {("", A): b"one", ("", B): ALL, ("", C): b""}
    assert [e["reset"] for e in driver.seen("consistent")] == [False]
    assert {e["name"] for e in driver.seen("change")} == {A, B, C}
    assert not driver.seen("notice")


def test_progress(driver, server, user, other):
    """A long catch-up is told bit by bit: what has come in this connection, and what is still to be sent."""
    for n in range(5):
        other.put(*(("%s/%d/%d" % (ROOT, n, i), LARGE[:8000]) for i in range(100)))
    driver.open()
    driver.set("r", ("", A, b"mine"))
    driver.once("r", server, user)
    told = [(e["bytes"], e["entries"]) for e in driver.seen("progress")]
    assert len(told) > 5 and told == sorted(told)
    # 256 KiB are read at a time
    assert told[0][1] < 100 and told[-1][1] == 500 and 500 * 8000 < told[-1][0] < 500 * 9000
    assert driver.seen("progress")[0]["writes"] == 1
    driver.log.clear()
    driver.once("r", server, user)
    assert not driver.seen("progress"), "nothing has come"


def test_nothing_there(driver, server, user):
    driver.open()
    driver.once("r", server, user)
    assert driver.list() == {}
    assert driver("counts", "r")["modseq"] != "0" or driver.seen("consistent")


def test_resume_from_bookmark(driver, server, user, other):
    other.put((A, b"one"), (B, b"two"))
    driver.open()
    driver.once("r", server, user)
    other.put((B, None), (C, b"three"))
    before = len(driver.log)
    driver.once("r", server, user)
    changes = [e for e in driver.log[before:] if e.get("event") == "change"]
    assert [(e["name"], e["value"]) for e in changes] == [(B, None), (C, b"three")]
    assert driver.list() == {("", A): b"one", ("", C): b"three"}
    assert not driver.seen("notice")


def test_push(driver, server, user, other):
    driver.open()
    live(driver, "r", server, user)
    other.put((A, ALL))
    assert driver.wait("change")["value"] == ALL
    driver.wait("consistent")
    assert driver.get("r", "", A) == ALL
    other.put((A, LARGE))
    assert driver.wait("change")["value"] == LARGE
    other.put((A, None))
    assert driver.wait("change")["value"] is None
    driver.wait("consistent")
    assert driver.get("r", "", A) is None


def test_sets_are_whole(driver, server, user, other):
    driver.open()
    live(driver, "r", server, user)
    other.put((A, b"1"), (B, b"1"), (C, b"1"))
    for _ in range(3):
        assert driver.wait("change")["value"] == b"1"
    driver.wait("consistent")
    between = driver.log[-4:]
    assert [e["event"] for e in between] == ["change"] * 3 + ["consistent"]


def test_two_replicas(driver, server, user):
    driver.open("a")
    driver.open("b")
    live(driver, "a", server, user)
    live(driver, "b", server, user)
    for name, to in (("a", "b"), ("b", "a")):
        driver.set(name, ("", "%s/by-%s" % (ROOT, name), ALL))
        assert driver.wait("change", replica=to)["value"] == ALL
        driver.wait("consistent", replica=to)
    assert driver.list("a") == driver.list("b")
    # own writes are not told
    assert {e["name"] for e in driver.seen("change", replica="a")} == {ROOT + "/by-b"}


def test_descriptors_are_for_nobody_else(driver, server, user):
    """What the caller starts at any time inherits neither the connection nor the replica. (libcurl has a pair of sockets to
    wake itself, which leads nowhere.)"""
    driver.open()
    live(driver, "r", server, user)
    folder = "/proc/%d/fd/" % driver.process.pid
    with open("/proc/net/unix") as f:
        pairs = {"socket:[%s]" % line.split()[6] for line in f}
    ours = [fd for fd in os.listdir(folder) if int(fd) > 2 and os.readlink(folder + fd) not in pairs]
    assert len(ours) > 5
    for fd in ours:
        with open("/proc/%d/fdinfo/%s" % (driver.process.pid, fd)) as f:
            flags = int(re.search(r"^flags:\s*([0-7]+)$", f.read(), re.M).group(1), 8)
        assert flags & os.O_CLOEXEC, os.readlink(folder + fd)


# -- what goes

def test_own_writes(driver, server, user, other):
    driver.open()
    driver.set("r", ("", A, b"offline"))
    driver.set("r", ("", B, LARGE))
    assert driver("get", "r", "", A)["flags"] & PENDING
    driver.once("r", server, user)
    assert other.get(A) == b"offline" and other.get(B) == LARGE
    assert not driver("get", "r", "", A)["flags"] & PENDING
    live(driver, "r", server, user)
    driver.set("r", ("", A, None), ("", C, ALL))
    settled(driver)
    assert other.get(A) is None and other.get(C) == ALL
    assert not driver.seen("change")


def test_many_sets(driver, server, user, other):
    """More than one round, each entry in several of them."""
    driver.open()
    for n in range(3):
        driver("many", "r", "", "%s/m" % ROOT, 50, n)
    driver.set("r", ("", A, b"before"))
    driver.set("r", ("", A, b"1"), ("", B, b"1"))
    driver.set("r", ("", A, b"2"), ("", C, b"2"))
    driver.once("r", server, user)
    state = driver.list()
    assert len(state) == 53
    assert other.get(A) == b"2" and other.get(B) == b"1" and other.get(C) == b"2"
    assert other.get(ROOT + "/m49") == b"vv"
    driver.open("s")
    driver.once("s", server, user)
    assert driver.list("s") == state


def test_write_from_change(driver, server, user, other):
    driver.open()
    live(driver, "r", server, user)
    driver("write on change", "r", "", C)
    other.put((A, b"1"), (B, b"1"))
    assert driver.wait("written")["status"] == "ok"
    driver.wait("consistent")
    settled(driver)
    assert other.get(C) == b"written"
    assert driver.list() == {("", A): b"1", ("", B): b"1", ("", C): b"written"}


def test_write_by_another_process(driver, server, user, other):
    """One that syncs notices what others write into its replica."""
    driver.open()
    live(driver, "r", server, user)
    with Driver(driver.directory) as second:
        second.open(parts=())
        second.set("r", ("", A, b"second"))
        assert second.once("r", server, user, status=None)["reply"] == "busy"
        driver.wait("consistent")
        settled(driver)
    assert other.get(A) == b"second"


def test_parts_by_another_process(driver, server, user, other):
    """One that syncs asks for what others have set, at once, on the same connection; what waits goes after it."""
    beside = "/private/vendor/u/a"
    other.put((A, b"1"), (beside, b"2"))
    driver.open()
    live(driver, "r", server, user)
    with Driver(driver.directory) as second:
        second.open(parts=[("mailbox", "", ROOT), ("mailbox", "", "/private/vendor/u")])
        second.set("r", ("", beside + "/b", b"3"))
        assert driver.wait("change")["name"] == beside
        driver.state("live")
        settled(driver)
        assert other.get(beside + "/b") == b"3"
        second("parts", "r", "mailbox", "", ROOT)
        driver.state("live")
        other.put((beside, b"4"), (A, b"4"))
        assert driver.wait("change")["name"] == A
        driver.wait("consistent")
        assert driver.list() == second.list() == {("", A): b"4"}
    driver("parts", "r", "mailbox", "", "/private/vendor/u")
    driver.wait("change", name=beside)
    driver.wait("consistent")
    assert {e["state"] for e in driver.seen("state")} == {"connecting", "syncing", "live"}
    assert not driver.seen("notice")


# -- conflicts

CONFLICTS = [("lines", b"1\n2\n3\n", b"1 mine\n2\n3\n", b"1\n2\n3 theirs\n", b"1 mine\n2\n3 theirs\n"),
             ("lines", b"base\n", b"mine\n", b"theirs\n", b"mine\n"),
             ("server", b"base", b"mine", b"theirs", b"theirs"),
             ("mine", b"base", b"mine", b"theirs", b"mine"),
             ("mine", b"base", None, b"theirs", None),
             ("server", b"base", b"mine", None, None),
             ("lines", None, b"mine", b"theirs", b"mine"),
             ("json", b'{"a": 1, "b": 1}', b'{"a": 2, "b": 1}', b'{"a": 1, "b": 3}', {"a": 2, "b": 3})]


@pytest.mark.parametrize("rule, base, mine, theirs, result", CONFLICTS)
def test_conflict(driver, server, user, other, rule, base, mine, theirs, result):
    import json
    if base is not None:
        other.put((A, base))
    driver.open()
    driver.once("r", server, user, rule=rule)
    driver.set("r", ("", A, mine))
    other.put((A, theirs))
    driver.once("r", server, user, rule=rule)
    conflict = driver.wait("conflict")
    assert (conflict["base"], conflict["mine"], conflict["theirs"]) == (base, mine, theirs)
    value = other.get(A)
    assert driver.get("r", "", A) == value
    assert (json.loads(value) if isinstance(result, dict) else value) == result
    assert driver("counts", "r")["pending"] == 0


def test_conflict_by_callback(driver, server, user, other):
    driver.open()
    live(driver, "r", server, user)
    driver("rule", "r", "value", b"decided".hex())
    # at the same moment, over and over: some of these are conflicts
    for n in range(20):
        other.client.start(b'XMETASET "" (%s "theirs%d")' % (A.encode(), n))
        driver.set("r", ("", A, b"mine%d" % n))
        driver("counts", "r")
    settled(driver)
    other.client.command(b"NOOP")
    driver.set("r", ("", B, b"last"))
    settled(driver)
    assert other.get(A) == driver.get("r", "", A)
    assert other.get(B) == b"last"
    if driver.seen("conflict"):
        assert other.get(A) in (b"decided", b"theirs19") or other.get(A).startswith(b"mine")


def test_conflict_in_a_set(driver, server, user, other):
    """All of a set is sent again, with what was decided of the one that others have changed."""
    other.put((A, b"base"), (B, b"base"))
    driver.open()
    driver.once("r", server, user)
    driver.set("r", ("", A, b"mine"), ("", B, b"mine"))
    other.put((A, b"theirs"))
    driver("rule", "r", "value", b"both".hex())
    driver.once("r", server, user)
    assert [e["name"] for e in driver.seen("conflict")] == [A]
    assert other.get(A) == b"both" and other.get(B) == b"mine"


def test_same_change_is_no_conflict(driver, server, user, other):
    driver.open()
    driver.once("r", server, user)
    driver.set("r", ("", A, b"same"))
    other.put((A, b"same"))
    driver.once("r", server, user)
    assert not driver.seen("conflict")
    assert driver("counts", "r")["pending"] == 0


# -- RESET

def new_epoch(server, user):
    result = server.doveadm("metasync", "new-epoch", "-u", user)
    assert result.returncode == 0, result.stderr


def test_reset(driver, server, user, other):
    other.put((A, b"1"), (B, b"1"))
    driver.open()
    driver.once("r", server, user)
    new_epoch(server, user)
    other.put((B, None), (C, b"2"))
    before = len(driver.log)
    driver.once("r", server, user)
    log = driver.log[before:]
    assert [e["notice"] for e in log if e.get("event") == "notice"] == ["reset"]
    assert [e["reset"] for e in log if e.get("event") == "consistent"][-1] is True
    assert {(e["name"], e["value"]) for e in log if e.get("event") == "change"} == {(B, None), (C, b"2")}
    assert driver.list() == {("", A): b"1", ("", C): b"2"}


def test_reset_while_live(driver, server, user, other):
    other.put((A, b"1"))
    driver.open()
    live(driver, "r", server, user)
    new_epoch(server, user)
    driver.wait("notice", notice="reset")
    driver.wait("consistent", reset=True)
    driver.state("live")
    other.put((A, b"2"))
    assert driver.wait("change")["value"] == b"2"
    driver.set("r", ("", B, b"mine"))
    settled(driver)
    assert other.get(B) == b"mine"


def test_reset_keeps_local_writes(driver, server, user, other):
    other.put((A, b"1\n2\n3\n"), (B, b"1"))
    driver.open()
    driver.once("r", server, user)
    driver.set("r", ("", A, b"1 mine\n2\n3\n"))
    driver.set("r", ("", B, b"mine"))
    driver.set("r", ("", C, b"mine"))
    new_epoch(server, user)
    other.put((A, b"1\n2\n3 theirs\n"))
    driver.once("r", server, user)
    assert [e["name"] for e in driver.seen("conflict")] == [A]
    expected = {("", A): b"1 mine\n2\n3 theirs\n", ("", B): b"mine", ("", C): b"mine"}
    assert driver.list() == expected
    assert {("", e): other.get(e) for e in (A, B, C)} == expected


def test_mass_removal(driver, server, user, other):
    other.put(*((ROOT + "/m%d" % n, b"x") for n in range(20)))
    driver.open()
    driver.once("r", server, user)
    state = driver.list()
    other.put(*((ROOT + "/m%d" % n, None) for n in range(19)))
    new_epoch(server, user)
    driver.once("r", server, user, status="mass removal", max_removals=18)
    assert driver.state("failed")["status"] == "mass removal"
    assert driver.list() == state
    driver.sync("r", server, user, max_removals=18)
    assert driver.wait("ended")["status"] == "mass removal"
    assert driver.list() == state
    driver.once("r", server, user, max_removals=19)
    assert len(driver.list()) == 1


# -- mailboxes

def mailbox(other, *names):
    for name in names:
        assert b" OK " in other.client.command(b"CREATE " + name)[-1].line


def test_mailboxes(driver, server, user, other):
    """Named, PERSONAL, SUBTREE; names in UTF-8; renamed, deleted."""
    mailbox(other, b"Work", b"Work/Sub", b'"Entw&APw-rfe"', b'"A &- B"')
    driver.open("named", [("mailbox", "Entwürfe", ROOT), ("mailbox", "", ROOT)])
    driver.open("all", [("personal", "", ROOT)])
    driver.open("work", [("subtree", "Work", ROOT)])
    for box in (b'""', b"INBOX", b"Work", b"Work/Sub", b'"Entw&APw-rfe"', b'"A &- B"'):
        other.put((A, box), mailbox=box)
    names = ("named", "all", "work")
    for name in names:
        live(driver, name, server, user)
    assert driver.list("named") == {("", A): b'""', ("Entwürfe", A): b'"Entw&APw-rfe"'}
    assert set(driver.list("all")) == {(m, A) for m in ("INBOX", "Work", "Work/Sub", "Entwürfe", "A & B")}
    assert set(driver.list("work")) == {("Work", A), ("Work/Sub", A)}

    driver.set("all", ("Entwürfe", B, "ü".encode()), ("A & B", B, b"&"))
    assert driver.wait("change", replica="named", mailbox="Entwürfe")["value"] == "ü".encode()
    settled(driver, "all")
    assert other.get(B, b'"A &- B"') == b"&"

    other.client.command(b"RENAME Work Play")
    for _ in range(2):
        assert driver.wait("change", replica="work")["value"] is None
    assert driver.list("work") == {}
    while ("Play/Sub", A) not in driver.list("all"):
        driver.wait("consistent", replica="all")
    assert ("Work", A) not in driver.list("all")
    other.client.command(b'DELETE "Entw&APw-rfe"')
    driver.wait("change", replica="named", mailbox="Entwürfe", name=A, value=None)
    driver.wait("consistent", replica="named")
    assert driver.list("named") == {("", A): b'""'}


def test_no_such_mailbox(driver, server, user, other):
    """It is empty until it is made, at first and later."""
    driver.open(parts=[("mailbox", "Later", ROOT), ("mailbox", "", ROOT)])
    other.put((A, b"1"))
    driver.once("r", server, user)
    assert driver.list() == {("", A): b"1"}
    driver.open("s", parts=[("mailbox", "Later", ROOT)])
    for name in "rs":
        live(driver, name, server, user)
    mailbox(other, b"Later")
    other.put((B, b"2"), mailbox=b"Later")
    changes = [driver.wait("change") for _ in "rs"]
    assert [(e["mailbox"], e["value"]) for e in changes] == [("Later", b"2")] * 2
    assert not driver.seen("notice") and not any(e["reset"] for e in driver.seen("consistent"))


def test_mailbox_that_cannot_be(driver, server, user):
    driver.open(parts=[("mailbox", "~/x", ROOT)])
    answer = driver.once("r", server, user, status="refused")
    assert "refuses to synchronize: Invalid mailbox name" in answer["text"]


def test_write_to_a_mailbox_that_is_gone(driver, server, user, other):
    mailbox(other, b"Work")
    driver.open(parts=[("personal", "", ROOT)])
    driver.once("r", server, user)
    driver.set("r", ("Work", A, b"1"), ("INBOX", A, b"1"))
    driver.set("r", ("INBOX", B, b"2"))
    other.client.command(b"DELETE Work")
    driver.once("r", server, user)
    assert {(e["mailbox"], e["name"]) for e in driver.refused()} == {("Work", A), ("INBOX", A)}
    assert all("NONEXISTENT" in e["reason"] for e in driver.refused())
    assert {(e["mailbox"], e["name"]) for e in driver.seen("notice", notice="refused")} == {("Work", A), ("INBOX", A)}
    assert driver.list() == {("INBOX", B): b"2"}
    assert other.get(B, b"INBOX") == b"2"


# -- limits

def test_refused(driver, make_server, user):
    server = make_server(plugin={"metasync_limit_value": "1000", "metasync_limit_entries": "3"})
    driver.open()
    # before the server has said what it takes
    driver.set("r", ("", A, b"x" * 1001))
    live(driver, "r", server, user)
    notice = driver.wait("notice", notice="refused")
    assert (notice["name"], "MAXSIZE 1000" in notice["text"]) == (A, True)
    assert driver.get("r", "", A) is None
    assert driver.refused()[0]["value"] == b"x" * 1001
    for name in "abc":
        driver.set("r", ("", ROOT + "/" + name, b"x"))
        settled(driver)
    assert not driver.refused(), "written again, it is not refused any more"
    driver.set("r", ("", ROOT + "/d", b"x"))
    assert "TOOMANY" in driver.wait("notice", notice="refused")["text"]
    assert driver("counts", "r")["refused"] == 1
    driver.set("r", ("", A, b"y"))
    settled(driver)
    assert driver.get("r", "", A) == b"y"


def test_limits_of_the_server(driver, make_server, user):
    """Known since the last sync: what it would refuse fails at once, offline too."""
    server = make_server(plugin={"metasync_limit_value": "1000"})
    driver.open()
    driver.set("r", ("", A, b"small"))
    driver.once("r", server, user)
    driver("close", "r")
    driver.open()
    answer = driver.set("r", ("", A, b"x" * 1001), status="limit")
    assert "the value of %s has 1001 octets, the server takes 1000" % A in answer["text"]
    driver.set("r", ("", B, b"x"), ("", C, b"x" * 1001), status="limit")
    assert driver.list() == {("", A): b"small"} and not driver("counts", "r")["pending"]
    driver.set("r", ("", A, b"x" * 1000))
    driver.once("r", server, user)
    assert not driver.refused()
    # another server says something else
    driver.once("r", make_server(), user)
    driver.set("r", ("", A, b"x" * 1001))


def test_larger_than_wanted(driver, server, user, other):
    other.put((A, b"x" * 101), (B, b"x" * 100))
    driver.open()
    live(driver, "r", server, user, max_value=100)
    answer = driver("get", "r", "", A)
    assert answer["flags"] & NOT_HERE and answer["value"] is None
    assert driver.get("r", "", B) == b"x" * 100
    # a conflict with a value that is not here: MODIFIED shows it
    driver("free", "r")
    driver.set("r", ("", A, b"mine"))
    other.put((A, b"z" * 5000))
    driver.once("r", server, user, max_value=100, rule="mine")
    assert other.get(A) == b"mine"


@pytest.mark.parametrize("option, status", [({"max_entries": 9}, "limit"), ({"max_bytes": 300}, "limit"),
                                            ({"max_entries": 10, "max_bytes": 1000}, "ok")])
def test_limits_of_the_replica(driver, server, user, other, option, status):
    other.put(*((ROOT + "/m%d" % n, b"x" * 20) for n in range(10)))
    driver.open()
    driver.once("r", server, user, status=status, **option)
    assert len(driver.list()) == (10 if status == "ok" else 0)
    if status != "ok":
        driver.state("failed", status="limit")


@pytest.mark.parametrize("option", [{"max_entries": 9}, {"max_bytes": 300}])
def test_limits_of_what_comes_bit_by_bit(driver, server, user, other, option):
    driver.open()
    live(driver, "r", server, user, **option)
    for n in range(20):
        other.put((ROOT + "/m%d" % n, b"x" * 20))
    ended = driver.wait("ended")
    assert ended["status"] == "limit" and "are allowed" in ended["text"]
    assert driver.once("r", server, user, status="limit", **option)


# -- the account

def test_wrong_password(driver, server, user):
    driver.open()
    driver.sync("r", server, user, password="wrong")
    assert driver.wait("ended")["status"] == "login"
    assert driver.once("r", server, user, status="login", password="wrong")["text"]


def test_tls(make_server, driver, user):
    server = make_server(tls=True)
    driver.open()
    driver.once("r", server.tls_port, user, ca_file=server.root + "/cert.pem")
    driver.set("r", ("", A, LARGE))
    driver.once("r", server.tls_port, user, ca_file=server.root + "/cert.pem")
    driver.open("s")
    driver.sync("s", server.tls_port, user, ca_file=server.root + "/cert.pem")
    driver.state("live", replica="s")
    assert driver.get("s", "", A) == LARGE
    driver("free", "s")
    assert driver.once("s", server.tls_port, user, status=None, ca_file="/dev/null")["reply"] in ("tls", "invalid")


def test_no_parts(driver, server, user):
    driver.open(parts=())
    assert "dovetail_set_parts" in driver.once("r", server, user, status="invalid")["text"]


def test_stopped(driver, user):
    """A descriptor ends the blocking loop, though nobody answers."""
    import socket
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        driver.open()
        driver.send("once", "r", "port=%d" % deaf.getsockname()[1], "user=" + user)
        driver.state("connecting")
        driver.send("counts", "r")
        assert driver.reply()["reply"] == "stopped"
        driver.reply()


def test_freed_at_any_time(driver, server, user, other):
    other.put((A, LARGE))
    for state in ("connecting", "syncing", "live"):
        driver.open("r", path=driver.path(state))
        driver.sync("r", server, user)
        driver.state(state)
        driver("free", "r")
        driver("close", "r")


@pytest.mark.valgrind
def test_under_valgrind(server, user, other):
    """The main stories in one, without a leak."""
    other.put((A, b"1"), (B, LARGE))
    with Driver(valgrind=True) as driver:
        driver.open()
        driver.open("s")
        live(driver, "r", server, user)
        live(driver, "s", server, user)
        driver.set("r", ("", A, b"2"), ("", C, ALL))
        assert driver.wait("change", replica="s", name=C)["value"] == ALL
        new_epoch(server, user)
        driver.wait("notice", notice="reset", replica="r")
        driver.state("live", replica="r")
        driver("free", "r")
        driver.set("r", ("", A, b"mine"))
        other.put((A, b"theirs"))
        driver.once("r", server, user, patience=PATIENCE * 5)
        driver.set("r", ("Nowhere", A, b"1"), status="invalid")
        driver("hurry", "s")
        driver.wait("consistent", replica="s")


def test_many_parts(driver, server, user, other):
    """As many as there may be, with names as long as they may be: more than a line of Dovecot's."""
    parts = [("mailbox", "", "%s/%03d%s" % (ROOT, n, "x" * 960)) for n in range(100)]
    names = [entry for _, _, entry in parts[::33]]
    driver.open(parts=parts)
    driver.set("r", *[("", name, b"1") for name in names])
    driver.once("r", server, user)
    assert other.get(names[-1]) == b"1"
    other.put((names[0], b"2"))
    driver.once("r", server, user)
    assert driver.get("r", "", names[0]) == b"2"
