"""dovetail mirror when both sides have changed: nothing is lost, and another account's or subtree's files are not mixed in."""

import os

import pytest

from cli import CONFIG
from mirror import conflicts, turns, until


def test_conflict_keeps_both(pair):
    a, b = pair
    a.write("x", "base")
    turns(a, b)
    a.write("x", "by a")
    b.write("x", "by b")
    a.once()
    words = b.once()
    a.once()
    assert "x has been changed here and elsewhere" in words
    assert a.files() == b.files()
    assert a.read("x") == b"by a"
    assert list(conflicts(a).values()) == [b"by b"]
    assert [name.split(b"-")[0] for name in conflicts(a)] == [b"x.conflict"]


def test_first_comparison_of_two_full_folders_keeps_both(pair):
    a, b = pair
    for n in range(5):
        a.write("same%d" % n, "the same")
        b.write("same%d" % n, "the same")
    a.write("x", "by a")
    b.write("x", "by b")
    turns(a, b, a)
    assert a.files() == b.files()
    assert a.read("x") == b"by a"
    assert list(conflicts(b).values()) == [b"by b"]
    assert len(a.files()) == 7


def test_change_is_worth_more_than_removal(pair):
    a, b = pair
    a.write("x", "base")
    a.write("y", "base")
    turns(a, b)
    os.remove(a.path("x"))
    b.write("x", "edited")
    b.write("y", "edited")
    turns(a, b)
    os.remove(a.path("y"))
    turns(a, b, a)
    assert a.files() == b.files() == {b"x": b"edited", b"y": b"edited"}


def test_conflict_of_offline_edits(network, devices):
    """Both have put what they wrote into their queues: the library finds the conflict, not the comparison of files."""
    a, b = (devices(name, on=network) for name in "ab")
    for name in ("both", "same", "removed"):
        a.write(name, "base")
    for device in (a, b):
        device.begin("-v")
    until(lambda: len(b.files()) == 3)
    network.go_down()
    for device in (a, b):
        device.write("both", "by " + device.home[-1])
        device.write("same", "the same")
        until(lambda: "offline" in device.words())
    os.remove(a.path("removed"))
    b.write("removed", "edited")
    # all is in the queues then
    until(lambda: a.words().count("sent both") == a.words().count("sent same") == 2 and "sent removal removed" in a.words())
    until(lambda: all("sent " + name in b.words() for name in ("both", "same", "removed")))
    network.come_up()
    until(lambda: a.files() == b.files() and len(a.files()) == 4)
    assert {a.read("both")} | set(conflicts(a).values()) == {b"by a", b"by b"}
    assert a.read("same") == b"the same" and a.read("removed") == b"edited"
    assert a.read("both") != list(conflicts(a).values())[0]


def test_another_account_is_another_mirror(devices):
    a = devices("a")
    a.write("x", "1")
    a.once()
    a.account(host="127.0.0.1", port=1, tls="none", user="u", password="pass")
    assert "is the mirror of" in a.once(code=CONFIG)


def test_other_subtree_with_yes_takes_nothing_along(devices):
    a = devices("a")
    a.write("x", "1")
    a.once()
    a.once("--subtree", "other", code=CONFIG)
    a.once("--subtree", "other", "--yes")
    assert a.entries() == {"x": b"1", "other/x": b"1"}
    os.remove(a.path("x"))
    a.write("y", "2")
    a.once("--subtree", "other")
    assert a.entries() == {"x": b"1", "other/y": b"2"}


def test_what_waits_for_one_account_is_not_sent_to_another(network, devices, user):
    a = devices("a", on=network)
    a.write("x", "1")
    a.begin("-v")
    until(lambda: "sent x" in a.words())
    network.go_down()
    until(lambda: "offline" in a.words())
    a.write("waits", "2")
    until(lambda: "sent waits" in a.words())
    a.kill()
    network.come_up()
    os.remove(a.path("waits"))
    a.account(host="127.0.0.1", port=network.port, tls="none", user=user + "-other", password="pass")
    a.once("--yes")
    assert a.files() == {b"x": b"1"} and a.entries() == {"x": b"1"}


def test_conflicting_versions_are_never_overwritten(pair):
    a, b = pair
    a.write("x", "base")
    turns(a, b)
    for n in range(3):
        a.write("x", "a%d" % n)
        b.write("x", "b%d" % n)
        turns(a, b, a)
    assert a.files() == b.files()
    assert sorted(conflicts(a).values()) == [b"b0", b"b1", b"b2"]
    # one that was edited keeps its edit when the same version comes again
    name = next(name for name, data in conflicts(b).items() if data == b"b0")
    b.write(name, "edited")
    b.once()
    a.write("x", "a3")
    b.write("x", "b0")
    turns(a, b)
    assert {b"edited", b"b0", b"b1", b"b2"} == set(conflicts(b).values())


@pytest.fixture
def queued(network, devices):
    """Two devices in step on n0 to n39. Called with what the first one does offline, which goes into one change set, and with how often
    it then says a word; what it has queued is not sent yet."""
    a, b = (devices(name, on=network) for name in "ab")
    for n in range(40):
        a.write("n%d" % n, "base")
    a.write("stays", "base")
    turns(a, b)

    def change(how, word):
        a.begin("-v")
        network.go_down()
        for n in range(40):
            how(a, "n%d" % n)
        until(lambda: a.words().count(word) == 40)
        a.kill()
        network.come_up()
        return a, b
    return change


def test_conflict_in_a_change_set_does_not_hold_back_the_others(queued):
    a, b = queued(lambda a, name: a.write(name, "by a"), "sent n")
    b.write("n7", "by b")
    b.once()
    before = a.position()
    a.once()
    # what is left of the set, the conflicting version, and the files that were looked at alone before it
    assert a.position() - before <= 4
    b.once()
    assert a.files() == b.files() and len(a.files()) == 42
    assert a.read("n7") == b"by b" and list(conflicts(a).values()) == [b"by a"]
    assert all(b.read("n%d" % n) == b"by a" for n in range(40) if n != 7)


def test_change_is_worth_more_than_a_removal_in_a_change_set(queued):
    a, b = queued(lambda a, name: os.remove(a.path(name)), "sent removal n")
    b.write("n7", "by b")
    turns(b, a, b)
    assert a.files() == b.files() == {b"n7": b"by b", b"stays": b"base"}
