"""dovetail get, set, rm, ls, export, import, status, sync: two machines with one account, and bad arguments."""

import base64
import json
import os
import re
import resource
import signal

import pytest

from cli import CONFIG, FAILED, OFFLINE, OK, PREFIX, REFUSED, SYSTEM, USAGE, Machine


@pytest.fixture
def one(server, user, tmp_path):
    return Machine(tmp_path / "one", server, user)


@pytest.fixture
def two(server, user, tmp_path):
    return Machine(tmp_path / "two", server, user)


# -- set and get

def test_what_one_machine_sets_the_other_gets(one, two):
    one.out("set", "theme", "dark")
    assert two.out("get", "theme") == "dark"
    two.out("set", "theme", "light")
    assert one.out("get", "theme") == "light"


@pytest.mark.parametrize("value", [b"", b"\n", b"a\nb\r\n", b"\0", bytes(range(256)), "grün".encode(), b"x" * 100000],
                         ids=["empty", "newline", "lines", "nul", "octets", "utf8", "large"])
def test_octets_stay_as_they_are(one, two, tmp_path, value):
    one.run("set", "value", input=value)
    assert two.run("get", "value").stdout == value
    (tmp_path / "file").write_bytes(value)
    two.run("set", "other", "--file", str(tmp_path / "file"))
    assert one.run("get", "other").stdout == value


def test_set_reads_standard_input_for_a_dash(one):
    one.out("set", "a", "-", input="from a pipe")
    assert one.out("get", "a") == "from a pipe"
    one.out("set", "a", "-f", "-", input="again")
    assert one.out("get", "a") == "again"


@pytest.mark.parametrize("text, value", [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("\n", ""),
                                         ("", ""), ("\r", "\r")])
def test_set_without_the_last_newline(one, text, value):
    one.out("set", "a", "--no-newline", input=text)
    assert one.run("get", "a").stdout == value.encode()


def test_a_value_that_begins_with_a_dash(one):
    one.out("set", "a", "--", "-x")
    assert one.out("get", "a") == "-x"


def test_names(one, two):
    one.out("set", "Some/Thing with blanks", "1")
    assert two.out("get", PREFIX + "some/thing with blanks") == "1"
    one.out("set", "/private/vendor/example/x", "2")
    assert two.out("get", "/PRIVATE/vendor/example/X") == "2"
    one.out("set", "/shared/vendor/example/x", "3")
    assert two.out("get", "/shared/vendor/example/x") == "3"


@pytest.mark.parametrize("name", ["", "a//b", "a/", "/a", "/private", "/shared", "/private/", "a*", "a%", "ä", "a\tb",
                                  "a\x7f",
                                  "x" * 1100, "/private/../../etc//x"])
@pytest.mark.parametrize("command", [["get"], ["set", "VALUE"], ["rm"]], ids=["get", "set", "rm"])
def test_names_that_cannot_be(one, name, command):
    args = [command[0], name] + command[1:]
    if name == "" and command[0] != "set":
        # it is the prefix itself, which can be an entry
        assert one.error(FAILED, *args)
    elif name == "":
        one.out(*args)
    else:
        one.error(USAGE, *args)


def test_a_name_in_octets_that_are_no_text(one):
    assert "\\xff" in one.error(USAGE, "get", b"\xff\xfe")
    assert "\\x1b" in one.error(USAGE, "get", "a\x1b[2Jb")


def test_get_of_nothing(one):
    assert one.error(FAILED, "get", "nothing") == "nothing: there is no such entry"


def test_get_json(one):
    one.out("set", "a", 'x"\\\n\x01')
    entry, = one.lines("get", "--json", "a")
    assert entry.pop("modseq").isdigit()
    assert entry == {"mailbox": "", "entry": PREFIX + "a", "flags": [], "value": 'x"\\\n\x01'}
    one.run("set", "a", input=b"\xff\0")
    assert one.lines("get", "-j", "a")[0]["base64"] == "/wA="


def test_json_does_nothing_to_a_terminal(one, tmp_path):
    """Controls of all kinds, and what turns the direction of text, are there in ASCII."""
    value = "".join(map(chr, [*range(0x20), *range(0x7f, 0xa0), *range(0x202a, 0x202f), *range(0x2066, 0x206a)]))
    one.out("set", "a", input=value[1:] + "grün\U0001f600")
    for args in (["get", "--json", "a"], ["export"]):
        text = one.out(*args)
        assert json.loads(text)["value"] == value[1:] + "grün\U0001f600"
        assert set(re.sub("[ -~]", "", text)) == set("\nü\U0001f600")
    # a name of a directory that is no UTF-8
    state = os.fsencode(tmp_path) + b"/\xff"
    status, = one.lines("status", "--json", env={b"XDG_STATE_HOME": state})
    assert status["replica"].startswith("%s/\ufffd/" % tmp_path)


@pytest.mark.parametrize("octets", [b"\x7f", b"\xc2\x80", b"\xdf\xbf", b"\xe0\xa0\x80", b"\xed\x9f\xbf", b"\xee\x80\x80",
                                    b"\xf0\x90\x80\x80", b"\xf4\x8f\xbf\xbf", b"\x80", b"\xc1\xbf", b"\xc3", b"\xe0\x9f\xbf",
                                    b"\xe2\x82", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80",
                                    b"\xf5\x80\x80\x80", b"\xff", b"\x00"])
def test_what_is_text_in_json(tmp_path, octets):
    """UTF-8 as RFC 3629 has it (Python's decoder knows that as well), without NULs."""
    machine = Machine(tmp_path)
    machine.account(host="h", user="u")
    machine.run("set", "--offline", "a", input=b"a" + octets)
    entry, = machine.lines("get", "--offline", "--json", "a")
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        text = None
    if text is None or text == "\0":
        assert base64.b64decode(entry["base64"]) == b"a" + octets and "value" not in entry
    else:
        assert entry["value"] == "a" + text and "base64" not in entry


def test_mailboxes(one, two):
    one.out("set", "--mailbox", "INBOX", "color", "red")
    assert two.out("get", "-m", "inbox", "color") == "red"
    two.error(FAILED, "get", "color")
    assert "Nowhere" in one.error(REFUSED, "set", "-m", "Nowhere", "color", "red")


# -- values that cannot be

def test_files_that_cannot_be_read(one, tmp_path):
    assert "No such file" in one.error(FAILED, "set", "a", "--file", str(tmp_path / "none"))
    assert "Is a directory" in one.error(FAILED, "set", "a", "--file", str(tmp_path))
    one.error(FAILED, "get", "a")


def test_standard_input_that_is_closed(one):
    done = one.run("set", "a", code=FAILED, stdin=None, preexec_fn=lambda: os.close(0))
    assert b"standard input: Bad file descriptor" in done.stderr
    one.error(FAILED, "get", "a")


def test_a_value_larger_than_the_account_takes(one, server, user):
    one.account(host="127.0.0.1", port=server.port, tls="none", user=user, password="pass", max_value="1K")
    assert "more than 1024 octets" in one.error(USAGE, "set", "a", input=b"x" * 1025)
    one.out("set", "a", input=b"x" * 1024)


def test_a_value_larger_than_the_server_takes(make_server, user, tmp_path):
    server = make_server(plugin={"metasync_limit_value": "1000"})
    machine = Machine(tmp_path / "m", server, user)
    machine.out("set", "--offline", "a", input=b"x" * 1001)
    assert machine.error(REFUSED, "sync").startswith("refused: a: ")
    # it is known by now what the server takes
    assert machine.error(REFUSED, "set", "b", input=b"x" * 1001) \
        == "b: the value of %sb has 1001 octets, the server takes 1000" % PREFIX
    lines = "".join('{"mailbox": "", "entry": "%s%s", "value": "%s"}\n' % (PREFIX, name, "x" * size)
                    for name, size in (("c", 1), ("d", 1001)))
    assert "line 2: the value of %sd has 1001 octets" % PREFIX in machine.error(REFUSED, "import", input=lines)
    assert machine.out("ls") == ""
    Machine(tmp_path / "n", server, user).out("set", "a", "small")
    # what the server has is seen, and what was refused is not lost
    assert machine.out("get", "a") == "small"
    status, = machine.lines("status", "--json")
    refused, = status["refused"]
    assert refused["entry"] == PREFIX + "a" and "MAXSIZE" in refused["reason"]
    assert "R" in machine.out("ls", "-l").split()[0]
    machine.out("rm", "--refused", "a")
    assert machine.lines("status", "--json")[0]["refused"] == []
    assert machine.out("get", "a") == "small"
    assert machine.error(FAILED, "rm", "--refused", "a") == "a: there is no such refused write"


# -- rm

def test_rm(one, two):
    for name in "abc":
        one.out("set", name, name)
    two.out("rm", "a", "b")
    assert one.out("ls") == "c\n"


def test_rm_of_what_is_not_there(one, two):
    one.out("set", "a", "1")
    assert one.error(FAILED, "rm", "nothing", "a") == "nothing: there is no such entry"
    assert two.out("ls") == ""
    one.out("rm", "--force", "nothing")


def test_rm_needs_the_keys_of_all_names(one, two):
    """Hidden names cannot be removed without them."""
    one.out("encrypt", "notes", "--hide-names", "--passphrase-command", "echo correct horse")
    for name in ("a", "notes/a", "notes/b"):
        one.out("set", name, "1")
    one.out("rm", "a", "notes/a")
    assert one.out("ls") == "notes/b\n"


def test_rm_recursive(one, two):
    for name in ("a", "a/b", "a/b/c", "ab"):
        one.out("set", name, "1")
    one.out("rm", "-r", "a")
    assert two.out("ls") == "ab\n"
    assert one.error(FAILED, "rm", "-r", "a") == "a: there is no such entry"
    one.out("rm", "-rf", "a")
    assert one.run("rm", "-r", "--refused", "a", code=USAGE)


def test_rm_of_many(one, two):
    """In sets, as import writes them."""
    lines = [json.dumps({"mailbox": "", "entry": PREFIX + "n/%d" % i, "value": "1"}) for i in range(250)]
    one.out("import", input="\n".join(lines))
    before = int(one.lines("status", "--json")[0]["modseq"])
    one.out("rm", "-r", "n")
    assert two.out("ls") == ""
    assert int(one.lines("status", "--json")[0]["modseq"]) == before + 3


# -- ls

def test_ls(one, two):
    one.out("set", "b", "12")
    one.out("set", "a/x", "1")
    one.out("set", "/private/other", "1")
    one.out("set", "-m", "INBOX", "c", "1")
    assert two.out("ls") == "a/x\nb\n"
    assert two.out("ls", "a") == "a/x\n"
    assert two.out("ls", "/private/other") == "/private/other\n"
    assert two.out("ls", "-m", "INBOX") == "c\n"
    assert two.out("ls", "-A") == "\ta/x\n\tb\nINBOX\tc\n"
    assert two.out("ls", "-e").splitlines() == ["/private/other", PREFIX + "a/x", PREFIX + "b"]
    assert two.error(FAILED, "ls", "nothing") == "nothing: there is no entry at or below it"
    flags, modseq, size, name = two.out("ls", "--long", "b").split()
    assert (flags, size, name) == ("---", "2", "b") and modseq.isdigit()
    entry, = two.lines("ls", "--json", "b")
    assert entry.pop("modseq") == modseq
    assert entry == {"mailbox": "", "entry": PREFIX + "b", "size": "2", "flags": []}
    for args in (["-e", "a"], ["-A", "-m", "INBOX"]):
        one.run("ls", *args, code=USAGE)


def test_ls_of_nothing(one):
    assert one.out("ls") == ""


# -- offline

def test_offline(one, two):
    assert one.out("ls", "--offline") == ""
    one.out("set", "--offline", "a", "1")
    assert one.out("get", "--offline", "a") == "1"
    assert one.out("ls", "--offline", "-l").startswith("P--")
    assert one.lines("get", "--offline", "--json", "a")[0]["flags"] == ["pending"]
    assert one.lines("status", "--json")[0]["pending"] == "1"
    two.error(FAILED, "get", "a")
    one.out("sync")
    assert two.out("get", "a") == "1"
    assert one.lines("status", "--json")[0]["pending"] == "0"
    assert one.run("sync", "--offline", code=USAGE)
    assert one.run("get", "--offline", "--online", "a", code=USAGE)


def test_without_a_server(make_server, user, tmp_path):
    server = make_server()
    machine = Machine(tmp_path / "m", server, user)
    port = server.port
    machine.out("set", "a", "1")
    server.stop()
    done = machine.run("get", "a")
    assert done.stdout == b"1" and done.stderr.startswith(b"dovetail: not up to date: ")
    assert machine.out("get", "a", "--quiet") == "1"
    assert machine.run("get", "a", "--online", code=OFFLINE).stdout == b""
    assert machine.error(OFFLINE, "set", "a", "2").startswith("queued, not sent: ")
    assert machine.error(OFFLINE, "rm", "a").startswith("queued, not sent: ")
    assert machine.error(OFFLINE, "set", "b", "2").startswith("queued, not sent: ")
    assert machine.error(OFFLINE, "sync").startswith("queued, not sent: ")
    machine.out("status")
    assert machine.out("ls", "-q") == "b\n"
    # a machine that has never seen the server has nothing to show
    other = Machine(tmp_path / "other", server, user)
    for args in (["get", "a"], ["ls"], ["export"]):
        other.error(OFFLINE, *args)
    server.start()
    assert server.port == port
    machine.out("sync")
    assert other.out("ls") == "b\n"


# -- conflicts

def test_both_have_changed_other_lines(one, two):
    one.out("set", "a", "1\n2\n3\n")
    two.out("get", "a")
    two.out("set", "--offline", "a", "1\n2\nthree\n")
    one.out("set", "a", "one\n2\n3\n")
    done = two.run("sync")
    assert done.stderr == b"dovetail: a has been changed elsewhere, too: merged by lines\n"
    assert two.out("get", "a") == "one\n2\nthree\n" == one.out("get", "a")


@pytest.mark.parametrize("rule, value", [("server", "theirs"), ("mine", "mine")])
def test_the_rule_for_conflicts(one, two, server, user, rule, value):
    two.account(host="127.0.0.1", port=server.port, tls="none", user=user, password="pass", conflict=rule)
    one.out("set", "a", "base")
    two.out("get", "a")
    two.out("set", "--offline", "a", "mine")
    one.out("set", "a", "theirs")
    two.run("sync")
    assert one.out("get", "a") == value == two.out("get", "a")


# -- status

def test_status(one, server, user):
    before, = one.lines("status", "--json")
    assert before["synced_at"] == "0" and before["server"] == "unknown" and before["epoch"] == 0
    assert "never" in one.out("status")
    one.out("set", "a", "12")
    status, = one.lines("status", "--json")
    assert status["server"] == "XMETASYNC" and int(status["synced_at"]) > 1.7e9 and status["epoch"] > 0
    assert (status["account"], status["user"], status["host"]) == (one.config, user, "127.0.0.1")
    assert status["entries"] == "1" and status["bytes"].isdigit() and status["modseq"].isdigit()
    assert status["replica"] == "%s/default/%s@127.0.0.1:%d.db" % (one.state, user, server.port)
    assert os.stat(status["replica"]).st_mode & 0o777 == 0o600
    assert "XMETASYNC" in one.out("status")
    one.out("status", "--online")


# -- export and import

def test_export_and_import(one, two, server, tmp_path, user):
    one.out("set", "text", 'a "quoted"\n\ttext\x7f')
    one.run("set", "octets", input=b"\xff\0\x01")
    one.out("set", "-m", "INBOX", "/shared/vendor/x", "in a mailbox")
    one.out("set", "empty", "")
    text = one.out("export")
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert set(line) == {"mailbox", "entry", "modseq", "base64" if "octets" in line["entry"] else "value"}
    assert len(lines) == 4
    assert one.out("export", "-m", "INBOX").count("\n") == 1 and one.out("export", "text").count("\n") == 1
    # as doveadm has it
    theirs = [json.loads(line) for line in server.doveadm("metasync", "export", "-u", user).stdout.splitlines()]

    def key(line):
        return line["mailbox"], line["entry"]
    for line in theirs:
        line["modseq"] = str(line["modseq"])
    assert sorted(theirs, key=key) == sorted(lines, key=key)
    # into another account: by doveadm, and by dovetail
    other = Machine(tmp_path / "other", server, user + "-b")
    assert other.out("import", input=text) == "set: 4, removed: 0, the same: 0, of other users: 0\n"
    assert other.out("import", input=text) == "set: 0, removed: 0, the same: 4, of other users: 0\n"
    assert sorted((line["entry"], line.get("value"), line.get("base64")) for line in other.lines("export")) == \
        sorted((line["entry"], line.get("value"), line.get("base64")) for line in lines)
    path = tmp_path / "export.json"
    path.write_text(text)
    done = server.doveadm("metasync", "import", "-u", user + "-c", str(path))
    assert done.returncode == 0, done.stderr
    third = Machine(tmp_path / "third", server, user + "-c")
    assert third.run("get", "octets").stdout == b"\xff\0\x01"
    # and what doveadm writes, with its numbers
    doveadm = server.doveadm("metasync", "export", "-u", user + "-c").stdout
    assert other.out("import", input=doveadm) == "set: 0, removed: 0, the same: 4, of other users: 0\n"


def test_all_octets_and_characters_come_through(one, two, tmp_path, server, user):
    values = [bytes(range(256)), bytes(range(1, 128)), "".join(map(chr, range(1, 0x3000))).encode(), b"\0",
              b"\\u0000\"", b"\xed\xa0\x80"]
    for i, value in enumerate(values):
        one.run("set", "--offline", "v%d" % i, input=value)
    other = Machine(tmp_path / "other", server, user + "-b")
    other.out("import", input=one.run("export").stdout)
    assert [other.run("get", "--offline", "v%d" % i).stdout for i in range(len(values))] == values


def test_import_removes_and_counts(one, two):
    one.out("set", "a", "1")
    lines = [{"mailbox": "", "entry": PREFIX + "a", "removed": True},
             {"mailbox": "", "entry": PREFIX + "b", "removed": True},
             {"mailbox": "", "entry": PREFIX + "c", "value": "1", "unknown": [1, {"x": None}], "removed": False},
             {"mailbox": "", "entry": PREFIX + "c", "value": "2"},
             {"user": "somebody", "mailbox": "", "entry": "/private/d", "value": ""}]
    text = "\n".join(json.dumps(line) for line in lines) + "\n \r\n\n"
    assert one.out("import", "--dry-run", input=text) == "7 lines are well\n"
    assert two.out("ls") == "a\n"
    assert one.out("import", "-", input=text) == "set: 2, removed: 1, the same: 1, of other users: 1\n"
    assert two.out("export", "/private") == two.out("export", "c") and two.out("get", "c") == "2"


def test_import_of_many(one, two, server, user, tmp_path):
    lines = [json.dumps({"mailbox": "", "entry": PREFIX + "n/%d" % i, "value": "v%d" % i}) for i in range(350)]
    (tmp_path / "lines").write_text("\n".join(lines))
    assert one.out("import", str(tmp_path / "lines")).startswith("set: 350,")
    assert len(two.lines("ls", "--json", "n")) == 350
    # a set is one change of the server, and has a hundred
    listed = server.doveadm("-f", "tab", "metasync", "list", "-u", user).stdout.splitlines()[1:]
    assert len(listed) == 350 and len({line.split("\t")[2] for line in listed}) == 4


GOOD = b'{"mailbox":"","entry":"/private/good","value":"1"}\n'


@pytest.mark.parametrize("line, message", [
    (b"nonsense", "not a JSON object"),
    (b"[]", "not a JSON object"),
    (b'"x"', "not a JSON object"),
    (b"{", "not a JSON object"),
    (b'{"mailbox":"","entry":"/private/a","value":"1"} x', "not a JSON object"),
    (b'{"mailbox":"","entry":"/private/a","value":"\xff"}', "not a JSON object"),
    (b'{"mailbox":"","entry":"/private/a","value":"1","value":"2"}', "not a JSON object"),
    (b"[" * 50000, "not a JSON object"),
    (b"\0", "not a JSON object"),
    (b'{"entry":"/private/a","value":"1"}', '"mailbox" is missing'),
    (b'{"mailbox":"","value":"1"}', '"entry" is missing'),
    (b'{"mailbox":"","entry":"/private/a"}', 'one of "value", "base64" and "removed" is needed'),
    (b'{"mailbox":"","entry":"/private/a","removed":false}', 'one of "value", "base64" and "removed" is needed'),
    (b'{"mailbox":"","entry":"/private/a","value":"1","base64":"MQ=="}',
     'one of "value", "base64" and "removed" is needed'),
    (b'{"mailbox":"","entry":"/private/a","value":"1","removed":true}',
     'one of "value", "base64" and "removed" is needed'),
    (b'{"mailbox":"","entry":"/private/a","value":1}', "a member has a wrong type"),
    (b'{"mailbox":"","entry":"/private/a","value":null}', "a member has a wrong type"),
    (b'{"mailbox":1,"entry":"/private/a","value":"1"}', "a member has a wrong type"),
    (b'{"mailbox":"","entry":["/private/a"],"value":"1"}', "a member has a wrong type"),
    (b'{"mailbox":"","entry":"/private/a","removed":1}', "a member has a wrong type"),
    (b'{"mailbox":"","entry":"/private/a","base64":"A"}', '"base64" is not base64'),
    (b'{"mailbox":"","entry":"/private/a","base64":"AB=="}', '"base64" is not base64'),
    (b'{"mailbox":"","entry":"/private/a","base64":"A==="}', '"base64" is not base64'),
    (b'{"mailbox":"","entry":"/private/a","base64":"MQ=\xc3\xa4"}', '"base64" is not base64'),
    (b'{"mailbox":"","entry":"short","value":"1"}',
     'entry name "short" does not begin with /private/ or /shared/'),
    (b'{"mailbox":"","entry":"/private","value":"1"}',
     'entry name "/private" does not begin with /private/ or /shared/'),
    (b'{"mailbox":"","entry":"/private/","value":"1"}', 'entry name "/private/" has an empty component'),
    (b'{"mailbox":"","entry":"/private/a//b","value":"1"}',
     'entry name "/private/a//b" has an empty component'),
    (b'{"mailbox":"","entry":"/private/a\\u0000b","value":"1"}', "a name has a NUL"),
    (b'{"mailbox":"","entry":"/private/a*","value":"1"}',
     'entry name "/private/a*" has a character that is not allowed'),
    (b'{"mailbox":"","entry":"/private/' + b"x" * 1016 + b'","value":"1"}',
     'entry name "/private/%s" is longer than 1024 octets' % ("x" * 191)),
    (b'{"mailbox":"a\\u0000b","entry":"/private/a","value":"1"}', "a name has a NUL"),
    (b'{"mailbox":"","entry":"/private/a","value":"' + b"x" * 2000 + b'"}',
     "the value is larger than max_value of the account"),
    (b'{"mailbox":"","entry":"/private/a/.Dovetail","value":"1"}',
     "/private/a/.dovetail: names below .dovetail are reserved for keys"),
    (b'{"mailbox":"","entry":"/private/a/.dovetailx/.dovetail/ring","value":"1"}',
     "/private/a/.dovetailx/.dovetail/ring: names below .dovetail are reserved for keys"),
    (b'{"mailbox":"","entry":"/private/a","value":"' + b"x" * 200000 + b'"}', "the line is too long"),
], ids=lambda value: value[:40].decode(errors="replace") if isinstance(value, bytes) else "")
def test_import_of_a_bad_line_writes_nothing(one, server, user, line, message):
    one.account(host="127.0.0.1", port=server.port, tls="none", user=user, password="pass", max_value=1000)
    # more lines than are written as one set
    good = b"".join(b'{"mailbox":"","entry":"/private/good/%d","value":"1"}\n' % i for i in range(103))
    error = one.error(USAGE, "import", input=good + line + b"\n" + GOOD)
    assert error == "line 104: %s; nothing has been written" % message
    assert one.out("ls", "-eA") == ""


def test_of_two_lines_for_one_entry_the_later_counts(one, two):
    one.out("set", "-m", "INBOX", "a", "1")
    lines = [{"mailbox": mailbox, "entry": PREFIX + name, "value": value}
             for mailbox, name, value in (("INBOX", "a", "2"), ("inbox", "A", "1"))]
    one.out("import", input="\n".join(map(json.dumps, lines)))
    assert two.out("get", "-m", "INBOX", "a") == "1"


def test_import_that_stops_in_the_middle(one, two, tmp_path):
    """The disk is full: what is written already is told, and the next import goes on."""
    path = tmp_path / "lines"
    path.write_text("".join('{"mailbox":"","entry":"%sn/%d","value":"%s"}\n' % (PREFIX, i, "x" * 1000) for i in range(2000)))
    one.out("sync")

    def full():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000000, 1000000))
    error = one.error(SYSTEM, "import", "--offline", str(path), preexec_fn=full)
    assert error.startswith("line ") and error.endswith("; lines before it may have been written")
    counts = [int(n) for n in re.findall(r"\d+", one.out("import", "--offline", str(path)))]
    assert counts[2] > 0 and counts[0] + counts[2] == 2000
    assert len(one.out("ls", "--offline").split()) == 2000


def test_import_of_files_that_cannot_be_read(one, tmp_path):
    assert "No such file" in one.error(FAILED, "import", str(tmp_path / "none"))
    assert "not a regular file" in one.error(FAILED, "import", str(tmp_path))
    assert "not a regular file" in one.error(FAILED, "import", "/dev/null")
    assert one.run("import", "-m", "INBOX", code=USAGE)
    done = one.run("import", code=FAILED, stdin=None, preexec_fn=lambda: os.close(0))
    assert b"Bad file descriptor" in done.stderr
    assert one.out("import", input="") == "set: 0, removed: 0, the same: 0, of other users: 0\n"


def test_what_is_not_covered(one, server, user):
    keys = {"host": "127.0.0.1", "port": server.port, "tls": "none", "user": user, "password": "pass"}
    one.out("set", "/private/vendor/example/a", "1")
    one.account(covers="account /private/vendor/dovetail", **keys)
    assert one.error(USAGE, "get", "/private/vendor/example/a")
    assert one.error(USAGE, "set", "/private/vendor/example/a", "2")
    line = '{"mailbox":"","entry":"/private/vendor/example/a","value":"2"}'
    assert one.error(USAGE, "import", input=line).startswith("line 1: ")
    one.out("set", "--offline", "b", "1")
    # a change that waits is not forgotten
    one.account(covers="account /private/vendor/example", prefix="/private/vendor/example/short", **keys)
    assert "covers" in one.error(CONFIG, "ls")
    one.account(covers="account /private/vendor/dovetail", **keys)
    assert one.run("sync", code=OK)
    one.account(covers="account /private/vendor/example", prefix="/private/vendor/example", **keys)
    assert one.out("ls") == "a\n" and one.out("get", "a") == "1"
