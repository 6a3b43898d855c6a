"""Stock METADATA (RFC 5464) on the store: plain clients, XMETASYNC clients, doveadm and dsync see one state."""

import os
import re

import pytest

from lifecycle import MESSAGE
from metasync import Watch, ask, get_metadata, last, put, sane

A, B = b"/private/vendor/test/a", b"/private/vendor/test/b"
OK = b"T OK Setmetadata completed."


def set_metadata(c, pairs, mailbox=b'""'):
    assert last(c, b"SETMETADATA %s (%s)" % (mailbox, b" ".join(b"%s %s" % p for p in pairs))) == OK


def dsync(server, source, target, *options):
    return server.doveadm("sync", "-u", source, *options, "doveadm", "-c", server.root + "/dovecot.conf",
                          "dsync-server", "-u", target)


def export(server, user):
    """All entries of a user, as the user's own client sees them."""
    w = Watch(server.login(user), b"(SERVER PERSONAL) (/private /shared)").catch_up().done()
    w.client.logout()
    return w.state


def test_capability(server, user):
    assert b" METADATA " in ask(server.login(user), b"CAPABILITY")[0] + b" "


def test_capability_off(make_server):
    server = make_server(plugin={"metasync_enabled": "no"})
    assert b" METADATA" not in ask(server.login("u1"), b"CAPABILITY")[0]


def test_rfc5464_examples(client, user):
    """Sections 4.2 and 4.3 (errata 3868, 2785, 2786: /private, and a value that is quoted or a literal)."""
    c = client(user)
    assert last(c, b'SETMETADATA INBOX (/private/comment {33+}\r\nMy new comment across\r\ntwo lines.)') == OK
    assert last(c, b"SETMETADATA INBOX (/private/comment NIL)") == OK
    assert last(c, b'SETMETADATA INBOX (/private/comment "My new comment" /shared/comment "This one is for you!")') == OK
    assert get_metadata(c, b"INBOX (/shared/comment /private/comment)") == {
        b"/shared/comment": b"This one is for you!", b"/private/comment": b"My new comment"}
    assert last(c, b'SETMETADATA "" (/private/vendor/x/filters/values/small "SMALLER 5000")') == OK
    assert last(c, b'SETMETADATA "" (/private/vendor/x/filters/values/boss "FROM \\"boss@example.com\\"")') == OK
    assert get_metadata(c, b'(DEPTH 1) "" (/private/vendor/x/filters/values)') == {
        b"/private/vendor/x/filters/values/small": b"SMALLER 5000",
        b"/private/vendor/x/filters/values/boss": b'FROM "boss@example.com"'}
    assert get_metadata(c, b'"" /private/vendor/x/none') == {b"/private/vendor/x/none": None}
    lines = ask(c, b'GETMETADATA (MAXSIZE 5) INBOX (/shared/comment /private/comment)')
    assert lines == [b"T OK [METADATA LONGENTRIES 20] Getmetadata completed."]


@pytest.mark.parametrize("mailbox", [b'""', b"INBOX", b"Sub/Box"])
def test_both_directions(client, user, mailbox):
    """Each change is seen by the other kind of client, exactly once."""
    plain, live = client(user), client(user)
    if mailbox == b"Sub/Box":
        assert last(plain, b"CREATE Sub/Box").startswith(b"T OK")
    w = Watch(live, mailbox + b" /private").catch_up()
    set_metadata(plain, [(A, b'"1"'), (B, b'"2"')], mailbox)
    w.until("marker")
    name = mailbox.strip(b'"')
    assert w.state == {(name, A): b"1", (name, B): b"2"}
    assert len(w.entries()) == 2
    set_metadata(plain, [(A, b"NIL")], mailbox)
    w.until("marker")
    assert w.state == {(name, B): b"2"}
    w.done()
    put(live, [(A, b'"3"')], mailbox)
    assert get_metadata(plain, mailbox + b" (%s %s)" % (A, B)) == {A: b"3", B: b"2"}
    put(live, [(B, b"NIL")], mailbox)
    assert get_metadata(plain, b"(DEPTH infinity) %s (/private)" % mailbox) == {A: b"3"}


def test_one_setmetadata_is_one_change_set(client, user):
    c = client(user)
    base = put(c, [(A, b'"0"')])
    set_metadata(c, [(A, b'"1"'), (B, b'"2"'), (b"/shared/vendor/test/c", b'"3"')])
    assert put(c, [(A, b'"4"')])[1] == base[1] + 2


@pytest.mark.valgrind
def test_nothing_is_half_set(client, user):
    c = client(user)
    line = last(c, b'SETMETADATA "" (%s "1" %s {1048577+}\r\n%s)' % (A, B, b"x" * 1048577))
    assert line == b"T NO [METADATA MAXSIZE 1048576] Value is too large."
    line = last(c, b'SETMETADATA "" (%s "1" /private/vendor/vendor.dovecot/pvt/x "2")' % A)
    assert line.startswith(b"T NO [CANNOT] ")
    assert get_metadata(c, b'"" ' + A) == {A: None}
    sane(c)


def test_same_entry_twice_the_last_wins(client, user):
    c = client(user)
    set_metadata(c, [(A, b'"1"'), (A, b'"2"')])
    assert get_metadata(c, b'"" ' + A) == {A: b"2"}


@pytest.mark.valgrind
def test_values(client, user):
    c = client(user)
    binary = bytes(range(256)) * 3
    large = b"v" * 1048576
    for name, value in ((b"empty", b'""'), (b"binary", b"~{768+}\r\n" + binary), (b"large", b"{1048576+}\r\n" + large)):
        set_metadata(c, [(b"/private/" + name, value)])
    assert get_metadata(c, b'(DEPTH infinity) "" (/private)') == {
        b"/private/empty": b"", b"/private/binary": binary, b"/private/large": large}
    w = Watch(c, b'"" /private').catch_up().done()
    assert w.state == {(b"", b"/private/empty"): b"", (b"", b"/private/binary"): binary,
                       (b"", b"/private/large"): large}


@pytest.mark.valgrind
def test_depth(client, user):
    c = client(user)
    set_metadata(c, [(b"/private/a", b'"1"'), (b"/private/a/b", b'"2"'), (b"/private/a/b/c", b'"3"'),
                     (b"/private/ab", b'"4"')])
    for depth, names in ((b"0", b"a"), (b"1", b"a a/b"), (b"infinity", b"a a/b a/b/c")):
        assert set(get_metadata(c, b'(DEPTH %s) "" (/private/a)' % depth)) == {
            b"/private/" + name for name in names.split()}
    assert set(get_metadata(c, b'(DEPTH 1) "" (/private)')) == {b"/private/a", b"/private/ab"}


def test_server_and_inbox_are_two(client, user):
    c = client(user)
    set_metadata(c, [(A, b'"server"')])
    set_metadata(c, [(A, b'"inbox"')], b"INBOX")
    assert get_metadata(c, b'(DEPTH infinity) "" (/private)') == {A: b"server"}
    assert get_metadata(c, b'(DEPTH infinity) INBOX (/private)') == {A: b"inbox"}


def test_case_of_names(client, user):
    c = client(user)
    set_metadata(c, [(b"/PRIVATE/Vendor/Test/A", b'"1"')])
    assert get_metadata(c, b'"" ' + A) == {A: b"1"}


@pytest.mark.parametrize("name, code", [
    (b"/private/" + b"x" * 1100, b"LIMIT"), (b"/private", b"CANNOT")])
def test_bad_names(client, user, name, code):
    c = client(user)
    assert last(c, b'SETMETADATA "" (%s "1")' % name).startswith(b"T NO [%s] " % code)
    sane(c)


def test_limits(make_server):
    server = make_server(plugin={"metasync_limit_entries": "2", "metasync_limit_bytes": "100"})
    c = server.login("u1")
    set_metadata(c, [(b"/private/a", b'"1"'), (b"/private/b", b'"1"')])
    assert last(c, b'SETMETADATA "" (/private/c "1")') == b"T NO [METADATA TOOMANY] Too many entries."
    assert last(c, b'SETMETADATA "" (/private/a "%s")' % (b"x" * 100)).startswith(b"T NO [OVERQUOTA] ")
    pairs = b" ".join(b'/private/%d "1"' % i for i in range(101))
    assert last(c, b'SETMETADATA "" (%s)' % pairs).startswith(b"T NO [LIMIT] ")
    assert get_metadata(c, b'(DEPTH infinity) "" (/private)') == {b"/private/a": b"1", b"/private/b": b"1"}


def test_computed_entries_stay_with_dovecot(make_server):
    server = make_server(extra="mail_server_comment = hello\nmail_server_admin = mailto:a@example.com\n")
    c = server.login("u1")
    assert last(c, b'SETMETADATA "" (/shared/comment "x")').startswith(b"T NO [CANNOT] ")
    assert get_metadata(c, b'"" (/shared/comment /shared/admin)') == {
        b"/shared/comment": b"hello", b"/shared/admin": b"mailto:a@example.com"}


def test_internal_attributes_stay_in_the_dictionary(make_server):
    """What Dovecot keeps for itself: here the keys of mail_crypt."""
    server = make_server(extra="mail_attribute_dict = file:%h/dict\nmail_plugins = $mail_plugins mail_crypt\n",
                         plugin={"mail_crypt_curve": "secp521r1", "mail_crypt_save_version": "2"})
    c = server.login("u1")
    set_metadata(c, [(A, b'"mine"')])
    r = server.doveadm("mailbox", "cryptokey", "generate", "-u", "u1", "-U")
    assert r.returncode == 0, r.stderr
    d = server.login("u1")
    assert last(d, b"APPEND INBOX {%d+}\r\n%s" % (len(MESSAGE), MESSAGE)).startswith(b"T OK")
    assert last(d, b"SELECT INBOX").startswith(b"T OK")
    assert b"world" in b"".join(ask(d, b"FETCH 1 BODY[TEXT]"))
    with open(server.home("u1") + "/dict") as f:
        text = f.read()
    assert "vendor/vendor.dovecot/pvt/crypt/" in text and "mine" not in text
    w = Watch(c, b"(SERVER PERSONAL) (/private /shared)").catch_up().done()
    assert w.state == {(b"", A): b"mine"}


def test_dictionary_from_before_is_not_mixed_in(make_server):
    """An attribute that stock Dovecot has left in its dictionary: the store's is the truth."""
    server = make_server(extra="mail_attribute_dict = file:%h/dict\n")
    c = server.login("u1")
    r = server.doveadm("-o", "plugin/metasync_enabled=no", "mailbox", "metadata", "set", "-u", "u1", "-s", "",
                       A.decode(), "old")
    assert r.returncode == 0, r.stderr
    with open(server.home("u1") + "/dict") as f:
        assert "old" in f.read()
    assert get_metadata(c, b'(DEPTH infinity) "" (/private)') == {}
    assert get_metadata(c, b'"" ' + A) == {A: None}


def test_store_cannot_be_used(server, user):
    c = server.login(user)
    assert last(c, b"SELECT INBOX").startswith(b"T OK")
    with open(server.home(user) + "/metasync", "w"):
        pass
    assert last(c, b'SETMETADATA "" (%s "1")' % A).startswith(b"T NO [UNAVAILABLE] ")
    assert last(c, b'GETMETADATA "" ' + A).startswith(b"T NO [UNAVAILABLE] ")
    for mailbox in (b'""', b"INBOX"):
        line = last(c, b"GETMETADATA (DEPTH infinity) %s /private" % mailbox)
        assert line == b"T NO [UNAVAILABLE] The store cannot be used."
    sane(c)


def test_reading_makes_no_store(server, user):
    c = server.login(user)
    assert get_metadata(c, b'"" ' + A) == {A: None}
    assert get_metadata(c, b'(DEPTH infinity) "" (/private)') == {}
    assert not os.path.exists(server.home(user) + "/metasync")


def test_doveadm(server, user):
    """doveadm mailbox metadata works on the store; what it sets is pushed."""
    c = server.login(user)
    put(c, [(A, b'"1"')])
    w = Watch(c, b'(SERVER PERSONAL) /private').catch_up()

    def doveadm(command, *args):
        r = server.doveadm("mailbox", "metadata", command, "-u", user, *args)
        assert r.returncode == 0, r.stderr
        return r.stdout
    assert doveadm("get", "-s", "", A.decode()) == "1\n"
    doveadm("set", "-s", "", B.decode(), "2")
    w.until("marker")
    doveadm("set", "INBOX", B.decode(), "3")
    w.until("marker")
    doveadm("unset", "-s", "", A.decode())
    w.until("marker")
    assert w.state == {(b"", B): b"2", (b"INBOX", B): b"3"}
    assert doveadm("list", "-s", "").split() == ["vendor/test/b"]


def test_deleted_mailbox(client, user):
    """Dovecot removes a mailbox's attributes one by one; a mailbox of that name has none."""
    c, d = client(user), client(user)
    assert last(c, b"CREATE gone").startswith(b"T OK")
    set_metadata(c, [(A, b'"1"'), (b"/shared/x", b'"2"')], b"gone")
    w = Watch(d, b"(PERSONAL) (/private /shared)").catch_up()
    assert last(c, b"DELETE gone").startswith(b"T OK")
    while w.state:
        w.until("marker")
    assert last(c, b"CREATE gone").startswith(b"T OK")
    assert get_metadata(c, b"(DEPTH infinity) gone (/private /shared)") == {}


def test_deleting_inbox_keeps_the_servers_entries(client, user):
    c = client(user)
    set_metadata(c, [(A, b'"1"')])
    last(c, b"DELETE INBOX")
    assert get_metadata(c, b'"" ' + A) == {A: b"1"}


def test_selected_mailbox(client, user):
    c = client(user)
    assert last(c, b"SELECT INBOX").startswith(b"T OK")
    set_metadata(c, [(A, b'"1"')], b"INBOX")
    assert get_metadata(c, b"INBOX " + A) == {A: b"1"}
    sane(c)


# -- dsync -----------------------------------------------------------------------------------------

def test_dsync(server, user):
    """To an empty store, and after changes and removals on both sides again; each way of writing."""
    other = user + "-other"
    c = server.login(user)
    assert last(c, b"CREATE box").startswith(b"T OK")
    set_metadata(c, [(b"/private/stock", b'"1"'), (b"/private/stock-removed", b'"1"')])
    set_metadata(c, [(b"/private/stock", b'"1"'), (b"/shared/stock", b'"1"')], b"box")
    put(c, [(b"/private/ours", b'"1"'), (b"/private/ours-removed", b'"1"'),
            (b"/private/binary", b"~{3+}\r\na\0b"), (b"/private/empty", b'""')])
    put(c, [(b"/private/ours", b'"1"'), (b"/shared/ours", b'"1"')], b"box")
    c.logout()
    assert server.doveadm("metasync", "set", "-u", user, "", "/private/doveadm", "1").returncode == 0
    server.await_no_session(user)
    first = dsync(server, user, other, "-s", "")
    assert first.returncode in (0, 2), first.stderr
    assert len(export(server, user)) == 11
    assert export(server, other) == export(server, user)

    c = server.login(user)
    set_metadata(c, [(b"/private/stock", b'"2"'), (b"/private/stock-removed", b"NIL")])
    put(c, [(b"/private/ours", b'"2"'), (b"/private/ours-removed", b"NIL")])
    put(c, [(b"/private/new", b'"2"')], b"box")
    c.logout()
    c = server.login(other)
    put(c, [(b"/private/other", b'"2"'), (b"/private/empty", b"NIL")])
    set_metadata(c, [(b"/private/stock", b"NIL")], b"box")
    c.logout()
    server.await_no_session(user)
    server.await_no_session(other)
    again = dsync(server, user, other, "-s", first.stdout.strip())
    assert again.returncode in (0, 2), again.stderr
    state = export(server, user)
    assert export(server, other) == state
    assert {re.sub(rb".*/", b"", name) for mailbox, name in state if mailbox == b""} == {
        b"stock", b"ours", b"binary", b"other", b"doveadm"}
    assert state[(b"", b"/private/stock")] == b"2" and state[(b"", b"/private/ours")] == b"2"
    assert (b"box", b"/private/stock") not in state
    assert state[(b"box", b"/private/new")] == b"2"


def test_dsync_of_many_entries(server, user):
    """More than fit into one change set."""
    other = user + "-other"
    c = server.login(user)
    for start in range(0, 300, 100):
        put(c, [(b"/private/many/%d" % i, b'"%d"' % i) for i in range(start, start + 100)])
    c.logout()
    server.await_no_session(user)
    r = dsync(server, user, other)
    assert r.returncode in (0, 2), r.stderr
    assert len(export(server, other)) == 300
    assert export(server, other) == export(server, user)
