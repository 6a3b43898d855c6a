"""What docs/writing-commands.md says goes wrong, with the plain commands of wrong/plain.c, each of which has one mistake; and
that the same goes well with the command that has none (XPLAIN, XPLAINONCE) and with one that is on the framework (XTEST)."""

import os
import re
import select
import signal
import time

import pytest

from harness.server import imap_pid
from lifecycle import assert_quiet, await_end, await_log, cpu_seconds, reply, settings
from lifecycle_matrix import SHARED
from metasync import sane

PLUGIN = "imap_plain"
RIGHT = [b"XPLAIN", b"XTEST"]
OVERLONG = b"x" * 100000


@pytest.fixture(scope="module")
def own(make_module_server):
    """A process for each session."""
    return make_module_server(plugins=PLUGIN, plugin=settings())


@pytest.fixture
def shared(make_server):
    """One process for all."""
    return make_server(plugins=PLUGIN, extra=SHARED, plugin=settings(
        plain_fifo="{root}/home/fifo-%u", long_command_test_fifo="{root}/home/fifo-%u"))


def make_fifo(server, user):
    path = server.home("fifo-" + user)
    os.mkfifo(path)
    os.chmod(path, 0o666)
    return path


def open_writer(fifo):
    """Once somebody opens the other end."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            assert time.monotonic() < deadline, "nobody waits for the FIFO"
            time.sleep(0.01)


def begin(server, user, command, lines=b"", then=b""):
    """A client with the command; lines come in the same packet, then when it waits."""
    c = server.login(user)
    c.pid = imap_pid(c.sock)
    c.send(b"a %s\r\n%s" % (command, lines))
    if then:
        c.expect(rb"\+ ")
        c.send(then)
    return c


def tagged(c, tag):
    return reply(c.until(tag)[-1])


def half_closed(server, user, command):
    c = begin(server, user, command)
    c.expect(rb"\+ ")
    c.half_close()
    return c


def turns(client):
    """Whatever was to be done in the client's process has been done."""
    for _ in range(5):
        sane(client)


def assert_nothing_comes(c, bystander):
    turns(bystander)
    assert not c._buffer and not select.select([c.sock], [], [], 0)[0], c.read_response()


def crash(server, pid, panic=None):
    """The process dies: of an assertion, or of a wrong pointer. Nobody else of the server does."""
    lines = server.await_crash(pid)
    reports = server.sanitizer_reports({pid})
    if server.wrapper == "asan" and "AddressSanitizer" in reports:
        # it may be faster than the assertion
        assert re.search(r"returned error 98\b", lines), lines
    elif panic:
        assert re.search(r"killed with signal %d\b" % signal.SIGABRT, lines), lines
        await_log(server, r"imap\(.*\b%d\b.*Panic: .*%s" % (pid, panic))
    else:
        assert re.search(r"killed with signal %d\b" % signal.SIGSEGV, lines), lines
        assert not server.wrapper or "Invalid read" in reports
    server.assert_clean()


def kill(server, pid):
    """One that does not end by itself: Dovecot, too, would wait long for it when it stops."""
    os.kill(pid, signal.SIGKILL)
    assert server.await_crash(pid).endswith("killed with signal %d" % signal.SIGKILL)


# -- the same without a mistake --------------------------------------------------------------------

@pytest.mark.valgrind
@pytest.mark.parametrize("command", RIGHT)
def test_right_done(own, user, command):
    for c in (begin(own, user, command, b"DONE\r\nx NOOP\r\n"), begin(own, user, command, then=b"DONE\r\nx NOOP\r\n")):
        assert tagged(c, b"a").startswith(b"OK ")
        assert tagged(c, b"x") == b"OK NOOP completed"
        sane(c)
        c.logout()
        await_end(c.pid)


@pytest.mark.valgrind
@pytest.mark.parametrize("command", [b"XPLAINONCE", b"XTEST NOINPUT TIMER 100"])
def test_right_timer(own, user, command):
    c = begin(own, user, command, b"x NOOP\r\n")
    assert tagged(c, b"a").startswith(b"OK ")
    assert tagged(c, b"x") == b"OK NOOP completed"
    sane(c)


@pytest.mark.valgrind
@pytest.mark.parametrize("command", RIGHT)
def test_right_logout(own, user, command):
    c = begin(own, user, command, then=b"DONE\r\nx LOGOUT\r\n")
    assert tagged(c, b"a").startswith(b"OK ")
    assert [r.line.split()[0] for r in c.eof()] == [b"*", b"x"]
    await_end(c.pid)


@pytest.mark.valgrind
@pytest.mark.parametrize("command", RIGHT)
def test_right_end_of_input(own, user, command):
    await_end(half_closed(own, user, command).pid)


@pytest.mark.valgrind
@pytest.mark.parametrize("command", RIGHT)
def test_right_full_input(own, user, command):
    c = begin(own, user, command, then=OVERLONG)
    bystander = begin(own, user + "-by", b"XTEST")
    assert_quiet([c.pid], bystander)
    c.send(b"\r\nx NOOP\r\n")
    assert tagged(c, b"a") == b"BAD Expected DONE"
    assert tagged(c, b"x") == b"OK NOOP completed"


@pytest.mark.valgrind
@pytest.mark.parametrize("command, lines", [(b"XPLAIN", b"BYE\r\n"), (b"XTEST BAD", b"a XTEST BAD\r\n" * 19)])
def test_right_disconnect(own, user, command, lines):
    """By the command's func. On the framework: by Dovecot, after 20 mistakes in a row."""
    c = begin(own, user, command, lines)
    assert c.eof()[-1].line.startswith(b"* BYE ")
    await_end(c.pid)


@pytest.mark.valgrind
@pytest.mark.parametrize("command, tick", [(b"XPLAIN", rb"\* PLAIN tick"), (b"XTEST TIMER 100", rb"\* XTEST TIMER")])
def test_right_many_clients(shared, user, command, tick):
    """The timer of a session that is gone, or whose command is, does not tick; those of others do."""
    gone, c, other = (begin(shared, user + name, command) for name in ("-gone", "", "-other"))
    gone.expect(rb"\+ ")
    gone.reset()
    c.send(b"DONE\r\n")
    assert tagged(c, b"a").startswith(b"OK ")
    for _ in range(3 if command == b"XPLAIN" else 1):
        resp = other.expect(tick)
        assert command != b"XPLAIN" or resp.line.endswith(b" of %s-other" % user.encode())
    assert_nothing_comes(c, c)


@pytest.mark.valgrind
def test_right_descriptor(shared, user):
    """A descriptor of the author's own: its callback sets a timer."""
    sessions = []
    for name in (user, user + "-other"):
        fifo = make_fifo(shared, name)
        sessions.append((begin(shared, name, b"XTEST FIFO"), fifo))
        sessions[-1][0].expect(rb"\+ ")
    (c, fifo), (other, _) = sessions
    for _ in range(3):
        with open(fifo, "wb") as f:
            f.write(b"x")
        c.expect(rb"\* XTEST TIMER")
    assert_nothing_comes(other, shared.login(user + "-by"))
    for session in (c, other):
        session.send(b"DONE\r\n")
        assert tagged(session, b"a") == b"OK XTEST completed"
    with pytest.raises(OSError):
        # nobody reads it any more
        os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)


# -- who frees the command, and when ---------------------------------------------------------------

def test_free_in_func(own, user):
    c = begin(own, user, b"XFREEINFUNC", b"DONE\r\n")
    crash(own, c.pid, r"\(client_command_free\): assertion failed: \(!cmd->executing\)")


def test_not_freed(shared, user):
    bystander = shared.login(user + "-by")
    c = begin(shared, user, b"XNOTFREED", then=b"DONE\r\nx NOOP\r\n")
    assert tagged(c, b"a") == b"OK Plain completed"
    assert_nothing_comes(c, bystander)
    c.send(b"y NOOP\r\n")
    assert_nothing_comes(c, bystander)


def test_free_then_use(own, user):
    c = begin(own, user, b"XFREETHENUSE", then=b"DONE\r\n")
    assert tagged(c, b"a") == b"OK Plain completed"
    crash(own, c.pid)


def test_timer_left(own, user):
    c = begin(own, user, b"XTIMERLEFT", then=b"DONE\r\n")
    assert tagged(c, b"a") == b"OK Plain completed"
    crash(own, c.pid)


def test_cancel_ignored(own, user):
    c = half_closed(own, user, b"XCANCELIGNORED")
    crash(own, c.pid, r"command didn't cancel itself: XCANCELIGNORED")


@pytest.mark.valgrind
def test_no_context(shared, user):
    """The crash takes all sessions of the process with it."""
    others = [begin(shared, user + "-by", command) for command in (b"IDLE", b"XPLAIN", b"XTEST")]
    for other in others:
        other.expect(rb"\+ ")
    c = half_closed(shared, user, b"XNOCONTEXT")
    c.eof()
    crash(shared, c.pid)
    for other in others:
        assert not [r for r in other.eof() if r.tag == b"a" or b" BYE " in r.line]


# -- who destroys a client -------------------------------------------------------------------------

def test_destroy_in_func(own, user):
    c = begin(own, user, b"XDESTROYINFUNC", b"BYE\r\n")
    crash(own, c.pid, r"\(command_exec\): assertion failed: \(!cmd->executing\)")


def test_destroy_then_continue(own, user):
    c = half_closed(own, user, b"XDESTROYTHENCONTINUE")
    crash(own, c.pid, r"assertion failed: \(!client->destroyed\)")


# -- who must disconnect at the end of the input ---------------------------------------------------

def assert_spins(c):
    before = cpu_seconds(c.pid)
    for _ in range(600):
        # nothing comes from outside: what it is waiting for is its own timer
        c.expect(rb"\* PLAIN tick")
        if cpu_seconds(c.pid) - before > 0.5:
            return
    assert False, "process %d does not spin" % c.pid


def test_end_of_input_ignored(own, user):
    c = half_closed(own, user, b"XEOFIGNORED")
    assert_spins(c)
    kill(own, c.pid)


def test_full_input_ignored(own, user):
    c = begin(own, user, b"XFULLIGNORED", then=OVERLONG)
    assert_spins(c)
    # nor does it find the line's end
    c.send(b"\r\nDONE\r\nx NOOP\r\n")
    assert_spins(c)
    assert not [line for line in c.transcript if line.startswith("S: a ")]
    kill(own, c.pid)


# -- when pending input is continued ---------------------------------------------------------------

def test_not_continued(shared, user):
    """Nothing is read any more, not even the end of the connection."""
    bystander = shared.login(user + "-by")
    c = begin(shared, user, b"XNOTCONTINUED", then=b"DONE\r\nx NOOP\r\n")
    assert tagged(c, b"a") == b"OK Plain completed"
    assert_nothing_comes(c, bystander)
    c.send(b"y NOOP\r\n")
    assert_nothing_comes(c, bystander)
    c.half_close()
    assert_nothing_comes(c, bystander)
    kill(shared, c.pid)


def test_not_continued_from_a_timer(shared, user):
    """The next command has come, and waits for another one."""
    bystander = shared.login(user + "-by")
    c = begin(shared, user, b"XNOTCONTINUEDTIMER", b"x NOOP\r\n")
    assert tagged(c, b"a") == b"OK Plain completed"
    assert_nothing_comes(c, bystander)
    c.send(b"y NOOP\r\n")
    assert tagged(c, b"x") == b"OK NOOP completed"
    assert tagged(c, b"y") == b"OK NOOP completed"


def test_continue_in_func(own, user):
    c = begin(own, user, b"XCONTINUEINFUNC", b"DONE\r\n")
    crash(own, c.pid, r"assertion failed: \(!client->handling_input\)")


@pytest.mark.valgrind
def test_continue_not_last(own, user):
    c = begin(own, user, b"XCONTINUENOTLAST", then=b"DONE\r\nx LOGOUT\r\n")
    assert tagged(c, b"a") == b"OK Plain completed"
    c.eof()
    crash(own, c.pid)


# -- other programs ---------------------------------------------------------------------------------

def test_imap_plugin_in_other_programs(own, user):
    answer = own.doveadm("-o", "mail_plugins=" + PLUGIN, "mailbox", "list", "-u", user)
    assert answer.returncode != 0
    assert "Plugin is intended to be used only by imap binary (we're doveadm)" in answer.stderr


# -- many clients in one process -------------------------------------------------------------------

def test_static(shared, user):
    """Lines of one user are sent to another."""
    first, second = (begin(shared, user + name, b"XSTATIC") for name in ("-1", "-2"))
    told = {second.expect(rb"\* PLAIN tick of ").line.rsplit(b" ", 1)[1] for _ in range(20)}
    assert told == {user.encode() + b"-1", user.encode() + b"-2"}
    first.send(b"DONE\r\n")
    assert tagged(first, b"a") == b"OK Plain completed"
    second.send(b"DONE\r\n")
    assert tagged(second, b"a") == b"OK Plain completed"


def test_blocking(own, shared, user):
    """While one session waits in a callback nobody else of the process is served."""
    fifo = make_fifo(shared, user)
    other, clock = shared.login(user + "-other"), begin(own, user, b"XTEST", then=b"TIMER 500\r\n")
    begin(shared, user, b"XBLOCKING").expect(rb"\+ ")
    # it is not blocked as long as this is answered
    other.send(b"x NOOP\r\n")
    while other.sock in select.select([other.sock, clock.sock], [], [])[0]:
        other.until(b"x")
        other.send(b"x NOOP\r\n")
    clock.expect(rb"\* XTEST TIMER")
    fd = open_writer(fifo)
    assert tagged(other, b"x") == b"OK NOOP completed"
    os.close(fd)
    sane(other)
