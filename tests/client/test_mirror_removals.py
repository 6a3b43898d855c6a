"""dovetail mirror and removals: many at once, a folder that goes away, RESET, the trash."""

import os
import shutil
import signal

import pytest

from cli import CONFIG, FAILED, MASS_REMOVAL, PREFIX, SYSTEM
from mirror import begin, end, turns, until


def test_emptied_folder_needs_yes(pair):
    a, b = pair
    for n in range(5):
        a.write("n%d" % n, "%d" % n)
    turns(a, b)
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
    begin(a, b)
    until(lambda: len(b.files()) == 61)
    os.rename(a.path("s"), a.home + "/gone")
    assert a.process.wait(60) == MASS_REMOVAL
    a.process = None
    assert "60 of 61 entries would be removed" in a.words()
    assert len(b.files()) == 61
    b.end()


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


def test_lost_replica_or_record_removes_nothing(pair):
    a, b = pair
    for n in range(5):
        a.write("n%d" % n, "%d" % n)
    turns(a, b)
    state = [os.path.join(folder, name) for folder, _, names in os.walk(a.home) for name in names]
    replicas = [path for path in state if "/replica.db" in path and "mirror-" in path]
    assert replicas
    for path in replicas:
        os.remove(path)
    b.write("n1", "new")
    turns(b, a)
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
    turns(a, b)
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


# ---- The trash ----

def test_trash_elsewhere(pair, tmp_path):
    a, b = pair
    a.write("sub/x", "1")
    turns(a, b)
    os.remove(a.path("sub/x"))
    a.write("y", "2")
    a.once()
    b.once("--trash", str(tmp_path / "trash"))
    assert [p.read_text() for p in (tmp_path / "trash").glob("*/sub/x")] == ["1"]
    assert b.trash() == {}
    for inside in (b.folder, b.folder + "/sub2"):
        assert "cannot be in what is mirrored" in b.once("--trash", inside, code=SYSTEM)
    b.once("--trash", b.folder + "/.dovetail/other")
    if os.stat("/dev/shm").st_dev != os.stat(b.folder).st_dev:
        trash = "/dev/shm/dovetail-trash-%d" % os.getpid()
        try:
            assert "exchange" in b.once("--trash", trash, code=SYSTEM)
        finally:
            os.rmdir(trash)


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


def test_trash_is_bounded_while_others_write(pair):
    a, b = pair
    a.begin()
    b.begin("--trash-mib", "1")
    for n in range(14):
        a.write("x", b"%02d" % n * 150000)
        b.await_file("x", b"%02d" % n * 150000)
    # all but the last one were replaced: 4 MiB
    until(lambda: sum(len(data) for versions in b.trash().values() for data in versions) <= 1 << 20)
    end(a, b)


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
