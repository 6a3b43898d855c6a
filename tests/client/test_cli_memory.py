"""The command line under valgrind: commands that take other ways through it than their neighbours, errors among them."""

import json

import pytest

from cli import CONFIG, FAILED, LOCKED, PREFIX, USAGE, Machine


@pytest.fixture
def machine(server, user, tmp_path):
    return Machine(tmp_path / "home", server, user, valgrind=True)


def lines(*entries):
    return "\n".join(json.dumps({"mailbox": "", **entry}) for entry in entries)


@pytest.mark.valgrind
def test_under_valgrind(machine, server, user):
    machine.run("login", "--force", user, "--host", "127.0.0.1", "--port", str(server.port), "--tls", "none",
                "--password-command", "echo pass")
    machine.out("import", input=lines({"entry": PREFIX + "a", "value": "1"}, {"entry": PREFIX + "A", "base64": "AAEC"},
                                      {"entry": PREFIX + "b", "value": "x" * 5000}, {"entry": PREFIX + "c", "removed": True}))
    machine.error(USAGE, "import", "--offline", input=lines({"entry": PREFIX + "d", "value": "1"}, {"entry": "d"}))
    assert len(machine.lines("export", "--offline")) == 2
    machine.out("watch", "--offline", "--all", "-c", "2", "-x", 'sh -c "cat >/dev/null"')
    machine.out("encrypt", "notes", "--hide-names", "--key-file", "key", "--create-key-file")
    machine.run("rm", "--offline", "-r", "a", "b", "nothing", code=FAILED)
    with open(machine.config) as f:
        text = f.read()
    machine.account(text.replace("key_file", "# key_file"))
    machine.error(LOCKED, "set", "notes/a", "1")
    machine.account(text + "covers = mailbox \"x\n")
    machine.error(CONFIG, "status")
