"""What clients send to a command that waits: lines that it knows, DONE, and all that is neither. A wrong
line ends the command with BAD; nothing of it, nor of the literals that it announces, is run as a command."""

import re

import pytest

from lifecycle import BAD, OK, ROW, assert_rows, await_finish, make_wake, reply, waiting, wake
from metasync import sane


def answers(c, tag, text):
    """The tagged reply is the very next response, and nothing else was run before a NOOP."""
    response = c.read_response()
    assert response.tag == tag and reply(response) == text, response
    noop = c.command(b"NOOP")
    assert len(noop) == 1, noop
    assert reply(noop[0]) == b"OK NOOP completed"


# -- DONE ------------------------------------------------------------------------------------------

@pytest.mark.valgrind
@pytest.mark.parametrize("line", [b"DONE\r\n", b"done\r\n", b"DoNe\r\n", b"DONE\n", b"done\n"])
def test_done(client, user, line):
    c = client(user)
    tag = waiting(c)
    c.send(line)
    answers(c, tag, OK)


def test_done_in_single_bytes(client, user):
    c = client(user)
    tag = waiting(c)
    for i in b"DONE\r\n":
        c.send(bytes([i]))
    answers(c, tag, OK)


@pytest.mark.valgrind
def test_done_in_the_same_packet(client, user):
    c = client(user)
    c.send(b"p1 XTEST\r\nDONE\r\np2 XTEST\r\ndone\r\np3 NOOP\r\n")
    lines = [r.line for r in c.until(b"p3")]
    assert [line.split(b" ")[0] for line in lines] == [b"+", b"p1", b"+", b"p2", b"p3"]
    assert all(b" OK " in line for line in (lines[1], lines[3], lines[4]))


def test_done_is_only_taken_once(client, user):
    """After DONE the client's next line is its next command."""
    c = client(user)
    tag = waiting(c, b"LATER 100")
    c.send(b"DONE\r\nDONE\r\n")
    assert reply(c.until(tag)[-1]) == b"OK XTEST completed later"
    assert c.read_response().line.startswith(b"DONE BAD ")
    sane(c)


def test_without_a_done_callback(client, user):
    c = client(user)
    tag = waiting(c, command=b"XTESTMIN")
    c.send(b"DONE\r\n")
    answers(c, tag, b"OK XTESTMIN completed")


# -- lines that the command knows ------------------------------------------------------------------

@pytest.mark.valgrind
def test_lines(client, user):
    c = client(user)
    tag = waiting(c)
    c.send(b"ECHO one\r\nECHO two\nECHO \r\nECHO")
    for word in (b"one", b"two", b""):
        c.next(rb"\* XTEST ECHO %s$" % word)
    c.send(b" three\r\n")
    c.next(rb"\* XTEST ECHO three$")
    c.send(b"DONE\r\n")
    answers(c, tag, OK)


def test_a_long_line(client, user):
    c = client(user)
    tag = waiting(c)
    text = b"y" * 60000
    c.send(b"ECHO " + text + b"\r\n")
    assert c.read_response().line == b"* XTEST ECHO " + text
    c.send(b"DONE\r\n")
    answers(c, tag, OK)


def test_many_lines_at_once(client, user):
    c = client(user)
    tag = waiting(c)
    c.send(b"".join(b"ECHO %d\r\n" % i for i in range(20000)) + b"DONE\r\n")
    lines = [r.line for r in c.until(tag)]
    assert lines[:-1] == [b"* XTEST ECHO %d" % i for i in range(20000)]
    sane(c)


def test_a_wake_in_the_middle_of_a_line(client, server, user):
    make_wake(server, user)
    c = client(user)
    tag = waiting(c, b"WATCH")
    c.send(b"EC")
    wake(server, user)
    c.expect(rb"\* XTEST CHANGE")
    c.send(b"HO whole\r\n")
    c.expect(rb"\* XTEST ECHO whole$")
    c.send(b"DONE\r\n")
    assert reply(c.until(tag)[-1]) == OK
    sane(c)


@pytest.mark.parametrize("lines, count", [(b"STOP\r\n", 0), (b"TIMER 300\r\n", 1), (b"STOP\r\nTIMER 300\r\n", 1)])
def test_timers_are_stopped_and_moved(client, user, lines, count):
    c, clock = client(user), client(user)
    c.send(b"p1 XTEST TIMER 100\r\n" + lines + b"ECHO set\r\n")
    assert [c.read_response().line for _ in range(2)] == [b"+ idling", b"* XTEST ECHO set"]
    waiting(clock, b"TIMER 600")
    clock.expect(rb"\* XTEST TIMER")
    c.send(b"DONE\r\n")
    assert [r.line for r in c.until(b"p1")[:-1]] == [b"* XTEST TIMER"] * count


def test_a_line_that_ends_the_command(client, server, user):
    c = client(user)
    tag = waiting(c, b"NAME end")
    c.send(b"END\r\nz NOOP\r\n")
    assert reply(c.until(tag)[-1]) == b"OK XTEST ended"
    assert reply(c.until(b"z")[-1]) == b"OK NOOP completed"
    assert await_finish(server, "end") == "ended"


# -- wrong lines -----------------------------------------------------------------------------------

@pytest.mark.parametrize("line", [
    b"", b"NOOP", b"z NOOP", b"DONE ", b" DONE", b"DONE DONE", b"DONE\r\r", b"DONE\0", b"\0", b"\0DONE",
    b"ECHO nul\0", b"\xc3\xa9", b"\xff", b"z LOGOUT", b"{", b"}", b"{}", b"{+}", b"{5", b"5}", b"{a+}",
    b"{-1+}", b"{5+} ", b"{99999999999999999999+}", b"x" * 65536, b"ECHO " + b"x" * 100000, b"x" * 1000000,
    b"{" * 100000, b"\r" * 70000])
@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_a_wrong_line(client, user, line, end):
    c = client(user)
    tag = waiting(c)
    c.send(line + end)
    answers(c, tag, BAD)


# what follows the tag's line; all of it must be swallowed
SWALLOWED = [
    b"x {5+}\r\nhello\r\n",
    b"x ~{5+}\r\nhello\r\n",
    b"{0+}\r\n\r\n",
    b"x {11+}\r\nz9 LOGOUT\r\n\r\n",
    b"x {6+}\r\nDONE\r\n\r\n",
    b"x {6+}\r\n{9+}\r\n\r\n",
    b"x {3+}\r\nabc {4+}\r\n\0\0\r\n {0+}\r\nz9 NOOP\r\n",
    b"x {200000+}\r\n" + b"z9 NOOP\r\n" * 22222 + b"zz\r\n",
    b"x" * 100000 + b" {5+}\r\nhello\r\n",
    b"x {5+}\nhello\n",
]


@pytest.mark.valgrind
@pytest.mark.parametrize("sent", SWALLOWED, ids=range(len(SWALLOWED)))
def test_a_wrong_line_with_literals(client, user, sent):
    c = client(user)
    tag = waiting(c)
    c.send(sent)
    answers(c, tag, BAD)


@pytest.mark.parametrize("sent", [s for s in SWALLOWED if len(s) < 100])
def test_a_wrong_line_with_literals_in_single_bytes(client, user, sent):
    c = client(user)
    tag = waiting(c)
    for i in sent:
        c.send(bytes([i]))
    answers(c, tag, BAD)


@pytest.mark.parametrize("sent", [b"x {5}\r\n", b"x {99999}\r\n", b"x {3+}\r\nabc {5}\r\n",
                                  b"x" * 100000 + b" {5}\r\n"])
def test_a_wrong_line_with_a_synchronizing_literal(client, user, sent):
    """The client waits for its "+" and gets BAD instead."""
    c = client(user)
    tag = waiting(c)
    c.send(sent)
    answers(c, tag, BAD)


def test_wakes_during_an_endless_line(client, server, user):
    """A command that has got a wrong line says nothing more but BAD."""
    make_wake(server, user)
    c = client(user)
    tag = waiting(c, b"WATCH TIMER 50")
    c.send(b"x" * 100000)
    for _ in range(100):
        wake(server, user)
        c.send(b"x" * 100)
    other = client(user)
    waiting(other, b"WATCH TIMER 100")
    other.expect(rb"\* XTEST TIMER")
    c.send(b"\r\n")
    lines = c.until(tag)
    # what was before the line
    assert all(r.line in (b"* XTEST CHANGE", b"* XTEST TIMER") for r in lines[:-1])
    assert reply(lines[-1]) == BAD
    sane(c)


def test_without_a_line_callback(client, user):
    c = client(user)
    tag = waiting(c, command=b"XTESTMIN")
    c.send(b"ECHO\r\n")
    answers(c, tag, BAD)


# -- the first call --------------------------------------------------------------------------------

def test_before_login(client, user):
    c = client(user, login=False)
    assert c.command(b"XTEST")[-1].line.split(b" ")[1] == b"BAD"
    assert b" OK " in c.command(b"LOGIN %s pass" % user.encode())[-1].line
    sane(c)


@pytest.mark.valgrind
def test_end_in_start(client, server, user):
    c = client(user)
    c.send(b"p1 XTEST NAME short END\r\np2 NOOP\r\n")
    assert reply(c.until(b"p1")[-1]) == b"OK XTEST ended"
    assert reply(c.until(b"p2")[-1]) == b"OK NOOP completed"
    assert await_finish(server, "short") == "ended"


@pytest.mark.valgrind
def test_bad_in_start(client, server, user):
    c = client(user)
    line = c.command(b"XTEST NAME bad BAD")[-1].line
    assert re.match(rb"\S+ BAD Error in IMAP command XTEST: As you wish", line)
    assert await_finish(server, "bad") == "ended"
    sane(c)


def test_mistakes_are_counted_and_wrong_lines_are_not(client, server, user):
    """Dovecot disconnects a client after 20 mistakes in a row."""
    c = client(user)
    for _ in range(25):
        tag = waiting(c)
        c.send(b"wrong\r\n")
        assert reply(c.until(tag)[-1]) == BAD
    for i in range(20):
        c.start(b"XTEST NAME mistake%d BAD" % i)
    lines = [r.line for r in c.eof()]
    assert lines[-1].startswith(b"* BYE Too many invalid IMAP commands")
    for i in range(20):
        assert await_finish(server, "mistake%d" % i) in ("ended", "cancelled")


def test_uid_is_not_part_of_it(client, user):
    c = client(user)
    assert c.command(b"UID XTEST")[-1].line.split(b" ")[1] == b"BAD"
    sane(c)


# -- commands that take no input -------------------------------------------------------------------

@pytest.mark.valgrind
def test_no_input(client, user):
    c = client(user)
    c.send(b"p1 XTEST NOINPUT TIMER 50\r\np2 NOOP\r\nDONE\r\np3 NOOP\r\n")
    lines = [r.line for r in c.until(b"p3")]
    assert [line.split(b" ")[:2] for line in lines] == [
        [b"*", b"XTEST"], [b"p1", b"OK"], [b"p2", b"OK"], [b"DONE", b"BAD"], [b"p3", b"OK"]]


def test_no_input_and_more_commands_than_a_buffer_holds(client, user):
    c = client(user)
    count = 8000000 // ROW
    c.send(b"p1 XTEST NOINPUT OUT 8000000\r\n" + b"p2 NOOP\r\n" * 30000 + b"p3 NOOP\r\n")
    responses = c.until(b"p3")
    assert_rows(responses, count)
    assert responses[count].tag == b"p1"
    assert [r.tag for r in responses[count + 1:-1]] == [b"p2"] * 30000
    sane(c)
