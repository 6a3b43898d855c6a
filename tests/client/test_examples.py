"""The programs of examples/client on one account: what one sets, the others print, whatever they are written in."""

import contextlib
import os
import shutil
import subprocess
import sys

import pytest

from harness.server import BUILD, TREE

EXAMPLES = os.path.join(TREE, "examples/client")
NODE_MODULES = os.environ.get("DOVETAIL_NODE_MODULES", "")
COMMANDS = {
    "c": [os.path.join(BUILD, "examples/client/follow")],
    "python": [sys.executable, os.path.join(EXAMPLES, "follow.py")],
    "javascript": ["node", os.path.join(EXAMPLES, "follow.js")],
}
without_imapflow = pytest.mark.skipif(
    shutil.which("node") is None or not os.path.isdir(os.path.join(NODE_MODULES, "imapflow")),
    reason="imapflow is not installed (npm's registry could not be reached)")
LANGUAGES = ["c", "python", pytest.param("javascript", marks=without_imapflow)]


@pytest.fixture
def follow(server, user, tmp_path):
    """Starts one with a state file of its own."""
    with contextlib.ExitStack() as ends:
        def start(language, state="state", options=()):
            process = subprocess.Popen(
                COMMANDS[language] + [*options, "127.0.0.1", str(server.port), user, str(tmp_path / (language + state))],
                env=dict(os.environ, PASSWORD="pass", NODE_PATH=NODE_MODULES), stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, text=True, bufsize=1)
            ends.callback(end, process)
            return process
        yield start


def put(client, entries):
    answer = client.command(b'XMETASET "" ' + entries)[-1]
    assert b" OK [XMETASET (" in answer.line


def end(process):
    process.stdin.close()
    process.kill()
    process.stdout.close()
    process.wait()


def say(process, line):
    process.stdin.write(line + "\n")


def last(process):
    process.stdin.close()
    rest = process.stdout.read()
    return process.wait(30), rest


@pytest.mark.parametrize("language", LANGUAGES)
def test_tells_and_sets(follow, client, user, language):
    c = client(user)
    put(c, b'(/private/vendor/example/before "there")')
    one = follow(language)
    assert one.stdout.readline() == "before there\n"
    put(c, b'(/private/vendor/example/theme "dark" /private/vendor/other/x "no")')
    assert one.stdout.readline() == "theme dark\n"
    other = follow("python", "other")
    assert sorted(other.stdout.readline() for _ in range(2)) == ["before there\n", "theme dark\n"]
    say(one, "font serif with \"quotes\" and \\")
    assert other.stdout.readline() == "font serif with \"quotes\" and \\\n"
    say(one, "before")
    assert other.stdout.readline() == "before (removed)\n"
    say(other, "theme light")
    lines = [one.stdout.readline()]
    while lines[-1] != "theme light\n":
        # its own changes, where the program is told them
        assert lines[-1] in ["font serif with \"quotes\" and \\\n", "before (removed)\n"]
        lines.append(one.stdout.readline())
    assert last(one)[0] == 0


@pytest.mark.parametrize("language", LANGUAGES)
def test_goes_on_from_the_bookmark(follow, client, user, language):
    c = client(user)
    put(c, b'(/private/vendor/example/a "1" /private/vendor/example/b "2")')
    one = follow(language)
    assert sorted(one.stdout.readline() for _ in range(2)) == ["a 1\n", "b 2\n"]
    assert last(one) == (0, "")
    put(c, b'(/private/vendor/example/a NIL /private/vendor/example/c "3")')
    one = follow(language)
    assert sorted(one.stdout.readline() for _ in range(2)) == ["a (removed)\n", "c 3\n"]
    assert last(one) == (0, "")


@pytest.mark.parametrize("language", LANGUAGES)
def test_reset(follow, server, client, user, language):
    c = client(user)
    put(c, b'(/private/vendor/example/a "1" /private/vendor/example/b "2")')
    one = follow(language)
    assert sorted(one.stdout.readline() for _ in range(2)) == ["a 1\n", "b 2\n"]
    assert server.doveadm("metasync", "new-epoch", "-u", user).returncode == 0
    put(c, b'(/private/vendor/example/a NIL /private/vendor/example/c "3")')
    assert sorted(one.stdout.readline() for _ in range(2)) == ["a (removed)\n", "c 3\n"]
    assert last(one) == (0, "")


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_once(follow, client, user, language):
    """Without waiting, and from the bookmark; what standard input has does not count."""
    c = client(user)
    put(c, b'(/private/vendor/example/a "1" /private/vendor/example/b "2")')
    assert follow(language, options=["--once"]).communicate(timeout=30)[0] == "a 1\nb 2\n"
    assert follow(language, options=["--once"]).communicate(timeout=30)[0] == ""
    put(c, b'(/private/vendor/example/a NIL)')
    one = follow(language, options=["--once"])
    assert one.communicate(timeout=30)[0] == "a (removed)\n" and one.returncode == 0


def test_short():
    """The one on the library is what the documents promise."""
    with open(os.path.join(EXAMPLES, "follow.c")) as f:
        assert len(f.readlines()) <= 60
