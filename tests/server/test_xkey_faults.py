"""XKEYSYNC and XKEYADD on a store that cannot be used: what passes in time is not noticed by the client; what does not
ends the command with a NO, and the connection lives."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time

import pytest

import stores
from harness.server import imap_pid
from lifecycle import await_end, await_log, cpu_seconds
from metasync import last, sane
from stores import await_closed, directory, owned
from xkey import Sync, add, added, devices, make_keys, must_add, remove, tagged

A, B, C = sorted(make_keys(3), key=lambda key: key.fpr)
BUSY = b"NO [UNAVAILABLE] The store is busy, try again"
UNUSABLE = b"NO [UNAVAILABLE] The store cannot be used"
DAMAGED = b"NO [CORRUPTION] The store is damaged"
SETTINGS = {"metasync_busy_timeout": "100ms", "imap_long_command_check_interval": "1s"}


@pytest.fixture(scope="module")
def patient(make_module_server):
    return make_module_server(plugin={**SETTINGS, "imap_xkey_retry": "5 mins"}, extra="mail_debug = yes\n")


@pytest.fixture(scope="module")
def hasty(make_module_server):
    return make_module_server(plugin={**SETTINGS, "imap_xkey_retry": "1 s"}, extra="mail_debug = yes\n")


def await_retry(server, user, command, count=1):
    """Until the store has been tried so many times in vain."""
    await_log(server, r"(?:imap\(%s\).*: Debug: %s: .* - trying again(?s:.*?)){%d}" % (user, command, count))


# -- faults ----------------------------------------------------------------------------------------

@contextlib.contextmanager
def locked(server, user):
    db = sqlite3.connect(directory(server, user) + "/store.db", isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        db.execute("ROLLBACK")
        db.close()


@contextlib.contextmanager
def away(server, user):
    """The directory cannot be found, nor made."""
    d, home = directory(server, user), server.home(user)
    if os.path.exists(d):
        os.rename(d, d + "-away")
    os.chmod(home, 0o500)
    try:
        yield
    finally:
        os.chmod(home, 0o700)
        if os.path.exists(d + "-away"):
            os.rename(d + "-away", d)


def home(server, user):
    """The user has a home, but no store."""
    os.makedirs(server.home(user), mode=0o700)
    owned(server, server.home(user))


# -- XKEYADD ---------------------------------------------------------------------------------------

@pytest.mark.valgrind
@pytest.mark.parametrize("fault", [locked, away], ids=["locked", "away"])
def test_add_is_tried_again(patient, user, fault):
    c = patient.login(user)
    must_add(c, A)
    with fault(patient, user):
        tag = c.start(b"XKEYADD {%d+}\r\n%s" % (len(B.pem), B.pem))
        await_retry(patient, user, "XKEYADD")
    assert tagged(c, tag) == added(B)
    assert devices(c) == {A.fpr, B.fpr}


@pytest.mark.valgrind
@pytest.mark.parametrize("fault, reply", [(locked, BUSY), (away, UNUSABLE)], ids=["locked", "away"])
def test_add_is_given_up(hasty, user, fault, reply):
    c = hasty.login(user)
    must_add(c, A)
    with fault(hasty, user):
        assert add(c, B.pem) == reply
        sane(c)
        # what is decided without the store
        assert add(c, b"x") == b"NO invalid public key"
    await_log(hasty, r"imap\(%s\).*: Error: metasync: " % user)
    assert devices(c) == {A.fpr}
    must_add(c, B)


@pytest.mark.valgrind
@pytest.mark.parametrize("command", ["XKEYADD", "XKEYSYNC"])
@pytest.mark.parametrize("end", ["reset", "sigterm", "logout"])
def test_end_while_it_is_tried_again(patient, user, command, end):
    """A lost connection and a stop of the process are not waited with; the client's next command is."""
    c = patient.login(user)
    must_add(c, A)
    pid = imap_pid(c.sock)
    with locked(patient, user) if command == "XKEYADD" else away(patient, user):
        tag = c.start(b"XKEYADD {%d+}\r\n%s" % (len(B.pem), B.pem) if command == "XKEYADD" else b"XKEYSYNC")
        await_retry(patient, user, command)
        if end == "reset":
            c.reset()
        elif end == "sigterm":
            os.kill(pid, signal.SIGTERM)
            assert not [r for r in c.eof() if r.tag == tag]
        else:
            c.send(b"z LOGOUT\r\n" if command == "XKEYADD" else b"DONE\r\nz LOGOUT\r\n")
            await_retry(patient, user, command, 3)
        if end != "logout":
            await_end(pid)
    if end == "logout":
        assert [r.tag for r in c.eof() if r.tag not in (b"*", b"+")] == [tag, b"z"]
    # nothing was half done
    assert devices(patient.login(user)) == {A.fpr} | ({B.fpr} if command == "XKEYADD" and end == "logout" else set())


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount a small file system")
def test_full_disk(make_server):
    mount = tempfile.mkdtemp(prefix="dt-full-", dir="/tmp")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=777", "tmpfs", mount], capture_output=True).returncode != 0:
        os.rmdir(mount)
        pytest.skip("cannot mount")
    try:
        server = make_server(plugin={"metasync_dir": mount + "/%u", "imap_xkey_retry": "2 s"}, extra="mail_debug = yes\n")
        c = server.login("u1")
        s = Sync(server.login("u1"))
        s.first()
        must_add(c, A)
        with open(mount + "/filler", "wb", buffering=0) as f:
            with contextlib.suppress(OSError):
                while f.write(bytes(4096)) == 4096:
                    pass
        # the log has room for some commits
        reply, n = b"", 0
        while reply != UNUSABLE and n < 2000:
            reply = add(c, B.pem)
            if reply == added(B):
                line = last(c, b"XMETASET \"\" (%s NIL)" % B.entry)
                reply = line[2:-1] if b" NO " in line else reply
            n += 1
        assert reply == UNUSABLE
        sane(c)
        tag = c.start(b"XKEYADD {%d+}\r\n%s" % (len(C.pem), C.pem))
        await_retry(server, "u1", "XKEYADD")
        os.remove(mount + "/filler")
        assert tagged(c, tag) == added(C)
        known = devices(c)
        while s.known != known:
            s.packet()
        for client in server.clients:
            client.close()
        server.stop()
    finally:
        subprocess.run(["umount", "-l", mount], check=True)
        os.rmdir(mount)


# -- XKEYSYNC --------------------------------------------------------------------------------------

@pytest.mark.valgrind
def test_sync_begins_in_trouble(patient, user):
    """Nothing is said until it has passed; DONE is held."""
    home(patient, user)
    c = patient.login(user)
    with away(patient, user):
        c.send(b"1 XKEYSYNC %s\r\nDONE\r\n2 NOOP\r\n" % A.fpr)
        await_retry(patient, user, "XKEYSYNC")
    expected = [b"* XKEYSYNC DELETED " + A.fpr, b"* XKEYSYNC OK", b"+ OK"]
    assert [c.read_response().line for _ in expected] == expected
    assert tagged(c, b"1") == Sync.DONE
    assert tagged(c, b"2").startswith(b"OK ")


def test_much_input_while_nothing_is_looked_at(patient, user):
    """The process does not spin because of lines that are held."""
    home(patient, user)
    c = patient.login(user)
    pid = imap_pid(c.sock)
    with away(patient, user):
        tag = c.start(b"XKEYSYNC")
        await_retry(patient, user, "XKEYSYNC")
        c.send(b"x" * 200000)
        before = cpu_seconds(pid)
        await_retry(patient, user, "XKEYSYNC", 4)
        assert cpu_seconds(pid) - before < 0.3
    c.next(rb"\+ OK\Z")
    c.send(b"\r\n")
    assert tagged(c, tag) == b"BAD expected DONE"
    sane(c)


@pytest.mark.valgrind
def test_sync_cannot_begin(hasty, user):
    home(hasty, user)
    c = hasty.login(user)
    with away(hasty, user):
        tag = c.start(b"XKEYSYNC")
        assert tagged(c, tag) == UNUSABLE
        sane(c)
        # DONE was held, and is the next command then
        c.send(b"1 XKEYSYNC\r\nDONE\r\n")
        assert tagged(c, b"1") == UNUSABLE
        assert c.read_response().line.startswith(b"DONE BAD ")
        sane(c)
    assert devices(c) == set()


@pytest.mark.valgrind
def test_trouble_passes_while_waiting(patient, user):
    c = patient.login(user)
    must_add(c, A)
    s = Sync(c)
    s.first()
    with away(patient, user):
        await_retry(patient, user, "XKEYSYNC")
    # the same store again: nothing has changed
    d = patient.login(user)
    must_add(d, B)
    assert s.packet() == [("created", B.fpr)]
    s.done()
    assert len(s.events) == 2


@pytest.mark.valgrind
def test_trouble_does_not_pass_while_waiting(hasty, user):
    c = hasty.login(user)
    must_add(c, A)
    s = Sync(c)
    s.first()
    with away(hasty, user):
        assert tagged(c, s.tag) == UNUSABLE
        sane(c)
    await_log(hasty, r"imap\(%s\).*: Error: metasync: " % user)
    # it knows what it was told
    s = Sync(c, A.fpr)
    assert s.first() == []
    s.done()


def test_trouble_again_and_again(hasty, user):
    """Each time has its own patience."""
    c, d = hasty.login(user), hasty.login(user)
    s = Sync(c)
    s.first()
    for i in range(3):
        with away(hasty, user):
            await_retry(hasty, user, "XKEYSYNC", i + 1)
        until = time.monotonic() + 1.1
        while time.monotonic() < until:
            must_add(d, A)
            s.until([A])
            remove(d, A)
            s.until([])
    s.done()


def test_done_in_trouble(patient, user):
    """Between packets DONE is valid, whatever the store does."""
    c = patient.login(user)
    s = Sync(c)
    s.first()
    with away(patient, user):
        await_retry(patient, user, "XKEYSYNC")
        s.done()
        sane(c)


@pytest.mark.parametrize("make, reply", [(stores.damaged("garbage"), DAMAGED), (stores.newer, UNUSABLE)],
                         ids=["damaged", "newer"])
def test_trouble_that_will_not_pass(patient, user, make, reply):
    """It is not tried again."""
    c = patient.login(user)
    must_add(c, A)
    c.logout()
    patient.await_no_session(user)
    make(patient, directory(patient, user))
    c = patient.login(user)
    tag = c.start(b"XKEYSYNC")
    assert tagged(c, tag) == reply
    assert add(c, A.pem) == reply
    sane(c)


def test_damaged_while_waiting(patient, user):
    c = patient.login(user)
    must_add(c, A)
    s = Sync(c)
    s.first()
    d = directory(patient, user)
    os.rename(d, d + "-old")
    os.mkdir(d, 0o700)
    # without the log, from which SQLite would have mended it
    shutil.copy(d + "-old/store.db", d + "/store.db")
    stores.damaged("garbage")(patient, d)
    owned(patient, d)
    owned(patient, d + "/store.db")
    assert tagged(c, s.tag) == DAMAGED
    sane(c)


@pytest.mark.valgrind
def test_restored_backup_while_waiting(patient, user):
    """The difference is told, and nothing else."""
    d = directory(patient, user)
    c = patient.login(user)
    must_add(c, A, B)
    c.logout()
    await_closed(d)
    shutil.copytree(d, d + "-copy")
    c = patient.login(user)
    remove(c, A)
    must_add(c, C)
    s = Sync(c)
    assert s.first() == [("created", B.fpr), ("created", C.fpr)]
    for path in [d + "-copy"] + [os.path.join(d + "-copy", name) for name in os.listdir(d + "-copy")]:
        owned(patient, path)
    os.rename(d, d + "-old")
    os.rename(d + "-copy", d)
    assert s.packet() == [("created", A.fpr), ("deleted", C.fpr)]
    # and it goes on
    must_add(patient.login(user), C)
    assert s.packet() == [("created", C.fpr)]
    s.done()


@pytest.mark.skipif(os.environ.get("DOVETAIL_WRAPPER") == "valgrind", reason="doveadm is not what is looked at")
def test_history_is_gone_while_waiting(patient, user):
    """A new epoch and a purge are no news for a list of keys."""
    c, d = patient.login(user), patient.login(user)
    must_add(d, A, B)
    s = Sync(c)
    s.first()
    for command in (("new-epoch",), ("purge", "-a")):
        remove(d, A)
        assert s.packet() == [("deleted", A.fpr)]
        assert patient.doveadm("metasync", command[0], "-u", user, *command[1:]).returncode == 0
        must_add(d, A)
        assert s.packet() == [("created", A.fpr)]
    s.done()
    assert len(s.events) == 6
