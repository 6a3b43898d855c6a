"""Ends that come to many sessions at the same time, each of which is at another entry point of the
life-cycle matrix (test_lifecycle.py): the clients stop reading, the file that they wait for is removed,
their processes are kicked or killed, Dovecot is reloaded or stopped."""

import os
import signal

import pytest

from lifecycle import MUCH, await_finish, check_balance, make_wake, wake, wake_path
from lifecycle_matrix import BY, ENTRIES, Place, end_done, gone
from metasync import sane


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
        if entry in ("overlong", "blocked", "done"):
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
        # until nobody is told of changes any more: then the watches are on the new files
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


def all_signalled(make, end, send_signal):
    """One process has all the sessions."""
    p = Place(make, "shared", bystander=False)
    sessions = {entry: p.enter(entry, end) for entry in ENTRIES}
    send_signal(p, {s.pid for s in sessions.values()})
    result = finish_all(p, sessions, gone)
    # the next one gets a new process
    c = p.server.login(BY)
    sane(c)
    c.logout()
    p.server.stop()
    check_balance(p.server.log())
    return result


def all_kicked(make, _mode):
    return all_signalled(make, "kick", lambda p, pids: p.server.doveadm("kick", "-f", BY))


def all_killed(make, _mode):
    def send_signal(_place, pids):
        assert len(pids) == 1
        os.kill(pids.pop(), signal.SIGTERM)
    return all_signalled(make, "sigterm", send_signal)


MANY = {"unread": all_unread, "removed": all_removed, "kick": all_kicked, "sigterm": all_killed}


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
    if end == "unread" and entry == "overlong":
        pytest.skip("sends nothing that could stay unread")
    if mode == "own" and end in ("kick", "sigterm"):
        pytest.skip("test_one_session_ends")
    expected, why = many(mode, end)["%s-%s-%s" % (mode, entry, end)]
    assert why == expected


# -- Dovecot goes ----------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def farewells(make_module_server):
    """Reload and stop in both modes, all at the same time, for it takes seconds: imap says goodbye to a
    session that has been idle for a while, and in the end the master kills who is left."""
    places = {}
    for mode in ("own", "shared"):
        places[mode, "reload"] = Place(make_module_server, mode, bystander=False)
        # one that does not read holds up the stop until its output times out
        places[mode, "stop"] = Place(make_module_server, mode, {"imap_long_command_output_timeout": "3s"},
                                     bystander=False)
    sessions = {(mode, end, entry): p.enter(entry, end)
                for (mode, end), p in places.items() for entry in ENTRIES}
    for (_mode, end), p in places.items():
        if end == "reload":
            assert p.server.doveadm("reload").returncode == 0
        else:
            p.server.process.terminate()
    yield sessions
    for (_mode, end), p in places.items():
        if end == "reload":
            c = p.server.login(BY)
            sane(c)
            c.logout()
        for s in sessions.values():
            if s.server is p.server:
                s.client.close()
        p.server.stop()
        check_balance(p.server.log())


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("end", ["reload", "stop"])
@pytest.mark.parametrize("mode", ["own", "shared"])
def test_dovecot_goes(farewells, mode, end, entry):
    s = farewells[mode, end, entry]
    assert gone(s) == await_finish(s.server, s.name)
