"""The framework's versions. Its header, the package, the plugin and the manual agree; plugins of older minor versions
run on it, and those of its own version on a later minor one, which is made here; plugins of later versions are refused."""

import glob
import os
import re
import shutil

import pytest

from framework import FRAMEWORK, Installed, run
from harness.server import TREE
from lifecycle import await_finish, await_log, done, settings, waiting

HEADER = os.path.join(TREE, "include", "imap-long-command.h")
ABI = os.path.join(TREE, "tests", "server", "abi")
STRUCTS = ("imap_long_command_def", "imap_long_command", "imap_long_command_limits")
XFUTURE = "lib50_imap_xfuture_plugin.so"
XTAIL = "lib50_imap_xtail_plugin.so"


def read(*path):
    with open(os.path.join(*path)) as f:
        return f.read()


def version(text=None):
    return tuple(map(int, re.findall(r"^#define IMAP_LONG_COMMAND_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)$",
                                     text or read(HEADER), re.M)))


MAJOR, MINOR, PATCH = version()
FROZEN = {version(read(path))[:2]: path for path in glob.glob(ABI + "/*.h")}


def code(text):
    """A header without comments and the number of the patch, in one line."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"(VERSION_PATCH) \d+", r"\1", text)).replace("( ", "(")


def functions(text):
    """Declarations, each in one line."""
    text = code(re.sub(r"^#(?:.*\\\n)*.*", "", text, flags=re.M))
    found = re.findall(r"[\w ]+\*? ?\bimap_long_command_\w+\([^;{}]*\)(?=;)", text)
    return {f.strip() for f in found if "typedef" not in f}


def names(text, struct):
    """Its members."""
    body = re.search(r"struct %s \{(.*?)\};" % struct, code(text))[1]
    return [a or b for a, b in re.findall(r"\(\*(\w+)\)\([^()]*\);|(\w+);", body)]


def enumerators(text):
    body = re.search(r"enum imap_long_command_why \{(.*?)\}", code(text))[1]
    return body.replace(" ", "").split(",")


# -- one version -----------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    return Installed(tmp_path_factory.mktemp("framework"))


def test_version_of_header_package_and_manual(installed):
    assert installed.pkg_config("--modversion") == "%d.%d.%d" % (MAJOR, MINOR, PATCH)
    assert '"imap-long-command %d.%d"' % (MAJOR, MINOR) in read(TREE, "docs/man/imap-long-command.3").splitlines()[0]
    assert "version: ['>=%d.%d', '<%d']" % (MAJOR, 0, MAJOR + 1) in read(TREE, "examples/xtail/meson.build")


def test_manual_is_complete():
    """All functions with their arguments, all members and enumerators, and nothing that is not there."""
    header, page = read(HEADER), read(TREE, "docs/man/imap-long-command.3")
    synopsis = re.search(r"\.SH SYNOPSIS\n(.*?)\n\.SH", page, re.S)[1]
    synopsis = re.sub(r"^\.(?:BI|B) |^\.\w+$|^Compile.*\Z", "", synopsis, flags=re.M | re.S).replace('"', "")
    declared = {re.sub(r"IMAP_LONG_COMMAND_API|\W", "", f) for f in functions(header)}
    described = {re.sub(r"\W", "", f) for f in synopsis.replace("#include <imap-long-command.h>", "").split(";")} - {""}
    # a macro, and the function behind it
    shown, behind = (({f for f in each if "command_register" in f}) for each in (described, declared))
    assert len(shown) == len(behind) == 1
    assert declared - behind == described - shown and len(declared) > 15
    for struct in STRUCTS:
        for name in names(header, struct):
            assert re.search(r"^\.(?:BI|BR|RB|B) .*\b%s\b" % name, page, re.M), name
    for name in enumerators(header):
        assert re.search(r"^\.B %s$" % name, page, re.M), name
    timers, = re.findall("^#define IMAP_LONG_COMMAND_TIMERS (.*)$", header, re.M)
    assert "IMAP_LONG_COMMAND_TIMERS ,\nwhich is %s.\n" % timers in page


# -- the header against those that were -----------------------------------------------------------

def test_header_is_the_one_of_its_version():
    """Who changes it makes another version, and keeps that."""
    assert set(FROZEN) >= {(MAJOR, minor) for minor in range(MINOR + 1)}
    assert code(read(FROZEN[MAJOR, MINOR])) == code(read(HEADER))


def layout(installed, header, directory, name, text):
    """Sizes and places, by the compiler."""
    source = directory / (name + ".c")
    lines = ["#include <stdio.h>", '#include "%s"' % header, "int main(void) {"]
    for struct in STRUCTS:
        lines.append('printf("%s %%zu\\n", sizeof(struct %s));' % (struct, struct))
        for member in names(text, struct):
            lines.append('printf("%s.%s %%zu\\n", offsetof(struct %s, %s));' % (struct, member, struct, member))
    for value in enumerators(text):
        lines.append('printf("%s %%d\\n", %s);' % (value, value))
    source.write_text("\n".join(lines + ["return 0; }", ""]))
    run("gcc", *installed.pkg_config("--cflags").split(), str(source), "-o", str(directory / name))
    return {key: int(value) for key, value in map(str.split, run(str(directory / name)).splitlines())}


@pytest.mark.parametrize("old", sorted(v for v in FROZEN if v[0] == MAJOR))
def test_it_has_only_grown(installed, tmp_path, old):
    before, now = read(FROZEN[old]), read(HEADER)
    was, is_ = layout(installed, FROZEN[old], tmp_path, "old", before), layout(installed, HEADER, tmp_path, "new", now)
    assert len(was) > 25
    for key, value in was.items():
        assert is_[key] >= value if key in STRUCTS else is_[key] == value, key
    assert functions(before) <= functions(now) and len(functions(before)) > 15


# -- plugins of other versions --------------------------------------------------------------------

def replace(path, *pairs):
    text = path.read_text()
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)


def make_tree(directory, major, minor):
    """The framework's sources as a later version, which has a callback more, and a function, and larger structs."""
    for path in ("meson.build", "meson_options.txt", "include", "src/long-command", "src/compat",
                 "docs/man/imap-long-command.3"):
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if os.path.isdir(os.path.join(TREE, path)) else shutil.copy)(os.path.join(TREE, path), target)
    replace(directory / "include/imap-long-command.h",
            ("VERSION_MAJOR %d\n" % MAJOR, "VERSION_MAJOR %d\n" % major),
            ("VERSION_MINOR %d\n" % MINOR, "VERSION_MINOR %d\n" % minor),
            ("\t\t       enum imap_long_command_why why);\n};", "\t\t       enum imap_long_command_why why);\n"
             "\tvoid (*goodbye)(struct imap_long_command *lc);\n};"),
            ("\tvoid *context;\n};", "\tvoid *context;\n\tvoid *future[8];\n};"),
            ("\tconst char *total_text;\n};", "\tconst char *total_text;\n\tsize_t future[8];\n};"),
            ("/* Ends the command with a tagged reply",
             "IMAP_LONG_COMMAND_API\nvoid imap_long_command_future(struct imap_long_command *lc);\n"
             "/* Ends the command with a tagged reply"))
    replace(directory / "src/long-command/long-command-plugin.c",
            ("imap_long_command_def, finish)", "imap_long_command_def, goodbye)"))
    replace(directory / "src/long-command/long-command.c",
            ("\t\tc->def->finish(&c->lc, why);\n", "\t\tc->def->finish(&c->lc, why);\n"
             "\tif (started && c->def->goodbye != NULL)\n\t\tc->def->goodbye(&c->lc);\n"))
    author = directory / "src/long-command/long-command-author.c"
    author.write_text(author.read_text() + "\nvoid imap_long_command_future(struct imap_long_command *lc)\n"
                      "{\n\te_info(lc->client->event, \"xfuture called\");\n}\n")
    return directory


@pytest.fixture(scope="module")
def later(tmp_path_factory):
    """(major, minor) to what is installed of that version."""
    made = {}

    def make(*number):
        if number not in made:
            tree = make_tree(tmp_path_factory.mktemp("tree"), *number)
            made[number] = Installed(tmp_path_factory.mktemp("later"), tree)
        return made[number]
    return make


def login(server, user):
    c = server.login(user)
    assert b" XMETASYNC" in c.command(b"CAPABILITY")[0].line
    return c


def check_all_goes_on(server, user):
    """Commands of other plugins, with most of the callbacks."""
    c = login(server, user)
    tag = waiting(c, b"NAME old-%s TIMER 1 OUT 4096" % user.encode())
    c.expect(rb"\* XTEST TIMER")
    c.send(b"ECHO hello\r\n")
    c.expect(rb"\* XTEST ECHO hello")
    done(c, tag)
    assert await_finish(server, "old-" + user) == "ended"
    assert c.command(b"XTESTARGS (a {3+}\r\nxyz)")[-1].line.split()[1] == b"OK"
    assert c.command(b'XMETASYNC (ONCE) "" /private')[-1].line.split()[1] == b"OK"
    c.logout()


@pytest.mark.valgrind
@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("old", sorted(v for v in FROZEN if v[0] == MAJOR))
def test_older_plugin_runs(installed, later, make_server, user, tmp_path, old, ahead):
    """The example, compiled with the header of each minor version that was, here and on a framework that is one ahead,
    beside the plugins of the tree."""
    shutil.copy(FROZEN[old], tmp_path / "imap-long-command.h")
    plugin = installed.compile(os.path.join(TREE, "examples/xtail/xtail.c"), XTAIL, "-I", str(tmp_path))
    framework = later(MAJOR, MINOR + 1) if ahead else installed
    server = make_server(plugin=settings(), plugins="imap_xtail", modules=[framework.module(FRAMEWORK), plugin])
    check_all_goes_on(server, user)
    os.mkdir(server.home(user) + "/xtail")
    with open(server.home(user) + "/xtail/log", "w") as f:
        f.write("a line\n")
    c = server.login(user)
    tag = c.start(b"XTAIL log 3600")
    assert [c.read_response().line for _ in range(2)] == [b"+ OK", b'* XTAIL "a line"']
    with open(server.home(user) + "/xtail/log", "a") as f:
        f.write("another\n")
    assert c.read_response().line == b'* XTAIL "another"'
    c.send(b"DONE\r\n")
    assert c.until(tag)[-1].line.split()[1] == b"OK"
    assert "refused" not in server.log() and "is not available" not in server.log()


def test_later_plugin_runs_on_its_own_version(later, make_server, user):
    """What the next test refuses would work."""
    framework = later(MAJOR, MINOR + 1)
    plugin = framework.compile(ABI + "/xfuture.c", XFUTURE, "-DFUTURE")
    server = make_server(plugin=settings(), plugins="imap_xfuture", modules=[framework.module(FRAMEWORK), plugin])
    c = login(server, user)
    assert c.command(b"XFUTURE")[-1].line.split()[1] == b"OK"
    for line in ("registered", "called", "goodbye"):
        await_log(server, "xfuture " + line)
    check_all_goes_on(server, user)


@pytest.mark.valgrind
@pytest.mark.parametrize("number", [(MAJOR, MINOR + 1), (MAJOR + 1, 0)])
def test_later_plugin_is_refused(installed, later, make_server, user, number):
    """With a line in the log, and all else goes on, although it uses a function that there is not."""
    plugin = later(*number).compile(ABI + "/xfuture.c", XFUTURE, "-DFUTURE")
    server = make_server(plugin=settings(), plugins="imap_xfuture", modules=[installed.module(FRAMEWORK), plugin])
    c = login(server, user)
    assert re.match(rb"a\d+ BAD Error in IMAP command XFUTURE: Unknown command", c.command(b"XFUTURE")[-1].line)
    m = await_log(server, r"Error: imap-long-command: XFUTURE is not available: its plugin was built for "
                  r"imap-long-command (\d+)\.(\d+), and this is (\d+)\.(\d+)\.(\d+) \(see docs/framework\.md\)")
    assert tuple(map(int, m.groups())) == number + (MAJOR, MINOR, PATCH)
    await_log(server, "xfuture refused")
    check_all_goes_on(server, user)


def check_refused(installed, make_server, user, reason, *options, number="50"):
    """A plugin whose registration is refused; its number says before which others it is loaded."""
    plugin = installed.compile(ABI + "/xfuture.c", XFUTURE.replace("50", number), *options)
    server = make_server(plugin=settings(), plugins="imap_xfuture", modules=[plugin])
    check_all_goes_on(server, user)
    await_log(server, "Error: imap-long-command: " + reason)
    await_log(server, "xfuture refused")
    return server


@pytest.mark.parametrize("name", ["XTEST", "XtestMin", "NOOP", "idle"])
def test_second_command_of_a_name_is_refused(installed, make_server, user, name):
    """Of Dovecot's, too."""
    server = check_refused(installed, make_server, user, "%s is registered already" % name, '-DNAME="%s"' % name, number="60")
    if not name.startswith("X"):
        c = login(server, user)
        tag = c.start(name.encode())
        if name == "idle":
            c.expect(rb"\+ ")
            c.send(b"DONE\r\n")
        assert re.match(rb"\S+ OK %s completed" % name.encode(), c.until(tag)[-1].line, re.I)


@pytest.mark.valgrind
@pytest.mark.parametrize("option, reason", [("NAME=NULL", "A command is not available: its plugin's definition has no name"),
                                            ("START=NULL", r"XFUTURE is not available: .* has no start\(\)")],
                         ids=["name", "start"])
def test_definition_that_is_not_whole_is_refused(installed, make_server, user, option, reason):
    check_refused(installed, make_server, user, reason, "-D" + option)


@pytest.mark.parametrize("name, capability", [("XKEYADD", b"XKEY"), ("XKEYSYNC", b"XKEY"), ("XMETASET", b"XMETASYNC"),
                                              ("XMETASYNC", b"XMETASYNC")])
def test_no_capability_for_a_command_that_was_refused(installed, make_server, user, name, capability):
    """Another plugin had it first."""
    plugin = installed.compile(ABI + "/xfuture.c", XFUTURE.replace("50", "06"), '-DNAME="%s"' % name)
    server = make_server(plugin=settings(), plugins="imap_xfuture", modules=[plugin])
    c = server.login(user)
    capabilities = c.command(b"CAPABILITY")[0].line.split()
    ours = {b"XKEY", b"XMETASYNC"}
    assert ours & set(capabilities) == ours - {capability} and b"METADATA" in capabilities
    await_log(server, "Error: imap-long-command: %s is registered already" % name)
    assert c.command(name.encode())[-1].line.split()[1] == b"OK"


def test_without_the_framework_the_log_says_so(installed, make_server, user):
    plugin = installed.compile(ABI + "/xfuture.c", XFUTURE)
    server = make_server(plugins=["imap_xfuture"], modules=[plugin])
    assert server.login(user).eof()[-1].line.startswith(b"* BYE Internal error")
    await_log(server, "Plugin imap_long_command must be loaded also")
