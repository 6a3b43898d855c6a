"""dovetail mirror where something is short: the server's limits and ours, the disk, inotify, leases."""

import os
import signal
import subprocess

import pytest

from cli import DOVETAIL, FAILED, REFUSED
from mirror import FAULT, begin, conflicts, end, turns, until
from proxy import Proxy


def test_too_large_for_the_server(make_server, devices):
    own = make_server(plugin={"metasync_limit_value": "1000"})
    a, b = (devices(name, on=own) for name in "ab")
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
    turns(a, b)
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


@pytest.mark.parametrize("way", ["out", "in"])
def test_full_disk_under_the_state_loses_nothing(devices, way):
    if os.getuid() != 0:
        pytest.skip("needs mount")
    a, b = devices("a"), devices("b")
    short, other = (a, b) if way == "out" else (b, a)
    os.makedirs(short.state)
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "none", short.state]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("cannot mount")
    try:
        for n in range(5):
            a.write("n%d" % n, b"%d" % n * 200000)
        a.write("small", "1")
        for device in (a, b):
            words = device.once(code=None)
            assert ("full" in words or "space" in words) == (device is short), words
        assert all(data == b"%d" % int(name[1:]) * 200000 for name, data in b.files().items() if name != b"small")
        subprocess.run(["mount", "-o", "remount,size=20m", short.state], check=True)
        turns(a, b, other)
        assert len(a.files()) == 6 and a.files() == b.files()
    finally:
        subprocess.run(["umount", short.state], check=True)


# ---- Many at once ----

def test_many_files_are_few_change_sets(pair):
    a, b = pair
    a.once()
    before = a.position()
    for n in range(250):
        a.write("n%d" % n, "%d" % n)
    turns(a, b)
    assert a.position() - before <= 4 and a.files() == b.files()
    for n in range(40):
        os.rename(a.path("n%d" % n), a.path("moved%d" % n))
    before = a.position()
    turns(a, b)
    assert a.position() - before <= 2 and a.files() == b.files()


def test_change_sets_are_no_larger_than_the_server_takes(make_server, devices):
    own = make_server(plugin={"metasync_limit_set": "30"})
    a, b = (devices(name, on=own) for name in "ab")
    a.once()
    before = a.position()
    for n in range(200):
        a.write("n%d" % n, "%d" % n)
    assert a.once() == ""
    b.once()
    assert a.files() == b.files() and 7 <= a.position() - before <= 10


def test_long_names_do_not_make_lines_too_long(make_server, devices):
    """Each entry's name has nearly 1,000 octets: a hundred of them in one command would be more than a line may have."""
    plain = make_server(plugins=False, extra="mail_attribute_dict = file:%h/attributes\n")
    for name, own in (("a", None), ("p", plain)):
        a, b = (devices(name + end, **({"on": own} if own else {})) for end in "12")
        for n in range(100):
            a.write("/".join(["x" * 230] * 4) + "%02d" % n, "v" * 200)
        turns(a, b)
        assert len(b.files()) == 100 and a.files() == b.files()


def test_refused_in_a_change_set_does_not_hold_back_the_others(make_server, devices):
    own = make_server(plugin={"metasync_limit_entries": "28"})
    a, b = (devices(name, on=own) for name in "ab")
    for n in range(30):
        a.write("n%02d" % n, "x")
    a.begin()
    b.begin()
    until(lambda: len(b.files()) == 28 and a.words().count("refused: n") == 2)
    there = set(b.files())
    for n in range(30):
        a.write("n%02d" % n, "y")
    until(lambda: b.files() == dict.fromkeys(there, b"y"))
    until(lambda: a.words().count("refused: n") == 4)
    assert len(a.files()) == 30
    end(a, b)


def test_refused_file_that_is_in_use_is_not_replaced(make_server, devices):
    """The server's value is older than the file, and may not take its place when the refusal is forgotten to try again."""
    own = make_server(plugin={"metasync_limit_bytes": "1000"})
    with Proxy(own.port) as network:
        a = devices("a", on=network)
        a.write("x", "base")
        a.once()
        a.begin("-v")
        network.go_down()
        a.write("x", "y" * 2000)
        until(lambda: "sent x" in a.words())
        a.kill()
        network.come_up()
        with open(a.path("x"), "ab"):
            a.begin()
            until(lambda: "refused: x" in a.words() and "x: somebody has it open" in a.words())
        until(lambda: a.words().count("refused: x") == 2)
        assert a.read("x") == b"y" * 2000
        a.end()


def test_locked_in_a_change_set_does_not_hold_back_the_others(pair):
    a, b = pair
    a.run("encrypt", "vault", "--key-file", a.home + "/key", "--create-key-file")
    for n in range(20):
        b.write("%s%02d" % ("vault/n" if n == 7 else "n", n), "%d" % n)
    assert "left alone" in b.once()
    a.once()
    assert set(a.files()) == {b"n%02d" % n for n in range(20) if n != 7}
    assert b.read("vault/n07") == b"7" and not [name for name in a.entries() if "vault/n" in name]


def test_signal_ends_long_work_between_two_files(pair):
    a, b = pair
    for n in range(1500):
        a.write("%d/%d" % (n % 10, n), "%d" % n)
    a.once()
    b.begin("-v")
    until(lambda: "written" in b.words())
    b.end()
    there = len(b.files())
    assert 0 < there < 1500
    b.once()
    assert a.files() == b.files()


# ---- Leases ----

def test_file_that_is_kept_open_is_told_and_the_others_go_on(pair):
    a, b = pair
    begin(a, b)
    with open(a.path("log"), "wb") as f:
        f.write(b"1")
        f.flush()
        a.write("other", "2")
        b.await_file("other", "2")
        until(lambda: "log: somebody has it open for writing; waiting for it" in a.words())
        assert b.read("log") is None
    b.await_file("log", "1")
    end(a, b)
    assert a.words().count("log: ") == 1


def test_file_system_without_leases(pair):
    a, b = pair
    env = {"LD_PRELOAD": FAULT, "MIRROR_NO_LEASES": "1"}
    with open(a.path("x"), "wb") as f:
        f.write(b"half ")
        f.flush()
        # nobody can tell
        a.once(env=env)
        b.once(env=env)
        assert b.read("x") == b"half "
        f.write(b"whole")
    a.write("y", "by a")
    b.write("y", "by b")
    for device in (a, b, a):
        device.once(env=env)
    assert a.files() == b.files() and a.read("x") == b"half whole"
    assert a.read("y") == b"by a" and list(conflicts(b).values()) == [b"by b"]
    os.remove(a.path("x"))
    a.once(env=env)
    b.once(env=env)
    assert b.read("x") is None and b"half whole" in b.trash()[b"x"]


# ---- inotify ----

def test_lost_events_are_found_by_a_comparison(pair):
    a, b = pair
    begin(a, b)
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
    end(a, b)


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
    end(a, b)


# ---- Other file systems ----

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
