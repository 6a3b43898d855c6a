"""dovetail watch: two terminals live, also on one machine; commands; what ends it."""

import json
import os
import signal
import socket
import threading

import pytest

from cli import LOGIN, OFFLINE, OK, PREFIX, REFUSED, SYSTEM, USAGE, Machine
from terminal import Terminal


@pytest.fixture
def one(server, user, tmp_path):
    return Machine(tmp_path / "one", server, user)


@pytest.fixture
def two(server, user, tmp_path):
    return Machine(tmp_path / "two", server, user)


class Watch:
    """A dovetail watch --json that is read line by line."""

    def __init__(self, machine, *args, json=True, **kwargs):
        self.process = machine.start("watch", *(["--json"] if json else []), *args, **kwargs)
        self.killer = threading.Timer(100, self.process.kill)
        self.killer.start()

    def line(self):
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return line.decode().rstrip("\n")

    def await_state(self, state):
        """Until it is in that state; returns the changes before it."""
        changes = []
        while True:
            event = json.loads(self.line())
            if event == {"event": "state", "state": state}:
                return changes
            if event["event"] != "state":
                changes.append(event)

    def change(self):
        while True:
            event = json.loads(self.line())
            if event["event"] != "state":
                return event

    def end(self, number=signal.SIGTERM):
        """Ends it; the exit code, and what came since."""
        if number:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=90)
        self.killer.cancel()
        return self.process.returncode, out.decode(), err.decode()


@pytest.fixture
def watch():
    watches = []

    def make(*args, **kwargs):
        watches.append(Watch(*args, **kwargs))
        return watches[-1]
    yield make
    for w in watches:
        if w.process.returncode is None:
            w.process.kill()
            w.process.communicate()
        w.killer.cancel()


# -- what is told

def test_changes_of_another_machine(one, two, watch):
    w = watch(one)
    assert w.await_state("live") == []
    two.out("set", "a", "1")
    event = w.change()
    assert int(event.pop("modseq")) > 0
    assert event == {"event": "set", "mailbox": "", "entry": PREFIX + "a", "size": "1", "flags": [], "value": "1"}
    two.run("set", "a", input=b"\xff")
    assert w.change()["base64"] == "/w=="
    two.out("rm", "a")
    assert w.change() == {"event": "removed", "mailbox": "", "entry": PREFIX + "a", "modseq": "0"}
    # what is elsewhere is not told
    two.out("set", "/private/other", "1")
    two.out("set", "-m", "INBOX", "b", "1")
    two.out("set", "last", "1")
    assert w.change()["entry"] == PREFIX + "last"
    assert w.end() == (OK, "", "")


def test_two_terminals_of_one_machine(one, watch):
    """The second one writes into the same replica; the first one sends it, and tells it."""
    w = watch(one)
    w.await_state("live")
    one.out("set", "a", "1")
    assert w.change()["value"] == "1"
    one.out("set", "a", "2")
    one.out("rm", "a")
    events = [w.change()]
    if events[0]["event"] == "set":
        events.append(w.change())
    assert events[-1]["event"] == "removed"
    assert one.lines("status", "--json")[0]["pending"] == "0"
    assert w.end() == (OK, "", "")


def test_two_watches_of_one_machine(one, two, watch):
    """One syncs, the other sees it in the file; when the first ends, the second syncs."""
    first = watch(one)
    first.await_state("live")
    second = watch(one)
    second.await_state("busy")
    two.out("set", "a", "1")
    assert first.change()["value"] == second.change()["value"] == "1"
    assert first.end()[0] == OK
    second.await_state("live")
    two.out("set", "a", "2")
    assert second.change()["value"] == "2"
    assert second.end() == (OK, "", "")


def test_what_was_missed(one, two, watch):
    one.out("set", "a", "1")
    one.out("set", "b", "1")
    two.out("ls")
    one.out("set", "b", "2")
    one.out("rm", "a")
    one.out("set", "c", "3")
    w = watch(two)
    assert [(e["event"], e["entry"][len(PREFIX):]) for e in w.await_state("live")] == \
        [("removed", "a"), ("set", "b"), ("set", "c")]
    assert w.end()[0] == OK
    # and all
    w = watch(two, "--all", "--count", "2")
    assert [w.change()["entry"][len(PREFIX):] for _ in range(2)] == ["b", "c"]
    assert w.end(None)[0] == OK


def test_scopes(one, two, watch):
    every = watch(one, "-A", "/private")
    every.await_state("live")
    inbox = watch(one, "-m", "INBOX", "x")
    inbox.await_state("busy")
    two.out("set", "-m", "INBOX", "y", "1")
    two.out("set", "-m", "INBOX", "x/z", "2")
    two.out("set", "/private/other", "3")
    assert [every.change()["value"] for _ in range(3)] == ["1", "2", "3"]
    assert inbox.change()["value"] == "2"
    for w in (every, inbox):
        assert w.end() == (OK, "", "")


def test_text(one, two, watch):
    w = watch(one, "-c", "5", json=False)
    # it is live when the other one's first change has come
    two.out("set", "a", "one line\n")
    assert w.line() == "a = one line"
    two.out("set", "a", "two\nlines")
    assert w.line() == "a = two ..."
    two.out("set", "a", "x" * 57 + "äöü")
    assert w.line() == "a = " + "x" * 57 + "ä ..."
    two.run("set", "a", input=b"\x1b[2J")
    assert w.line() == "a = \\x1b[2J"
    two.out("rm", "a")
    assert w.line() == "a removed"
    assert w.end(None) == (OK, "", "")


def test_offline_it_shows_what_is_written_here(one, watch):
    w = watch(one, "--offline", "--all", "-c", "2", json=False)
    one.out("set", "--offline", "a", "1")
    assert w.line() == "a = 1"
    one.out("set", "--offline", "a", "2")
    assert w.line() == "a = 2"
    assert w.end(None) == (OK, "", "")


def test_what_is_refused_while_another_process_syncs(one, watch):
    w = watch(one)
    w.await_state("live")
    assert one.error(REFUSED, "set", "-m", "Nowhere", "a", "1") == 'refused by the server; see "dovetail status"'
    code, _, err = w.end()
    assert code == OK and err.startswith("dovetail: refused: Nowhere: a: ")


def test_another_process_that_syncs_and_hangs(one, two, watch):
    """What is written waits, and is said to; nothing is lost."""
    w = watch(one)
    w.await_state("live")
    w.process.send_signal(signal.SIGSTOP)
    assert one.error(OFFLINE, "set", "--timeout", "1", "a", "1").startswith("queued, not sent: ")
    assert one.out("get", "a") == "1"
    w.process.send_signal(signal.SIGCONT)
    one.out("sync")
    assert two.out("get", "a") == "1"
    assert w.end()[0] == OK


# -- lost connections

def test_a_server_that_goes_and_comes_back(make_server, user, tmp_path, watch):
    server = make_server()
    one, two = (Machine(tmp_path / name, server, user, max_backoff=1) for name in ("one", "two"))
    w = watch(one)
    w.await_state("live")
    server.stop()
    w.await_state("offline")
    server.start()
    w.await_state("live")
    two.out("set", "a", "1")
    assert w.change()["value"] == "1"
    code, _, err = w.end()
    assert code == OK
    assert err.startswith("dovetail: offline, trying again: ") and err.endswith("\ndovetail: online again\n")


def test_what_does_not_pass_by_itself(one, server, user, watch):
    one.account(host="127.0.0.1", port=server.port, tls="none", user=user, password="wrong")
    w = watch(one)
    code, _, err = w.end(None)
    assert code == LOGIN and err.startswith("dovetail: ") and err.count("\n") == 1


# -- commands

def script(tmp_path, text):
    path = tmp_path / "command"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


def test_exec(one, two, tmp_path, watch):
    command = script(tmp_path, 'echo "$# $1|$2|$DOVETAIL_EVENT|$DOVETAIL_MAILBOX|$DOVETAIL_ENTRY|$DOVETAIL_NAME|'
                     '$DOVETAIL_SIZE|$(cat)|$(env | grep -c ^DOVETAIL_)"\n')
    # as if it were run by another one's command
    one.env.update(DOVETAIL_SIZE="7", DOVETAIL_OTHER="7")
    w = watch(one, "--exec", command + '  "a b"  c"\\"d"', json=False)
    two.out("set", "a x", "$(touch /tmp/no) `x`")
    assert w.line() == '2 a b|c"d|set||%sa x|a x|20|$(touch /tmp/no) `x`|6' % PREFIX
    two.out("rm", "a x")
    assert w.line() == '2 a b|c"d|removed||%sa x|a x|0||6' % PREFIX
    assert w.end() == (OK, "", "")


def test_a_command_after_dashes(one, two, tmp_path, watch):
    command = script(tmp_path, 'printf "%s|" "$@"; echo "$DOVETAIL_MODSEQ" | grep -c "^[1-9]"\n')
    w = watch(one, "a", "-c", "1", "--", command, "--json", "a b", "", "--", json=False)
    two.out("set", "b", "1")
    two.out("set", "a", "1")
    assert w.line() == "--json|a b||--|1"
    assert w.end(None) == (OK, "", "")


def test_a_change_that_waits_has_no_modseq(one, watch, tmp_path):
    one.out("set", "a", "1")
    one.out("set", "--offline", "a", "2")
    w = watch(one, "--offline", "--all", "-c", "1", "--", script(tmp_path, "echo $DOVETAIL_MODSEQ\n"), json=False)
    assert w.line() == "0"
    assert w.end(None) == (OK, "", "")


def test_a_command_inherits_nothing(one, two, watch):
    """Its standard input, output and errors are all that it has, and the folder that it reads here."""
    w = watch(one, "--count", "1", "--", "/bin/ls", "/proc/self/fd", json=False)
    two.out("set", "a", "1")
    assert w.end(None) == (OK, "0\n1\n2\n3\n", "")


def test_a_value_of_any_size_that_is_not_read(one, two, tmp_path, watch):
    w = watch(one, "--", script(tmp_path, "echo $DOVETAIL_SIZE\n"), json=False)
    two.run("set", "a", input=b"\0" * 1000000)
    assert w.line() == "1000000"
    assert w.end() == (OK, "", "")


def test_one_at_a_time_and_in_order(one, two, tmp_path, watch):
    lock = tmp_path / "lock"
    command = script(tmp_path, 'mkdir "%s" || echo overlap\ncat\necho\nsleep 0.05\nrmdir "%s"\n' % (lock, lock))
    for i in range(8):
        two.out("set", "n%d" % (i * 7 % 8), str(i))
    w = watch(one, "--count", "8", "--", command, json=False)
    out = [w.line() for _ in range(8)]
    assert "overlap" not in out and len(set(out)) == 8
    assert w.end(None) == (OK, "", "")


def test_a_command_that_fails(one, two, tmp_path, watch):
    command = script(tmp_path, 'read x; echo "$x"; [ "$x" != kill ] || kill -9 $$; exit "$x"\n')
    w = watch(one, "--count", "3", "--", command, json=False)
    for value in ("3", "kill", "0"):
        two.out("set", "a", value)
        assert w.line() == value
    code, _, err = w.end(None)
    assert code == OK
    assert err.splitlines() == ["dovetail: %s/command: exit code 3" % tmp_path,
                                "dovetail: %s/command: ended by signal 9" % tmp_path]


@pytest.mark.parametrize("args, message", [
    (["--exec", ""], "a command is needed"),
    (["--exec", "  "], "a command is needed"),
    (["--exec", 'a "b'], "a quote has no end"),
    (["--exec", '"'], "a quote has no end"),
    (["--exec", "a", "--", "b"], "exclude each other"),
    (["--"], "a command is needed after --"),
    (["--exec", "no-such-command"], "there is no such command"),
    (["--", "/etc/passwd"], "Permission denied"),
    (["--", "/no/such/file"], "No such file"),
    (["a", "b"], 'what is "b"?'),
    (["-A", "-m", "INBOX"], "exclude each other"),
    (["--count", "-1"], "needs a number"),
    (["--count", "0"], "is at least 1"),
    (["--timeout", "0"], "is at least 1"),
    (["--", ""], "there is no such command"),
    (["--", "/"], "Permission denied"),
])
def test_wrong_arguments(one, args, message):
    if args == ["--", "/etc/passwd"]:
        os.chmod(os.path.join(one.home, "."), 0o755)
        path = one.home + "/plain"
        with open(path, "w"):
            pass
        args = ["--", path]
    assert message in one.error(USAGE, "watch", *args)


def test_names_that_cannot_be(one):
    one.error(USAGE, "watch", "a//b")


# -- ends

@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals(one, watch, number):
    w = watch(one)
    w.await_state("live")
    assert w.end(number) == (OK, "", "")


def test_two_signals(one, watch):
    w = watch(one)
    w.await_state("live")
    w.process.send_signal(signal.SIGINT)
    assert w.end(signal.SIGTERM) == (OK, "", "")


def test_a_signal_that_was_ignored_before(one, two, watch):
    """As nohup starts programs."""
    w = watch(one, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    w.await_state("live")
    w.process.send_signal(signal.SIGHUP)
    two.out("set", "a", "1")
    assert w.change()["value"] == "1"
    assert w.end() == (OK, "", "")


def test_a_signal_while_nobody_reads(one, watch):
    one.out("set", "a", input=b"x" * 1000000)
    w = watch(one, "--all", "--offline")
    # more than the pipe has room for is on its way
    assert w.process.stdout.read(1) == b"{"
    w.process.send_signal(signal.SIGTERM)
    assert w.process.wait(90) == OK


def test_a_signal_ends_the_command_too(one, two, tmp_path, watch):
    w = watch(one, "--", script(tmp_path, "echo $$; exec sleep 1000\n"), json=False)
    two.out("set", "a", "1")
    pid = int(w.line())
    code, _, err = w.end()
    assert code == OK and "ended by signal 15" in err
    assert not os.path.exists("/proc/%d" % pid)


def test_a_command_that_does_not_end(one, two, tmp_path, watch):
    """A second signal is for one that ignores the first."""
    w = watch(one, "--", script(tmp_path, "trap '' TERM\necho $$\nexec sleep 60\n"), json=False)
    two.out("set", "a", "1")
    pid = int(w.line())
    w.process.send_signal(signal.SIGTERM)
    code, _, err = w.end(signal.SIGINT)
    assert code == OK and "ended by signal 9" in err
    assert not os.path.exists("/proc/%d" % pid)


def test_the_reader_goes(one, watch):
    w = watch(one)
    w.await_state("live")
    w.process.stdout.close()
    assert w.process.wait(90) == SYSTEM
    assert w.process.stderr.read() == b"dovetail: cannot write to standard output: Broken pipe\n"


def test_a_full_disk(one, two):
    two.out("set", "a", "1")
    with open("/dev/full", "w") as full:
        done = one.run("watch", "--all", code=SYSTEM, stdout=full)
    assert done.stderr == b"dovetail: cannot write to standard output: No space left on device\n"


def test_ctrl_c_at_a_terminal(one, two):
    terminal = Terminal(one, "watch")
    two.out("set", "a", "1")
    terminal.await_text("a = 1\r\n")
    terminal.type("\x03")
    assert terminal.end()[0] == OK


def test_a_mute_server(one, watch):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        one.account(host="127.0.0.1", port=mute.getsockname()[1], tls="none", user="u", password="p", timeout=60)
        w = watch(one)
        peer, _ = mute.accept()
        assert w.end()[0] == OK
        peer.close()


