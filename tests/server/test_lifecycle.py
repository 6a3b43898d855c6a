"""The life of a long command, as a matrix: a session is brought to each entry point, then each kind of
end happens. After every end: finish() came exactly once and for the right reason, the client got the
right answer or the end of its connection, a bystander's session still works, and no process spins.

The matrix runs with a process for each session and with one process for all of them ("shared"), where the
bystander is a session of the same user that waits for the same file."""

import os
import signal

import pytest

from harness.server import imap_pid
from lifecycle import (alive, assert_quiet, assert_rows, await_finish, await_log, check_balance, deliver,
                       ended, make_wake, reply, sane, settings, wake, wake_path)

MUCH = 8000000
SHARED = "service imap {\n  client_limit = 200\n  service_count = 0\n  process_limit = 1\n}\n"
BY = "bystander"


# -- entry points ----------------------------------------------------------------------------------

class Session:
    """A client whose command is at an entry point. state: "wait" for lines, "done" (DONE was sent, the
    answer comes later), "overlong" (a wrong line without an end) or "blocked"."""

    def __init__(self, server, user, name):
        self.server, self.user, self.name = server, user, name
        self.state = "wait"
        self.tag = b"tag"
        self.seen = []
        self.later = b"300"
        make_wake(server, user)
        self.client = server.login(user, rcvbuf=65536)

    def begin(self, options=b"", lines=b"", command=b"XTEST"):
        self.client.send(b"%s %s NAME %s WATCH %s\r\n%s" %
                         (self.tag, command, self.name.encode(), options, lines))
        assert self.client.expect(rb"\+ idling")

    def expect(self, pattern):
        """Reads up to a line; the output seen on the way is kept."""
        while True:
            self.seen.append(self.client.read_response())
            if self.seen[-1].line.startswith(pattern):
                return

    def answer(self):
        """Reads up to the tagged reply; returns it."""
        responses = self.client.until(self.tag)
        assert_rows(self.seen + responses)
        return reply(responses[-1])

    def rest(self):
        """Reads to the end of the connection."""
        self.seen += ended(self.client)
        assert_rows(self.seen)
        return [r.line for r in self.seen]


def enter_first_call(s):
    s.begin()


def enter_pipelined(s):
    s.begin(lines=b"ECHO one\r\nECHO two\r\n")
    s.expect(b"* XTEST ECHO one")
    s.expect(b"* XTEST ECHO two")


def enter_done(s):
    s.begin(b"LATER %s" % s.later, lines=b"DONE\r\n")
    s.state = "done"


def enter_line(s):
    s.begin()
    s.client.send(b"ECHO a line\r\n")
    s.expect(b"* XTEST ECHO a line")


def enter_overlong(s):
    s.begin()
    s.client.send(b"x" * 100000)
    s.state = "overlong"


def enter_wake(s):
    s.begin()
    wake(s.server, s.user)
    s.expect(b"* XTEST CHANGE")


def enter_timer(s):
    s.begin(b"TIMER 1")
    s.expect(b"* XTEST TIMER")


def enter_mailbox(s):
    assert b" OK " in s.client.command(b"SELECT INBOX")[-1].line
    s.begin(b"MAILBOX", command=b"XTESTBOX")
    deliver(s.server, s.user)
    while not s.seen or not s.seen[-1].line.endswith(b" EXISTS"):
        s.expect(b"* ")


def enter_keepalive(s):
    s.begin(b"KEEPALIVE")
    s.expect(b"* XTEST KEEPALIVE")
    s.expect(b"* OK Still here")


def enter_blocked(s):
    s.begin(b"OUT %d" % MUCH)
    await_log(s.server, "xtest blocked %s\n" % s.name)
    s.state = "blocked"


def enter_drained(s):
    enter_blocked(s)
    s.expect(b"* XTEST OUT %010d " % (MUCH // 1024 - 1))
    s.state = "wait"


ENTRIES = {f.__name__[6:]: f for f in (
    enter_first_call, enter_pipelined, enter_done, enter_line, enter_overlong, enter_wake, enter_timer,
    enter_mailbox, enter_keepalive, enter_blocked, enter_drained)}


# -- ends of one session ---------------------------------------------------------------------------

OK = b"OK XTEST completed"
LATER = b"OK XTEST completed later"
BAD = b"BAD Expected DONE"


def end_done(s):
    if s.state != "done":
        s.client.send(b"DONE\r\n")
    answer = {"wait": OK, "done": LATER, "overlong": BAD, "blocked": OK}[s.state]
    assert s.answer() == answer
    sane(s.client)
    return "wrong-line" if answer == BAD else "ended"


def end_wrong_line(s):
    s.client.send(b"z NOOP\r\n")
    assert s.answer() == (LATER if s.state == "done" else BAD)
    if s.state == "done":
        # it was the next command
        assert reply(s.client.until(b"z")[-1]) == b"OK NOOP completed"
    sane(s.client)
    return "ended" if s.state == "done" else "wrong-line"


def end_close(s):
    s.client.close()
    # only a write can find out that a client is gone which need not send anything more
    return "ended" if s.state == "done" else "cancelled"


def end_reset(s):
    s.client.reset()
    return "cancelled"


def end_half_close(s):
    s.client.half_close()
    lines = s.rest()
    if s.state == "done":
        assert lines[-1].startswith(s.tag + b" " + LATER)
        return "ended"
    # whatever waited in the output still comes
    assert_rows(s.seen, MUCH // 1024 if s.state == "blocked" else None)
    assert not [line for line in lines if line.startswith(s.tag)]
    return "cancelled"


def end_logout(s):
    s.client.send(b"z LOGOUT\r\n" if s.state == "done" else
                  b"\r\nz LOGOUT\r\n" if s.state == "overlong" else b"DONE\r\nz LOGOUT\r\n")
    answer = {"wait": OK, "done": LATER, "overlong": BAD, "blocked": OK}[s.state]
    assert s.answer() == answer
    lines = s.rest()
    assert lines[-2].startswith(b"* BYE ")
    assert lines[-1].startswith(b"z OK ")
    return "wrong-line" if answer == BAD else "ended"


def end_next_command(s):
    s.client.send(b"z NOOP\r\n" if s.state == "done" else
                  b"\r\nz NOOP\r\n" if s.state == "overlong" else b"DONE\r\nz NOOP\r\n")
    answer = {"wait": OK, "done": LATER, "overlong": BAD, "blocked": OK}[s.state]
    assert s.answer() == answer
    assert reply(s.client.until(b"z")[-1]) == b"OK NOOP completed"
    return "wrong-line" if answer == BAD else "ended"


def gone(s):
    """The process goes: a goodbye if it fits in, then the end."""
    lines = s.rest()
    if s.state != "blocked":
        assert b"* BYE Server shutting down." in lines
    assert not [line for line in lines if line.startswith(s.tag)]
    return "cancelled"


def end_kick(s):
    assert s.server.doveadm("kick", s.user).returncode == 0
    return gone(s)


def end_sigterm(s):
    os.kill(s.pid, signal.SIGTERM)
    return gone(s)


ENDS = {f.__name__[4:]: f for f in (
    end_done, end_wrong_line, end_close, end_reset, end_half_close, end_logout, end_next_command,
    end_kick, end_sigterm)}
# with one process for all these are the end of everybody: see below
ENDS_OF_A_PROCESS = ("kick", "sigterm")
CLOSING = ("close", "reset", "half_close", "logout") + ENDS_OF_A_PROCESS


# -- the bystander ---------------------------------------------------------------------------------

class Bystander:
    def __init__(self, server):
        self.server = server
        make_wake(server, BY)
        self.client = server.login(BY)
        self.starts = 0
        self.start()

    def start(self):
        self.starts += 1
        self.tag = self.client.start(b"XTEST WATCH NAME bystander-%d" % self.starts)
        self.client.expect(rb"\+ idling")

    def check(self):
        """It is woken, ends with DONE and answers NOOP. Ready for the next time afterwards."""
        self.client.send(b"ECHO fence\r\n")
        self.client.expect(rb"\* XTEST ECHO fence")
        wake(self.server, BY)
        self.client.expect(rb"\* XTEST CHANGE")
        self.client.send(b"DONE\r\n")
        assert reply(self.client.until(self.tag)[-1]) == OK
        sane(self.client)
        self.start()

    def end(self):
        self.client.send(b"DONE\r\n")
        self.client.until(self.tag)
        self.client.logout()


class Place:
    """A server, its bystander, and the connections that are still open after their cases."""

    def __init__(self, make, mode, plugin=None, bystander=True):
        self.mode = mode
        self.server = make(plugin=settings(imap_long_command_check_interval="1h", **(plugin or {})),
                           extra="imap_idle_notify_interval = 1s\n" + (SHARED if mode == "shared" else ""))
        self.bystander = Bystander(self.server) if bystander else None
        self.kept = []
        self.pids = set()

    def session(self, entry, end):
        """A session at the entry point."""
        name = "%s-%s-%s" % (self.mode, entry, end)
        s = Session(self.server, BY if self.mode == "shared" else name, name)
        s.pid = imap_pid(s.client.sock)
        self.pids.add(s.pid)
        if end in ("kick", "sigterm", "stop", "reload"):
            s.later = b"100000"
        return s

    def enter(self, entry, end):
        s = self.session(entry, end)
        ENTRIES[entry](s)
        return s

    def check_quiet(self):
        assert_quiet(self.pids, self.bystander.client)

    def leave(self):
        self.check_quiet()
        for client in self.kept:
            client.close()
        self.bystander.check()
        self.bystander.end()
        self.server.stop()
        check_balance(self.server.log())


@pytest.fixture(scope="module", params=["own", "shared"])
def place(request, make_module_server):
    p = Place(make_module_server, request.param)
    yield p
    p.leave()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("entry", ENTRIES)
def test_one_session_ends(place, entry, end):
    if place.mode == "shared" and end in ENDS_OF_A_PROCESS:
        pytest.skip("ends everybody: test_all_sessions_end")
    s = place.enter(entry, end)
    assert ENDS[end](s) == await_finish(place.server, s.name)
    place.bystander.check()
    if end not in CLOSING:
        sane(s.client)
        place.kept.append(s.client)
    elif place.mode == "own":
        # a process that missed the end of its only client would stay
        while alive(s.pid):
            place.bystander.client.send(b"TIMER 10\r\n")
            place.bystander.client.expect(rb"\* XTEST TIMER")


def test_nobody_spins_while_waiting(place):
    """All entry points at the same time, also with clients that will send nothing more."""
    sessions = [place.enter(entry, "quiet") for entry in ENTRIES if entry != "mailbox"]
    half = [place.session(entry, "quiet-half") for entry in ("done", "blocked")]
    for s, entry in zip(half, ("done", "blocked")):
        s.later = b"100000"
        ENTRIES[entry](s)
        s.client.half_close()
    place.check_quiet()
    for s in sessions + half:
        s.client.reset()
        assert await_finish(place.server, s.name) in ("cancelled", "ended")
    place.bystander.check()


# -- ends that come to many at the same time -------------------------------------------------------

def finish_all(p, sessions, end):
    return {s.name: (end(s), await_finish(p.server, s.name)) for s in sessions.values()}


def unread(s):
    """After the time-out. Reads what had been sent, to the end."""
    await_finish(s.server, s.name)
    s.rest()
    return "cancelled"


def all_unread(make, mode):
    """All stop reading while there is something to be read."""
    p = Place(make, mode, {"imap_long_command_output_timeout": "1s"})
    sessions = {}
    for entry in ENTRIES:
        if entry in ("overlong", "blocked", "done", "drained"):
            continue
        s = sessions[entry] = p.enter(entry, "unread")
    for s in sessions.values():
        s.client.send(b"OUT %d\r\n" % MUCH)
    for entry, options, lines in (("blocked", b"", b""), ("done", b"DRAIN", b"DONE\r\n")):
        s = sessions[entry] = p.session(entry, "unread")
        s.begin(b"OUT %d %s" % (MUCH, options), lines)
    result = finish_all(p, sessions, unread)
    p.bystander.check()
    p.leave()
    return result


def removed(s):
    """The file is there again: one event of it is one change."""
    if s.state in ("done", "overlong", "blocked"):
        return end_done(s)
    s.client.send(b"ECHO fence\r\n")
    s.expect(b"* XTEST ECHO fence")
    wake(s.server, s.user)
    s.expect(b"* XTEST CHANGE")
    return end_done(s)


def all_removed(make, mode):
    """The watched file is removed, and made again later."""
    p = Place(make, mode)
    sessions = {}
    for entry in ENTRIES:
        s = sessions[entry] = p.session(entry, "removed")
        s.later = b"4000"
        ENTRIES[entry](s)
    users = {s.user for s in sessions.values()} | {BY}
    for user in users:
        os.remove(wake_path(p.server, user))
    b = p.bystander.client
    b.expect(rb"\* XTEST CHANGE")
    p.check_quiet()
    for user in users:
        make_wake(p.server, user)
    settled = False
    while not settled:
        # nobody is told of changes any more: the watches are on the new files
        b.send(b"TIMER 1500\r\n")
        settled = b.read_response().line == b"* XTEST TIMER"
        if not settled:
            b.expect(rb"\* XTEST TIMER")
    result = finish_all(p, sessions, removed)
    for s in sessions.values():
        sane(s.client)
        p.kept.append(s.client)
    p.bystander.check()
    p.leave()
    return result


def all_of(make, mode, name, do):
    """The end of processes. The bystander is in another one, or ends as the others do."""
    # a client that does not read holds up Dovecot's own stop, too, until its output times out
    p = Place(make, mode, bystander=False, plugin={"imap_long_command_output_timeout": "3s"})
    sessions = {entry: p.enter(entry, name) for entry in ENTRIES}
    do(p, sessions)
    result = finish_all(p, sessions, gone)
    if name != "stop":
        # the next one gets a new process
        sane(p.server.login(BY))
        p.server.stop()
    check_balance(p.server.log())
    return result


def all_kicked(make, mode):
    return all_of(make, mode, "kick", lambda p, sessions: p.server.doveadm("kick", "-f", BY))


def all_killed(make, mode):
    return all_of(make, mode, "sigterm", lambda p, sessions: [
        os.kill(pid, signal.SIGTERM) for pid in {s.pid for s in sessions.values()}])


def all_stopped(make, mode):
    return all_of(make, mode, "stop", lambda p, sessions: p.server.stop())


MANY = {"unread": all_unread, "removed": all_removed, "kick": all_kicked, "sigterm": all_killed,
        "stop": all_stopped}


@pytest.fixture(scope="module")
def many(make_module_server):
    """The results of each kind of end in each mode, had once."""
    results = {}

    def get(mode, end):
        if (mode, end) not in results:
            try:
                results[mode, end] = MANY[end](make_module_server, mode)
            except BaseException as error:
                results[mode, end] = error
        if isinstance(results[mode, end], BaseException):
            raise results[mode, end]
        return results[mode, end]
    return get


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("end", MANY)
@pytest.mark.parametrize("mode", ["own", "shared"])
def test_all_sessions_end(many, mode, end, entry):
    if end == "unread" and entry in ("overlong", "drained"):
        pytest.skip("sends nothing that could stay unread")
    if mode == "own" and end in ENDS_OF_A_PROCESS:
        pytest.skip("test_one_session_ends")
    expected, why = many(mode, end)["%s-%s-%s" % (mode, entry, end)]
    assert why == expected


# -- reload ----------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def reloaded(make_module_server):
    """Both modes at the same time: Dovecot says goodbye to a session ten seconds after its last input or
    output."""
    places = {mode: Place(make_module_server, mode, bystander=False) for mode in ("own", "shared")}
    sessions = {mode: {entry: p.enter(entry, "reload") for entry in ENTRIES}
                for mode, p in places.items()}
    for p in places.values():
        p.server.doveadm("reload")
    yield sessions
    for p in places.values():
        sane(p.server.login(BY))
        p.server.stop()
        check_balance(p.server.log())


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("mode", ["own", "shared"])
def test_reload(reloaded, mode, entry):
    s = reloaded[mode][entry]
    # a blocked one is not ended while something is half sent, but when it has been read
    expected = gone(s)
    assert await_finish(s.server, s.name) == expected
