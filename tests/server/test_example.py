"""The example plugin as a stranger's: built with nothing but the installed framework, loaded into a Dovecot that has no
other plugin, and played."""

import json
import os
import re
import shutil
import time

import pytest

from framework import FRAMEWORK, MODULES, Installed
from harness.server import TREE, imap_pid
from lifecycle import alive, await_blocked, cpu_seconds
from metasync import TOOK

EXAMPLE = os.path.join(TREE, "examples", "xtail")
BAD = b"BAD Error in IMAP command XTAIL: Expected a file's name and, maybe, seconds"
DONE = b"OK XTAIL completed"
# More than the buffers of a connection hold
MANY = 100000


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    return Installed(tmp_path_factory.mktemp("framework"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the example that is not in the tree, so that nothing of the tree is near."""
    return shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("example") / "xtail")


@pytest.fixture(scope="module")
def build(installed, source):
    return installed.build(source, "example")


@pytest.fixture(scope="module")
def example(installed, build, make_module_server):
    return make_module_server(plugins=["imap_long_command", "imap_xtail"],
                              modules=[installed.module(name) for name in (FRAMEWORK, "lib50_imap_xtail_plugin.so")])


class Tail:
    """A user's file, and a client."""

    def __init__(self, server, user, content=b"", name="log", **kwargs):
        self.server, self.user = server, user
        directory = server.home(user) + "/xtail"
        os.makedirs(directory)
        self.path = directory + "/" + name
        self.write(content)
        self.give(server.home(user), directory, self.path)
        self.client = server.login(user, **kwargs)

    def give(self, *paths):
        for path in paths:
            if os.getuid() == 0:
                os.chown(path, self.server.mail_uid, self.server.mail_gid)

    def write(self, data):
        with open(self.path, "ab") as f:
            f.write(data)

    def start(self, rest=b""):
        self.client.send(b"t XTAIL log%s\r\n" % rest)
        self.client.next(rb"\+ OK$")

    def lines(self, *texts):
        for text in texts:
            assert self.client.read_response().line == b"* XTAIL " + text

    def end(self):
        self.client.send(b"DONE\r\n")
        assert reply(self.client.read_response()) == DONE
        assert b" OK " in self.client.command(b"NOOP")[-1].line


def reply(response):
    return TOOK.sub(b"", response.line.split(b" ", 1)[1]).rstrip(b".")


def open_files(client):
    """Files of users' directories that the session has open."""
    folder = "/proc/%d/fd/" % imap_pid(client.sock)
    return [path for path in (os.readlink(folder + fd) for fd in os.listdir(folder)) if "/xtail/" in path]


# -- building --------------------------------------------------------------------------------------

def test_it_is_short():
    with open(EXAMPLE + "/xtail.c") as f:
        lines = f.read().splitlines()
    assert len(lines) <= 60
    # and no longer lines for that than elsewhere
    assert max(map(len, lines)) <= 112
    with open(EXAMPLE + "/meson.build") as f:
        assert len(f.read().splitlines()) <= 6


def test_what_is_installed(installed):
    """The framework by itself: these files, and no other part of the project."""
    assert {re.sub(r"^/usr/local/lib/[\w-]+/", "/usr/local/lib/", path) for path in installed.files} == {
        MODULES + "/" + FRAMEWORK, "/usr/local/include/imap-long-command.h",
        "/usr/local/lib/pkgconfig/imap-long-command.pc", "/usr/local/share/man/man3/imap-long-command.3"}
    assert installed.pkg_config("--variable=moduledir") == MODULES


def test_built_with_the_installed_header_only(installed, source, build):
    with open(build + "/compile_commands.json") as f:
        command, = json.load(f)
    assert TREE not in command["command"]
    includes = {os.path.normpath(os.path.join(build, path))
                for path in re.findall(r"(?:-I|-isystem) ?(\S+)", command["command"])}
    assert {path for path in includes if not path.startswith(build)} == {
        str(source), installed.root + "/usr/local/include", "/usr/include/dovecot"}


def program_of_the_manual():
    with open(os.path.join(TREE, "docs", "man", "imap-long-command.3")) as f:
        text = re.search(r"^\.nf\n(#include .*?)^\.fi$", f.read().partition(".SH EXAMPLES")[2], re.S | re.M)[1]
    assert not re.search(r"^[.']", text, re.M)
    return text.replace("\\-", "-")


def test_example_of_the_manual(installed, make_server, tmp_path, user):
    """A smaller one, for those who have not got the source."""
    (tmp_path / "xclock.c").write_text(program_of_the_manual())
    plugin = installed.compile(tmp_path / "xclock.c", "lib50_imap_xclock_plugin.so")
    server = make_server(plugins=["imap_long_command", "imap_xclock"], modules=[installed.module(FRAMEWORK), plugin])
    c = server.login(user)
    assert reply(c.command(b"XCLOCK x")[-1]) == b"BAD Error in IMAP command XCLOCK: No arguments expected"
    tag = c.start(b"XCLOCK")
    c.next(rb"\+ OK$")
    for _ in range(2):
        c.next(rb"\* XCLOCK \d{10,}$")
    c.send(b"DONE\r\n")
    assert reply(c.until(tag)[-1]) == b"OK XCLOCK completed"


def test_of_the_guide(installed, tmp_path, monkeypatch):
    """How to test a plugin, as docs/writing-commands.md has it."""
    with open(os.path.join(TREE, "docs", "writing-commands.md")) as f:
        text = re.search(r"^    from harness.*?(?=^\S)", f.read(), re.S | re.M)[0]
    (tmp_path / "xclock.c").write_text(program_of_the_manual())
    installed.compile(tmp_path / "xclock.c", "lib50_imap_xclock_plugin.so")
    shutil.copy(installed.module(FRAMEWORK), installed.directory)
    monkeypatch.chdir(installed.directory)
    names = {}
    exec(compile(re.sub("^    ", "", text, flags=re.M), "writing-commands.md", "exec"), names)
    assert names["client"].transcript


# -- playing ---------------------------------------------------------------------------------------

def test_session_of_the_readme(example, user):
    with open(EXAMPLE + "/README.md") as f:
        text = f.read()
    tail = Tail(example, user, b"backup: 3 of 7 mailboxes\n", name="jobs")
    count = 0
    for row in text.splitlines():
        if "a job writes a line" in row:
            tail.write(b"backup: 4 of 7 mailboxes\n")
        who, _, line = row.strip().partition(": ")
        if who == "C":
            tail.client.send(line.encode() + b"\r\n")
        elif who == "S":
            assert TOOK.sub(b".", tail.client.read_response().line) == line.encode()
        count += who in ("C", "S")
    assert count == 10


@pytest.mark.valgrind
@pytest.mark.parametrize("rest, answer", [
    (b"", BAD), (b" .", BAD), (b" ..", BAD), (b" .hidden", BAD), (b" a/b", BAD), (b" /etc/passwd", BAD),
    (b" \"\"", b"NO The file cannot be read"), (b" (log)", BAD), (b" log -1", BAD),
    (b" NIL", b"NO [NONEXISTENT] There is no such file"), (b" log x", BAD), (b" log 86401", BAD), (b" log 5 6", BAD), (b" log \"5\"", BAD), (b" log ()", BAD),
    (b" nothing", b"NO [NONEXISTENT] There is no such file"), (b" directory", b"NO The file cannot be read"),
    (b" secret", b"NO [NONEXISTENT] There is no such file"), (b" long", b"NO The file cannot be read"),
])
def test_refused(example, user, rest, answer):
    """The connection lives, and nothing is left open."""
    tail = Tail(example, user, b"line\n")
    directory = os.path.dirname(tail.path)
    os.mkdir(directory + "/directory")
    for name, content, mode in (("secret", b"x\n", 0), ("long", b"x" * 9000 + b"\n", 0o600)):
        with open(directory + "/" + name, "wb") as f:
            f.write(content)
        os.chmod(directory + "/" + name, mode)
        if mode:
            tail.give(directory + "/" + name)
    got = tail.client.command(b"XTAIL" + rest)
    assert reply(got[-1]) == answer
    assert [r.line for r in got[:-1]] == ([b"+ OK"] if b"cannot" in answer else [])
    assert open_files(tail.client) == []
    tail.start()
    assert open_files(tail.client) == [tail.path]
    tail.lines(b'"line"')
    tail.end()


@pytest.mark.valgrind
def test_lines(example, user):
    """As they are, whole ones, each once, and at once."""
    tail = Tail(example, user, b"one\n\ntwo \"quoted\" \\\nna\xc3\xafve\r\n" + b"x" * 8000 + b"\npart")
    tail.start()
    tail.lines(b'"one"', b'""', b'"two \\"quoted\\" \\\\"', b"{6}\r\nna\xc3\xafve", b'"' + b"x" * 8000 + b'"')
    tail.write(b"ly\nthree\n")
    tail.lines(b'"partly"', b'"three"')
    for i in range(20):
        tail.write(b"%d\n" % i)
        tail.lines(b'"%d"' % i)
    tail.end()


def test_a_pipe_does_not_stop_the_process(example, user):
    """Nobody writes into it."""
    tail = Tail(example, user)
    os.unlink(tail.path)
    os.mkfifo(tail.path)
    tail.give(tail.path)
    tail.start()
    tail.end()


def test_pipelined(example, user):
    """What follows DONE is the next command; what is not DONE ends it."""
    tail = Tail(example, user, b"one\n")
    tail.client.send(b"a XTAIL log\r\nDONE\r\nb NOOP\r\nc XTAIL log\r\nx\r\nd XTAIL log 86400\r\ndone\r\ne NOOP\r\n")
    assert [reply(tail.client.until(tag)[-1]) for tag in (b"a", b"b", b"c", b"d", b"e")] == [
        DONE, b"OK NOOP completed", b"BAD Expected DONE", DONE, b"OK NOOP completed"]


def test_time_is_over(example, user):
    tail = Tail(example, user, b"one\n")
    tail.start(b" 1")
    tail.lines(b'"one"')
    assert reply(tail.client.read_response()) == b"OK Time is over"


@pytest.mark.valgrind
def test_slow_reader(example, user):
    """The whole of a large file, in order, by and by; then it goes on."""
    tail = Tail(example, user, b"".join(b"line %06d %s\n" % (i, b"x" * 80) for i in range(MANY)), rcvbuf=65536)
    tail.start()
    await_blocked(tail.client)
    tail.lines(*(b'"line %06d %s"' % (i, b"x" * 80) for i in range(MANY)))
    tail.write(b"last\n")
    tail.lines(b'"last"')
    tail.end()


@pytest.mark.valgrind
@pytest.mark.parametrize("blocked", [False, True])
def test_disconnect(example, user, blocked):
    tail = Tail(example, user, b"line\n" * (MANY * 10 if blocked else 1), rcvbuf=65536)
    tail.start()
    if blocked:
        await_blocked(tail.client)
    else:
        tail.lines(b'"line"')
    tail.client.close()
    example.await_no_session(user)


def test_it_rests(example, user):
    """No CPU is used while nothing happens, also when the file has gone."""
    tail = Tail(example, user, b"one\n")
    tail.start()
    tail.lines(b'"one"')
    os.unlink(tail.path)
    pid = imap_pid(tail.client.sock)
    before = cpu_seconds(pid)
    time.sleep(1)
    assert alive(pid) and cpu_seconds(pid) - before < 0.3
    tail.end()
