"""The parts of the life-cycle matrix that its test files share: sessions at their entry points, and the
places where they live: a server in one of two modes, "own" (a process for each session) or "shared" (one
process for all), and a bystander; and the ends that come to one session."""

import os
import signal
import time

import pytest

from harness.server import imap_pid
from lifecycle import (BAD, MUCH, OK, alive, assert_quiet, assert_rows, await_finish, await_log, check_balance, deliver,
                       make_wake, reply, rows, settings, wake)
from metasync import sane

SHARED = "service imap {\n  client_limit = 200\n  service_count = 0\n  process_limit = 1\n}\n"
BY = "bystander"
LATER = b"OK XTEST completed later"


# -- entry points ----------------------------------------------------------------------------------

class Session:
    """A client whose command is at an entry point. state: "wait" for lines, "done" (DONE was sent, the
    answer comes later), "overlong" (a wrong line without an end) or "blocked"."""

    OK, LATER, BAD = OK, LATER, BAD

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

    def answer_to_done(self):
        return {"wait": self.OK, "done": self.LATER, "overlong": self.BAD, "blocked": self.OK}[self.state]

    def has_output(self):
        return rows(self.seen)

    def await_finish(self):
        """Why the command ended."""
        return await_finish(self.server, self.name)

    def rest(self):
        """Reads to the end of the connection."""
        self.seen += self.client.eof()
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


# -- ends ------------------------------------------------------------------------------------------

def end_done(s):
    if s.state != "done":
        s.client.send(b"DONE\r\n")
    answer = s.answer()
    assert answer == s.answer_to_done()
    sane(s.client)
    return "wrong-line" if answer == s.BAD else "ended"


def gone(s):
    """The process goes: a goodbye if it fits in, then the end."""
    lines = s.rest()
    if s.state != "blocked":
        assert b"* BYE Server shutting down." in lines
    assert not [line for line in lines if line.startswith(s.tag)]
    return "cancelled"


def end_wrong_line(s):
    s.client.send(b"z NOOP\r\n")
    assert s.answer() == (s.LATER if s.state == "done" else s.BAD)
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
        assert lines[-1].startswith(s.tag + b" " + s.LATER)
        return "ended"
    # a command that is still sending finds out when it is done with that
    assert s.state != "blocked" or s.has_output()
    assert not [line for line in lines if line.startswith(s.tag)]
    return "cancelled"


def end_logout(s):
    s.client.send(b"z LOGOUT\r\n" if s.state == "done" else
                  b"\r\nz LOGOUT\r\n" if s.state == "overlong" else b"DONE\r\nz LOGOUT\r\n")
    answer = s.answer()
    assert answer == s.answer_to_done()
    lines = s.rest()
    assert lines[-2].startswith(b"* BYE ")
    assert lines[-1].startswith(b"z OK ")
    return "wrong-line" if answer == s.BAD else "ended"


def end_next_command(s):
    s.client.send(b"z NOOP\r\n" if s.state == "done" else
                  b"\r\nz NOOP\r\n" if s.state == "overlong" else b"DONE\r\nz NOOP\r\n")
    answer = s.answer()
    assert answer == s.answer_to_done()
    assert reply(s.client.until(b"z")[-1]) == b"OK NOOP completed"
    return "wrong-line" if answer == s.BAD else "ended"


def end_kick(s):
    assert s.server.doveadm("kick", s.user).returncode == 0
    return gone(s)


def end_sigterm(s):
    os.kill(s.pid, signal.SIGTERM)
    return gone(s)


ENDS = {f.__name__[4:]: f for f in (
    end_done, end_wrong_line, end_close, end_reset, end_half_close, end_logout, end_next_command,
    end_kick, end_sigterm)}
# with one process for all these are the end of everybody: test_lifecycle_many.py
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

    Session, ENTRIES = Session, ENTRIES

    def __init__(self, make, mode, plugin=None, bystander=True, extra=""):
        self.mode = mode
        self.server = make(plugin=settings(imap_long_command_check_interval="1h", **(plugin or {})),
                           extra="imap_idle_notify_interval = 1s\n" + (SHARED if mode == "shared" else "") + extra)
        self.bystander = Bystander(self.server) if bystander else None
        self.kept = []
        self.pids = set()

    def user(self, entry, name):
        return BY if self.mode == "shared" else name

    def session(self, entry, end):
        """A session at the entry point."""
        name = "%s-%s-%s" % (self.mode, entry, end)
        s = self.Session(self.server, self.user(entry, name), name)
        s.pid = imap_pid(s.client.sock)
        self.pids.add(s.pid)
        if end in ("kick", "sigterm", "stop", "reload"):
            s.later = b"100000"
        return s

    def enter(self, entry, end):
        s = self.session(entry, end)
        self.ENTRIES[entry](s)
        return s

    def check_end(self, entry, end):
        """A session at the entry point ends so."""
        if self.mode == "shared" and end in ENDS_OF_A_PROCESS:
            pytest.skip("ends everybody: test_all_sessions_end")
        s = self.enter(entry, end)
        assert ENDS[end](s) == s.await_finish()
        self.bystander.check()
        if end not in CLOSING:
            sane(s.client)
            self.kept.append(s.client)
        elif self.mode == "own":
            # a process that missed the end of its only client would stay
            deadline = time.monotonic() + 30
            while alive(s.pid):
                assert time.monotonic() < deadline, "process %d has not noticed" % s.pid
                time.sleep(0.01)

    def check_quiet(self):
        assert_quiet(self.pids, self.bystander.client)

    def leave(self):
        self.check_quiet()
        for client in self.kept:
            client.close()
        self.bystander.check()
        self.bystander.end()
        # also those that only helped: it would wait for them
        self.server.close_clients()
        self.server.stop()
        check_balance(self.server.log())
