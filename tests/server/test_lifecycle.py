"""The life of a long command, as a matrix: a session is brought to each entry point, then each kind of
end happens. After every end: finish() came exactly once and for the right reason, the client got the
right answer or the end of its connection, a bystander's session still works, and no process spins.

The matrix runs with a process for each session and with one process for all of them ("shared"), where the
bystander is a session of the same user that waits for the same file. Ends that come to all sessions of a
process or a server: test_lifecycle_many.py."""

import os
import signal
import time

import pytest

from lifecycle import BAD, OK, alive, await_finish, reply, rows
from lifecycle_matrix import ENTRIES, LATER, Place, end_done, gone
from metasync import sane


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
    # a command that is still sending finds out when it is done with that
    assert s.state != "blocked" or rows(s.seen)
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


@pytest.fixture(scope="module", params=["own", "shared"])
def place(request, make_module_server):
    p = Place(make_module_server, request.param)
    yield p
    p.leave()


@pytest.mark.parametrize("end", [pytest.param(end, marks=pytest.mark.valgrind) if end in ("done", "reset") else end
                                 for end in ENDS])
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
        deadline = time.monotonic() + 30
        while alive(s.pid):
            assert time.monotonic() < deadline, "process %d has not noticed" % s.pid
            time.sleep(0.01)


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
