"""The matrix of test_lifecycle.py over XKEYSYNC, where lines and timers are no entry points. How a command has ended is
told by Dovecot's event of it, which is found by its tag. In the mode "shared" all sessions are the bystander's, and wait for
the same keys."""

import re

import pytest

from lifecycle import await_blocked, await_log, deliver
from lifecycle_matrix import BY, ENDS, ENDS_OF_A_PROCESS, Place, Session
from xkey import Sync, fill, make_key, make_large_keys, must_add, remove, tagged

# More than the buffers of a connection hold, in an account of its own
MANY, MANY_KEYS = "many", 6000
LARGE = ("blocked", "drained")
# about a second each
SLOW = LARGE + ("keepalive",)
EVENTS = """
event_exporter log {
  format = json
  format_args = time-unix
  transport = log
}
metric xkeysync {
  filter = event=imap_command_finished AND cmd_name=XKEYSYNC
  exporter = log
  exporter_include = fields
}
"""
KEY = make_key()


class KeySession(Session):
    OK, BAD = Sync.DONE, b"BAD expected DONE"

    def __init__(self, server, user, name):
        super().__init__(server, user, name)
        self.tag = name.encode()

    def begin(self, before=b""):
        self.client.send(before + self.tag + b" XKEYSYNC\r\n")

    def has_output(self):
        return [r for r in self.seen if r.line.startswith(b"* XKEYSYNC CREATED ")]

    def await_finish(self):
        # the whole line: a part of it may be there first
        await_log(self.server, '"cmd_tag":"%s".*\n' % self.name)
        event, = re.findall('.*"cmd_tag":"%s".*' % self.name, self.server.log())
        state = re.search('"tagged_reply_state":"(.*?)"', event)
        return {"OK": "ended", "BAD": "wrong-line"}[state[1]] if state else "cancelled"


def enter_first_call(s):
    s.begin()
    s.expect(b"+ OK")


def enter_pipelined(s):
    s.begin(b"x NOOP\r\n")
    s.expect(b"x OK ")
    s.expect(b"+ OK")


def enter_overlong(s):
    enter_first_call(s)
    s.client.send(b"x" * 100000)
    s.state = "overlong"


def enter_wake(s):
    enter_first_call(s)
    c = s.server.login(s.user)
    key = make_key()
    must_add(c, key)
    s.expect(b"* XKEYSYNC OK")
    remove(c, key)
    s.expect(b"* XKEYSYNC OK")
    c.logout()


def enter_mailbox(s):
    assert b" OK " in s.client.command(b"SELECT INBOX")[-1].line
    enter_first_call(s)
    # it is not told
    deliver(s.server, s.user)


def enter_keepalive(s):
    enter_first_call(s)
    s.expect(b"* OK still syncing")


def enter_blocked(s):
    s.begin()
    await_blocked(s.client)
    s.state = "blocked"


def enter_drained(s):
    enter_blocked(s)
    s.expect(b"+ OK")
    s.state = "wait"


class KeyPlace(Place):
    Session = KeySession
    ENTRIES = {f.__name__[6:]: f for f in (
        enter_first_call, enter_pipelined, enter_overlong, enter_wake, enter_mailbox, enter_keepalive, enter_blocked,
        enter_drained)}

    def __init__(self, make, mode):
        super().__init__(make, mode, extra=EVENTS)
        fill(self.server.login(MANY), make_large_keys(MANY_KEYS))
        self.writer, self.waiting = self.server.login(BY), Sync(self.server.login(BY))
        self.waiting.first()

    def user(self, entry, name):
        return MANY if entry in LARGE else super().user(entry, name)

    def check_keys(self):
        """Somebody else who waits is told, maybe after what was told to a session at its entry point."""
        must_add(self.writer, KEY)
        while KEY.fpr not in self.waiting.known:
            self.waiting.packet()
        remove(self.writer, KEY)
        self.waiting.until([])

    def leave(self):
        self.kept += [self.writer, self.waiting.client]
        super().leave()


@pytest.fixture(scope="module", params=["own", "shared"])
def place(request, make_module_server):
    p = KeyPlace(make_module_server, request.param)
    yield p
    p.leave()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("entry", KeyPlace.ENTRIES)
def test_one_session_ends(place, entry, end):
    if place.mode == "own" and entry in SLOW and end not in ENDS_OF_A_PROCESS:
        pytest.skip("takes long, and is done in the other mode")
    place.check_end(entry, end)
    place.check_keys()


def test_nobody_spins_while_waiting(place):
    sessions = [place.enter(entry, "quiet") for entry in place.ENTRIES if entry != "mailbox"]
    half = place.enter("blocked", "quiet-half")
    half.client.half_close()
    place.check_quiet()
    for s in sessions + [half]:
        s.client.reset()
        assert s.await_finish() == "cancelled"
    place.bystander.check()
    place.check_keys()


def test_lines_are_held_while_a_packet_is_sent(place):
    """However much is sent to a command that is blocked, it is looked at when the packet is complete."""
    for line, answer in ((b"DONE\r\n", KeySession.OK), (b"x" * 100000 + b"\r\n", KeySession.BAD)):
        s = place.enter("blocked", "held-%d" % len(line))
        s.client.send(line + b"y NOOP\r\n")
        place.check_quiet()
        for end in (b"* XKEYSYNC OK", b"+ OK"):
            s.expect(end)
        assert len(s.has_output()) == MANY_KEYS
        assert tagged(s.client, s.tag) == answer
        assert tagged(s.client, b"y").startswith(b"OK ")
        s.client.logout()


def test_keys_that_change_while_a_packet_is_sent(place):
    """What it had passed already is told in another packet, before DONE is looked at."""
    c = place.server.login(MANY)
    s = Sync(place.server.login(MANY, rcvbuf=65536))
    await_blocked(s.client)
    s.client.send(b"DONE\r\n")
    # one of those that it has passed, and one that it has not
    keys = make_large_keys(100)
    early, late = min(keys, key=lambda key: key.fpr), max(keys, key=lambda key: key.fpr)
    fill(c, [early, late])
    told = s.first()
    assert ("created", late.fpr) in told and ("created", early.fpr) not in told
    assert s.packet() == [("created", early.fpr)]
    assert tagged(s.client, s.tag) == s.DONE
    for key in (early, late):
        remove(c, key)
    c.logout()
    s.client.logout()
