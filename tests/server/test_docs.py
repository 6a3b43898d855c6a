"""The documentation against the source: settings with their defaults and ranges, lines of the log, and what is installed.
(docs/protocol.md and the commands of doveadm have tests of their own.)"""

import glob
import os
import re
import shutil
import subprocess

import pytest

from harness.server import BUILD, TREE
from metasync import TOOK, last, put
from xkey import generate, key_of, must_add, public_of, remove

MAN = os.path.join(TREE, "docs", "man")
UNITS = {"": 1, "k": 1024, "M": 1024 ** 2, "ms": 1, "s": 1000, "mins": 60000, "days": 24 * 3600 * 1000}
C = {"INT64_MAX": 2 ** 63 - 1, "INT32_MAX": 2 ** 31 - 1, "STORE_NAME_MAX_SIZE": 1024}


def read(*path):
    with open(os.path.join(TREE, *path)) as f:
        return f.read()


def sources():
    return {path: read(path) for path in sorted(glob.glob(TREE + "/src/**/*.[ch]", recursive=True))}


def number(expression):
    """A constant of the source: numbers, products, and names of C and of the source."""
    result = 1
    for factor in map(str.strip, expression.strip("()").split("*")):
        defined = re.search(r"^#define %s (.*)$" % re.escape(factor), "\n".join(sources().values()), re.M)
        result *= C.get(factor) or (number(defined[1]) if defined else int(factor))
    return result


def documented(text):
    """ "90 days", "1M", "yes": as a number if it is one; times are in milliseconds."""
    m = re.fullmatch(r"(\d+) ?(\w*)", text)
    return int(m[1]) * UNITS[m[2]] if m else text


def settings():
    """{name: (default, maximum)} of what the plugins read; maximum None: there is none."""
    found = {}
    for path, text in sources().items():
        assert "mail_user_plugin_getenv" not in text or path.endswith("compat-user.h"), path
        for argument in re.findall(r"compat_user_setting\([^,]*,\s*([^)]*)\)", text):
            # the getters pass on what they are asked for; the acl plugin's setting is that plugin's
            if argument not in ("key", "const char *key", '"acl"'):
                found[argument.strip('"')] = [None, None]
        for name, maximum in re.findall(r'metasync_get_\w+\(\s*user,\s*"(\w+)",\s*([^,&]*),?\s*&', text):
            found[name] = [None, number(maximum) if maximum.strip() else None]
        for name, default in re.findall(r'imap_long_command_get_msecs\(\s*client,\s*"(\w+)",\s*([^)]*)\)', text):
            found[name] = [number(default), None]
    init = re.search(r"void store_settings_init.*?\n}", read("src/store/store.c"), re.S)[0]
    for member, value in re.findall(r"set->([\w.]+) = ([^;]*);", init):
        name = {"busy_timeout_msecs": "busy_timeout", "tombstone_secs": "tombstones"}.get(
            member, member.replace("limits.", "limit_"))
        found["metasync_" + name][0] = number(value) * (1000 if member.endswith("_secs") else 1)
    found["imap_xkey_max_devices"] = [number("XKEYADD_DEFAULT_MAX_DEVICES"), number("XKEYADD_HIGHEST_MAX_DEVICES")]
    found["metasync_enabled"][0] = "yes"
    found["metasync_dir"][0] = re.search(r'dir = "([^"]*)";', read("src/metasync/metasync-user.c"))[1]
    return {name: tuple(values) for name, values in found.items()}


def test_settings_are_found():
    """The searches above have not gone blind."""
    found = settings()
    assert len(found) >= 14 and all(default is not None for default, _ in found.values()), found
    assert found["metasync_tombstones"] == (90 * 24 * 3600 * 1000, None)
    assert found["metasync_limit_value"] == (1024 ** 2, 256 * 1024 ** 2)
    assert found["imap_long_command_check_interval"] == (30000, None)
    assert found["imap_xkey_max_devices"] == (10, 1000)
    assert found["imap_xkey_retry"] == (10000, None)


def settings_in(page):
    section = re.search(r"^\.SH SETTINGS\n(.*?)^\.SH ", read(MAN, page), re.M | re.S)[1]
    shown = {}
    for name, text in re.findall(r'^\.BR (\w+) " \((.*)$', section, re.M):
        kind, default = re.fullmatch(r'(.*); default: (?:" "?)?([^"]*?)"? ?\)', text).groups()
        maximum = re.search(r"\.\. (\w+)$", kind)
        shown[name] = documented(default), documented(maximum[1]) if maximum else None
    return shown


def test_settings_in_the_manual():
    expected = settings()
    # larger than anybody's disk is no range to tell
    expected["metasync_limit_bytes"] = expected["metasync_limit_bytes"][0], None
    assert settings_in("dovecot-metasync.5") == expected
    assert settings_in("imap-long-command.3") == {
        name: value for name, value in expected.items() if name.startswith("imap_long_command_")}


def test_settings_in_operating():
    rows = re.findall(r"^\| `((?:metasync|imap_long_command|imap_xkey)_\w+)` \| `([^`]*)` \|", read("docs/operating.md"), re.M)
    assert {name: documented(default) for name, default in rows} == \
        {name: default for name, (default, _) in settings().items()}


def test_no_other_settings_are_named():
    """Nor events that there are not."""
    known = set(settings())
    for text in sources().values():
        known |= set(re.findall(r'set_name\((?:\w+(?:->\w+)*, )?"(\w+)"\)', text))
    assert "metasync_committed" in known and "metasync_reset" in known
    for path in ("docs/operating.md", "docs/xkey.md", "docs/man/dovecot-metasync.5", "docs/man/doveadm-metasync.1",
                 "docs/examples/metasync-metrics.conf"):
        text = re.sub(r"^metric \w+", "", read(path).replace("\\-", "-"), flags=re.M)
        named = set(re.findall(r"\b(?<!-)((?:metasync|imap_long_command|imap_xkey)_\w+)", text)) - {
            "metasync_", "imap_long_command_", "imap_xkey_"}
        assert named <= known, (path, named - known)


def test_lines_of_the_log():
    """Each phrase of the table is one that the plugins, SQLite or the system can say."""
    table = read("docs/operating.md").partition("| line says | do |")[2].partition("\n\n")[0]
    phrases = [phrase for row in re.findall(r"^\| ([^|-][^|]*) \|", table, re.M) for phrase in row.split(", ")]
    assert len(phrases) > 25
    others = {"malformed", "not a database", "disk is full", "unable to open database file", "No space left", "Disk quota exceeded",
              "Plugin metasync must be loaded also"}
    text = re.sub(r'"\s*(?:PRIu64)?\s*"', "", "".join(sources().values())).replace("%s for uid", "Permission denied for uid")
    for phrase in phrases:
        pattern = ".*".join(map(re.escape, phrase.split(" … ")))
        assert phrase in others or re.search(pattern, text), phrase


def test_configuration(tmp_path):
    """The lines of operating.md, in the file that it names, among others that have plugins of their own."""
    name, lines = re.search(r"Then, in `/etc/dovecot/conf.d/([\w.-]+)`:\n\n((?: {4}.*\n|\n)+)",
                            read("docs/operating.md")).groups()
    files = {"10-mail.conf": "mail_plugins = $mail_plugins quota\n", name: re.sub("^ {4}", "", lines, flags=re.M),
             "15-lda.conf": "protocol lda {\n  mail_plugins = $mail_plugins sieve\n}\n",
             "20-imap.conf": "protocol imap {\n  mail_plugins = $mail_plugins imap_quota\n}\n"}
    assert len(files) == 4
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    (tmp_path / "dovecot").write_text("!include %s/*.conf\n" % tmp_path)

    def plugins(*options):
        done = subprocess.run(["doveconf", "-c", str(tmp_path / "dovecot"), *options, "-h", "mail_plugins"],
                              capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        return set(done.stdout.split())
    assert plugins() == {"quota", "metasync"}
    assert plugins("-f", "protocol=lda") == {"quota", "metasync", "sieve"}
    assert plugins("-f", "protocol=imap") == {"quota", "imap_quota", "metasync", "imap_long_command", "imap_metasync"}
    # with XKEY
    line, = re.findall(r"^ {6}mail_plugins = .* imap_xkey$", read("docs/operating.md"), re.M)
    (tmp_path / name).write_text(re.sub(r"^ *mail_plugins = .* imap_metasync$", line, files[name], flags=re.M))
    assert plugins("-f", "protocol=imap") == {"quota", "imap_quota", "metasync", "imap_long_command", "imap_metasync", "imap_xkey"}
    assert plugins() == {"quota", "metasync"}


def manual_pages():
    return sorted(name for name in os.listdir(MAN) if re.fullmatch(r".+\.\d", name))


@pytest.mark.parametrize("page", manual_pages())
def test_manual_pages(page):
    path = os.path.join(MAN, page)
    checkers = [["groff", "-man", "-ww", "-z", path]] if shutil.which("groff") else []
    checkers += [["mandoc", "-Tlint", path]] if shutil.which("mandoc") else []
    if not checkers:
        pytest.skip("neither groff nor mandoc")
    for checker in checkers:
        done = subprocess.run(checker, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_installed(tmp_path):
    """The plugins, the manual, the examples: all of them, and where the documentation says."""
    done = subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--destdir", str(tmp_path)],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    files = {os.path.join(d, name)[len(str(tmp_path)):] for d, _, names in os.walk(tmp_path) for name in names}
    operating = read("docs/operating.md")
    modules = "/usr/lib/dovecot/modules/"
    for name in re.findall(r"^\| `([\w/.]+_plugin\.so)` \|", operating, re.M):
        assert modules + name in files
    assert len([path for path in files if path.startswith(modules)]) == 5
    for page in manual_pages() + ["libdovetail.3"]:
        assert any(path.endswith("/man%s/%s" % (page[-1], page)) for path in files), page
    examples = "/usr/local/share/doc/dovetail/examples"
    assert examples in operating
    for name in os.listdir(os.path.join(TREE, "docs", "examples")):
        assert "%s/%s" % (examples, name) in files
        assert name in operating


# -- transcripts -----------------------------------------------------------------------------------

LINE = re.compile(r"    (?:(\d) )?([CS]):(?: (.*))?")
# what others do where the text says so; else the transcripts are complete
MEANWHILE = {
    "another device sets the theme": [b'XMETASET "" (/private/vendor/example/theme "light")'],
    "away for a while": [b'XMETASET "" (/private/vendor/example/font "serif")'],
    "another session sets two entries": [b'XMETASET "" (/private/vendor/example/theme "blue") '
                                         b'"Work" (/private/comment "x")'],
}


class Play:
    """Says what the client says, and compares each answer. Epochs differ; positions count from the first one."""

    def __init__(self, server, user):
        self.server, self.user = server, user
        self.clients = {"other": server.login(user)}
        self.epoch, self.distance = None, 0

    def client(self, number):
        if number not in self.clients:
            self.clients[number] = self.server.login(self.user)
        return self.clients[number]

    def real(self, text):
        return re.sub(rb"\((\d+) (\d+)", lambda m: b"(%d %d" % (self.epoch, int(m[2]) + self.distance), text)

    def line(self, number, who, text):
        if who == "C":
            self.client(number).send((text if self.epoch is None else self.real(text)) + b"\r\n")
            return
        answer = TOOK.sub(b".", self.client(number).read_response().line)
        told, meant = (re.search(rb"\[XMETA\w+ (?:MODIFIED )?\((\d+) (\d+)", line) for line in (answer, text))
        if told and self.epoch is None:
            self.epoch, self.distance = int(told[1]), int(told[2]) - int(meant[2])
        assert answer == (self.real(text) if meant else text)

    def meanwhile(self, text):
        for part, commands in MEANWHILE.items():
            if part in text:
                for command in commands:
                    assert last(self.clients["other"], command).startswith(b"T OK ")
                return
        raise AssertionError("unknown: " + text)


@pytest.mark.parametrize("path, begin, end, lines", [
    ("README.md", "## What it looks like", "(Dovecot adds", 19),
    ("docs/protocol.md", "## A session", "## Positions and bookmarks", 22),
    ("docs/protocol.md", "A session that did `ENABLE METADATA`", "- In IDLE the names come", 7),
])
def test_transcripts(server, user, path, begin, end, lines):
    text = read(path).partition(begin)[2].partition(end)[0].splitlines()
    play = Play(server, user)
    assert last(play.clients["other"], b"CREATE Work").startswith(b"T OK")
    put(play.clients["other"], [(b"/private/vendor/example/theme", b'"dark"')])
    count = 0
    for row in text:
        m = LINE.fullmatch(row)
        if m:
            play.line(m[1], m[2], m[3].encode())
            count += 1
        elif "…" in row:
            play.meanwhile(row)
    assert count == lines


class KeyPlay:
    """The session of docs/xkey.md: a connection that logs in itself. Fingerprints that are shortened there stand for keys
    of the test, in the same order; lines of PEM for those of these keys."""

    # what all public keys of 2048 bits begin with
    PEM = re.compile(rb"MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA[\w+/]{20}")

    def __init__(self, server, user, text):
        self.client, self.other = server.login(user, login=False), server.login(user)
        self.user, self.lines = user.encode(), []
        shortened = sorted(set(re.findall("[0-9a-f]{4}…[0-9a-f]{4}", text)))
        keys = [key_of(public_of(generate("RSA", "-pkeyopt", "rsa_keygen_bits:2048"))) for _ in shortened]
        self.keys = dict(zip(shortened, sorted(keys, key=lambda key: key.fpr)))

    def real(self, row):
        for short, key in self.keys.items():
            row = row.replace(short, key.fpr.decode())
        return row.encode()

    def say(self, row):
        """Of a literal, the row with the dots is the whole."""
        if row == "…":
            self.client.send(self.keys["b5bb…944c"].pem + b"\r\n")
        elif not row.startswith("-----"):
            self.client.send(self.real(row).replace(b"ann secret", self.user + b" pass") + b"\r\n")

    def hear(self, row):
        if not self.lines:
            responses = (self.client.read_response().line for _ in range(20))
            # signs of life come at any time
            response = next(line for line in responses if row.startswith("* OK ") or line != b"* OK still syncing")
            self.lines = response.replace(b"\r\n", b"\n").split(b"\n")
        if row == "…":
            while not self.lines[0].startswith(b"-----"):
                assert len(self.lines.pop(0)) <= 64
            return
        got, meant = TOOK.sub(b"", self.lines.pop(0)).rstrip(b"."), self.real(row)
        if self.PEM.fullmatch(meant):
            assert self.PEM.fullmatch(got)
        else:
            assert re.fullmatch(re.escape(meant).replace("…".encode(), b".*"), got)

    def meanwhile(self, text):
        if "somebody removes its key" in text:
            remove(self.other, self.keys["7d86…2d0e"])
        else:
            assert "minutes later" in text


def test_session_with_keys(make_server, user):
    server = make_server(extra="imap_idle_notify_interval = 1s\n")
    text = read("docs/xkey.md").partition("## A session")[2].partition("(Dovecot adds")[0]
    play = KeyPlay(server, user, text)
    must_add(play.other, play.keys["2c26…e7ae"], play.keys["7d86…2d0e"])
    count = 0
    for row in text.splitlines():
        m = LINE.fullmatch(row)
        if m:
            (play.say if m[2] == "C" else play.hear)(m[3] or "")
            count += 1
        elif row.startswith("  ") and "…" in row:
            play.meanwhile(row)
    assert count == 25 and not play.lines
