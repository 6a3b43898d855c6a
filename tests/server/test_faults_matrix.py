"""A store that cannot be used for a while, met at each point of a waiting command's life. Whatever happens the
client gets an answer, the connection and a bystander in the same process live, and nothing is lost afterwards.

"locked": another program is writing. "read-locked": nobody gets a read transaction. "full": no room on the disk."""

import contextlib
import fcntl
import os
import sqlite3
import subprocess
import tempfile
import time

import pytest

from harness.server import imap_pid
from lifecycle import await_blocked, cpu_seconds, deliver
from lifecycle_matrix import SHARED, Bystander
from metasync import Watch, ask, last, lines_until, put, sane

USER = "u1"
# more than the buffers of a connection hold
MANY, SIZE = 30, 300000
UNAVAILABLE = b"T NO [UNAVAILABLE] "


# -- faults ----------------------------------------------------------------------------------------

@contextlib.contextmanager
def locked(place):
    db = sqlite3.connect(place.store + "/store.db", isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        db.execute("ROLLBACK")
        db.close()


@contextlib.contextmanager
def read_locked(place):
    """SQLite's locks on the WAL index are those of its octets 120 to 127."""
    with open(place.store + "/store.db-shm", "r+b") as f:
        # whoever reads holds one for a moment
        fcntl.lockf(f, fcntl.LOCK_EX, 8, 120)
        yield


@contextlib.contextmanager
def full(place):
    path = place.mount + "/filler"
    with open(path, "wb", buffering=0) as f:
        with contextlib.suppress(OSError):
            while f.write(bytes(65536)) == 65536:
                pass
        with contextlib.suppress(OSError):
            while f.write(bytes(512)) == 512:
                pass
    try:
        yield
    finally:
        os.remove(path)


FAULTS = {"locked": locked, "read-locked": read_locked, "full": full}
# SQLite tries for ten seconds to begin reading, whatever busy_timeout says
SLOW = "read-locked"


# -- entry points: before the fault, and under it ----------------------------------------------------

class Session:
    def __init__(self, place, fault):
        self.place = place
        self.readable = fault != "read-locked"
        self.client = place.server.login(USER, rcvbuf=65536)
        self.pid = imap_pid(self.client.sock)
        self.watch = Watch(self.client, b'"" /private')

    def wake(self):
        """What a writer does after its commit."""
        with open(self.place.store + "/wake", "r+b") as f:
            f.write(bytes(8))

    def goes_on(self):
        """The command waits, and ends with DONE."""
        self.watch.done()

    def ends_or_goes_on(self):
        """It has to read the store: it cannot, and says so; or it goes on."""
        if self.readable:
            self.goes_on()
        else:
            # not a keepalive
            assert self.watch.until("end", "other") == "end", self.watch.log[-1]
            assert self.watch.log[-1].startswith(self.watch.tag + UNAVAILABLE[1:]), self.watch.log[-1]


def first_call(s):
    yield
    s.watch.start()
    if s.readable:
        s.watch.until("idling")
    s.ends_or_goes_on()


def pipelined(s):
    yield
    s.client.send(b't XMETASYNC (NAMES DEPTH infinity) "" /private\r\nDONE\r\nn NOOP\r\n')
    lines = [r.line for r in s.client.until(b"n")]
    tagged = next(line for line in lines if line.startswith(b"t "))
    # after a NO the DONE is a command, as with IDLE
    assert (tagged.startswith(b"t OK ") if s.readable else
            tagged.startswith(b"t NO [UNAVAILABLE] ") and b"DONE BAD" in b" ".join(lines)), lines
    assert lines[-1].startswith(b"n OK")


def line(s):
    s.watch.catch_up()
    yield
    s.client.send(b"z NOOP\r\n")
    assert lines_until(s.client, s.watch.tag)[-1] == b"T BAD Expected DONE."


def overlong(s):
    s.watch.catch_up()
    s.client.send(b"x" * 100000)
    yield
    s.client.send(b"x" * 100000 + b"\r\n")
    assert lines_until(s.client, s.watch.tag)[-1] == b"T BAD Expected DONE."


def woken(s):
    s.watch.catch_up()
    yield
    s.wake()
    s.ends_or_goes_on()


def woken_and_done(s):
    s.watch.catch_up()
    yield
    s.wake()
    # the wake may be handled first or the line
    s.client.send(b"DONE\r\n")
    s.watch.until("end")
    end = s.watch.log[-1][len(s.watch.tag):]
    assert end == b" OK XMETASYNC completed." or not s.readable and end.startswith(UNAVAILABLE[1:]), end
    if end.startswith(UNAVAILABLE[1:]):
        assert b" BAD " in s.client.read_response().line


def mailbox(s):
    assert b" OK " in s.client.command(b"SELECT INBOX")[-1].line
    s.watch.catch_up()
    yield
    deliver(s.place.server, USER)
    while not s.watch.log[-1].endswith(b" EXISTS"):
        s.watch.until("other")
    s.goes_on()


def keepalive(s):
    s.watch.catch_up()
    yield
    while s.watch.log[-1] != b"* OK Still here":
        s.watch.until("other")
    s.goes_on()


def blocked(s):
    s.watch.start()
    await_blocked(s.client)
    yield
    if s.readable:
        s.watch.until("idling")
        assert len(s.watch.state) >= MANY
    s.ends_or_goes_on()


def drained(s):
    s.watch.start()
    await_blocked(s.client)
    s.watch.until("idling")
    yield
    s.wake()
    s.ends_or_goes_on()


def end_of_connection(s):
    s.watch.start()
    await_blocked(s.client)
    yield
    s.client.reset()


ENTRIES = (first_call, pipelined, line, overlong, woken, woken_and_done, mailbox, keepalive, blocked, drained,
           end_of_connection)


# -- the place -------------------------------------------------------------------------------------

class Place:
    def __init__(self, make, mode):
        self.mode, self.mount = mode, None
        plugin = {"metasync_busy_timeout": "100ms", "long_command_test_path": "%h/wake",
                  "imap_long_command_check_interval": "1h"}
        if os.getuid() == 0:
            mount = tempfile.mkdtemp(prefix="dt-full-", dir="/tmp")
            if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m,mode=777", "tmpfs", mount],
                              capture_output=True).returncode == 0:
                self.mount = mount
                plugin["metasync_dir"] = mount + "/%u"
            else:
                os.rmdir(mount)
        self.server = make(plugin=plugin, extra="imap_idle_notify_interval = 1s\n" +
                           (SHARED if mode == "shared" else ""))
        self.store = self.mount + "/" + USER if self.mount else self.server.home(USER) + "/metasync"
        # another session that has the store open: without one, the first has to make SQLite's WAL index
        self.keeper = self.server.login(USER)
        for i in range(MANY):
            put(self.keeper, [(b"/private/many/%02d" % i, b"{%d+}\r\n%s" % (SIZE, b"%02d" % i * (SIZE // 2)))])
        self.bystander = Bystander(self.server)

    def leave(self):
        self.bystander.end()
        self.server.close_clients()
        self.server.stop()
        if self.mount:
            subprocess.run(["umount", "-l", self.mount], check=True)
            os.rmdir(self.mount)


@pytest.fixture(scope="module", params=["own", "shared"])
def place(request, make_module_server):
    p = Place(make_module_server, request.param)
    yield p
    p.leave()


def injured(place, fault):
    if fault == "full" and not place.mount:
        pytest.skip("needs root to mount a small file system")
    return FAULTS[fault](place)


def assert_rests(place, pid):
    """The process does not spin: it uses no CPU for a moment."""
    before = cpu_seconds(pid)
    place.bystander.client.send(b"TIMER 200\r\n")
    place.bystander.client.expect(rb"\* XTEST TIMER")
    assert cpu_seconds(pid) - before < 0.15


def is_well(place):
    """Changes are stored and pushed again, each once."""
    c, w = place.server.login(USER), Watch(place.server.login(USER), b'"" /private').catch_up()
    assert len([name for _, name in w.state if name.startswith(b"/private/many/")]) == MANY
    value = b"%d" % time.monotonic_ns()
    pos = put(c, [(b"/private/well", b'"%s"' % value)])
    w.until("marker")
    assert w.mark[:2] == pos
    assert w.state[(b"", b"/private/well")] == value
    w.done()
    c.logout()
    w.client.logout()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
def test_waiting(place, fault, entry):
    if fault == SLOW and (place.mode == "shared" or entry not in (first_call, woken, blocked)):
        pytest.skip("takes ten seconds")
    s = Session(place, fault)
    steps = entry(s)
    next(steps)
    with injured(place, fault):
        assert next(steps, "end") == "end"
        place.bystander.check()
    if entry is not end_of_connection:
        # the same connection does its work again
        sane(s.client)
        Watch(s.client, b'"" /private').catch_up().done()
        assert_rests(place, s.pid)
    s.client.close()
    place.bystander.check()
    is_well(place)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != SLOW])
def test_setting(place, fault):
    """Three large values, so that they do not fit into the log as it is."""
    c = place.server.login(USER)
    value = b"{900000+}\r\n" + b"v" * 900000
    pairs = b" ".join(b"/private/fault/%d %s" % (i, value) for i in range(3))
    pos = put(c, [(b"/private/base", b'"%d"' % time.monotonic_ns())])
    for command in (b'XMETASET "" (%s)' % pairs,
                    b'XMETASET (UNCHANGEDSINCE 0) "" (%s)' % pairs,
                    b'XMETASET (UNCHANGEDSINCE (%d %d)) "" (%s)' % (*pos, pairs),
                    b'XMETASET "" (/private/fault/a "x") INBOX (%s)' % pairs):
        with injured(place, fault):
            assert last(c, command).startswith(UNAVAILABLE)
            sane(c)
            place.bystander.check()
        # nothing of it is there
        lines = ask(c, b'XMETASYNC (ONCE NAMES DEPTH infinity) "" /private/fault INBOX /private/fault')
        assert not [line for line in lines if b"METADATA" in line]
        assert lines[-1].startswith(b"T OK ")
    c.logout()
    is_well(place)


def test_first_session_on_a_full_disk(make_module_server):
    """SQLite needs room for the WAL index even to read."""
    place = Place(make_module_server, "own")
    try:
        place.keeper.logout()
        place.server.await_no_session(USER)
        c = place.server.login(USER)
        with injured(place, "full"):
            assert last(c, b'XMETASYNC (ONCE) "" /private/many/00').startswith(UNAVAILABLE)
            assert last(c, b'XMETASET "" (/private/a "x")').startswith(UNAVAILABLE)
            sane(c)
        is_well(place)
    finally:
        place.leave()
