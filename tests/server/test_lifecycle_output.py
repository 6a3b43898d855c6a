"""Output to clients that read slowly, late or not at all: nothing is lost, doubled or out of order, and what is
not read costs no memory."""

import threading

import pytest

from harness.imap import Client
from harness.server import imap_pid
from lifecycle import (MESSAGE, MUCH, OK, ROW, assert_rows, await_finish, await_log, done, make_wake, private_kib, reply,
                       settings, waiting, wake)
from metasync import sane


@pytest.fixture
def slow(client):
    """A client with a small window."""
    return lambda user: client(user, rcvbuf=65536)


@pytest.mark.valgrind
def test_all_of_it_comes(slow, server, user):
    c = slow(user)
    tag = waiting(c, b"NAME all OUT %d DRAIN" % MUCH)
    await_log(server, "xtest blocked all\n")
    c.send(b"DONE\r\n")
    responses = c.until(tag)
    assert_rows(responses, MUCH // ROW)
    assert reply(responses[-1]) == OK
    sane(c)


def test_unread_output_costs_no_memory(slow, server, user):
    c = slow(user)
    pid = imap_pid(c.sock)
    # what every session needs once
    tag = waiting(c, b"NAME warm OUT 300000")
    c.expect(rb"\* XTEST OUT %010d" % (300000 // ROW - 1))
    done(c, tag)
    before = private_kib(pid)
    tag = waiting(c, b"NAME memory OUT 100000000")
    await_log(server, "xtest blocked memory\n")
    assert private_kib(pid) - before < 1024
    for _ in range(2000):
        c.read_response()
    assert private_kib(pid) - before < 1024
    assert_rows(done(c, tag)[-1:])


def test_changes_while_blocked_cost_no_memory(slow, server, user):
    """Each change is 100 kB of output; they are one as long as the client does not read."""
    make_wake(server, user)
    c, other = slow(user), slow(user)
    pid = imap_pid(c.sock)
    tag = waiting(c, b"NAME rain WATCH RAIN 100000 OUT %d" % MUCH)
    await_log(server, "xtest blocked rain\n")
    before = private_kib(pid)
    tag2 = waiting(other, b"WATCH")
    for _ in range(100):
        wake(server, user)
        other.expect(rb"\* XTEST CHANGE")
    assert private_kib(pid) - before < 1024
    # all of it is read: the output from before, and one change
    last = MUCH // ROW + 100000 // ROW
    responses = []
    while len(responses) < last + 1:
        responses.append(c.read_response())
    assert_rows(responses, last)
    done(c, tag)
    done(other, tag2)


def test_input_waits_for_output(slow, user):
    """A client that sends lines and does not read the answers is not read either."""
    c = slow(user)
    pid = imap_pid(c.sock)
    tag = waiting(c)
    count = 40000
    lines = b"".join(b"ECHO %d %s\r\n" % (i, b"e" * 500) for i in range(count)) + b"DONE\r\n"
    before = private_kib(pid)
    c.sock.settimeout(None)
    sent = threading.Event()

    def send():
        c.sock.sendall(lines)
        sent.set()
    threading.Thread(target=send, daemon=True).start()
    # all that fits in the sockets has been sent when a whole second brings no more: the sender is still there
    assert not sent.wait(2), "20 MB were taken from a client that reads nothing"
    assert private_kib(pid) - before < 2048
    responses = c.until(tag)
    assert sent.wait(20)
    assert [r.line for r in responses[:-1]] == [b"* XTEST ECHO %d %s" % (i, b"e" * 500) for i in range(count)]
    assert reply(responses[-1]) == OK
    sane(c)


def test_short_lines_with_long_answers(slow, user):
    """The same where a small line asks for much."""
    c = slow(user)
    pid = imap_pid(c.sock)
    tag = waiting(c, b"ANSWER 10000")
    before = private_kib(pid)
    c.send(b"ECHO\r\n" * 8000)
    other = slow(user)
    tag2 = waiting(other, b"TIMER 500")
    other.expect(rb"\* XTEST TIMER")
    assert private_kib(pid) - before < 1024
    c.send(b"DONE\r\n")
    responses = c.until(tag)
    assert_rows(responses, 8000 * (10000 // ROW))
    assert reply(responses[-1]) == OK
    done(other, tag2)


def test_lines_during_output(slow, user):
    """Both ways at full speed: no line is lost or torn while more() goes on."""
    c = slow(user)
    tag = waiting(c, b"OUT %d" % (10 * MUCH))
    count = 50000
    c.sock.settimeout(None)
    sender = threading.Thread(target=c.sock.sendall, args=(
        b"".join(b"ECHO %d\r\n" % i for i in range(count)),))
    sender.start()
    responses = []
    while len(responses) < count + 10 * MUCH // ROW:
        responses.append(c.read_response())
        assert responses[-1].tag == b"*", responses[-1]
    sender.join()
    assert_rows(responses, 10 * MUCH // ROW)
    assert [r.line for r in responses if b" ECHO " in r.line] == [b"* XTEST ECHO %d" % i for i in range(count)]
    done(c, tag)


# -- time-outs -------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def impatient(make_module_server):
    return make_module_server(plugin=settings(imap_long_command_output_timeout="1s"))


def test_a_slow_reader_is_not_disconnected(impatient, user):
    """It reads something every 20 ms, and needs longer than the time-out for the whole."""
    c = impatient.login(user, rcvbuf=65536)
    clock = impatient.login(user)
    tag = waiting(c, b"NAME steady OUT 20000000 DRAIN")
    tag2 = waiting(clock)
    c.send(b"DONE\r\n")
    responses = []
    count = 20000000 // ROW
    while len(responses) < count:
        for _ in range(100):
            responses.append(c.read_response())
            if responses[-1].tag == tag:
                break
        clock.send(b"TIMER 20\r\n")
        clock.expect(rb"\* XTEST TIMER")
    responses += c.until(tag) if responses[-1].tag != tag else []
    assert_rows(responses, count)
    assert await_finish(impatient, "steady") == "ended"
    sane(c)
    done(clock, tag2)


def test_a_client_that_stops_is_disconnected(impatient, user):
    c = impatient.login(user, rcvbuf=65536)
    waiting(c, b"NAME stops OUT 20000000")
    for _ in range(5000):
        c.read_response()
    assert await_finish(impatient, "stops") == "cancelled"
    await_log(impatient, r"Disconnected: Client has not read server output")


def test_a_waiting_client_that_was_blocked_is_not(impatient, user):
    """The time-out is for output that waits, not for commands that wait."""
    c = impatient.login(user, rcvbuf=65536)
    tag = waiting(c, b"NAME was-blocked OUT %d" % MUCH)
    await_log(impatient, "xtest blocked was-blocked\n")
    c.expect(rb"\* XTEST OUT %010d" % (MUCH // ROW - 1))
    c.send(b"TIMER 1500\r\n")
    c.expect(rb"\* XTEST TIMER")
    done(c, tag)


@pytest.mark.parametrize("options, interval, stays", [(b"KEEPALIVE", "1s", True), (b"", "1s", False),
                                                      (b"KEEPALIVE", "0", False)])
def test_a_silent_client(make_server, user, options, interval, stays):
    """One that gets signs of life may wait for ever; else it is disconnected as a client that does not finish its
    command line."""
    with make_server(plugin=settings(imap_long_command_input_timeout="2s"),
                     extra="imap_idle_notify_interval = %s\n" % interval) as server:
        c = server.login(user)
        tag = waiting(c, b"NAME silent " + options)
        if stays:
            for _ in range(2):
                c.next(rb"\* XTEST KEEPALIVE")
                c.next(rb"\* OK Still here")
            done(c, tag)
        else:
            assert [r.line for r in c.eof()] == [b"* BYE Disconnected for inactivity."]
            assert await_finish(server, "silent") == "cancelled"


@pytest.mark.parametrize("busy", [False, True], ids=["quiet", "busy"])
def test_dovecot_s_time_out_for_silent_clients(make_server, user, busy):
    """It does not end a command with signs of life, be they its own or what it has to tell."""
    with make_server(plugin=settings(), extra="imap_idle_notify_interval = 1s\n") as server:
        make_wake(server, user)
        c, clock = server.login(user), server.login(user + "-clock")
        tag = waiting(c, b"KEEPALIVE WATCH IDLETIME 2500")
        waiting(clock)
        for _ in range(12):
            clock.send(b"TIMER 300\r\n")
            clock.expect(rb"\* XTEST TIMER")
            if busy:
                wake(server, user)
                c.expect(rb"\* XTEST CHANGE")
        done(c, tag)


# -- the selected mailbox --------------------------------------------------------------------------

def test_many_mailbox_changes_while_blocked(make_server, user):
    """IDLE's reports, 300 kB of them, in the middle of other output."""
    with make_server(plugin=settings(), mail_location="sdbox:~/mail") as server:
        c, d = server.login(user, rcvbuf=65536), server.login(user)
        messages = 1
        assert b" OK " in d.command(b"APPEND INBOX {%d+}\r\n%s" % (len(MESSAGE), MESSAGE))[-1].line
        assert b" OK " in d.command(b"SELECT INBOX")[-1].line
        while messages < 256:
            assert b" OK " in d.command(b"COPY 1:* INBOX")[-1].line
            messages *= 2
        assert b" OK " in c.command(b"SELECT INBOX")[-1].line
        tag = waiting(c, b"NAME box MAILBOX OUT %d" % MUCH, b"XTESTBOX")
        await_log(server, "xtest blocked box\n")
        keywords = b" ".join(b"keyword-%d-%s" % (i, b"k" * 38) for i in range(20))
        assert b" OK " in d.command(b"STORE 1:* +FLAGS.SILENT (%s)" % keywords)[-1].line
        assert b" OK " in d.command(b"COPY 1 INBOX")[-1].line
        # Dovecot tells of changes half a second later
        d.send(b"e1 XTEST TIMER 1000\r\n")
        d.expect(rb"\* XTEST TIMER")
        responses = []
        while not responses or b"FETCH (FLAGS" not in responses[-1].line or b"* 256 " not in responses[-1].line:
            responses.append(c.read_response())
        while len([r for r in responses if r.line.startswith(b"* XTEST")]) < MUCH // ROW \
                or b"* 257 EXISTS" not in [r.line for r in responses]:
            responses.append(c.read_response())
        assert_rows(responses, MUCH // ROW)
        flags = [r.line for r in responses if b" FETCH (FLAGS" in r.line]
        assert [int(line.split(b" ")[1]) for line in flags] == list(range(1, 257))
        assert all(line.count(b"keyword-") == 20 for line in flags)
        done(c, tag)
        c.logout()
        d.close()


# -- TLS -------------------------------------------------------------------------------------------

def test_tls(make_server, user):
    with make_server(plugin=settings(), tls=True) as server:
        make_wake(server, user)
        c = Client(server.tls_port, user, tls=True, rcvbuf=65536)
        tag = waiting(c, b"NAME tls WATCH")
        wake(server, user)
        c.next(rb"\* XTEST CHANGE")
        c.send(b"OUT 20000000\r\n")
        await_log(server, "xtest blocked tls\n")
        responses = []
        while len(responses) < 20000000 // ROW:
            responses.append(c.read_response())
            if not responses[-1].line.startswith(b"* XTEST OUT"):
                # another event of the same change
                responses.pop()
        assert_rows(responses, 20000000 // ROW)
        done(c, tag)
        tag = waiting(c, b"NAME tls-gone OUT 20000000")
        await_log(server, "xtest blocked tls-gone\n")
        c.reset()
        assert await_finish(server, "tls-gone") == "cancelled"
