"""Servers without XMETASYNC: stock Dovecot with METADATA, which is polled, and one with neither."""

import pytest

from drive import NOT_HERE, Driver
from proxy import Proxy
from syncing import A, ALL, B, C, LARGE, ROOT, Other, settled

HOUR = 3600000


@pytest.fixture(scope="module")
def stock(make_module_server):
    return make_module_server(plugins=False, extra="""
mail_attribute_dict = file:%h/attributes
namespace public {
  type = public
  prefix = Public/
  separator = /
  location = maildir:~/public
}
""")


@pytest.fixture
def other(stock, user):
    return Other(stock.login(user), b"SETMETADATA", b"{%d+}\r\n%s", b" OK ")


def test_comes_and_goes(driver, stock, user, other):
    """Told once; a look finds what others have changed, writes go at once."""
    other.put((A, b"1"), (B, ALL.replace(b"\0", b"")))
    driver.open()
    driver.sync("r", stock, user, poll_interval=HOUR)
    driver.wait("notice", notice="fallback")
    driver.state("polling")
    assert driver.list() == {("", A): b"1", ("", B): ALL.replace(b"\0", b"")}
    other.put((A, None), (C, b"2"))
    driver("hurry", "r")
    assert {driver.wait("change")["name"] for _ in range(2)} == {A, C}
    assert driver.wait("consistent")["reset"] is False
    assert driver.list() == {("", C): b"2", ("", B): ALL.replace(b"\0", b"")}
    driver.set("r", ("", A, b"mine"), ("", C, None))
    settled(driver)
    assert other.get(A) == b"mine" and other.get(C) is None
    assert len(driver.seen("notice")) == 1
    assert {s["state"] for s in driver.seen("state")} == {"connecting", "syncing", "polling"}


def test_told_once(driver, stock, user):
    """Not again with each connection."""
    with Proxy(stock.port) as proxy:
        driver.open()
        driver.sync("r", proxy.port, user, poll_interval=HOUR, max_backoff=20)
        for _ in range(3):
            driver.state("polling")
            proxy.reset()
            driver.state("offline")
        driver.state("polling")
        assert len(driver.seen("notice", notice="fallback")) == 1
        driver("free", "r")


def test_many_long_names_in_a_set(driver, stock, user):
    """Together they are longer than a line may be."""
    names = ["%s/%s%03d" % (ROOT, "/".join(["x" * 230] * 4), n) for n in range(100)]
    driver.open()
    driver.open("s")
    driver.set("r", *[("", name, b"v" * 150) for name in names])
    driver.once("r", stock, user)
    assert driver("counts", "r")["pending"] == 0
    driver.once("s", stock, user)
    assert driver.list("s") == {("", name): b"v" * 150 for name in names}


def test_lost_acknowledgement(driver, stock, user, other):
    """Written, but the answer did not arrive: that is no conflict."""
    driver.open()
    driver.set("r", ("", A, b"mine"), ("", B, b"mine"))
    with Proxy(stock.port) as proxy:
        proxy.lose = b"OK Setmetadata completed"
        driver.once("r", proxy.port, user, status="network")
    assert other.get(A) == other.get(B) == b"mine", "it is there"
    assert driver("counts", "r")["pending"]
    driver.once("r", stock, user)
    assert driver("counts", "r")["pending"] == 0 and driver.list() == {("", A): b"mine", ("", B): b"mine"}
    assert not driver.seen("conflict") and not driver.seen("change")


def test_everything(driver, stock, user, other):
    """All of an account, and of a mailbox. Stock Dovecot shows nothing of the account's "/private" unless it is asked by name."""
    other.put((A, b"1"), ("/private/comment", b"2"), ("/shared/vendor/t/x", b"3"))
    driver.open(parts=[("mailbox", box, entry) for box in ("", "INBOX") for entry in ("/private", "/shared")])
    driver.sync("r", stock, user, poll_interval=HOUR)
    driver.state("polling")
    there = {("", A): b"1", ("", "/private/comment"): b"2", ("", "/shared/vendor/t/x"): b"3"}
    assert driver.list() == there
    driver.set("r", ("", B, b"mine"), ("INBOX", A, b"here"))
    settled(driver)
    driver("hurry", "r")
    driver.wait("consistent")
    assert driver.list() == {**there, ("", B): b"mine", ("INBOX", A): b"here"}


def test_parts_by_another_process(driver, stock, user, other):
    other.put((A, b"1"), ("/private/vendor/u", b"2"))
    driver.open()
    driver.sync("r", stock, user, poll_interval=HOUR)
    driver.state("polling")
    with Driver(driver.directory) as second:
        second.open(parts=[("mailbox", "", "/private/vendor/u")])
        assert driver.wait("change")["name"] == "/private/vendor/u"
        driver.wait("consistent")
        assert second.list() == {("", "/private/vendor/u"): b"2"}
    assert {e["state"] for e in driver.seen("state")} == {"connecting", "syncing", "polling"}


def test_polls(driver, stock, user, other):
    driver.open()
    driver.sync("r", stock, user, poll_interval=50)
    driver.state("polling")
    other.put((A, b"1"))
    assert driver.wait("change")["value"] == b"1"
    other.put((A, None))
    assert driver.wait("change")["value"] is None


def test_once(driver, stock, user, other):
    other.put((B, b"theirs"))
    driver.open()
    driver.set("r", ("", A, LARGE[:100000].replace(b"\0", b"")), ("", C, b""))
    driver.once("r", stock, user)
    assert other.get(A) == LARGE[:100000].replace(b"\0", b"")
    assert driver.get("r", "", B) == b"theirs"
    assert driver("counts", "r")["pending"] == 0
    driver.open("s")
    driver.once("s", stock, user)
    assert driver.list("s") == driver.list("r")


@pytest.mark.parametrize("rule, result", [("server", b"theirs"), ("mine", b"mine")])
def test_conflict(driver, stock, user, other, rule, result):
    """What the server has is looked at before a write: others' change is not overwritten unseen, live or not."""
    other.put((A, b"base"), (B, b"base"))
    driver.open()
    driver.sync("r", stock, user, poll_interval=HOUR, rule=rule)
    driver.state("polling")
    other.put((A, b"theirs"))
    driver.set("r", ("", A, b"mine"), ("", B, b"mine"))
    conflict = driver.wait("conflict")
    assert (conflict["base"], conflict["mine"], conflict["theirs"]) == (b"base", b"mine", b"theirs")
    settled(driver)
    assert other.get(A) == result and other.get(B) == b"mine"
    driver("hurry", "r")
    driver.wait("consistent")
    assert driver.get("r", "", A) == result


def test_mailboxes(driver, stock, user, other):
    for name in (b"Work", b"Work/Sub", b'"Entw&APw-rfe"', b'"&-\\"quoted"'):
        assert b" OK " in other.client.command(b"CREATE " + name)[-1].line
        other.put((A, b"1"), mailbox=name)
    # its parent is no mailbox, but listed
    other.client.command(b"CREATE Only/Child")
    other.put((A, b"0"))
    driver.open("all", [("personal", "", ROOT), ("mailbox", "", ROOT)])
    driver.open("work", [("subtree", "Work", ROOT)])
    driver.once("all", stock, user)
    driver.once("work", stock, user)
    assert set(driver.list("all")) == {(m, A) for m in ("", "Work", "Work/Sub", "Entwürfe", '&"quoted')}
    assert set(driver.list("work")) == {("Work", A), ("Work/Sub", A)}
    driver.set("all", ("Entwürfe", B, b"2"), ("", B, b"2"), ("INBOX", B, b"2"))
    other.client.command(b"DELETE Work/Sub")
    driver.once("all", stock, user)
    driver.once("work", stock, user)
    assert other.get(B, b'"Entw&APw-rfe"') == b"2" and other.get(B, b"INBOX") == b"2"
    assert set(driver.list("work")) == {("Work", A)}


def test_personal_mailboxes(driver, stock, user, other):
    """Mailboxes that others share are listed, too, but not the user's own."""
    for name in (b"Public/Box", b"Publicly"):
        assert b" OK " in other.client.command(b"CREATE " + name)[-1].line
        other.put((A, b"1"), mailbox=name)
    driver.open(parts=[("personal", "", ROOT)])
    driver.open("named", parts=[("subtree", "Public", ROOT)])
    for name in ("r", "named"):
        driver.once(name, stock, user)
    assert set(driver.list()) == {("Publicly", A)}
    assert set(driver.list("named")) == {("Public/Box", A)}


def test_mass_removal(driver, stock, user, other):
    other.put(*((ROOT + "/m%d" % n, b"x") for n in range(10)))
    driver.open()
    driver.once("r", stock, user)
    other.put(*((ROOT + "/m%d" % n, None) for n in range(10)))
    driver.once("r", stock, user, status="mass removal", max_removals=9)
    assert len(driver.list()) == 10
    driver.once("r", stock, user, max_removals=10)
    assert driver.list() == {}


def test_larger_than_wanted(driver, stock, user, other):
    other.put((A, b"x" * 101), (B, b"x" * 100))
    driver.open()
    driver.once("r", stock, user, max_value=100)
    assert driver("get", "r", "", A)["flags"] & NOT_HERE
    assert driver.get("r", "", B) == b"x" * 100


def test_refused(driver, stock, user, other):
    driver.open(parts=[("personal", "", ROOT)])
    driver.once("r", stock, user)
    driver.set("r", ("Nowhere", A, b"1"))
    driver.set("r", ("INBOX", A, b"1"))
    driver.once("r", stock, user)
    assert [(e["mailbox"], e["value"]) for e in driver.refused()] == [("Nowhere", b"1")]
    assert other.get(A, b"INBOX") == b"1"


def test_moves_between_servers(driver, stock, server, user, other):
    """The same account on a server with XMETASYNC, then without, then with it again: nothing is lost or sent twice."""
    driver.open()
    driver.set("r", ("", A, b"1"))
    driver.once("r", server, user)
    driver.set("r", ("", B, b"2"))
    driver.once("r", stock, user)
    assert driver.list() == {("", B): b"2"}
    driver.set("r", ("", C, b"3"))
    driver.once("r", server, user)
    assert driver.list() == {("", A): b"1", ("", C): b"3"}


def test_without_metadata(driver, make_server, user):
    bare = make_server(plugins=False, extra="protocol imap {\n  imap_metadata = no\n}\n")
    driver.open()
    assert "neither" in driver.once("r", bare, user, status="unsupported")["text"]
    driver.sync("r", bare, user)
    assert driver.wait("ended")["status"] == "unsupported"


@pytest.mark.valgrind
def test_under_valgrind(stock, user, other):
    other.client.command(b"CREATE Work")
    other.put((A, b"1"), mailbox=b"Work")
    with Driver(valgrind=True) as driver:
        driver.open(parts=[("personal", "", ROOT), ("mailbox", "", ROOT)])
        driver.sync("r", stock, user, poll_interval=HOUR)
        driver.state("polling")
        driver.set("r", ("Work", A, b"mine"), ("", B, b"2"))
        settled(driver)
        other.put((A, None), mailbox=b"Work")
        driver("hurry", "r")
        driver.wait("change", value=None)
