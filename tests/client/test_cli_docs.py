"""The manual pages, completions and docs/client.md say what dovetail's own help says."""

import os
import re
import shutil
import subprocess

import pytest

from cli import DOVETAIL, Machine
from harness.server import TREE
from terminal import Terminal


def text(path):
    with open(os.path.join(TREE, path)) as f:
        return f.read()


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return Machine(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def commands(machine):
    """Each command with its options and those of all commands: {name: (own, common)}, an option being (letter, name,
    argument)."""
    names = re.findall(r"^  ([a-z]+) ", machine.out("help"), re.M)
    assert {"login", "get", "set", "rm", "ls", "watch", "sync", "status", "export", "import", "encrypt", "unlock",
            "secret",
            "rotate", "help"} <= set(names)

    def options(part):
        return re.findall(r"^  (?:-(.), |    )--([a-z-]+)(?: ([A-Z]+))?  *\S", part, re.M)
    out = {}
    for name in names:
        own, _, common = machine.out(name, "--help").partition("\nOptions of all commands:\n")
        out[name] = (options(own), options(common))
        assert own.startswith("usage: dovetail %s [OPTION...]" % name) and out[name][1]
    return out


def plain(man):
    """roff without its markup"""
    return re.sub(r"\\f[BIR]", "", man).replace("\\-", "-")


def test_help_in_all_its_forms(machine, commands):
    for name in commands:
        assert machine.out("help", name) == machine.out(name, "--help") == machine.out("--help",
                                                                                       name) == machine.out(name,
                                                                                                            "-h", "x",
                                                                                                            "y")
    assert machine.out("--help") == machine.out("help") == machine.out("-h")
    assert machine.out("--version") == machine.out("ls", "--version") == "dovetail 0.1.0\n"
    for line in machine.out("help").splitlines():
        assert len(line) <= 130


def test_the_manual_page_has_all_commands_and_options(commands):
    man = text("docs/man/dovetail.1")
    sections = dict(re.findall(r"^\.SS ([a-z]+)\b(.*?)(?=^\.S[SH])", man, re.M | re.S))
    common = re.search(r"^\.SH OPTIONS(.*?)^\.SH", man, re.M | re.S).group(1)
    # it has a page of its own
    sections["mirror"] += re.search(r"^\.SH OPTIONS(.*?)^\.SH", text("docs/man/dovetail-mirror.1"),
                                    re.M | re.S).group(1)
    # what they have in common is said once
    shared = {"unlock": "encrypt", "secret": "encrypt", "rotate": "encrypt"}
    for name, (own, every) in commands.items():
        assert name in sections, name
        for section, options in ((sections[name] + sections.get(shared.get(name), ""), own), (common, every)):
            for letter, option, argument in options:
                pattern = r'^\.(BR?|BI|BR) .*(?<![a-z-])--%s(?![a-z-])' % option
                line = re.search(pattern, section.replace("\\-", "-"), re.M)
                assert line, "%s --%s" % (name, option)
                assert not letter or "-%s " % letter in line.group(0), "%s -%s" % (name, letter)
                tagged = section.replace("\\-", "-")[line.start():].split("\n")[0]
                assert not argument or argument.lower() in tagged.lower(), "%s --%s %s" % (name, option, argument)


def test_the_manual_page_has_no_options_that_are_not_there(commands):
    known = {option for own, common in commands.values() for _, option, _ in own + common}
    for option in re.findall(r"--([a-z-]+)", plain(text("docs/man/dovetail.1"))):
        assert option in known or option == "secret-tool", option


def test_exit_codes_are_documented():
    header = text("src/cli/cli.h")
    codes = re.findall(r"CLI_[A-Z_]+ = (\d+)", header)
    assert len(codes) == 12
    status = re.search(r"^\.SH EXIT STATUS(.*?)^\.SH", text("docs/man/dovetail.1"), re.M | re.S).group(1)
    assert re.findall(r"^\.B (\d+)$", status, re.M) == codes
    table = re.search(r"^## Exit codes(.*?)^## ", text("docs/client.md"), re.M | re.S).group(1)
    assert re.findall(r"^\| (\d+) \|", table, re.M) == codes


def test_the_keys_of_the_account_file_are_documented():
    keys = re.findall(r'KEY\("([a-z_]+)"', text("src/cli/account.c"))
    man = text("docs/man/dovetail-account.5")
    assert len(keys) > 20
    for key in keys:
        assert re.search(r"^\.BR? .*\b%s\b" % key, man, re.M), key


def test_the_manual_pages_are_well_formed():
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    for name in ("dovetail.1", "dovetail-account.5", "dovetail-mirror.1"):
        done = subprocess.run(["groff", "-man", "-ww", "-z", os.path.join(TREE, "docs/man", name)],
                              capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")


# -- completions

def complete(machine, line):
    """What bash offers after this line."""
    words = line.split(" ")
    script = 'source "%s/completions/dovetail.bash"\nCOMP_WORDS=("$@")\nCOMP_CWORD=$(($# - 1))\n_dovetail\n' \
        'printf "%%s\\n" "${COMPREPLY[@]}"\n' % TREE
    done = subprocess.run(["bash", "-c", script, "bash", *words], env=machine.env, cwd=machine.home,
                          capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return [line for line in done.stdout.split("\n") if line]


def test_bash_completes_all_commands_and_options(machine, commands):
    assert complete(machine, "dovetail ") == list(commands) == complete(machine, "dovetail help ")
    assert complete(machine, "dovetail st") == ["status"]
    for name, (own, common) in commands.items():
        assert complete(machine, "dovetail %s --" % name) == ["--" + option for _, option, _ in own + common]


def test_bash_completes_names(machine):
    machine.account(host="h", user="u")
    machine.account(host="h", user="v", name="work")
    machine.out("set", "--offline", "one thing", "1")
    machine.out("set", "--offline", "two", "1")
    machine.out("set", "--offline", "--", "--exec=x", "1")
    machine.out("set", "--offline", "-a", "work", "three", "1")
    assert complete(machine, "dovetail get ") == ["one\\ thing", "two"]
    assert complete(machine, "dovetail -a work get ") == ["three"]
    assert complete(machine, "dovetail get --account ") == ["default", "work"]
    assert complete(machine, "dovetail login --tls st") == ["starttls"]
    assert complete(machine, "dovetail secret ") == ["list", "add", "remove"]
    assert complete(machine, "dovetail watch --count ") == []


# what a shell must neither run nor split: whoever can write to the account makes such names
STRANGE = ["a$(touch made)", "b`touch made`", "c d", "e's", 'f"g', "h\\i", "j;touch made", "k&touch made", "l>made",
           "m=n o", "p:q:r", "s@t=u"]
SHELLS = {
    "bash": (["--norc", "--noprofile", "-i"], "source %s/completions/dovetail.bash; complete -F _dovetail show"),
    "zsh": (["-f", "-i"], "fpath=(%s/completions $fpath); autoload -U compinit; compinit -D -u; compdef _dovetail show"),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_strange_names_in_a_real_shell(shell, tmp_path):
    """What TAB and Enter make of a name is that name, as one argument, and nothing else happens."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip("%s is not installed" % shell)
    machine = Machine(tmp_path / "home")
    machine.account(host="h", user="u")
    for name in STRANGE:
        machine.run("set", "--offline", name, "1")
    arguments, setup = SHELLS[shell]
    terminal = Terminal(machine, *arguments, program=program)
    terminal.type("PS1=; show() { printf '<%%s>' \"$@\"; echo; }; %s; echo rea''dy\n" % (setup % TREE))
    terminal.await_text("ready\r")
    for begin in ("show get ", "show get '", 'show get "'):
        for name in STRANGE:
            terminal.type(begin + name[0] + "\t\n")
            terminal.await_text(re.escape("<get><%s>" % name))
    for typed, name in (("m=", "m=n o"), ("m=n", "m=n o"), ("p:q", "p:q:r"), ("p:q:", "p:q:r"), ("s@t=", "s@t=u")):
        terminal.type("show get %s\t\n" % typed)
        terminal.await_text(re.escape("<get><%s>" % name))
    terminal.type("show st\t\n")
    terminal.await_text("<status>")
    terminal.type("show get --off\t\n")
    terminal.await_text("<get><--offline>")
    terminal.type("exit\n")
    assert terminal.end()[0] == 0
    assert "made" not in os.listdir(machine.home)


def test_it_is_built_on_the_public_header_alone():
    folder = os.path.join(TREE, "src/cli")
    for name in os.listdir(folder):
        for include in re.findall(r'^#include "([^"]+)"', text("src/cli/" + name), re.M):
            assert include == "dovetail.h" or os.path.exists(os.path.join(folder, include)), (name, include)
    needed = subprocess.run(["readelf", "-d", DOVETAIL], capture_output=True, text=True).stdout
    # SQLite is there for the mirror's own record
    assert "libdovetail.so.0" in needed and "libcurl" not in needed
