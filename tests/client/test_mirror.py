"""dovetail mirror against a real server: both ways, the ways of editors, offline, options, encryption, servers without XMETASYNC."""

import os

import pytest

from cli import CONFIG, SYSTEM, USAGE
from mirror import begin, conflicts, end, turns, until


def test_once_copies_both_ways(pair):
    a, b = pair
    a.write("from-a", b"1\0\xff")
    a.write("sub/folder/x", "2")
    a.once()
    b.write("from-b", "3")
    turns(b, a)
    expected = {b"from-a": b"1\0\xff", b"sub/folder/x": b"2", b"from-b": b"3"}
    assert a.files() == b.files() == expected
    assert a.entries() == {name.decode(): value for name, value in expected.items()}


def test_changes_and_removals_go_both_ways(pair):
    a, b = pair
    for n in range(4):
        a.write("n%d" % n, "old%d" % n)
    turns(a, b)
    a.write("n0", "new by a")
    os.remove(a.path("n1"))
    a.once()
    b.write("n2", "new by b")
    turns(b, a)
    assert a.files() == b.files() == {b"n0": b"new by a", b"n2": b"new by b", b"n3": b"old3"}
    assert b.trash() == {b"n0": [b"old0"], b"n1": [b"old1"]}
    assert a.trash() == {b"n2": [b"old2"]}


def test_live_both_ways(pair):
    a, b = pair
    a.write("there", "before")
    begin(a, b)
    b.await_file("there", "before")
    b.write("there", "by b")
    a.await_file("there", "by b")
    a.write("deep/er/est", "new folder")
    b.await_file("deep/er/est", "new folder")
    os.rename(a.path("deep"), a.path("moved"))
    b.await_file("moved/er/est", "new folder")
    until(lambda: not os.path.exists(b.path("deep")), "the end of the old folder")
    os.remove(b.path("there"))
    a.await_file("there", None)
    end(a, b)
    assert a.files() == b.files() == {b"moved/er/est": b"new folder"}


def test_the_ways_of_editors(pair):
    a, b = pair
    begin(a, b)
    # truncate and write, slowly
    with open(a.path("f"), "wb") as f:
        f.write(b"half ")
        f.flush()
        a.write("other", "1")
        b.await_file("other", "1")
        assert b.read("f") is None
        f.write(b"whole")
    b.await_file("f", "half whole")
    # a backup, a new file
    os.rename(a.path("f"), a.path("f~"))
    a.write("f", "second")
    b.await_file("f", "second")
    # a temporary file in the same folder, renamed over it
    a.write(".f.swp", "third")
    os.rename(a.path(".f.swp"), a.path("f"))
    b.await_file("f", "third")
    end(a, b)
    assert b.files() == {b"f": b"third", b"other": b"1"}
    assert set(a.entries()) == {"f", "other"}


@pytest.mark.parametrize("written", [False, True])
def test_change_of_a_file_that_somebody_has_open(pair, written):
    a, b = pair
    a.write("x", "base")
    begin(a, b)
    b.await_file("x", "base")
    with open(a.path("x"), "ab") as f:
        b.write("x", "by b")
        b.write("y", "later")
        # x was tried before
        a.await_file("y", "later")
        assert a.read("x") == b"base"
        if written:
            f.write(b" and a")
    a.await_file("x", "by b")
    if written:
        until(lambda: list(conflicts(b).values()) == [b"base and a"])
    until(lambda: a.files() == b.files())
    assert len(a.files()) == 2 + written and b.read("x") == b"by b"
    end(a, b)


def test_many_changes_at_once(pair):
    a, b = pair
    begin(a, b)
    for n in range(300):
        a.write("many/%d/%d" % (n % 7, n), "value %d" % n)
    until(lambda: len(b.files()) == 300, "300 files")
    until(lambda: b.files() == a.files())
    end(a, b)


def test_offline_changes_are_sent_later(network, devices):
    a, b = (devices(name, on=network) for name in "ab")
    a.write("x", "1")
    begin(a, b)
    b.await_file("x", "1")
    network.go_down()
    a.write("x", "2")
    a.write("y", "offline")
    until(lambda: "offline" in a.words())
    network.come_up()
    b.await_file("x", "2")
    b.await_file("y", "offline")


# ---- Options ----

def test_second_mirror_of_a_folder_is_refused(devices):
    a = devices("a")
    a.begin()
    until(lambda: os.path.exists(a.path(".dovetail/mirror")))
    assert "mirrored by another process" in a.once(code=CONFIG)
    a.kill()
    a.once()


def test_arguments(devices):
    a = devices("a")
    a.run("mirror", code=USAGE)
    a.run("mirror", "--once", "--max-entries", "0", a.folder, code=USAGE)
    a.run("mirror", "--once", a.folder + "/none", code=SYSTEM)
    a.run("mirror", "--offline", a.folder, code=USAGE)


def test_subtree_and_mailbox(pair):
    a, b = pair
    a.write("x", "1")
    a.once("--subtree", "Sig", "--mailbox", "INBOX")
    b.begin("--subtree", "/private/vendor/dovetail/user/sig", "--mailbox", "inbox")
    b.await_file("x", "1")
    a.write("y", "2")
    a.once("--subtree", "Sig", "--mailbox", "INBOX")
    b.await_file("y", "2")
    b.end()
    assert a.out("get", "--online", "--mailbox", "INBOX", "sig/x") == "1"
    assert "is the mirror of" in a.once(code=CONFIG)


def test_ignore(pair):
    a, b = pair
    for name in ("x", "x~", ".x.swp", "#x#", "sub/build/y", "sub/z.tmp", "sub/z"):
        a.write(name, name)
    a.once("--ignore", "build", "--ignore", "*.tmp")
    assert set(a.entries()) == {"x", "sub/z"}
    b.once()
    b.write("sub/z.tmp", "by b")
    b.once("--all")
    # what is ignored is neither written nor removed here
    a.once("--ignore", "build", "--ignore", "*.tmp")
    assert a.read("sub/z.tmp") == b"sub/z.tmp" and "sub/z.tmp" in a.entries()
    a.once("--all")
    b.once("--all")
    assert len(b.files()) >= 7


def test_json_and_verbose(pair):
    a, b = pair
    a.write("README", "1")
    a.write("\udcff", "2")
    events = [event for event in a.lines("mirror", "--once", "--json", a.folder) if event["event"] != "state"]
    assert sorted(events, key=str) == [
        {"event": "sent", "entry": "/private/vendor/dovetail/user/=ff"},
        {"event": "sent", "entry": "/private/vendor/dovetail/user/^r^e^a^d^m^e", "file": "README"}]
    assert sorted(b.out("mirror", "--once", "-v", b.folder).splitlines()) == ["written README", "written \\xff"]
    os.remove(b.path("README"))
    assert b.out("mirror", "--once", "-v", b.folder) == "sent removal README\n"
    assert a.out("mirror", "--once", "-v", a.folder) == "removed README\n"
    assert a.out("mirror", "--once", a.folder) == ""


# ---- Encryption ----

@pytest.mark.parametrize("subtree,mailbox", [("vault", None), ("vault/notes", None), ("", None), ("vault", "INBOX"), ("", "INBOX")])
def test_encrypted_subtree(devices, server, user, subtree, mailbox):
    """Also if only a part of it, or more than it, is mirrored; and who has no key sends nothing."""
    a, b, c = devices("a"), devices("b"), devices("c")
    options = (["--subtree", subtree] if subtree else []) + (["--mailbox", mailbox] if mailbox else [])
    name = "x" if subtree else "vault/x"
    key = a.home + "/key"
    a.run("encrypt", "vault", "--key-file", key, "--create-key-file")
    for device in (a, b):
        device.run("sync")
        device.run("unlock", "vault", "--key-file", key)
    a.write(name, "plain secret of a")
    a.once(*options)
    b.once(*options)
    assert b.files() == a.files() == {name.encode(): b"plain secret of a"}
    b.write(name, "plain secret of b")
    b.once(*options)
    a.once(*options)
    assert a.read(name) == b"plain secret of b"
    c.write(name[:-1] + "y", "plain secret of c")
    words = c.once(*options, code=None)
    assert "encrypted" in words or "locked" in words, words
    for folder, _, names in os.walk(server.home(user)):
        for store in names:
            with open(os.path.join(folder, store), "rb") as f:
                assert b"plain secret" not in f.read()


# ---- A server without XMETASYNC ----

def test_other_servers_are_polled(make_server, devices):
    plain = make_server(plugins=False, extra="mail_attribute_dict = file:%h/attributes\n")
    a, b = (devices(name, on=plain, poll_interval=1) for name in "ab")
    a.write("README", "1")
    a.write("gone", "2")
    begin(a, b)
    b.await_file("gone", "2")
    b.write("README", "by b")
    os.remove(b.path("gone"))
    b.write("sub/new", "3")
    until(lambda: a.files() == b.files() == {b"README": b"by b", b"sub/new": b"3"})
    assert "no XMETASYNC" in a.words()
    end(a, b)
