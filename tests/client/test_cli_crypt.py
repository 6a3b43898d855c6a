"""dovetail encrypt, unlock, secret, rotate: with passphrases from commands, files and the terminal, and key files."""

import fcntl
import json
import os
import time

import pytest

from cli import CONFIG, FAILED, LOCKED, OFFLINE, OK, PREFIX, REFUSED, USAGE, Machine
from terminal import Terminal

NOTES = PREFIX + "notes"
COMMAND = ["--passphrase-command", "echo correct horse"]


@pytest.fixture
def one(server, user, tmp_path):
    return Machine(tmp_path / "one", server, user)


@pytest.fixture
def two(server, user, tmp_path):
    return Machine(tmp_path / "two", server, user)


def on_the_server(server, user):
    """All that the server has of the user, in octets."""
    out = b""
    for folder, _, names in os.walk(server.home(user)):
        for name in names:
            with open(os.path.join(folder, name), "rb") as f:
                out += f.read()
    return out


def test_two_machines(one, two, server, user):
    one.out("set", "notes/before", "plain before")
    one.out("encrypt", "notes", *COMMAND)
    one.out("set", "notes/a", "the secret plaintext")
    assert b"the secret plaintext" not in on_the_server(server, user)
    # noted in the account file, so it needs nothing more here
    assert 'passphrase_command = "%s" echo correct horse\n' % NOTES in open(one.config).read()
    assert one.out("get", "notes/a") == "the secret plaintext"
    assert one.out("get", "notes/before") == "plain before"
    # the other machine
    assert "locked" in two.error(LOCKED, "get", "notes/a")
    assert two.lines("ls", "--json", "notes/a")[0]["flags"] == ["locked"]
    assert "L" in two.out("ls", "-l", "notes/a").split()[0]
    two.error(LOCKED, "set", "notes/a", "x")
    assert "locked" in two.error(LOCKED, "import", input=json.dumps({"mailbox": "", "entry": NOTES + "/a",
                                                                     "value": "x"}))
    two.run("export", code=LOCKED)
    assert two.out("export", "--skip-unreadable") == ""
    two.error(LOCKED, "unlock", "notes", "--passphrase-command", "echo wrong horse")
    assert "passphrase_command" not in open(two.config).read()
    two.out("unlock", "notes", *COMMAND)
    assert two.out("get", "notes/a") == "the secret plaintext"
    two.out("set", "notes/a", "changed")
    assert one.out("get", "notes/a") == "changed"
    assert os.stat(two.config).st_mode & 0o777 == 0o600
    # what is elsewhere needs no secret
    two.out("set", "b", "1")
    assert one.out("get", "b") == "1"


def test_import_looks_at_encrypted_lines_first(one):
    """What fails only when it is encrypted: a name that is well as it is, and too long when it is hidden."""
    one.out("encrypt", "notes", "--hide-names", *COMMAND)
    lines = ["%s/%d" % (NOTES, i) for i in range(103)] + [NOTES + "/x" * 100]
    error = one.error(REFUSED, "import", input="\n".join(json.dumps({"mailbox": "", "entry": entry, "value": "1"})
                                                         for entry in lines))
    assert error.startswith("line 104: %s/x/x" % NOTES)
    assert error.endswith(": the hidden name has too many components; nothing has been written")
    assert one.out("ls") == ""


def test_key_files(one, two):
    one.out("encrypt", "notes", "--key-file", "key", "--create-key-file")
    assert os.stat(one.home + "/key").st_mode & 0o777 == 0o600
    assert 'key_file = "%s" %s/key\n' % (NOTES, one.home) in open(one.config).read()
    one.out("set", "notes/a", "1")
    two.out("unlock", "notes", "--key-file", one.home + "/key")
    assert two.out("get", "notes/a") == "1"
    # not over one that is there
    assert "File exists" in one.error(FAILED, "secret", "add", "notes", "x", "--key-file", "key", "--create-key-file")
    # one that was made for nothing is removed again
    one.error(USAGE, "encrypt", "/private", "--key-file", "other", "--create-key-file")
    one.error(USAGE, "secret", "add", "notes", "", "--key-file", "other", "--create-key-file")
    assert not os.path.exists(one.home + "/other")
    os.remove(one.home + "/key")
    assert "No such file" in one.error(LOCKED, "get", "notes/a")


def test_two_note_a_secret_at_the_same_moment(one, two):
    one.out("encrypt", "a", "--key-file", "key", "--create-key-file")
    one.out("encrypt", "b", "--key-file", "key")
    key = ["--key-file", one.home + "/key"]
    before = open(two.config).read()
    with open(two.config + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        error = two.error(CONFIG, "unlock", "a", *key, "-t", "1")
        assert error.startswith(two.config + ": another process is writing it")
        assert open(two.config).read() == before
        both = [two.start("unlock", name, *key) for name in "ab"]
        for process in both:
            await_open(process, lock.name)
    assert [(process.wait(60), process.stderr.read()) for process in both] == [(OK, b"")] * 2
    assert sorted(open(two.config).read()[len(before):].splitlines()) == [
        'key_file = "%s%s" %s/key' % (PREFIX, name, one.home) for name in "ab"]


def await_open(process, path):
    """Waits until the process has opened the file."""
    folder = "/proc/%d/fd" % process.pid
    while process.poll() is None:
        for fd in os.listdir(folder):
            try:
                if os.readlink(os.path.join(folder, fd)) == path:
                    return
            except FileNotFoundError:
                continue
        time.sleep(0.01)
    raise AssertionError("it has ended")


def test_secrets(one, two):
    one.out("encrypt", "notes", *COMMAND)
    one.out("set", "notes/a", "1")
    one.out("secret", "add", "notes", "laptop", "--passphrase-command", "echo another one")
    lines = one.out("secret", "list", "notes").splitlines()
    assert len(lines) == 2 and any(line.endswith("\tlaptop") for line in lines)
    two.out("unlock", "notes", "--passphrase-command", "echo another one")
    assert two.out("get", "notes/a") == "1"
    one.out("secret", "remove", "notes", "laptop")
    assert len(one.out("secret", "list", "notes").splitlines()) == 1
    assert one.error(FAILED, "secret", "remove", "notes", "laptop")
    one.run("secret", "remove", "notes", lines[0].split("\t")[1], code=USAGE)
    # the account file names one that was removed: it is said what helps
    two.out("unlock", "notes", *COMMAND)
    one.out("secret", "add", "notes", "laptop", "--passphrase-command", "echo another one")
    one.out("secret", "remove", "notes", "first")
    two.out("sync")
    error = two.error(LOCKED, "get", "notes/a")
    assert error.startswith(NOTES + ": ") and error.endswith('; "dovetail unlock" notes another one')
    one.out("unlock", "notes", "--passphrase-command", "echo another one")
    # a new key, and one secret for it, which is noted in place of the old one
    one.out("rotate", "notes", "--label", "new", "--passphrase-command", "echo the third one")
    assert one.out("secret", "list", "notes").endswith("\tnew\n")
    assert open(one.config).read().count("passphrase_command") == 1 and one.out("get", "notes/a") == "1"
    third = Machine(one.home + "/third")
    with open(one.config) as f:
        third.account("".join(line for line in f if "passphrase" not in line))
    third.out("unlock", "notes", "--passphrase-command", "echo the third one")
    assert third.out("get", "notes/a") == "1"


def test_at_a_terminal(one, two):
    terminal = Terminal(one, "encrypt", "notes")
    terminal.await_text("new passphrase for %s: " % NOTES)
    terminal.await_echo(False)
    terminal.type("correct horse\n")
    terminal.await_text("once more: ")
    terminal.type("correct horse\n")
    code, shown = terminal.end()
    assert code == OK and "horse" not in shown
    assert "horse" not in open(one.config).read()

    def asked(machine, passphrase, *args):
        terminal = Terminal(machine, *args)
        terminal.await_text("passphrase of %s: " % NOTES)
        terminal.await_echo(False)
        terminal.type(passphrase + "\n")
        return terminal.end()
    assert asked(one, "correct horse", "set", "notes/a", "value") == (OK, "\r\n")
    assert asked(two, "correct horse", "get", "notes/a") == (OK, "\r\nvalue\r\n")
    code, shown = asked(two, "wrong horse", "get", "notes/a")
    assert code == LOCKED and "value" not in shown
    assert asked(two, "correct horse", "unlock", "notes")[0] == OK


def test_a_write_that_waits_for_the_key(one, two, server, user):
    """A machine that does not know yet that the subtree is encrypted: nothing of it gets to the server."""
    one.out("encrypt", "notes", *COMMAND)
    assert two.error(LOCKED, "set", "notes/a", "the secret plaintext") == \
        'queued, not sent: notes/a is encrypted; "dovetail unlock" opens it'
    assert b"the secret plaintext" not in on_the_server(server, user)
    two.out("unlock", "notes", *COMMAND)
    two.out("sync")
    assert one.out("get", "notes/a") == "the secret plaintext"


def test_a_secret_is_noted_and_the_keys_do_not_come(one, two, server, user):
    """What the account file says is encrypted is not written in clear text, whatever the server shows."""
    with open(two.config, "a") as f:
        f.write("passphrase_command = %s echo correct horse\n" % NOTES)
    two.error(OFFLINE, "set", "notes/a", "the secret plaintext", "--timeout", "1", env={"ALL_PROXY": "http://127.0.0.1:1"})
    for args in (["set", "notes/a", "the secret plaintext"], ["set", "--offline", "notes/a", "the secret plaintext"],
                 ["get", "notes/a"]):
        assert two.error(LOCKED, *args) == NOTES + ": its keys have not come from the server"
    line = json.dumps({"mailbox": "", "entry": NOTES + "/a", "value": "the secret plaintext"})
    two.run("import", input=line, code=LOCKED)
    two.out("set", "b", "1")
    with two.start("watch", "notes") as process:
        assert process.wait(60) == LOCKED
    assert b"the secret plaintext" not in on_the_server(server, user)
    # they come: before the first write of this machine is sent
    one.out("encrypt", "notes", *COMMAND)
    two.out("set", "notes/a", "the secret plaintext")
    assert one.out("get", "notes/a") == "the secret plaintext"
    assert b"the secret plaintext" not in on_the_server(server, user)


def test_a_secret_can_be_noted_before_it_is_encrypted(one):
    with open(one.config, "a") as f:
        f.write("passphrase_command = %s echo correct horse\n" % NOTES)
    one.out("sync")
    one.out("encrypt", "notes", *COMMAND)
    one.out("set", "notes/a", "1")
    assert one.out("get", "notes/a") == "1" and open(one.config).read().count("passphrase_command") == 1


def test_what_cannot_be_noted(one):
    """Is found out before anything is encrypted."""
    for options in (["--passphrase-command", "echo correct horse\n"], ["--passphrase-command", ""],
                    ["--key-file", b"\xff", "--create-key-file"]):
        error = one.error(USAGE, "encrypt", "notes", *options)
        assert "cannot be noted in the account file" in error and "horse" not in error
    one.error(FAILED, "secret", "list", "notes")


def test_a_secret_is_asked_for_if_it_can_be_used(one):
    one.out("encrypt", "notes", *COMMAND)
    for name, message in (("a//b", "not the name of a subtree"), ("notes", "is encrypted already"), ("notes/a", "already")):
        assert message in one.error(USAGE, "encrypt", name, "--passphrase-command", "echo correct horse; touch asked")
    assert not os.path.exists(one.home + "/asked")
    one.out("encrypt", "other", "--passphrase-command", "echo correct horse; touch asked")
    assert os.path.exists(one.home + "/asked")


def test_the_two_are_not_the_same(one):
    terminal = Terminal(one, "encrypt", "notes")
    for text in ("new passphrase", "once more"):
        terminal.await_text(text)
        terminal.await_echo(False)
        terminal.type(text + "\n")
    code, shown = terminal.end()
    assert code == USAGE and "not the same" in shown
    one.error(FAILED, "secret", "list", "notes")


def test_passphrases_from_files(one, two):
    one.out("encrypt", "notes", "--passphrase-file", "-", input="correct horse\nmore\n")
    with open(two.home + "/pass", "w") as f:
        f.write("correct horse\r\n")
    two.out("sync")
    two.out("unlock", "notes", "--passphrase-file", "pass")
    # where it came from is not noted
    assert "passphrase" not in open(two.config).read()


@pytest.mark.parametrize("args, code", [
    (["encrypt", "notes", "--passphrase-command", "echo short"], USAGE),
    (["encrypt", "notes", "--passphrase-command", "false"], LOCKED),
    (["encrypt", "notes", "--passphrase-command", "true"], LOCKED),
    (["encrypt", "notes", "--passphrase-file", "none"], LOCKED),
    (["encrypt", "notes", "--passphrase-file", "."], LOCKED),
    (["encrypt", "notes", "--offline", *COMMAND], USAGE),
    (["encrypt", "notes", "--create-key-file"], USAGE),
    (["encrypt", "notes", "--key-file", "x", *COMMAND], USAGE),
    (["encrypt", "/private", *COMMAND], USAGE),
    (["encrypt", "a//b", *COMMAND], USAGE),
    (["encrypt"], USAGE),
    (["unlock", "notes", *COMMAND], FAILED),
    (["rotate", "notes", *COMMAND], FAILED),
    (["secret", "list", "notes"], FAILED),
    (["secret", "remove", "notes", "x"], FAILED),
    (["secret", "add", "notes"], USAGE),
    (["secret", "list", "notes", "x"], USAGE),
    (["secret", "list", "notes", *COMMAND], USAGE),
    (["secret", "show", "notes"], USAGE),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_what_cannot_be(one, args, code):
    one.error(code, *args)


def test_a_secret_that_is_noted_and_does_not_come(one):
    one.out("encrypt", "notes", *COMMAND)
    text = open(one.config).read()
    one.account(text.replace("echo correct horse", "exit 1"))
    assert "no secret in the first line" in one.error(LOCKED, "get", "notes/a")
    assert one.run("ls").stderr.count(b"\n") == 1
    # what is elsewhere works
    one.out("set", "b", "1")
