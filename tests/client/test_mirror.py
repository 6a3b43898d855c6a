"""dovetail mirror against a real server: both ways, conflicts, names, links, removals, what is left alone."""

import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

from cli import CONFIG, DOVETAIL, FAILED, MASS_REMOVAL, PREFIX, REFUSED, SYSTEM, USAGE
from mirror import Device, until


@pytest.fixture
def devices(server, user, tmp_path):
    """Makes devices of one account; live mirrors are ended."""
    made = []

    def make(name, **keys):
        made.append(Device(tmp_path / name, server, user, **keys))
        return made[-1]
    yield make
    for device in made:
        if device.process is not None:
            device.kill()


@pytest.fixture
def pair(devices):
    return devices("a"), devices("b")


# ---- Both ways ----

def test_once_copies_both_ways(pair):
    a, b = pair
    a.write("from-a", b"1\0\xff")
    a.write("sub/folder/x", "2")
    a.once()
    b.write("from-b", "3")
    b.once()
    a.once()
    expected = {b"from-a": b"1\0\xff", b"sub/folder/x": b"2", b"from-b": b"3"}
    assert a.files() == b.files() == expected
    assert a.entries() == {name.decode(): value for name, value in expected.items()}


def test_changes_and_removals_go_both_ways(pair):
    a, b = pair
    for n in range(4):
        a.write("n%d" % n, "old%d" % n)
    a.once()
    b.once()
    a.write("n0", "new by a")
    os.remove(a.path("n1"))
    a.once()
    b.write("n2", "new by b")
    b.once()
    a.once()
    assert a.files() == b.files() == {b"n0": b"new by a", b"n2": b"new by b", b"n3": b"old3"}
    assert b.trash() == {b"n0": [b"old0"], b"n1": [b"old1"]}
    assert a.trash() == {b"n2": [b"old2"]}


def test_live_both_ways(pair):
    a, b = pair
    a.write("there", "before")
    a.begin()
    b.begin()
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
    a.end()
    b.end()
    assert a.files() == b.files() == {b"moved/er/est": b"new folder"}


def test_the_ways_of_editors(pair):
    a, b = pair
    a.begin()
    b.begin()
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
    a.end()
    b.end()
    assert b.files() == {b"f": b"third", b"other": b"1"}
    assert set(a.entries()) == {"f", "other"}


@pytest.mark.parametrize("written", [False, True])
def test_change_of_a_file_that_somebody_has_open(pair, written):
    a, b = pair
    a.write("x", "base")
    a.begin()
    b.begin()
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
    a.end()
    b.end()


def test_many_changes_at_once(pair):
    a, b = pair
    a.begin()
    b.begin()
    for n in range(300):
        a.write("many/%d/%d" % (n % 7, n), "value %d" % n)
    until(lambda: len(b.files()) == 300, "300 files")
    until(lambda: b.files() == a.files())
    a.end()
    b.end()


def test_offline_changes_are_sent_later(devices, make_server, tmp_path, user):
    own = make_server()
    a, b = (Device(tmp_path / name, own, user) for name in "ab")
    try:
        a.write("x", "1")
        a.begin()
        b.begin()
        b.await_file("x", "1")
        own.stop()
        a.write("x", "2")
        a.write("y", "offline")
        until(lambda: "offline" in a.words())
        own.start()
        b.await_file("x", "2")
        b.await_file("y", "offline")
    finally:
        a.kill()
        b.kill()


# ---- Conflicts ----

def conflicts(device):
    return {name: data for name, data in device.files().items() if b".conflict-" in name}


def test_conflict_keeps_both(pair):
    a, b = pair
    a.write("x", "base")
    a.once()
    b.once()
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
    a.once()
    b.once()
    a.once()
    assert a.files() == b.files()
    assert a.read("x") == b"by a"
    assert list(conflicts(b).values()) == [b"by b"]
    assert len(a.files()) == 7


def test_change_is_worth_more_than_removal(pair):
    a, b = pair
    a.write("x", "base")
    a.write("y", "base")
    a.once()
    b.once()
    os.remove(a.path("x"))
    b.write("x", "edited")
    b.write("y", "edited")
    a.once()
    b.once()
    os.remove(a.path("y"))
    a.once()
    b.once()
    a.once()
    assert a.files() == b.files() == {b"x": b"edited", b"y": b"edited"}


def test_conflict_of_offline_edits(make_server, tmp_path, user):
    """Both have put what they wrote into their queues: the library finds the conflict, not the comparison of files."""
    own = make_server()
    a, b = (Device(tmp_path / name, own, user) for name in "ab")
    try:
        for name in ("both", "same", "removed"):
            a.write(name, "base")
        a.begin()
        b.begin()
        until(lambda: len(b.files()) == 3)
        own.stop()
        for device in (a, b):
            device.write("both", "by " + device.home[-1])
            device.write("same", "the same")
            until(lambda: "offline" in device.words())
        os.remove(a.path("removed"))
        b.write("removed", "edited")
        # both are in the queues then: the replica is the truth for the next look
        time.sleep(0.5)
        own.start()
        until(lambda: a.files() == b.files() and len(a.files()) == 4)
        assert {a.read("both")} | set(conflicts(a).values()) == {b"by a", b"by b"}
        assert a.read("same") == b"the same" and a.read("removed") == b"edited"
        assert a.read("both") != list(conflicts(a).values())[0]
    finally:
        a.kill()
        b.kill()


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


def test_what_waits_for_one_account_is_not_sent_to_another(make_server, tmp_path, user):
    own = make_server()
    a = Device(tmp_path / "a", own, user)
    a.write("x", "1")
    a.begin("-v")
    until(lambda: "sent x" in a.words())
    own.stop()
    until(lambda: "offline" in a.words())
    a.write("waits", "2")
    until(lambda: "sent waits" in a.words())
    a.kill()
    own.start()
    os.remove(a.path("waits"))
    a.account(host="127.0.0.1", port=own.port, tls="none", user=user + "-other", password="pass")
    a.once("--yes")
    assert a.files() == {b"x": b"1"} and a.entries() == {"x": b"1"}


def test_conflicting_versions_are_never_overwritten(pair):
    a, b = pair
    a.write("x", "base")
    a.once()
    b.once()
    for n in range(3):
        a.write("x", "a%d" % n)
        b.write("x", "b%d" % n)
        a.once()
        b.once()
        a.once()
    assert a.files() == b.files()
    assert sorted(conflicts(a).values()) == [b"b0", b"b1", b"b2"]
    # one that was edited keeps its edit when the same version comes again
    name = next(name for name, data in conflicts(b).items() if data == b"b0")
    b.write(name, "edited")
    b.once()
    a.write("x", "a3")
    b.write("x", "b0")
    a.once()
    b.once()
    assert {b"edited", b"b0", b"b1", b"b2"} == set(conflicts(b).values())


# ---- Names ----

NAMES = [b"README", b"Makefile.AM", b"a b", b"=3d", b"^x", b"100%", b"*", b"\xc3\xa4\xf0\x9f\x98\x80", b"\xff\xfe", b"tab\there",
         b"line\nbreak", b"%=", b"%=x", b"%=x=zz", b"...", b".hidden", b"..x", b"con", b"x" * 255, b"\"quoted\\\"", b"{3}", b"(",
         b"-rf", b"sub/.dovetail"]


def test_names_of_any_octets(pair):
    a, b = pair
    for n, name in enumerate(NAMES):
        if name != b"%=":
            a.write(name, "%d" % n)
    a.once()
    b.once()
    assert b.files() == a.files()
    assert len(b.files()) == len(NAMES) - 1


def test_tricks_in_entry_names(server, user, devices):
    a = devices("a")
    tricks = ["..", ".", "../../escape", "x/../y", "=2edovetail/mirror", "x/=2edovetail", "=2e=2e/z", "=2f", "=00", "sub/..", "=zz", "^", "a=4",
              "=2edovetail", "./.", "%="[1:] + "=", "~", "-", " ", "c" * 253, "=41"]
    for n, name in enumerate(tricks):
        a.run("set", name, "value %d" % n)
    a.once("--all")
    assert len(a.read(".dovetail/mirror")) == 32
    assert sorted(a.files().values()) == sorted(b"value %d" % n for n in range(len(tricks)))
    assert sorted(os.listdir(a.home)) == [".config", ".local", "d"]
    # and back: an edit of each comes to the entry that it is from
    for name in a.files():
        a.write(name, b"edited " + a.files()[name])
    a.once("--all")
    assert a.entries() == {name: b"edited value %d" % n for n, name in enumerate(tricks)}


def test_entry_that_cannot_be_a_file(devices):
    a = devices("a")
    a.run("set", "d" * 300, "long")
    a.run("set", "short", "1")
    assert "cannot be a file's name" in a.once()
    assert a.files() == {b"short": b"1"}
    a.once()
    assert set(a.entries()) == {"d" * 300, "short"}


def test_file_that_cannot_be_an_entry(devices):
    a = devices("a")
    name = "/".join(["x" * 250] * 5)
    a.write(name, "too deep")
    a.write("\u20ac" * 85, "1")
    assert "too long" in a.once()
    assert len(a.entries()) == 1
    assert a.read(name) == b"too deep"


def test_entry_with_others_below_it(pair):
    a, b = pair
    a.write("a", "value of a")
    a.once()
    b.once()
    a.run("set", "a/b", "below")
    a.run("set", "a/b/c", "deeper")
    a.once()
    b.once()
    expected = {b"a/%=": b"value of a", b"a/b/%=": b"below", b"a/b/c": b"deeper"}
    assert a.files() == b.files() == expected
    b.write("a/%=", "edited")
    b.once()
    a.once()
    assert a.entries() == {"a": b"edited", "a/b": b"below", "a/b/c": b"deeper"}
    # and back to files, in the folder of who removes and in the other's
    os.remove(a.path("a/b/c"))
    a.once()
    b.once()
    assert a.files() == b.files() == {b"a/%=": b"edited", b"a/b": b"below"}
    b.run("rm", "a/b")
    a.once()
    b.once()
    assert a.files() == b.files() == {b"a": b"edited"}
    # the subtree itself
    a.run("set", "/private/vendor/dovetail/user", "top")
    a.once()
    assert a.read("%=") == b"top"


# ---- Links, devices, rights ----

def test_links_are_not_followed(pair, tmp_path):
    a, b = pair
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    os.symlink(outside, a.path("folder"))
    os.symlink(outside / "secret", a.path("file"))
    os.mkfifo(a.path("pipe"))
    with socket.socket(socket.AF_UNIX) as s:
        os.chdir(a.folder)
        s.bind("socket")
    a.write("real", "1")
    os.link(a.path("real"), a.path("hard"))
    words = a.once()
    for name in ("folder", "file", "pipe", "socket"):
        assert "%s: " % name in words
    assert a.entries() == {"real": b"1", "hard": b"1"}
    # what comes for such a name does not go through it
    b.write("folder/new", "by b")
    b.write("file", "by b")
    b.once()
    words = a.once()
    assert "symbolic link" in words
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_text() == "secret"
    assert os.path.islink(a.path("file"))
    b.once()
    assert b.read("file") == b"by b"


def test_file_that_becomes_a_link_is_not_removed_elsewhere(pair, tmp_path):
    a, b = pair
    a.write("x", "1")
    a.write("sub/y", "2")
    a.begin()
    b.begin()
    b.await_file("sub/y", "2")
    b.await_file("x", "1")
    (tmp_path / "evil").mkdir()
    os.rename(a.path("x"), tmp_path / "x")
    os.symlink(tmp_path / "x", a.path("x"))
    os.rename(a.path("sub"), tmp_path / "sub")
    os.symlink(tmp_path / "evil", a.path("sub"))
    until(lambda: "x: a symbolic link" in a.words())
    b.write("sub/y", "changed")
    b.write("sub/z", "new")
    until(lambda: "sub/z" in a.words())
    assert b.read("x") == b"1" and b.read("sub/y") == b"changed"
    assert os.listdir(tmp_path / "evil") == []
    a.end()
    b.end()


def test_folder_of_ours_may_be_no_link(devices, tmp_path):
    a = devices("a")
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", a.path(".dovetail"))
    a.once(code=SYSTEM)
    assert os.listdir(tmp_path / "elsewhere") == []


# ---- Removals ----

def test_emptied_folder_needs_yes(pair):
    a, b = pair
    for n in range(5):
        a.write("n%d" % n, "%d" % n)
    a.once()
    b.once()
    for n in range(5):
        os.remove(a.path("n%d" % n))
    assert "5 of 5 entries would be removed" in a.once(code=MASS_REMOVAL)
    assert len(a.entries()) == 5
    a.once("--yes")
    assert a.entries() == {}
    assert "would be removed" in b.once(code=MASS_REMOVAL)
    assert len(b.files()) == 5
    b.once("--yes")
    assert b.files() == {}
    assert len(b.trash()) == 5


def test_unmounted_folder_is_noticed(devices):
    a = devices("a")
    a.write("x", "1")
    a.once()
    os.rename(a.folder, a.folder + ".away")
    os.mkdir(a.folder)
    assert "is it mounted?" in a.once(code=CONFIG)
    assert os.listdir(a.folder) == []
    os.rmdir(a.folder)
    os.rename(a.folder + ".away", a.folder)
    a.once()
    assert a.entries() == {"x": b"1"}
    # with --yes it begins anew, and that is no removal
    os.rename(a.folder, a.folder + ".away")
    os.mkdir(a.folder)
    a.once("--yes")
    assert a.files() == {b"x": b"1"}


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_folder_that_goes_away_ends_a_live_mirror(pair, how):
    a, b = pair
    a.write("x", "1")
    a.write("sub/y", "2")
    a.begin("-v")
    b.begin()
    until(lambda: len(b.files()) == 2)
    if how == "removed":
        # one file after the other, which nobody can tell from removals until the last
        a.process.send_signal(signal.SIGSTOP)
        shutil.rmtree(a.folder)
        a.process.send_signal(signal.SIGCONT)
    else:
        os.rename(a.folder, a.folder + ".moved")
        if how == "replaced":
            os.mkdir(a.folder)
    assert a.process.wait(60) == FAILED
    a.process = None
    assert "the folder has gone" in a.words()
    b.write("z", "3")
    b.end()
    b.once()
    assert len(b.files()) == len(b.entries()) == 3


def test_mass_removal_in_one_step_ends_a_live_mirror(pair):
    a, b = pair
    for n in range(60):
        a.write("s/n%d" % n, "%d" % n)
    a.write("stays", "1")
    a.begin()
    b.begin()
    until(lambda: len(b.files()) == 61)
    os.rename(a.path("s"), a.home + "/gone")
    assert a.process.wait(60) == MASS_REMOVAL
    a.process = None
    assert "60 of 61 entries would be removed" in a.words()
    assert len(b.files()) == 61
    b.end()


def test_yes_is_not_for_all_time(pair):
    """It allows what is found at the start; what comes later is asked for again."""
    a, b = pair
    for n in range(5):
        a.write("n%d" % n, "%d" % n)
    a.once()
    b.once()
    shutil.rmtree(a.folder + "/.dovetail")
    a.begin("--yes")
    a.write("later", "1")
    until(lambda: "later" in b.entries())
    for n in range(60):
        a.write("s/n%d" % n, "%d" % n)
    until(lambda: len(b.entries()) == 66)
    os.rename(a.path("s"), a.home + "/gone")
    assert a.process.wait(60) == MASS_REMOVAL
    a.process = None
    assert len(b.entries()) == 66


def test_mass_removal_by_others_ends_a_live_mirror(pair, client, user):
    a, b = pair
    for n in range(60):
        a.write("n%d" % n, "%d" % n)
    a.write("stays", "1")
    a.once()
    b.begin()
    until(lambda: len(b.files()) == 61)
    names = b" ".join(b"%sn%d NIL" % (PREFIX.encode(), n) for n in range(60))
    assert b" OK " in client(user).command(b'XMETASET "" (%s)' % names)[-1].line
    assert b.process.wait(60) == MASS_REMOVAL
    b.process = None
    assert "60 of 61 files would be removed" in b.words()
    assert len(b.files()) == 61
    b.once("--yes")
    assert set(b.files()) == {b"stays"} and len(b.trash()) == 60


def test_reset_with_an_empty_server_needs_yes(devices, server, user):
    a = devices("a")
    for n in range(5):
        a.write("n%d" % n, "%d" % n)
    a.once()
    removed = server.doveadm("metasync", "list", "-u", user)
    assert removed.returncode == 0
    for n in range(5):
        server.doveadm("metasync", "unset", "-u", user, "", "/private/vendor/dovetail/user/n%d" % n)
    assert server.doveadm("metasync", "new-epoch", "-u", user).returncode == 0
    assert "--yes" in a.once(code=MASS_REMOVAL)
    assert len(a.files()) == 5
    a.once("--yes")
    assert a.files() == {}
    assert len(a.trash()) == 5


def test_reset_with_an_empty_server_ends_a_live_mirror(devices, server, client, user):
    """Though it is fewer than may be removed otherwise: it is all."""
    a = devices("a")
    for n in range(5):
        a.write("n%d" % n, "%d" % n)
    a.begin("--json")
    until(lambda: len(a.entries()) == 5)
    until(lambda: '"live"' in a.words())
    # it has not seen that they were removed, as if the server were another one
    a.process.send_signal(signal.SIGSTOP)
    names = b" ".join(b"%sn%d NIL" % (PREFIX.encode(), n) for n in range(5))
    assert b" OK " in client(user).command(b'XMETASET "" (%s)' % names)[-1].line
    assert server.doveadm("metasync", "new-epoch", "-u", user).returncode == 0
    server.doveadm("kick", user)
    a.process.send_signal(signal.SIGCONT)
    assert a.process.wait(60) == MASS_REMOVAL
    a.process = None
    assert "5 of 5 files would be removed" in a.words()
    assert len(a.files()) == 5


def test_lost_replica_or_record_removes_nothing(pair):
    a, b = pair
    for n in range(5):
        a.write("n%d" % n, "%d" % n)
    a.once()
    b.once()
    state = [os.path.join(folder, name) for folder, _, names in os.walk(a.home) for name in names]
    replicas = [path for path in state if "/replica.db" in path and "mirror-" in path]
    assert replicas
    for path in replicas:
        os.remove(path)
    b.write("n1", "new")
    b.once()
    a.once()
    assert len(a.files()) == 5 and a.read("n1") == b"new"
    for path in state:
        if "/record.db" in path and os.path.exists(path):
            os.remove(path)
    a.once()
    assert a.files() == b.files() and len(a.files()) == 5


def test_lost_replica_is_filled_before_a_live_mirror_compares(pair):
    a, b = pair
    a.write("x", "1")
    a.write("y", "2")
    a.once()
    b.once()
    for folder, _, names in os.walk(a.state):
        for name in names:
            if name.startswith("replica.db"):
                os.remove(os.path.join(folder, name))
    a.begin("-v")
    b.write("z", "3")
    b.once()
    a.await_file("z", "3")
    a.end()
    assert a.files() == {b"x": b"1", b"y": b"2", b"z": b"3"}
    assert a.words() == "written z\n"


# ---- One at a time, limits, failures ----

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


def test_too_large_for_the_server(make_server, tmp_path, user):
    own = make_server(plugin={"metasync_limit_value": "1000"})
    a, b = (Device(tmp_path / name, own, user) for name in "ab")
    a.write("small", "1")
    a.write("large", "x" * 2000)
    a.write("grows", "2")
    assert "large" in a.once(code=REFUSED)
    b.once()
    assert b.files() == {b"small": b"1", b"grows": b"2"}
    a.write("grows", "y" * 2000)
    a.once(code=REFUSED)
    assert a.read("grows") == b"y" * 2000 and a.read("large") == b"x" * 2000
    b.write("grows", "3")
    b.once()
    # in conflict now, and still nothing is lost
    a.once(code=REFUSED)
    assert a.read("grows") == b"3"
    assert b"y" * 2000 in conflicts(a).values()
    a.write("large", "fits")
    for name in conflicts(a):
        os.remove(a.path(name))
    a.once(code=None)
    b.once()
    assert b.read("large") == b"fits" and b.read("grows") == b"3"


def test_what_was_refused_is_sent_again_at_the_next_start(make_server, tmp_path, user):
    """The file has not changed, but there is room for it now."""
    own = make_server(plugin={"metasync_limit_entries": "2"})
    a, other = Device(tmp_path / "a", own, user), Device(tmp_path / "other", own, user)
    a.run("set", "elsewhere/x", "1")
    a.write("s/one", "1")
    a.once("--subtree", "m")
    a.write("s/two", "2")
    assert "refused: " in a.once("--subtree", "m", code=REFUSED)
    other.out("rm", "elsewhere/x")
    a.once("--subtree", "m")
    assert other.entries() == {"m/s/one": b"1", "m/s/two": b"2"}


def test_caps_on_what_a_server_sends(pair):
    a, b = pair
    for n in range(5):
        a.write("n%d" % n, "12345")
    a.once()
    assert "more than 3 entries" in b.once("--max-entries", "3", code=REFUSED)
    assert "more than 20 octets" in b.once("--max-bytes", "20", code=REFUSED)
    assert b.files() == {}
    assert "too large" in b.once("--max-value", "4")
    assert b.files() == {}
    b.once()
    assert b.files() == a.files()


def test_own_caps(devices):
    a = devices("a")
    for n in range(5):
        a.write("n%d" % n, "12345")
    assert "more than 3 files" in a.once("--max-entries", "3")
    assert len(a.entries()) == 3 and len(a.files()) == 5
    a.write("big", "x" * 101)
    assert "100 are allowed" in a.once("--max-value", "100")
    assert "big" not in a.entries()


def test_what_cannot_be_written_is_tried_again(devices):
    """A folder that is immutable to anybody; the rest goes on."""
    if os.getuid() != 0 or subprocess.run(["which", "chattr"], capture_output=True).returncode != 0:
        pytest.skip("needs chattr as root")
    a, b = devices("a"), devices("b")
    a.write("sub/x", "1")
    a.once()
    b.once()
    if subprocess.run(["chattr", "+i", b.path("sub")], capture_output=True).returncode != 0:
        pytest.skip("the file system has no chattr")
    try:
        a.write("sub/x", "2")
        a.write("y", "3")
        a.once()
        words = b.once(code=FAILED)
        assert "sub/x" in words and b.read("y") == b"3" and b.read("sub/x") == b"1"
    finally:
        subprocess.run(["chattr", "-i", b.path("sub")], check=True)
    b.once()
    assert b.read("sub/x") == b"2"


def test_full_disk_is_told_and_the_rest_goes_on(devices, tmp_path):
    if os.getuid() != 0:
        pytest.skip("needs mount")
    a, b = devices("a"), devices("b")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", b.folder], capture_output=True).returncode != 0:
        pytest.skip("cannot mount")
    try:
        a.write("small", "1")
        a.write("large", b"x" * 400000)
        a.write("zz", "2")
        a.once()
        words = b.once(code=FAILED)
        assert "large" in words and "No space" in words
        assert b.read("small") == b"1" and b.read("zz") == b"2" and b.read("large") is None
        subprocess.run(["mount", "-o", "remount,size=2m", b.folder], check=True)
        b.once()
        assert len(b.read("large")) == 400000
    finally:
        subprocess.run(["umount", b.folder], check=True)


def test_other_file_systems_are_left_alone(pair):
    a, b = pair
    a.write("here", "1")
    os.mkdir(a.path("other"))
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
              'mount -t tmpfs none "$0" && echo 2 >"$0/there" && "$@" && ls "$0"', a.folder + "/other"]
    if subprocess.run(inside + ["true"], capture_output=True).returncode != 0:
        pytest.skip("cannot mount")
    b.write("other/by-b", "3")
    b.once()
    done = subprocess.run(inside + [DOVETAIL, "mirror", "--once", a.folder], env=a.env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "there\n")
    assert "other: another file system; left alone" in done.stderr and "other/by-b: " in done.stderr
    assert b.entries() == {"here": b"1", "other/by-b": b"3"}


# ---- Options ----

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


def test_trash_elsewhere(pair, tmp_path):
    a, b = pair
    a.write("sub/x", "1")
    a.once()
    b.once()
    os.remove(a.path("sub/x"))
    a.write("y", "2")
    a.once()
    b.once("--trash", str(tmp_path / "trash"))
    assert [p.read_text() for p in (tmp_path / "trash").glob("*/sub/x")] == ["1"]
    assert b.trash() == {}
    assert "cannot be the folder itself" in b.once("--trash", b.folder, code=SYSTEM)
    if os.stat("/dev/shm").st_dev != os.stat(b.folder).st_dev:
        trash = "/dev/shm/dovetail-trash-%d" % os.getpid()
        try:
            assert "exchange" in b.once("--trash", trash, code=SYSTEM)
        finally:
            os.rmdir(trash)


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

def test_other_servers_are_polled(make_server, tmp_path, user):
    plain = make_server(plugins=False, extra="mail_attribute_dict = file:%h/attributes\n")
    a, b = (Device(tmp_path / name, plain, user, poll_interval=1) for name in "ab")
    try:
        a.write("README", "1")
        a.write("gone", "2")
        a.begin()
        b.begin()
        b.await_file("gone", "2")
        b.write("README", "by b")
        os.remove(b.path("gone"))
        b.write("sub/new", "3")
        until(lambda: a.files() == b.files() == {b"README": b"by b", b"sub/new": b"3"})
        assert "no XMETASYNC" in a.words()
        a.end()
        b.end()
    finally:
        for device in (a, b):
            if device.process is not None:
                device.kill()


# ---- inotify's limits ----

def test_lost_events_are_found_by_a_comparison(pair):
    a, b = pair
    a.begin()
    b.begin()
    a.write("x", "1")
    b.await_file("x", "1")
    a.process.send_signal(signal.SIGSTOP)
    with open("/proc/sys/fs/inotify/max_queued_events") as f:
        events = int(f.read())
    # one for each, as they are of another file than the one before
    for n in range(events + 100):
        a.write("churn%d" % (n % 50), "%d" % n)
    a.write("last", "2")
    a.process.send_signal(signal.SIGCONT)
    b.await_file("last", "2")
    until(lambda: a.files() == b.files())
    a.end()
    b.end()


@pytest.mark.parametrize("limit,word", [("max_inotify_instances", "max_user_instances"), ("max_inotify_watches", "max_user_watches")])
def test_without_inotify_it_looks_now_and_then(pair, limit, word):
    a, b = pair
    script = "echo 0 > /proc/sys/user/%s && exec dovetail mirror %s" % (limit, a.folder)
    unshare = ["unshare", "-U", "-r", "sh", "-c"]
    if subprocess.run(unshare + ["echo 0 > /proc/sys/user/" + limit], capture_output=True).returncode != 0:
        pytest.skip("no user namespaces")
    with open(a.log, "ab") as log:
        a.process = subprocess.Popen(unshare + [script], env=a.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    b.begin()
    until(lambda: word in a.words())
    a.write("x", "1")
    b.await_file("x", "1")
    a.end()
    b.end()


# ---- Kills ----

def test_what_a_kill_has_left_goes_to_the_trash(devices):
    a = devices("a")
    a.write("x", "1")
    a.once()
    a.write(".dovetail/tmp/0123456789abcdef", "was being exchanged")
    a.once()
    assert a.trash() == {b"0123456789abcdef": [b"was being exchanged"]}
    assert os.listdir(a.path(".dovetail/tmp")) == []


def test_trash_is_bounded(devices):
    a = devices("a")
    a.write("x", "1")
    a.once()
    old = a.path(".dovetail/trash/20010101-000000/old")
    a.write(".dovetail/trash/20010101-000000/old", "old")
    a.begin()
    until(lambda: not os.path.exists(old), "the end of the old trash")
    a.end()
    # other things are none of ours
    a.write(".dovetail/trash/other", "stays")
    for n in range(3):
        a.write(".dovetail/trash/2026010%d-000000/f" % n, b"x" * 600000)
    a.once("--trash-days", "0", "--trash-mib", "1")
    assert sorted(os.listdir(a.path(".dovetail/trash"))) == [b"20260102-000000", b"other"]


def test_killed_again_and_again(pair):
    a, b = pair
    b.begin()
    expected = {}
    for n in range(12):
        a.begin()
        for k in range(10):
            name = "f%d" % ((n * 10 + k) % 30)
            expected[name.encode()] = b"%d-%d" % (n, k)
            a.write(name, expected[name.encode()])
        time.sleep(0.05 * (n % 6))
        a.kill()
    a.begin()
    expected[b"last"] = b"1"
    a.write("last", "1")
    until(lambda: b.files() == expected, "the same")
    assert a.files() == expected
    a.end()
    b.end()
