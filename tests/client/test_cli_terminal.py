"""dovetail at a terminal: questions without echo, values made safe, progress, Ctrl-C."""

import os
import signal
import socket
import termios

import pytest

from cli import LOGIN, OK, PREFIX, USAGE, Machine
from terminal import Terminal


@pytest.fixture
def machine(server, user, tmp_path):
    return Machine(tmp_path / "home", server, user)


@pytest.fixture
def asked(server, user, tmp_path):
    """A machine whose account has no password."""
    return Machine(tmp_path / "asked", server, user, password=None)


# -- passwords

def test_the_password_is_asked_for_at_each_use(asked, machine):
    machine.out("set", "a", "value")
    for _ in range(2):
        terminal = Terminal(asked, "get", "a")
        terminal.await_text(r"password of \S+ at 127\.0\.0\.1: ")
        terminal.await_echo(False)
        terminal.type("pass\n")
        code, shown = terminal.end()
        assert (code, shown) == (OK, "\r\nvalue\r\n")
    assert "pass" not in open(asked.config).read()


def test_a_wrong_password(asked):
    terminal = Terminal(asked, "get", "a")
    terminal.await_text("password of")
    terminal.await_echo(False)
    terminal.type("wrong\n")
    code, shown = terminal.end()
    assert code == LOGIN and "dovetail: " in shown and "wrong" not in shown


def test_no_answer(asked):
    terminal = Terminal(asked, "get", "a")
    terminal.await_text("password of")
    terminal.await_echo(False)
    terminal.type("\x04")
    code, shown = terminal.end()
    assert code == LOGIN and "no answer to: password of" in shown


def test_ctrl_c_at_the_question(asked):
    terminal = Terminal(asked, "get", "a")
    terminal.await_text("password of")
    terminal.await_echo(False)
    # who stops it there and goes on would type with echo
    assert termios.tcgetattr(terminal.fd)[6][termios.VSUSP] == b"\0"
    terminal.type("\x03")
    # the terminal is as it was
    terminal.await_echo(True)
    assert termios.tcgetattr(terminal.fd)[6][termios.VSUSP] == b"\x1a"
    code, _ = terminal.end()
    assert code == 128 + signal.SIGINT


def test_no_terminal(asked):
    error = asked.error(LOGIN, "get", "a", start_new_session=True)
    assert error.startswith("there is no terminal to ask for: password of ")


def test_the_password_is_not_asked_for_offline(asked):
    asked.out("set", "a", "1", "--offline", start_new_session=True)
    assert asked.out("get", "a", "--offline", start_new_session=True) == "1"


# -- login

def test_login_asks(server, user, tmp_path):
    machine = Machine(tmp_path / "new")
    terminal = Terminal(machine, "login", "--port", str(server.port), "--tls", "none", "--store-password")
    terminal.await_text("user name: ")
    terminal.type("%s@example.org\n" % user)
    terminal.await_text(r"server \[imap\.example\.org\]: ")
    terminal.type("127.0.0.1\n")
    terminal.await_text("password of %s@example.org at 127.0.0.1: " % user)
    terminal.await_echo(False)
    terminal.type("pass\n")
    code, shown = terminal.end()
    assert code == OK, shown
    assert "account written: " in shown and "asked for at each use" not in shown
    assert "password = pass\n" in open(machine.config).read()
    assert os.stat(machine.config).st_mode & 0o777 == 0o600
    machine.out("set", "a", "1")


def test_login_stores_no_password_unasked(server, user, tmp_path):
    machine = Machine(tmp_path / "new")
    terminal = Terminal(machine, "login", user, "--host", "127.0.0.1", "--port", str(server.port), "--tls", "none")
    terminal.await_text("password of")
    terminal.await_echo(False)
    terminal.type("pass\n")
    code, shown = terminal.end()
    assert code == OK and "asked for at each use" in shown
    assert "pass" not in open(machine.config).read()


# -- values

def show(machine, *args):
    return Terminal(machine, "get", *args).end()


def test_values_are_made_safe(machine):
    machine.run("set", "a", input=b"\x1b[2J\x07a\tb\nc\r\xff\xc2\x9b31m gr\xc3\xbcn \xe2\x80\xae x\x7f")
    code, shown = show(machine, "a")
    assert code == OK
    # the terminal itself makes \r\n of \n
    assert shown == "\\x1b[2J\\x07a\tb\r\nc\\x0d\\xff\\xc2\\x9b31m grün \\xe2\\x80\\xae x\\x7f\r\n"
    code, shown = show(machine, "a", "--raw")
    assert shown.startswith("\x1b[2J\x07a")
    # in a pipe nothing is changed
    assert machine.run("get", "a").stdout.startswith(b"\x1b[2J\x07a")


def test_lines_end(machine):
    machine.out("set", "a", "no end")
    assert show(machine, "a")[1] == "no end\r\n"
    machine.run("set", "a", input="an end\n")
    assert show(machine, "a")[1] == "an end\r\n"
    machine.out("set", "a", "")
    assert show(machine, "a")[1] == ""
    machine.out("set", "a", "no end")
    assert show(machine, "a", "--raw")[1] == "no end"


def test_messages_are_made_safe(machine):
    code, shown = Terminal(machine, "get", "a\x1b[2J\nb").end()
    assert code == USAGE and "\x1b" not in shown and shown.count("\n") == 1


def test_set_from_the_terminal(machine):
    terminal = Terminal(machine, "set", "a")
    terminal.await_text("Ctrl-D in an empty line ends it")
    terminal.type("typed\n\x04")
    assert terminal.end()[0] == OK
    assert machine.out("get", "a") == "typed\n"


def test_ctrl_c_while_it_reads(machine):
    terminal = Terminal(machine, "set", "a")
    terminal.await_text("Ctrl-D in an empty line ends it")
    terminal.type("typed\n\x03")
    assert terminal.end()[0] == 128 + signal.SIGINT
    assert machine.out("ls") == ""


# -- progress

def stuck(machine, port):
    """The account's server takes connections and says nothing."""
    machine.account(host="127.0.0.1", port=port, tls="none", user="u", password="p", timeout=60)


@pytest.mark.parametrize("args, code", [(["sync"], 128 + signal.SIGINT), (["watch"], OK)], ids=["sync", "watch"])
def test_progress_and_ctrl_c(machine, args, code):
    """It is said what is waited for, and that line is cleared."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        stuck(machine, mute.getsockname()[1])
        terminal = Terminal(machine, *args)
        terminal.await_text("\rconnecting\x1b\\[K")
        terminal.type("\x03")
        ended, shown = terminal.end()
    assert ended == code and shown.endswith("\r\x1b[K")


def test_quiet_means_no_progress(machine):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        stuck(machine, mute.getsockname()[1])
        assert Terminal(machine, "sync", "--quiet", "--timeout", "2").end()[1].startswith("dovetail: ")


def test_progress_of_an_import(machine, tmp_path):
    """Long enough for a bar; it is cleared at the end. Nothing of it in a pipe, without a terminal, or with --quiet."""
    line = '{"mailbox":"","entry":"%sn/%%d","value":"%s"}\n' % (PREFIX, "x" * 1000)
    path = tmp_path / "lines"

    def fill(count):
        with open(path, "w") as f:
            for i in range(count):
                f.write(line % (i % 500))
    # as many lines as it takes a second here, whatever the machine
    count = 50000
    while True:
        fill(count)
        code, shown = Terminal(machine, "import", "--dry-run", "--offline", str(path)).end(300)
        assert code == OK
        if "\x1b[K" in shown or count > 5000000:
            break
        count *= 4
    assert "\r[" in shown and " %  looking at the lines\x1b[K" in shown
    assert shown.endswith("\r\x1b[K%d lines are well\r\n" % count)
    assert machine.run("import", "--dry-run", "--offline", str(path)).stderr == b""
    for env, args in (({"TERM": "dumb"}, []), ({}, ["--quiet"])):
        code, shown = Terminal(machine, "import", "--dry-run", "--offline", *args, str(path), env=env).end(300)
        assert shown == "%d lines are well\r\n" % count


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_sync(machine, number):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        stuck(machine, mute.getsockname()[1])
        process = machine.start("set", "a", "1")
        peer, _ = mute.accept()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        peer.close()
    assert process.returncode == 128 + number and out == b"" and err == b""
    # nothing was lost
    assert machine.out("get", "a", "--offline") == "1"
