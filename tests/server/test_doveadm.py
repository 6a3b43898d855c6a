"""doveadm metasync, rule by rule (docs/operating.md, docs/man/doveadm-metasync.1)."""

import base64
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import tempfile
import time

import pytest

from metasync import Watch, ask, last, put

A = "/private/vendor/test/a"
B = "/private/vendor/test/b"
NOT_FOUND, USAGE, DATA, TEMPFAIL = 68, 64, 65, 75


class Admin:
    """doveadm metasync for one user; a command that fails is an error unless its exit code is asked for."""

    def __init__(self, server, user):
        self.server = server
        self.user = user

    def __call__(self, command, *args, code=0, formatter=None, **kwargs):
        options = ["-f", formatter] if formatter else []
        result = self.server.doveadm(*options, "metasync", command, "-u", self.user, *args, **kwargs)
        assert result.returncode == code, (result.returncode, result.stdout, result.stderr)
        if code:
            # one clear line
            assert len(result.stderr.strip().splitlines()) == 1, result.stderr
            return result.stderr.strip()
        return result.stdout

    def list(self, *args):
        """{(mailbox, entry): size}"""
        return {(row["mailbox"], row["entry"]): row["size"]
                for row in json.loads(self("list", *args, formatter="json"))}

    def export(self, *args):
        return [json.loads(line) for line in self("export", *args).splitlines()]

    def status(self):
        return json.loads(self("status", formatter="json"))[0]


@pytest.fixture
def admin(server, user):
    return Admin(server, user)


@pytest.fixture
def other(server, user):
    """Another user."""
    return Admin(server, user + "-2")


def fill(client):
    """Some entries of all kinds. Returns {(mailbox, entry): value}."""
    assert last(client, b"CREATE Work").startswith(b"T OK")
    assert last(client, b"CREATE Work/Sub").startswith(b"T OK")
    values = {("", A): b"text", ("", B): b"", ("INBOX", A): "gr\u00fc\u00df \u2028\U0001f600\"\\\t\n".encode(),
              ("Work", "/shared/comment"): bytes(range(256)), ("Work/Sub", A): b"with\0nul",
              # nearly UTF-8: a surrogate, too long, too high, cut off
              ("Work", A): b"\xed\xa0\x80", ("Work", B): b"\xc0\x80", ("INBOX", B): b"\xf4\x90\x80\x80",
              ("Work/Sub", B): b"\xe2\x82"}
    for (mailbox, entry), value in values.items():
        tag = client.start(b'XMETASET "%s" ("%s" ~{%d+}\r\n%s)' % (mailbox.encode(), entry.encode(), len(value), value))
        assert client.until(tag)[-1].line.startswith(tag + b" OK")
    return values


def decoded(lines):
    return {(line["mailbox"], line["entry"]):
            base64.b64decode(line["base64"], validate=True) if "base64" in line else line["value"].encode()
            for line in lines}


# -- reading ---------------------------------------------------------------------------------------

def test_list(admin, client, user):
    values = fill(client(user))
    assert admin.list() == {key: len(value) for key, value in values.items()}
    assert set(admin.list("")) == {("", A), ("", B)}
    assert set(admin.list("Work")) == {("Work", A), ("Work", B), ("Work", "/shared/comment")}
    assert set(admin.list("-s", "Work")) == {key for key in values if key[0].startswith("Work")}
    assert set(admin.list("-s", "")) == set(values)
    assert set(admin.list("Work", "/shared")) == {("Work", "/shared/comment")}
    assert set(admin.list("inbox", A)) == {("INBOX", A)}
    assert set(admin.list("", "/Private/Vendor/Test")) == {("", A), ("", B)}


def test_list_is_sorted_and_has_modseqs(admin):
    admin("set", "", B, "1")
    admin("set", "", A, "22")
    assert admin("list", formatter="tab").splitlines() == [
        "mailbox\tentry\tmodseq\tsize", "\t%s\t3\t2" % A, "\t%s\t2\t1" % B]


def test_list_of_a_user_without_a_store_makes_none(server, admin, user):
    assert admin.list() == {}
    assert admin("export") == ""
    assert admin("unset", "", A) == ""
    assert admin("purge").strip() == "purged=0"
    assert admin("check").strip() == "none"
    assert admin("new-epoch") == ""
    assert admin.status()["epoch"] == 0
    assert not os.path.exists(server.home(user) + "/metasync")


def test_get(admin, client, user):
    values = fill(client(user))
    for (mailbox, entry), value in values.items():
        assert admin("get", mailbox, entry, text=False) == value + b"\n"
        assert base64.b64decode(admin("get", "-b", mailbox, entry)) == value
    assert json.loads(admin("get", "INBOX", A, formatter="json")) == [{"value": values["INBOX", A].decode()}]


def test_get_what_is_not_there(admin):
    admin("set", "", A, "1")
    admin("unset", "", A)
    assert "No such entry" in admin("get", "", A, code=NOT_FOUND)
    assert "No such entry" in admin("get", "", B, code=NOT_FOUND)


@pytest.mark.parametrize("formatter", ["tab", "json", "flow", "table", "pager"])
def test_formatters(admin, formatter):
    admin("set", "", A, "12345")
    for command in ("list", "status", "check", "purge"):
        assert admin(command, formatter=formatter).strip()
    row = json.loads(admin("list", formatter="json"))[0]
    assert row == {"mailbox": "", "entry": A, "modseq": 2, "size": 5}


# -- writing ---------------------------------------------------------------------------------------

def test_set_and_unset_are_pushed(admin, client, user):
    w = Watch(client(user), b'"" /private').catch_up()
    admin("set", "", A, "hello")
    w.until("marker")
    assert w.state == {(b"", A.encode()): b"hello"}
    admin("unset", "", A)
    w.until("marker")
    assert w.state == {}
    w.done()


def test_set_what_is_there_changes_nothing(admin):
    admin("set", "", A, "1")
    admin("set", "", A, "1")
    admin("unset", "", B)
    assert admin.status()["modseq"] == 2


def test_value_from_standard_input_and_file(admin):
    value = bytes(range(256)) * 4096
    admin("set", "", A, "-", input=value, text=False)
    assert admin("get", "", A, text=False) == value + b"\n"
    with tempfile.NamedTemporaryFile() as f:
        f.write(value[:1000])
        f.flush()
        admin("set", "-f", f.name, "", A)
    assert admin("get", "", A, text=False) == value[:1000] + b"\n"
    admin("set", "-f", "-", "", A, input="-")
    assert admin("get", "", A) == "-\n"
    admin("set", "", A, "-", input="")
    assert admin("get", "", A) == "\n"
    assert "No such file" in admin("set", "-f", "/nonexistent", "", A, code=66)


def test_what_is_written_is_noted_for_dsync(server, user, admin, other):
    """From a state on it carries only what has been noted as changed."""
    def sync(state):
        result = server.doveadm("sync", "-u", user, "-s", state, "doveadm", "-c", server.config,
                                "dsync-server", "-u", other.user)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()
    server.doveadm("mailbox", "create", "-u", user, "Work")
    state = sync("")
    admin("set", "", A, "1")
    state = sync(state)
    assert set(other.list()) == {("", A)}
    admin("import", input='{"mailbox":"Work","entry":"%s","value":"2"}\n' % B)
    state = sync(state)
    assert set(other.list()) == {("", A), ("Work", B)}
    admin("unset", "", A)
    sync(state)
    assert set(other.list()) == {("Work", B)}


def test_conditions(admin):
    admin("set", "-c", "0", "", A, "1")
    assert "changed" in admin("set", "-c", "0", "", A, "2", code=DATA)
    admin("set", "-c", "2", "", A, "2")
    assert "changed" in admin("set", "-c", "2", "", A, "3", code=DATA)
    assert "changed" in admin("unset", "-c", "2", "", A, code=DATA)
    epoch = admin.status()["epoch"]
    admin("set", "-c", "%d:3" % epoch, "", A, "3")
    assert "position" in admin("set", "-c", "%d:4" % (epoch % 4294967295 + 1), "", A, "4", code=DATA)
    assert "position" in admin("set", "-c", "99", "", A, "4", code=DATA)
    assert admin("get", "", A) == "3\n"
    assert admin.status()["epoch"] == epoch
    for wrong in ("", "x", "1:", ":1", "0:1", "1:0", "1:2:3", "-1"):
        assert "-c" in admin("set", "-c", wrong, "", A, "4", code=USAGE)


def test_mailboxes_are_named_as_in_the_store(admin, client, user):
    c = client(user)
    assert last(c, b"CREATE Entw&APw-rfe").startswith(b"T OK")
    admin("set", "Entw\u00fcrfe", A, "1")
    admin("set", "iNboX", A, "1")
    assert set(admin.list()) == {("Entw\u00fcrfe", A), ("INBOX", A)}
    assert b'* METADATA "Entw&APw-rfe" (%s "1")' % A.encode() in ask(c, b"XMETASYNC (ONCE) (PERSONAL) %s" % A.encode())
    # known by its identity: it is found under its new name, also if doveadm renames it without the plugin
    admin.server.doveadm("-o", "mail_plugins=", "mailbox", "rename", "-u", user, "Entw\u00fcrfe", "Neu")
    assert set(admin.list()) == {("Neu", A), ("INBOX", A)}


@pytest.mark.parametrize("command", [["list"], ["get", A], ["set", A, "1"], ["unset", A], ["export"], ["watch"]])
def test_unknown_mailbox(admin, command):
    assert "Mailbox doesn't exist: Nope" in admin(command[0], "Nope", *command[1:], code=NOT_FOUND)


def test_invalid_mailbox_name(admin):
    admin("set", "a//b", A, "1", code=DATA)
    result = admin.server.doveadm("metasync", "set", "-u", admin.user, b"\xff", A, "1", text=False)
    assert result.returncode == DATA and b"Invalid mailbox name" in result.stderr


@pytest.mark.parametrize("entry", ["", "private/a", "/private", "/private/", "/private/a/", "/private//a", "/other/a",
                                   "/private/*", "/private/%", "/private/\u00fc", "/private/" + "x" * 1100])
def test_invalid_entry_name(admin, entry):
    for command in (["set", "", entry, "1"], ["unset", "", entry], ["get", "", entry]):
        assert "ntry name" in admin(*command, code=USAGE)


@pytest.mark.parametrize("entry", ["/shared/comment", "/shared/admin", "/private/vendor/vendor.dovecot/pvt",
                                   "/private/vendor/vendor.dovecot/pvt/server/x"])
def test_entries_that_dovecot_has_itself(admin, entry):
    assert "cannot be set" in admin("set", "", entry, "1", code=DATA)
    assert admin.list() == {}


@pytest.mark.parametrize("command", [["get"], ["get", ""], ["set", "", A], ["unset", ""], ["list", "-s"],
                                     ["export", "-s"]])
def test_missing_parameters(server, user, command):
    result = server.doveadm("metasync", command[0], "-u", user, *command[1:])
    assert result.returncode == USAGE and "doveadm metasync " + command[0] in result.stderr


def test_limits(make_server, user):
    server = make_server(plugin={
        "metasync_limit_value": "100", "metasync_limit_entries": "2", "metasync_limit_bytes": "240",
        "metasync_limit_name": "30"})
    admin = Admin(server, user)
    assert "metasync_limit_value (100 bytes)" in admin("set", "", A, "x" * 101, code=DATA)
    assert "metasync_limit_value" in admin("set", "", A, "-", input="x" * 1000000, code=DATA)
    assert "metasync_limit_name (30 bytes)" in admin("set", "", A + "x" * 30, "1", code=DATA)
    admin("set", "", A, "x" * 100)
    admin("set", "", B, "")
    assert "metasync_limit_entries (2)" in admin("set", "INBOX", A, "", code=DATA)
    lines = '{"mailbox":"INBOX","entry":"%s","value":""}\n' % A
    assert "lines 1 to 1: " in admin("import", input=lines, code=DATA)
    admin("unset", "", B)
    assert "metasync_limit_bytes (240 bytes)" in admin("set", "INBOX", A, "x" * 100, code=DATA)
    lines = '{"mailbox":"","entry":"%s","value":"%s"}\n' % (A, "y" * 101)
    assert "line 1: " in admin("import", input=lines, code=DATA)
    lines = '{"mailbox":"","entry":"%s","value":"%s"}\n' % (A, "y" * 1000000)
    assert "line 1: Line is too long" in admin("import", input=lines, code=DATA)


def test_values_and_names_are_not_in_messages(server, admin, user):
    """doveadm-server writes messages to the log."""
    admin("set", "", A + "secretname", "secretvalue")
    assert "secret" not in admin("set", "-c", "0", "", A + "secretname", "secretvalue", code=DATA)
    assert "secret" not in admin("set", "", A + "secretname", "-", input="secret" * 200000, code=DATA)
    assert "secret" not in admin("get", "", A + "secretnone", code=NOT_FOUND)
    for line in ("secretvalue", '{"secretvalue"', '{"mailbox":"","entry":"/private/*secret","value":"secretvalue"}'):
        assert "secret" not in admin("import", input=line, code=DATA)
    assert "secret" not in server.log()


# -- users -----------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def several(make_module_server):
    """A server that can list its users: one, two (both with a store) and three."""
    with tempfile.NamedTemporaryFile("w", suffix=".users") as f:
        f.write("".join("%s:::::::\n" % name for name in ("one", "two", "three")))
        f.flush()
        os.chmod(f.name, 0o644)
        server = make_module_server(extra="userdb {\n  driver = passwd-file\n  args = %s\n}\n" % f.name)
        for name in ("one", "two"):
            Admin(server, name)("set", "", A, name)
        yield server


def test_all_users(several):
    rows = json.loads(several.doveadm("-f", "json", "metasync", "list", "-A").stdout)
    assert [(row["username"], row["entry"]) for row in rows] == [("one", A), ("two", A)]
    result = several.doveadm("-f", "tab", "metasync", "status", "-u", "t*")
    assert [line.split("\t")[0] for line in result.stdout.splitlines()[1:]] == ["two", "three"]
    assert several.doveadm("metasync", "check", "-A").stdout.splitlines() == ["one ok", "two ok", "three none"]


def test_set_for_all_users_from_standard_input(several):
    result = several.doveadm("metasync", "set", "-A", "", B, "-", input="same")
    assert result.returncode == 0, result.stderr
    for name in ("one", "two", "three"):
        assert Admin(several, name)("get", "", B) == "same\n"
    several.doveadm("metasync", "unset", "-A", "", B)


def test_export_and_import_of_all_users(several):
    """Each line says whose it is, and only this user takes it."""
    export = several.doveadm("metasync", "export", "-A").stdout
    assert [json.loads(line)["user"] for line in export.splitlines()] == ["one", "two"]
    for name in ("one", "two"):
        Admin(several, name)("unset", "", A)
    result = several.doveadm("-f", "tab", "metasync", "import", "-A", "-", input=export)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[1:] == ["one\t1\t0\t0\t1", "two\t1\t0\t0\t1", "three\t0\t0\t0\t2"]
    for name in ("one", "two"):
        assert Admin(several, name)("get", "", A) == name + "\n"


def test_watch_is_for_one_user(several):
    result = several.doveadm("metasync", "watch", "-A")
    assert result.returncode == USAGE and "one user" in result.stderr


def test_doveadm_server(several):
    """Another doveadm does the work, as with a proxy."""
    socket = several.root + "/run/doveadm-server"

    def remote(*args, **kwargs):
        result = several.doveadm("metasync", args[0], "-S", socket, *args[1:], **kwargs)
        assert result.returncode == 0, result.stderr
        return result.stdout
    value = "a\tb\n" + "x" * 100000
    remote("set", "-u", "three", "", A, "-", input=value)
    assert remote("get", "-u", "three", "", A) == value + "\n"
    export = remote("export", "-A")
    assert [json.loads(line)["user"] for line in export.splitlines()] == ["one", "two", "three"]
    remote("unset", "-u", "three", "", A)
    assert remote("import", "-u", "three", "-", input=export) == "set=1 removed=0 unchanged=0 skipped=2\n"
    assert remote("get", "-u", "three", "", A) == value + "\n"
    assert [json.loads(line)["entry"] for line in remote("export", "-u", "three").splitlines()] == [A]
    result = several.doveadm("metasync", "get", "-S", socket, "-u", "three", "", B)
    assert result.returncode == NOT_FOUND
    remote("unset", "-u", "three", "", A)


def test_without_the_plugin(server, user):
    result = server.doveadm("-o", "mail_plugins=", "metasync", "list", "-u", user)
    assert result.returncode != 0 and "mail_plugins=metasync" in result.stderr


def test_plugin_is_off_for_the_user(server, user):
    for command in (["list"], ["set", "", A, "1"], ["status"], ["export"]):
        result = server.doveadm("-o", "plugin/metasync_enabled=no", "metasync", command[0], "-u", user, *command[1:])
        assert result.returncode == NOT_FOUND and "not enabled for this user" in result.stderr


# -- export and import -----------------------------------------------------------------------------

def mailboxes(client, *names):
    for name in names:
        assert last(client, b"CREATE " + name).startswith(b"T OK")


def test_round_trip(admin, other, client, user):
    values = fill(client(user))
    export = admin("export")
    assert decoded(admin.export()) == values
    assert len({line["modseq"] for line in admin.export()}) == len(values)
    mailboxes(client(other.user), b"Work", b"Work/Sub")
    assert other("import", input=export) == "set=%d removed=0 unchanged=0 skipped=0\n" % len(values)

    def without_modseq(lines):
        return [{key: value for key, value in line.items() if key != "modseq"} for line in lines]
    assert without_modseq(other.export()) == without_modseq(admin.export())


def test_import_again_changes_nothing(admin, other, client, user):
    values = fill(client(user))
    export = admin("export")
    before = admin.status()
    assert admin("import", "-", input=export) == "set=0 removed=0 unchanged=%d skipped=0\n" % len(values)
    assert admin.status()["modseq"] == before["modseq"]
    admin("set", "", A, "other")
    assert admin("import", "-", input=export) == "set=1 removed=0 unchanged=%d skipped=0\n" % (len(values) - 1)


def test_export_of_a_part(admin, client, user):
    values = fill(client(user))
    assert set(decoded(admin.export("Work"))) == {key for key in values if key[0] == "Work"}
    assert set(decoded(admin.export("-s", "Work", "/private"))) == {
        key for key in values if key[0].startswith("Work") and key[1].startswith("/private")}


def test_removed_entries(admin, other):
    for target in (admin, other):
        target("set", "", A, "1")
        target("set", "", B, "1")
    admin("unset", "", A)
    assert [line["entry"] for line in admin.export()] == [B]
    assert admin.export("-r")[1] == {"mailbox": "", "entry": A, "modseq": 4, "removed": True}
    assert other("import", input=admin("export", "-r")) == "set=0 removed=1 unchanged=1 skipped=0\n"
    assert set(other.list()) == {("", B)}
    # what has been purged is not known
    admin("purge", "-a")
    admin("set", "", A, "1")
    admin("unset", "", A)
    assert [line["modseq"] for line in admin.export("-r")] == [3, 6]


def test_import_is_pushed_and_makes_sets(admin, client, user):
    w = Watch(client(user), b'"" /private').catch_up()
    lines = "".join('{"mailbox":"","entry":"/private/%d","value":"x"}\n' % i for i in range(250))
    assert admin("import", input=lines).startswith("set=250 ")
    while len(w.state) < 250:
        w.until("marker")
    w.done()
    assert admin.status()["modseq"] == 4
    assert {line["modseq"] for line in admin.export()} == {2, 3, 4}


def test_import_of_an_entry_twice(admin):
    """The last line counts."""
    lines = "".join('{"mailbox":"","entry":"%s","value":"%d"}\n' % (A, i) for i in range(3))
    assert admin("import", input=lines) == "set=3 removed=0 unchanged=0 skipped=0\n"
    assert admin("get", "", A) == "2\n"


def test_import_of_files(admin):
    line = '{ "entry" : "%s", "later": {"x": [1, {"y": null}]}, "value":"\\u0041", "mailbox" : "" }' % A
    with tempfile.NamedTemporaryFile("w") as f:
        # without a line end, and with empty lines
        f.write("\n  \r\n" + line)
        f.flush()
        assert admin("import", f.name) == "set=1 removed=0 unchanged=0 skipped=0\n"
    assert admin("get", "", A) == "A\n"
    assert "No such file" in admin("import", "/nonexistent", code=66)
    assert admin("import", input="") == "set=0 removed=0 unchanged=0 skipped=0\n"


def test_large_import(admin):
    value = base64.b64encode(os.urandom(1024 * 1024)).decode()
    lines = "".join('{"mailbox":"","entry":"/private/%d","base64":"%s"}\n' % (i, value) for i in range(14))
    assert admin("import", input=lines).startswith("set=14 ")
    assert admin("export").replace('"modseq":2,', "").replace('"modseq":3,', "") == lines


def test_sets_have_a_size(admin):
    """16 MiB, which is the limit of a user, too: the set before stays, the one that is too much is left out."""
    lines = "".join('{"mailbox":"","entry":"/private/%02d","value":"%s"}\n' % (i, "x" * 1000000) for i in range(18))
    result = admin.server.doveadm("metasync", "import", "-u", admin.user, "-", input=lines)
    assert result.returncode == DATA
    assert "lines 17 to 18: More values and names than metasync_limit_bytes" in result.stderr
    assert result.stdout == "set=16 removed=0 unchanged=0 skipped=0\n"
    assert len(admin.list()) == 16


@pytest.mark.parametrize("line, error", [
    ("nonsense", "Not a JSON object"), ('["x"]', "Not a JSON object"), ('{"mailbox":"",', "Not a JSON object"),
    ('{"mailbox":"","entry":"%s","value":"1"' % A, "Not a JSON object"),
    ('{"mailbox":"","entry":"%s","value":"1"} x' % A, "Not a JSON object"),
    ('{"mailbox":"","entry":"%s","value":"\\u0000"}' % A, "Not a JSON object"),
    ('{"mailbox":"","entry":"%s","value":"a\0b"}' % A, "Not a JSON object"),
    (b'{"mailbox":"","entry":"/private/a","value":"\xff"}', "Not UTF-8"),
    ('{"entry":"%s","value":"1"}' % A, '"mailbox" is missing'),
    ('{"mailbox":"","value":"1"}', '"entry" is missing'),
    ('{"mailbox":"","entry":"%s"}' % A, "Needs one of"),
    ('{"mailbox":"","entry":"%s","value":"1","removed":true}' % A, "Needs one of"),
    ('{"mailbox":"","entry":"%s","removed":false}' % A, "Needs one of"),
    ('{"mailbox":"","entry":"%s","value":1}' % A, 'Wrong type of "value"'),
    ('{"mailbox":"","entry":"%s","value":null}' % A, 'Wrong type of "value"'),
    ('{"mailbox":"","entry":"%s","removed":1}' % A, 'Wrong type of "removed"'),
    ('{"mailbox":[],"entry":"%s","value":"1"}' % A, 'Wrong type of "mailbox"'),
    ('{"mailbox":"","entry":"%s","base64":"=!"}' % A, "Invalid base64"),
    ('{"mailbox":"","entry":"/private/*","value":"1"}', "Invalid entry name"),
    ('{"mailbox":"","entry":"/private","value":"1"}', "Invalid entry name"),
    ('{"mailbox":"","entry":"/shared/comment","value":"1"}', "Dovecot itself has this entry: it cannot be set"),
    ('{"mailbox":"a//b","entry":"%s","value":"1"}' % A, "Invalid mailbox name"),
])
def test_bad_lines(admin, line, error):
    """A bad line changes nothing at all; the error has its number."""
    good = b'{"mailbox":"","entry":"%s","value":"1"}\n' % B.encode()
    line = line if isinstance(line, bytes) else line.encode()
    result = admin.server.doveadm("metasync", "import", "-u", admin.user, "-", input=good * 2 + line + b"\n" + good,
                                  text=False)
    assert result.returncode == DATA
    lines = result.stderr.decode().strip().splitlines()
    assert len(lines) == 1 and "line 3: " + error in lines[0], lines
    assert admin.list() == {}


def test_import_for_mailboxes_that_do_not_exist(admin):
    lines = '{"mailbox":"","entry":"%s","value":"1"}\n{"mailbox":"Nope","entry":"%s","value":"1"}\n' % (A, A)
    assert "line 2: Mailbox doesn't exist: Nope" in admin("import", input=lines, code=NOT_FOUND)
    assert admin.list() == {}
    assert admin("import", "-m", input=lines) == "set=1 removed=0 unchanged=0 skipped=1\n"


# -- upkeep ----------------------------------------------------------------------------------------

def test_status(admin, server, user):
    admin("set", "", A, "12345")
    admin("set", "", B, "1")
    admin("unset", "", B)
    status = admin.status()
    assert status.pop("epoch") > 0
    assert status.pop("disk") > 4096
    assert status == {"modseq": 4, "floor": 0, "entries": 1, "bytes": len(A) + 5, "removals": 1}


def test_purge(admin):
    admin("set", "", A, "1")
    admin("unset", "", A)
    assert admin("purge") == "purged=0\n"
    assert admin("purge", "-a") == "purged=1\n"
    status = admin.status()
    assert (status["removals"], status["floor"]) == (0, 3)


def test_check(admin, server, user):
    admin("set", "", A, "1")
    assert admin("check") == "ok\n"
    db = sqlite3.connect(server.home(user) + "/metasync/store.db")
    db.execute("UPDATE meta SET entries = entries + 1")
    db.commit()
    db.close()
    assert "number of entries is wrong" in admin("check", code=DATA)
    with open(server.home(user) + "/metasync/store.db", "r+b") as f:
        f.write(b"rubbish " * 1000)
    for command in ("check", "list", "status", "export"):
        admin(command, code=DATA)


def test_new_epoch(admin, client, user):
    admin("set", "", A, "1")
    w = Watch(client(user), b'"" /private').catch_up().done()
    result = admin.server.doveadm("metasync", "new-epoch", "-u", user)
    epoch = admin.status()["epoch"]
    assert result.returncode == 0 and result.stdout == "epoch=%d modseq=2\n" % epoch
    assert epoch != w.mark[0]
    w.catch_up(w.mark).done()
    assert b"* OK [XMETASYNC RESET]" in b"\n".join(w.log)
    assert w.mark[0] == epoch and w.state == {(b"", A.encode()): b"1"}


def test_new_epoch_reaches_waiting_clients(admin, client, user):
    admin("set", "", A, "1")
    w = Watch(client(user), b'"" /private').catch_up()
    admin.server.doveadm("metasync", "new-epoch", "-u", user)
    w.until("reset")
    w.until("marker")
    w.done()


def test_a_store_of_another_user(server, admin, client, user):
    """Two users with one directory would see each other's state. A renamed user looks the same: -t."""
    admin("set", "", A, "1")
    epoch = admin.status()["epoch"]
    other = user + "-renamed"
    os.rename(server.home(user), server.home(other))
    c = client(other)
    get = b'GETMETADATA "" ' + A.encode()
    assert last(c, get).startswith(b"T NO [UNAVAILABLE]")
    for command in ("list", "new-epoch"):
        result = server.doveadm("metasync", command, "-u", other)
        assert result.returncode == TEMPFAIL
        assert "belongs to the user %s, not to %s" % (user, other) in result.stderr
    result = server.doveadm("-f", "tab", "metasync", "new-epoch", "-t", "-u", other)
    assert result.returncode == 0 and result.stdout.split()[2] != str(epoch)
    assert ask(c, get)[0] == b'* METADATA "" (%s {1}\r\n1)' % A.encode()
    assert server.doveadm("metasync", "list", "-u", other).returncode == 0


# -- watch -----------------------------------------------------------------------------------------

class Watcher:
    """doveadm metasync watch, ready."""

    def __init__(self, server, user, *args, formatter="tab"):
        self.process = subprocess.Popen(
            **server.doveadm_command("-f", formatter, "metasync", "watch", "-u", user, *args),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 30
        while not self._waits():
            assert self.process.poll() is None, self.process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _waits(self):
        directory = "/proc/%d/fdinfo" % self.process.pid
        with contextlib.suppress(OSError):
            for fd in os.listdir(directory):
                with open(os.path.join(directory, fd)) as f:
                    if "inotify wd:" in f.read():
                        return True
        return False

    def line(self):
        return self.process.stdout.readline().rstrip("\n")

    def end(self, code=0):
        out, err = self.process.communicate(timeout=30)
        assert self.process.returncode == code, err
        assert err == ""
        return out


@pytest.fixture
def watcher(server):
    watchers = []

    def start(*args, **kwargs):
        watchers.append(Watcher(server, *args, **kwargs))
        return watchers[-1]
    yield start
    for w in watchers:
        if w.process.poll() is None:
            w.process.kill()
        w.process.wait()


def test_watch_sees_changes_of_a_client(client, user, watcher):
    c = client(user)
    w = watcher(user, "-n", "3")
    put(c, [(A.encode(), b'"12345"')])
    # at once: the slow check comes after five seconds
    start = time.monotonic()
    assert w.line() == "modseq\tmailbox\tentry\tchange\tsize"
    assert w.line() == "2\t\t%s\tset\t5" % A
    assert time.monotonic() - start < 4
    put(c, [(A.encode(), b"NIL"), (B.encode(), b'""')])
    assert w.end() == "3\t\t%s\tremoved\t0\n3\t\t%s\tset\t0\n" % (A, B)


def test_watch_shows_what_is_asked_for(admin, client, user, watcher):
    fill(client(user))
    w = watcher(user, "-n", "1", "Work", "/private")
    for mailbox, entry in (("", A), ("Work/Sub", A), ("Work", "/shared/comment"), ("Work", A)):
        admin("set", mailbox, entry, "new")
    assert w.end().splitlines()[1].split("\t")[1:] == ["Work", A, "set", "3"]
    w = watcher(user, "-s", "-n", "1", "Work", formatter="json")
    admin("set", "", A, "newer")
    admin("set", "Work/Sub", A, "newer")
    assert json.loads(w.end())[0]["mailbox"] == "Work/Sub"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watch_ends_with_a_signal(user, admin, watcher, number):
    w = watcher(user, formatter="json")
    admin("set", "", A, "1")
    # beside the buffer, for communicate()
    out = os.read(w.process.stdout.fileno(), 1000).decode()
    start = time.monotonic()
    w.process.send_signal(number)
    assert json.loads(out + w.end())[0]["entry"] == A
    assert time.monotonic() - start < 4


def test_watch_goes_on_with_a_store_that_was_replaced(server, user, admin, watcher):
    admin("set", "", A, "1")
    w = watcher(user, "-n", "1")
    os.rename(server.home(user) + "/metasync", server.home(user) + "/metasync.old")
    admin("set", "", B, "1")
    deadline = time.monotonic() + 30
    while w.process.poll() is None:
        assert time.monotonic() < deadline
        admin("set", "", B, str(time.monotonic()))
        time.sleep(0.5)
    out, err = w.process.communicate()
    assert "new epoch" in err and out.splitlines()[1].split("\t")[2] == B


@pytest.mark.parametrize("count", ["0", "x", "-1"])
def test_watch_count(admin, count):
    assert "-n" in admin("watch", "-n", count, code=USAGE)
