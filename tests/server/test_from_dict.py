"""doveadm metasync import --from-dict: from a stock Dovecot's dictionary to the store. A Dovecot without the plugins
fills the dictionary; one with them has the same users afterwards."""

import os
import shutil
import tempfile

import pytest

from metasync import Watch, last, put
from test_doveadm import DATA, NOT_FOUND, TEMPFAIL, USAGE, Admin

DICT = "mail_attribute_dict = file:%h/dovecot-attributes\n"
METADATA = "protocol imap {\n  imap_metadata = yes\n}\n"
X = "/private/vendor/test/x"
Y = "/private/vendor/test/y"
PVT = "vendor/vendor.dovecot/pvt/"
CRYPT = ["-o", "mail_plugins=mail_crypt", "-o", "plugin/mail_crypt_curve=prime256v1",
         "-o", "plugin/mail_crypt_save_version=2"]

# {(mailbox as IMAP has it, entry): value}
VALUES = {
    (b"", X): b"server", (b"", X + "/child"): b"below it", (b"", X + "/child/s child"): b"",
    (b"", "/shared/vendor/test"): b"0",
    (b"", "/private/vendor/test/!\"#$&'()+,-.:;<=>?@[\\]^_`{|}~ z"): b"special characters",
    (b"INBOX", "/private/comment"): b"a\tb\nc\r\nd\x01e\\f", (b"INBOX", "/shared/comment"): bytes(range(1, 256)),
    (b"INBOX", X): b"x" * 200000, (b"Work", X): "gr\u00fc\u00df \U0001f600".encode(), (b"Work", "/shared" + X[8:]): b"\n",
    (b"Work/Sub", X): b"\t", (b"Entw&APw-rfe", X): b"draft"}


def utf8(mailbox):
    return mailbox.decode().replace("&APw-", "\u00fc")


@pytest.fixture(scope="module")
def homes():
    path = tempfile.mkdtemp(prefix="dt-homes-", dir="/tmp")
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def stock(make_module_server, homes):
    return make_module_server(plugins=False, keep=homes, extra=DICT + METADATA)


@pytest.fixture(scope="module")
def server(make_module_server, homes):
    """With the plugins, and the same users."""
    return make_module_server(keep=homes, extra=DICT)


@pytest.fixture
def admin(server, user):
    return Admin(server, user)


def set_metadata(c, mailbox, entry, value):
    entry = entry.encode().replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    tag = c.start(b'SETMETADATA "%s" ("%s" {%d+}\r\n%s)' % (mailbox, entry, len(value), value))
    line = c.until(tag)[-1].line
    assert line.startswith(tag + b" OK"), line


def fill(stock, user, values):
    """Sets them, after the mailboxes that they need."""
    c = stock.login(user)
    for mailbox in sorted({key[0] for key in values} - {b"", b"INBOX"}):
        assert last(c, b'CREATE "%s"' % mailbox).startswith(b"T OK")
    for (mailbox, entry), value in values.items():
        set_metadata(c, mailbox, entry, value)
    c.close()
    stock.clients.remove(c)


def dict_path(server, user):
    return server.home(user) + "/dovecot-attributes"


def dict_bytes(server, user):
    with open(dict_path(server, user), "rb") as f:
        return f.read()


def dict_append(server, user, *lines):
    """What a stock Dovecot does not write by itself."""
    with open(dict_path(server, user), "a") as f:
        f.writelines(line + "\n" for line in lines)


def guid(server, user, mailbox):
    return server.doveadm("-f", "tab", "mailbox", "status", "-u", user, "guid", mailbox).stdout.split()[-1]


def take(admin, *args, code=0, options=()):
    """Imports; returns (the counts that are not 0, the errors)."""
    result = admin.server.doveadm(*options, "metasync", "import", "--from-dict", "-u", admin.user, *args)
    assert result.returncode == code, (result.returncode, result.stdout, result.stderr)
    prefix = "doveadm(%s): Error: " % admin.user
    errors = [line for line in result.stderr.splitlines() if "Warning: " not in line]
    assert all(line.startswith(prefix) for line in errors), errors
    counts = {}
    for pair in result.stdout.split():
        key, count = pair.split("=")
        counts[key] = int(count)
    if counts:
        assert list(counts) == ["set", "unchanged", "kept", "internal", "failed"]
        assert counts["failed"] == len(errors)
    return {key: count for key, count in counts.items() if count}, sorted(line[len(prefix):] for line in errors)


# -- what comes along ------------------------------------------------------------------------------

def test_everything(stock, server, admin, client, user):
    fill(stock, user, VALUES)
    key = stock.doveadm(*CRYPT, "mailbox", "cryptokey", "generate", "-u", user, "-U").stdout.split()[-1]
    before = dict_bytes(server, user)
    assert before.count(PVT.encode() + b"crypt/") == 3

    assert take(admin) == ({"set": len(VALUES), "internal": 3}, [])
    c = client(user)
    for (mailbox, entry), value in VALUES.items():
        name = entry.encode().replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        lines = c.command(b'GETMETADATA "%s" "%s"' % (mailbox, name))
        assert lines[0].parsed[2:] == [mailbox, [entry.encode(), value]]
        assert admin("get", utf8(mailbox), entry, text=False) == value + b"\n"
    assert set(admin.list()) == {(utf8(mailbox), entry) for mailbox, entry in VALUES}
    assert admin("check") == "ok\n"

    # the dictionary is as it was, and what Dovecot keeps there for itself is still found
    assert dict_bytes(server, user) == before
    assert key in server.doveadm(*CRYPT, "mailbox", "cryptokey", "list", "-u", user, "-U").stdout


def test_before_the_plugin_is_switched_on(stock, server, admin, user):
    """With a server that does not have it yet."""
    fill(stock, user, {(b"", X): b"1"})
    result = stock.doveadm("-o", "mail_plugins=metasync", "metasync", "import", "--from-dict", "-u", user)
    assert (result.returncode, result.stdout, result.stderr) == (
        0, "set=1 unchanged=0 kept=0 internal=0 failed=0\n", "")
    assert admin("get", "", X) == "1\n"


def test_is_pushed_in_sets(stock, admin, client, user):
    fill(stock, user, {(b"", X + "/%d" % i): b"1" for i in range(250)})
    w = Watch(client(user), b'"" /private').catch_up()
    assert take(admin) == ({"set": 250}, [])
    while len(w.state) < 250:
        w.until("marker")
    w.done()
    assert {line["modseq"] for line in admin.export()} == {2, 3, 4}


def test_is_noted_for_dsync(stock, server, admin, user):
    """From a state on it carries only what has been noted as changed."""
    fill(stock, user, {(b"Work", X): b"1"})

    def sync(state):
        result = server.doveadm("sync", "-u", user, "-s", state, "doveadm", "-c", server.config,
                                "dsync-server", "-u", user + "-2")
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()
    state = sync(sync(""))
    take(admin)
    sync(state)
    assert set(Admin(server, user + "-2").list()) == {("Work", X)}


def test_mailboxes_without_rights_for_the_owner(stock, server, admin, user):
    """The entries are the mailbox's; they are there when the rights come back."""
    fill(stock, user, {(b"Work", X): b"1"})
    acl = ["-o", "mail_plugins=metasync acl", "-o", "plugin/acl=vfile"]
    assert server.doveadm(*acl, "acl", "set", "-u", user, "Work", "owner", "lookup").returncode == 0
    assert server.doveadm(*acl, "metasync", "get", "-u", user, "Work", X).returncode == 77
    assert take(admin, options=acl) == ({"set": 1}, [])
    assert admin("get", "Work", X) == "1\n"


def test_entries_follow_their_mailbox(stock, server, admin, user):
    """Like all that the store has."""
    fill(stock, user, {(b"Work", X): b"1"})
    take(admin)
    stock.doveadm("mailbox", "rename", "-u", user, "Work", "Play")
    assert set(admin.list()) == {("Play", X)}


# -- again -----------------------------------------------------------------------------------------

def test_again_changes_nothing(stock, admin, user):
    fill(stock, user, VALUES)
    take(admin)
    before = admin.status()
    assert take(admin) == ({"unchanged": len(VALUES)}, [])
    assert take(admin, "--overwrite") == ({"unchanged": len(VALUES)}, [])
    assert admin.status() == before


def test_what_the_store_has_is_newer(stock, admin, client, user):
    fill(stock, user, {(b"", X): b"old", (b"", Y): b"old", (b"INBOX", X): b"old"})
    take(admin)
    c = client(user)
    put(c, [(X.encode(), b'"new"'), (Y.encode(), b"NIL")])
    fill(stock, user, {(b"INBOX", Y): b"late", (b"Work", X): b"late"})
    # removed is newer, too
    assert take(admin) == ({"set": 2, "unchanged": 1, "kept": 2}, [])
    assert set(admin.list()) == {("", X), ("INBOX", X), ("INBOX", Y), ("Work", X)}
    assert admin("get", "", X) == "new\n"
    assert take(admin, "-o") == ({"set": 2, "unchanged": 3}, [])
    assert (admin("get", "", X), admin("get", "", Y)) == ("old\n", "old\n")


# -- what cannot come along ------------------------------------------------------------------------

def test_mailbox_that_is_gone(stock, server, admin, user):
    fill(stock, user, {(b"", X): b"1", (b"Gone", X): b"secretvalue", (b"Gone", "/shared" + X[8:]): b"2"})
    gone = guid(stock, user, "Gone")
    before = dict_bytes(server, user)
    shutil.rmtree(server.home(user) + "/mail/.Gone")
    counts, errors = take(admin, code=NOT_FOUND)
    assert counts == {"set": 1, "failed": 2}
    assert errors == ["priv/%s/vendor/test/x: No mailbox of the user's own has this GUID" % gone,
                      "shared/%s/vendor/test/x: No mailbox of the user's own has this GUID" % gone]
    # such a mailbox is not looked for
    assert take(admin, "-m") == ({"unchanged": 1}, [])
    assert dict_bytes(server, user) == before


def test_internal_entries_are_not_looked_at(stock, server, admin, user):
    fill(stock, user, {(b"Work", X): b"1"})
    inbox, work, none = guid(stock, user, "INBOX"), guid(stock, user, "Work"), "0" * 32
    for path in ("priv/%s/%scrypt/a" % (work, PVT), "priv/%s/%scrypt/a" % (none, PVT),
                 "shared/%s/%sserver/%sx" % (inbox, PVT, PVT), "shared/%s/%sserver/comment" % (inbox, PVT),
                 "priv/%s/specialuse" % work, "priv/quota/storage", "priv/x", "shared/%s" % work):
        dict_append(server, user, path, "1")
    assert take(admin) == ({"set": 1, "internal": 8}, [])


def test_server_entries_of_another_mailbox(stock, server, admin, user):
    """An INBOX of old: Dovecot itself does not find them, either."""
    fill(stock, user, {(b"Work", X): b"1"})
    work = guid(stock, user, "Work")
    dict_append(server, user, "priv/%s/%sserver/vendor/x" % (work, PVT), "1")
    assert take(admin, code=NOT_FOUND) == (
        {"set": 1, "failed": 1},
        ["priv/%s/%sserver/vendor/x (Work): Entry of the server, but not INBOX's" % (work, PVT)])


def test_names_that_the_store_does_not_take(stock, server, admin, user):
    fill(stock, user, {(b"INBOX", X): b"1", (b"INBOX", "/private/a\x1eb"): b"1"})
    inbox = guid(stock, user, "INBOX")
    names = ["50%", "a*b", "/double", "gr\u00fc\u00df", "a" * 1100]
    for name in names:
        stock.doveadm("mailbox", "metadata", "set", "-u", user, "INBOX", "/private/" + name, "1")
    counts, errors = take(admin, code=DATA)
    assert counts == {"set": 1, "failed": 6}
    assert errors == sorted(
        "priv/%s/%s (INBOX): %s" % (inbox, name, "Invalid entry name" if len(name) < 1000 else
                                    "Entry name is longer than metasync_limit_name (1024 bytes)")
        for name in names + ["a?b"])
    assert set(admin.list()) == {("INBOX", X)}


def test_upper_case(stock, server, admin, user):
    """Stock METADATA lowers names before it looks; so what is in lower case counts."""
    fill(stock, user, {(b"INBOX", "/private/both"): b"lower", (b"INBOX", "/private/same"): b"1"})
    inbox = guid(stock, user, "INBOX")
    for name, value in (("BOTH", "upper"), ("SAME", "1"), ("Alone/Child", "2"), ("Two", "first"), ("two", "lower"),
                        ("TWO", "last"), ("thRee", "b"), ("thrEe", "a")):
        dict_append(server, user, "priv/%s/%s" % (inbox, name), value)
    counts, errors = take(admin, code=DATA)
    assert counts == {"set": 5, "unchanged": 1, "failed": 4}
    assert errors == sorted("priv/%s/%s (INBOX): Another key that differs by upper case only has another value" %
                            (inbox, name) for name in ("BOTH", "Two", "TWO", "thrEe"))
    assert {entry: admin("get", "INBOX", entry)[:-1] for _, entry in admin.list()} == {
        "/private/both": "lower", "/private/same": "1", "/private/alone/child": "2", "/private/two": "lower",
        "/private/three": "b"}


def test_limits(stock, admin, user):
    """Each is told that does not fit, the others come, and all of them with higher limits."""
    values = {(b"", X + "/%02d" % i): b"%02d" % i for i in range(30)}
    values[b"", Y] = b"y" * 101
    values[b"", "/private/" + "z" * 40] = b""
    fill(stock, user, values)

    def limits(**limits):
        return [word for key, value in limits.items() for word in ("-o", "plugin/metasync_limit_%s=%s" % (key, value))]
    counts, errors = take(admin, code=DATA, options=limits(set=10, value=100, name=40, entries=25))
    assert counts == {"set": 25, "failed": 7}
    texts = [error.split(" (INBOX): ")[1] for error in errors]
    assert texts.count("More entries than metasync_limit_entries (25)") == 5
    assert texts.count("Value is larger than metasync_limit_value (100 bytes)") == 1
    assert texts.count("Entry name is longer than metasync_limit_name (40 bytes)") == 1

    # 25 entries of 25 + 2 bytes are there, three more fit
    counts, errors = take(admin, code=DATA, options=limits(set=10, value=100, name=40, bytes=28 * 27))
    assert counts == {"set": 3, "unchanged": 25, "failed": 4}
    assert sum("metasync_limit_bytes" in error for error in errors) == 2
    assert take(admin) == ({"set": 4, "unchanged": 28}, [])


# -- the dictionary --------------------------------------------------------------------------------

def test_user_without_a_dictionary(server, admin, user):
    assert take(admin) == ({}, [])
    assert not os.path.exists(server.home(user) + "/metasync")


def test_unreadable_dictionary(stock, server, admin, user):
    fill(stock, user, {(b"", X): b"1"})
    os.chmod(dict_path(server, user), 0)
    assert "Permission denied" in admin("import", "--from-dict", code=TEMPFAIL)
    assert not os.path.exists(server.home(user) + "/metasync")


def test_where_the_dictionary_is(stock, server, admin, user):
    fill(stock, user, {(b"", X): b"1"})
    os.rename(dict_path(server, user), server.home(user) + "/moved")
    assert take(admin) == ({}, [])
    for uri in ("file:%h/moved", "file:~/moved", "file:%{home}/../%n/moved"):
        assert take(admin, "--dict-uri", uri) in (({"set": 1}, []), ({"unchanged": 1}, []))
    assert "missing ':'" in admin("import", "--from-dict", "-U", "moved", code=DATA)
    assert "Unknown dict module" in admin("import", "--from-dict", "-U", "none:x", code=DATA)
    # these cannot tell which keys they have
    assert "does not support" in admin("import", "--from-dict", "-U", "redis:host=127.0.0.1", code=TEMPFAIL)
    assert "--dict-uri" in admin("import", "--from-dict", "-U", "file:%{no:such}", code=USAGE)
    result = server.doveadm("-o", "mail_attribute_dict=", "metasync", "import", "--from-dict", "-u", user)
    assert result.returncode == DATA and "mail_attribute_dict is not set" in result.stderr


def test_wrong_options(server, user):
    for args in (["--from-dict", "file"], ["--from-dict", "-"], ["-o"], ["--dict-uri", "file:x"]):
        result = server.doveadm("metasync", "import", "-u", user, *args, input="")
        assert result.returncode == USAGE and "--from-dict" in result.stderr, args


def test_plugin_is_off_for_the_user(server, user):
    result = server.doveadm("-o", "plugin/metasync_enabled=no", "metasync", "import", "--from-dict", "-u", user)
    assert result.returncode == NOT_FOUND and "not enabled for this user" in result.stderr


# -- several users ---------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def several(make_module_server):
    """Stock, with one dictionary for all users behind the dict process; its users are one, two and three."""
    with tempfile.NamedTemporaryFile("w", suffix=".users") as f:
        f.write("".join("%s:::::::\n" % name for name in ("one", "two", "three")))
        f.flush()
        os.chmod(f.name, 0o644)
        yield make_module_server(
            plugins=False, extra=METADATA + """
mail_attribute_dict = proxy::attributes
dict {
  attributes = file:{root}/state/attributes
}
service dict {
  %s
  unix_listener dict {
    mode = 0666
  }
}
userdb {
  driver = passwd-file
  args = %s
}
""" % ("user = root" if os.getuid() == 0 else "", f.name))


def several_doveadm(server, *args):
    return server.doveadm("-o", "mail_plugins=metasync", "-f", "tab", "metasync", *args)


def test_all_users_and_a_common_dictionary(several):
    for name in ("one", "two"):
        fill(several, name, {(b"", X): name.encode(), (b"Work", X): name.encode() + b" Work"})
    result = several_doveadm(several, "import", "--from-dict", "-m", "-u", "t*")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[1:] == ["two\t2\t0\t0\t0\t0", "three\t0\t0\t0\t0\t0"]
    # without -m other users' entries look like those of mailboxes that are gone
    result = several_doveadm(several, "import", "--from-dict", "-A")
    assert result.returncode == NOT_FOUND
    assert result.stdout.splitlines() == ["Username\tset\tunchanged\tkept\tinternal\tfailed", "one\t2\t0\t0\t0\t2",
                                          "two\t0\t2\t0\t0\t2", "three\t0\t0\t0\t0\t4"]
    assert len(result.stderr.splitlines()) == 8
    for name in ("one", "two"):
        for mailbox, value in (("", name), ("Work", name + " Work")):
            result = several_doveadm(several, "get", "-u", name, mailbox, X)
            assert result.stdout.splitlines() == ["value", value]


def test_dict_process_that_is_not_there(several):
    result = several_doveadm(several, "import", "--from-dict", "-u", "one", "-U", "proxy:/nonexistent:attributes")
    assert result.returncode == TEMPFAIL and "/nonexistent" in result.stderr
    assert len(result.stdout.splitlines()) == 1


def test_doveadm_server(stock, server, admin, user):
    """Its errors go to the log, where no names of entries are."""
    fill(stock, user, {(b"", X): b"1", (b"Work", "/private/secretname"): b"1"})
    stock.doveadm("mailbox", "metadata", "set", "-u", user, "Work", "/private/*secret", "secretvalue")
    work = guid(stock, user, "Work")
    result = server.doveadm("metasync", "import", "-S", server.root + "/run/doveadm-server", "-u", user, "--from-dict",
                            "-U", "file:%h/dovecot-attributes", "-o")
    assert result.returncode == DATA
    assert result.stdout == "set=2 unchanged=0 kept=0 internal=0 failed=1\n"
    assert "priv/%s/... (Work): Invalid entry name" % work in server.log()
    assert "secret" not in server.log() + result.stderr


# -- many ------------------------------------------------------------------------------------------

def test_many(stock, server, admin, user):
    """One that a client cannot have filled one by one within a test."""
    fill(stock, user, {(b"", X): b"1"})
    inbox = guid(stock, user, "INBOX")
    dict_append(server, user, *(line for i in range(9998)
                                for line in ("priv/%s/vendor/many/%d" % (inbox, i), "v%d" % i)))
    assert take(admin) == ({"set": 9999}, [])
    assert take(admin) == ({"unchanged": 9999}, [])
    assert admin.status()["entries"] == 9999
