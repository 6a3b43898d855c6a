"""Connections that are cut anywhere, frozen, or lose an answer; processes that are killed. Nothing that was written
is lost or sent again after its acknowledgement, and at rest both sides are the same."""

import os
import random
import signal
import socket
import threading
import time

import pytest

from drive import Driver
from harness.server import imap_pid
from proxy import DOWN, UP, Proxy
from script import Script
from syncing import A, B, C, ROOT, Other, live, settled

# every octet with DOVETAIL_ALL, else one in so many, and the ends of lines
STRIDE = 1 if os.environ.get("DOVETAIL_ALL") else 23


@pytest.fixture
def proxy(server):
    with Proxy(server.port) as p:
        yield p


class Story:
    """One session: two entries of others come, two sets go, of which one is a conflict. Under a folder of its own."""

    def __init__(self, driver, other, root):
        self.driver, self.other, self.root = driver, other, root
        self.names = [root + "/" + c for c in "abcd"]
        a, b, _, _ = self.names
        other.put((a, b"theirs"), (b, b"x" * 300))

    def prepare(self):
        """The replica as it is before the session."""
        _, _, c, d = self.names
        self.driver("open", "r", self.driver.path(self.root.replace("/", "-")))
        self.driver("parts", "r", "mailbox", "", self.root)
        self.driver.set("r", ("", c, b"mine"), ("", d, b"y" * 300))
        self.driver.set("r", ("", self.names[0], b"mine"))

    def check(self, server, user):
        """After what has happened: whole sets only; then all is the same, and nobody has lost."""
        a, b, c, d = self.names
        state = self.driver.list()
        assert ((("", b) in state) == (state[("", a)] == b"theirs")) or state[("", a)] == b"mine"
        assert (self.other.get(c) is None) == (self.other.get(d) is None)
        self.driver.once("r", server, user, rule="server")
        assert self.driver.list() == {("", n): self.other.get(n) for n in self.names} == {
            ("", a): b"theirs", ("", b): b"x" * 300, ("", c): b"mine", ("", d): b"y" * 300}
        assert self.driver("counts", "r")["pending"] == 0
        self.driver("close", "r")


@pytest.mark.parametrize("way", [UP, DOWN])
def test_cut_anywhere(driver, server, user, other, proxy, way):
    whole = Story(driver, other, ROOT + "/whole")
    whole.prepare()
    driver.once("r", proxy.port, user, rule="server")
    octets = proxy.octets[way]
    whole.check(server, user)
    assert len(octets) > 500, octets
    ends = {i + 1 for i in range(len(octets)) if octets[i] == 10}
    middles = {e - 2 for e in ends}
    cuts = sorted(ends | middles | set(range(1, len(octets), STRIDE)))
    for n in cuts:
        story = Story(driver, other, "%s/%d" % (ROOT, n))
        story.prepare()
        proxy.cut = (way, n)
        answer = driver.once("r", proxy.port, user, status=None, rule="server")
        assert answer["reply"] in ("ok", "network"), (n, answer)
        try:
            story.check(server, user)
        except AssertionError:
            print("cut after %d octets %s: %r" % (n, way, octets[:n][-100:]))
            raise
        driver.log.clear()
        driver.events.clear()


def test_reconnects(driver, server, user, other, proxy):
    """A live sync whose connections are cut again and again goes on by itself."""
    driver.open()
    for n in range(1, 6):
        proxy.cut = (DOWN, 900 + random.randrange(1500))
        if n == 1:
            driver.sync("r", proxy.port, user, max_backoff=20)
        for i in range(20):
            other.put(("%s/%d" % (ROOT, i), b"%d" % n * 20))
            driver.set("r", ("", "%s/mine-%d" % (ROOT, i), b"%d" % n))
    proxy.cut = None
    driver.set("r", ("", A, b"last"))
    settled(driver)
    other.put((B, b"last"))
    driver.wait("change", name=B)
    driver.wait("consistent")
    state = driver.list()
    assert len(state) == 42
    assert state == {k: other.get(k[1]) for k in state}
    assert driver.seen("state", state="offline", status="network")
    assert not driver.seen("conflict")


def test_lost_acknowledgement(driver, server, user, other, proxy):
    """Written, but the answer did not arrive: that is no conflict, and nothing is written twice."""
    driver.open()
    driver.set("r", ("", A, b"mine"), ("", B, b"mine"))
    proxy.lose = b"OK [XMETASET ("
    driver.once("r", proxy.port, user, status="network")
    assert other.get(A) == b"mine", "it is there"
    assert driver("counts", "r")["pending"]
    driver.once("r", server, user)
    assert driver("counts", "r")["pending"] == 0
    assert not driver.seen("conflict") and not driver.seen("change")


def test_lost_acknowledgement_and_others(driver, server, user, other, proxy):
    """... and others have written in between: theirs came after mine, which they have seen."""
    driver.open()
    driver.set("r", ("", A, b"mine"))
    proxy.lose = b"OK [XMETASET ("
    driver.once("r", proxy.port, user, status="network")
    assert other.get(A) == b"mine"
    other.put((A, b"theirs"))
    driver.once("r", server, user, rule="server")
    assert other.get(A) == driver.get("r", "", A) == b"theirs"


def test_acknowledged_is_never_sent_again(driver, server, user, other, proxy):
    driver.open()
    driver.sync("r", proxy.port, user, max_backoff=20)
    driver.state("live")
    driver.set("r", ("", A, b"mine"))
    settled(driver)
    other.put((A, b"theirs"))
    proxy.cut = (DOWN, 1500)
    for n in range(10):
        driver.set("r", ("", B, b"%d" % n * 100))
    proxy.cut = None
    settled(driver)
    driver("hurry", "r")
    driver.wait("consistent")
    assert other.get(A) == driver.get("r", "", A) == b"theirs"


def test_frozen(driver, server, user, other, proxy):
    """A connection on which nothing comes any more is found by asking for a sign of life."""
    driver.open()
    driver.sync("r", proxy.port, user, keepalive=200, timeout=500, max_backoff=20)
    driver.state("live")
    # the server answers when it is asked
    for _ in range(3):
        driver.wait("consistent")
    assert not driver.seen("state", state="offline")
    proxy.freeze()
    other.put((A, b"1"))
    assert "not answered" in driver.state("offline", status="network")["text"]
    proxy.thaw()
    assert driver.wait("change")["value"] == b"1"


def test_frozen_while_connecting(driver, server, user, other, proxy):
    proxy.freeze()
    driver.open()
    driver.sync("r", proxy.port, user, timeout=300, max_backoff=20)
    driver.state("offline", status="network")
    proxy.thaw()
    driver.state("live")


def test_slept(driver, server, user, other, proxy):
    """A machine that comes back from sleep asks at once, though the keepalive is not due, and does not wait for a
    backoff either."""
    driver.open()
    driver.sync("r", proxy.port, user, timeout=1000)
    driver.state("live")
    proxy.freeze()
    other.put((A, b"1"))
    driver("sleep", 60000)
    driver.state("offline", status="network")
    proxy.thaw()
    driver("sleep", 60000)
    assert driver.wait("change")["value"] == b"1"


def test_hurry(driver, server, user, other, proxy):
    """The caller knows that the network is back."""
    driver.open()
    proxy.cut = (UP, 1)
    driver.sync("r", proxy.port, user, max_backoff=3600000)
    for _ in range(9):
        driver.state("offline", status="network")
        driver("hurry", "r")
    driver.state("offline", status="network")
    # minutes by now
    proxy.cut = None
    driver("hurry", "r")
    driver.state("live")


def test_pauses(driver, user):
    """Each pause between tries is twice the one before, up to max_backoff, and a bit longer or shorter by chance. A login
    alone is no success: only a consistent state makes the pauses short again."""
    good = threading.Event()

    def serve(connection):
        connection.capability()
        if good.is_set():
            connection.sync()
            connection.rest()
        else:
            connection.command(b"XMETASYNC")

    with Script(serve) as script:
        driver.open()
        driver.sync("r", script.port, user, max_backoff=100000)
        pauses = []
        for _ in range(16):
            pauses.append(driver.state("offline")["pause"])
            driver("hurry", "r")
        for n, ms in enumerate(pauses):
            full = min(1000 * 2 ** n, 100000)
            assert full / 2 < ms <= full * 1.2, pauses
        assert max(pauses[8:]) - min(pauses[8:]) > 500, "many clients do not come back at the same moment"
        driver.state("offline")
        good.set()
        driver("hurry", "r")
        driver.state("live")
        script.socks[-1].shutdown(socket.SHUT_RDWR)
        assert driver.state("offline")["pause"] <= 1200
        driver("free", "r")


def test_timer_goes_on_in_sleep(driver, user):
    """poll() does not count the time that a machine sleeps: what wakes the caller then is a timer that does."""
    driver.open()
    driver.sync("r", 1, user)
    folder = "/proc/%d/fd" % driver.process.pid
    timers = [fd for fd in os.listdir(folder) if os.readlink(os.path.join(folder, fd)) == "anon_inode:[timerfd]"]
    assert len(timers) == 1
    with open("/proc/%d/fdinfo/%s" % (driver.process.pid, timers[0])) as f:
        assert "clockid: %d\n" % time.CLOCK_BOOTTIME in f.read()


def test_nobody_listens(driver, user):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    driver.open()
    driver.once("r", port, user, status="network")
    driver.sync("r", port, user, max_backoff=10)
    for _ in range(5):
        driver.state("offline", status="network")


def test_server_process_is_killed(driver, make_server, user):
    """kill -9 of the imap process: the same as a cut."""
    server = make_server()
    other = Other(server.login(user))
    with Proxy(server.port) as proxy:
        driver.open()
        driver.sync("r", proxy.port, user, max_backoff=20)
        driver.state("live")
        for n in range(5):
            other.put((A, b"%d" % n))
            driver.set("r", ("", B, b"%d" % n))
            pids = [p for p in server.processes() if is_imap_of(p, user)]
            for pid in pids:
                if pid != imap_pid(other.client.sock):
                    os.kill(pid, signal.SIGKILL)
        driver.set("r", ("", C, b"last"))
        settled(driver)
        other.put((A, b"last"))
        driver.wait("change", value=b"last")
        driver.wait("consistent")
        assert driver.list() == {("", e): other.get(e) for e in (A, B, C)}
        driver("free", "r")
    # it was killed by us
    server.close_clients()
    server.stop()
    server.destroy()


def is_imap_of(pid, user):
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as f:
            return ("[%s " % user).encode() in f.read()
    except OSError:
        return False


def test_server_is_restarted(driver, make_server, user):
    server = make_server()
    driver.open()
    driver.sync("r", server, user, max_backoff=100)
    driver.state("live")
    server.stop()
    driver.state("offline", status="network")
    driver.set("r", ("", A, b"meanwhile"))
    server.start()
    driver.state("live")
    settled(driver)
    assert Other(server.login(user)).get(A) == b"meanwhile"


def test_client_is_killed(server, user, other, tmp_path):
    """kill -9 at random moments of writing, sending and receiving: all that was acknowledged to the caller is there."""
    written = {}
    with Driver() as last:
        for n in range(25):
            with Driver(directory=last.directory) as driver:
                driver.open()
                driver.sync("r", server, user)
                for i in range(random.randrange(1, 8)):
                    name = "%s/%d" % (ROOT, random.randrange(6))
                    driver.set("r", ("", name, b"%d.%d" % (n, i)))
                    written[name] = b"%d.%d" % (n, i)
                if n % 3 == 0:
                    driver.wait("consistent")
                if n % 2 == 0:
                    # into the middle of whatever it does
                    driver.send("hurry", "r")
                driver.kill()
        last.open()
        last.once("r", server, user)
        assert not last.seen("conflict")
        assert last.list() == {("", k): v for k, v in written.items()}
        assert {k: other.get(k) for k in written} == written


def test_two_syncs_of_one_replica(driver, server, user):
    driver.open()
    driver.open("again", parts=(), path=driver.path("r"))
    live(driver, "r", server, user)
    assert driver.sync("again", server, user, status=None)["reply"] == "busy"
    with Driver(driver.directory) as second:
        second.open(parts=())
        assert second.once("r", server, user, status=None)["reply"] == "busy"
        driver("free", "r")
        second.once("r", server, user)
    driver.sync("again", server, user)
    driver.state("live", replica="again")


@pytest.mark.parametrize("seed", range(2))
def test_storm(driver, server, user, other, seed):
    """Three devices write at random, their connections are cut at random, the server's history is lost now and then: at
    rest all are the same, nothing waits, and each value is one that somebody has written last."""
    chance = random.Random(seed)
    names = [ROOT + "/" + c for c in "abcdef"]
    with Proxy(server.port) as proxy:
        for r in "xyz":
            driver.open(r)
            driver.sync(r, proxy.port, user, max_backoff=30, rule="mine")
        for step in range(250):
            proxy.cut = chance.choice([None, (UP, chance.randrange(100, 2000)), (DOWN, chance.randrange(700, 4000))])
            r = chance.choice("xyz")
            chosen = chance.sample(names, chance.randrange(1, 4))
            driver.set(r, *[("", n, chance.choice([None, b"%d" % step, b"%d" % step * 500])) for n in chosen])
            if chance.random() < 0.2:
                proxy.reset()
            if chance.random() < 0.02:
                server.doveadm("metasync", "new-epoch", "-u", user)
            if chance.random() < 0.1:
                driver("hurry", chance.choice("xyz"))
        proxy.cut = None
        for r in "xyz":
            settled(driver, r)
        other.put((ROOT + "/end", b"end"))
        for r in "xyz":
            while driver.get(r, "", ROOT + "/end") is None:
                driver.wait("consistent", replica=r)
        # one that was still merging then
        for r in "xyz":
            settled(driver, r)
        states = {}
        for _ in range(50):
            states = {r: driver.list(r) for r in "xyz"}
            states["server"] = {("", n): other.get(n) for n in names + [ROOT + "/end"] if other.get(n) is not None}
            if all(s == states["x"] for s in states.values()):
                break
            driver.wait("consistent")
        assert states["x"] == states["y"] == states["z"] == states["server"]
        assert proxy.count > 20, "the connections were cut"
        for r in "xyz":
            driver("free", r)
