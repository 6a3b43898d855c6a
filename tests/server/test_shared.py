"""/shared entries of a mailbox that is shared by ACL: the owner's store has them, for the owner and for all others."""

import os

import pytest

from lifecycle import await_log
from metasync import Watch, ask, last, ok, put
from shared import (A, B, MINE, box, damage, get_metadata, plain_doveadm, reads_and_writes, refused, set_metadata,
                    share, state, theirs)
from shared import server, other  # noqa: F401  (fixtures)

# -- one state -------------------------------------------------------------------------------------

@pytest.mark.valgrind
@pytest.mark.parametrize("mailbox", [b"INBOX", b"Work", b"Work/Deep/Deeper", b"&ZeVnLIqe-/&AOQA9gD8-"])
def test_one_state(client, user, other, mailbox):
    """Each way of writing, each way of reading; each change is told to the owner exactly once."""
    owner, live, guest = client(user), client(user), client(other)
    name = theirs(user, mailbox)
    if mailbox == b"INBOX":
        share(owner, mailbox, other)
    else:
        box(owner, mailbox, other)
    w = Watch(live, b"(PERSONAL) /shared").catch_up()

    set_metadata(owner, mailbox, (A, b'"stock"'))
    assert get_metadata(guest, name) == {A: b"stock"}
    w.until("marker")
    put(owner, [(A, b'"ours"'), (B, b'""')], mailbox)
    assert get_metadata(guest, name) == {A: b"ours", B: b""}
    w.until("marker")
    assert w.state == {(mailbox, A): b"ours", (mailbox, B): b""}

    set_metadata(guest, name, (A, b'"theirs"'), (B, b"NIL"))
    w.until("marker")
    assert w.state == {(mailbox, A): b"theirs"}
    assert get_metadata(owner, mailbox) == {A: b"theirs"} == get_metadata(guest, name)
    assert len(w.entries()) == 5
    w.done()
    assert state(guest) == {}


def test_inbox_has_two_names(client, user, other):
    owner, guest = client(user), client(other)
    share(owner, b"INBOX", other)
    set_metadata(owner, b"INBOX", (A, b'"1"'))
    assert get_metadata(guest, b"shared/" + user.encode()) == {A: b"1"}
    set_metadata(guest, b"shared/" + user.encode(), (A, b'"2"'))
    assert get_metadata(guest, theirs(user, b"INBOX")) == {A: b"2"} == get_metadata(owner, b"INBOX")


@pytest.mark.valgrind
def test_values(client, user, other):
    owner, guest = client(user), client(other)
    box(owner, b"Work", other)
    name = theirs(user, b"Work")
    binary, large = bytes(range(256)) * 3, b"v" * 1048576
    set_metadata(guest, name, (b"/shared/binary", b"~{768+}\r\n" + binary), (b"/shared/empty", b'""'),
                 (b"/shared/large", b"{1048576+}\r\n" + large))
    expected = {b"/shared/binary": binary, b"/shared/empty": b"", b"/shared/large": large}
    assert get_metadata(owner, b"Work") == expected == get_metadata(guest, name)
    assert get_metadata(guest, name, b"/shared/none", options=b"") == {b"/shared/none": None}


def test_reading_makes_no_store(server, client, user, other):
    owner, guest = client(user), client(other)
    box(owner, b"Work", other)
    assert get_metadata(guest, theirs(user, b"Work")) == {}
    assert get_metadata(guest, theirs(user, b"Work"), A, options=b"") == {A: None}
    for name in (user, other):
        assert not os.path.exists(server.home(name) + "/metasync")


def test_a_set_is_one_change(client, user, other):
    owner, guest = client(user), client(other)
    box(owner, b"Work", other)
    before = put(owner, [(A, b'"0"')], b"Work")
    set_metadata(guest, theirs(user, b"Work"), (A, b'"1"'), (B, b'"2"'))
    assert put(owner, [(A, b'"3"')], b"Work")[1] == before[1] + 2
    line = last(guest, b'SETMETADATA %s (%s "1" %s {1048577+}\r\n%s)' % (theirs(user, b"Work"), A, B, b"x" * 1048577))
    assert line == b"T NO [METADATA MAXSIZE 1048576] Value is too large."
    assert get_metadata(owner, b"Work") == {A: b"3", B: b"2"}


def test_several_mailboxes_and_owners(client, user, other):
    """Names of the same kind in all of them."""
    third = user + "-third"
    owners = {user: client(user), third: client(third)}
    guest = client(other)
    for name, c in owners.items():
        for mailbox in (b"Work", b"Home"):
            box(c, mailbox, other)
            set_metadata(guest, theirs(name, mailbox), (A, b'"%s %s"' % (name.encode(), mailbox)))
    for name, c in owners.items():
        assert state(c) == {(mailbox, A): b"%s %s" % (name.encode(), mailbox) for mailbox in (b"Work", b"Home")}


@pytest.mark.parametrize("how", [b"ENABLE METADATA", b"NOTIFY SET (mailboxes Work (MailboxMetadataChange))"])
def test_owner_is_told_by_name(client, user, other, how):
    """In IDLE."""
    owner, live, guest = client(user), client(user), client(other)
    box(owner, b"Work", other)
    ok(live, how)
    tag = live.start(b"IDLE")
    live.expect(rb"\+ idling")
    set_metadata(guest, theirs(user, b"Work"), (A, b'"1"'))
    live.next(rb'\* METADATA "Work" ' + A)
    live.send(b"DONE\r\n")
    live.until(tag)
    assert not any(line.startswith(b"* METADATA") for line in ask(live, b"NOOP"))


def test_own_mailbox_under_its_shared_name(client, user):
    """It is the session's own store: nothing is told to who has done it."""
    c = client(user)
    box(c, b"Work", user, rights=b"lrwstipekxa")
    put(c, [(A, b'"0"')], b"Work")
    ok(c, b"ENABLE METADATA")
    set_metadata(c, theirs(user, b"Work"), (A, b'"1"'))
    assert get_metadata(c, b"Work") == {A: b"1"}
    put(c, [(A, b'"2"')], b"Work")
    assert get_metadata(c, theirs(user, b"Work")) == {A: b"2"}
    assert ask(c, b"NOOP") == [b"T OK NOOP completed."]


def test_owner_in_capitals(client, user, other):
    """The userdb says who it is."""
    owner, guest = client(user), client(other)
    box(owner, b"Work", other)
    put(owner, [(A, b'"1"')], b"Work")
    name = theirs(user.upper(), b"Work")
    assert get_metadata(guest, name) == {A: b"1"}
    set_metadata(guest, name, (A, b'"2"'))
    assert state(owner) == {(b"Work", A): b"2"}


@plain_doveadm
@pytest.mark.parametrize("through", ["itself", "doveadm-server"])
def test_doveadm(server, client, user, other, through):
    owner, guest = client(user), client(other)
    box(owner, b"Work", other)
    name = theirs(user, b"Work").decode()
    w = Watch(owner, b"(PERSONAL) /shared").catch_up()

    def doveadm(*args, code=0):
        if through == "doveadm-server":
            at = args.index("-u")
            args = args[:at] + ("-S", server.root + "/run/doveadm-server") + args[at:]
        r = server.doveadm(*args)
        assert r.returncode == code, r.stderr
        return r.stdout
    doveadm("metasync", "set", "-u", user, "Work", A.decode(), "1")
    w.until("marker")
    assert doveadm("mailbox", "metadata", "get", "-u", other, name, A.decode()) == "1\n"
    doveadm("mailbox", "metadata", "set", "-u", other, name, B.decode(), "2")
    w.until("marker")
    assert w.state == {(b"Work", A): b"1", (b"Work", B): b"2"}
    assert get_metadata(guest, theirs(user, b"Work")) == {A: b"1", B: b"2"}
    assert {"vendor/test/a", "vendor/test/b"} <= set(doveadm("mailbox", "metadata", "list", "-u", other, name).split())
    doveadm("mailbox", "metadata", "unset", "-u", other, name, A.decode())
    w.until("marker")
    assert w.state == {(b"Work", B): b"2"}
    for args in (("get", "-u", other, name, B.decode()), ("set", "-u", other, name, B.decode(), "x")):
        doveadm("metasync", *args, code=65)


@pytest.mark.valgrind
def test_not_by_xmetasync(client, user, other):
    """Which is for one's own mailboxes: a clear NO, whether the mailbox exists or not."""
    owner, guest = client(user), client(other)
    box(owner, b"Work", other)
    set_metadata(guest, theirs(user, b"Work"), (A, b'"1"'))
    for mailbox in (b"Work", b"None"):
        name = theirs(user, mailbox)
        for command in (b"XMETASYNC %s /shared" % name, b"XMETASYNC (ONCE) (SUBTREE %s) /shared" % name,
                        b'XMETASET %s (%s "2")' % (name, A), b'XMETASET "" (%s "2") %s (%s "2")' % (MINE, name, A)):
            refused(guest, command, code=b"T NO [CANNOT] Mailboxes of others are not synchronized.")
    assert state(guest) == {} and get_metadata(owner, b"Work") == {A: b"1"}


# -- rights ----------------------------------------------------------------------------------------

@pytest.mark.valgrind
def test_no_rights(client, user, other):
    """Nothing is told, nothing is written; an owner who is not there looks the same."""
    owner, guest = client(user), client(other)
    ok(owner, b"CREATE Secret")
    set_metadata(owner, b"Secret", (A, b'"secret"'))
    box(owner, b"Open", other)
    for mailbox in (b"Secret", b"None"):
        refused(guest, *reads_and_writes(theirs(user, mailbox)), code=b"T NO Mailbox doesn't exist: shared/")
    assert get_metadata(guest, theirs(user, b"*")) == {}
    assert get_metadata(owner, b"Secret") == {A: b"secret"}


@pytest.mark.valgrind
def test_too_few_rights(client, user, other):
    """RFC 5464 asks for "l" and one of "rswip"."""
    owner, guest = client(user), client(other)
    box(owner, b"Work", other, rights=b"l")
    set_metadata(owner, b"Work", (A, b'"secret"'))
    refused(guest, *reads_and_writes(theirs(user, b"Work")), code=b"T NO [NOPERM] Permission denied.")
    share(owner, b"Work", other, rights=b"r")
    refused(client(other), *reads_and_writes(theirs(user, b"Work")), code=b"T NO Mailbox doesn't exist: ")
    share(owner, b"Work", other, rights=b"lp")
    assert get_metadata(client(other), theirs(user, b"Work")) == {A: b"secret"}


def test_not_shared_any_more(client, user, other):
    """And shared again. The owner keeps what others have written."""
    owner, guest = client(user), client(other)
    box(owner, b"Work", other)
    set_metadata(guest, theirs(user, b"Work"), (A, b'"theirs"'))
    ok(owner, b"DELETEACL Work " + other.encode())
    # (a session's rights are looked at anew twice a minute)
    refused(client(other), *reads_and_writes(theirs(user, b"Work")))
    assert get_metadata(owner, b"Work") == {A: b"theirs"}
    share(owner, b"Work", other)
    assert get_metadata(client(other), theirs(user, b"Work")) == {A: b"theirs"}
    assert state(client(user)) == {(b"Work", A): b"theirs"}


# -- the life of mailboxes -------------------------------------------------------------------------

@pytest.mark.valgrind
def test_owner_renames_and_deletes(client, user, other):
    owner, guest = client(user), client(other)
    box(owner, b"Work", other)
    set_metadata(guest, theirs(user, b"Work"), (A, b'"1"'))
    ok(owner, b"RENAME Work Job")
    refused(guest, *reads_and_writes(theirs(user, b"Work")))
    set_metadata(guest, theirs(user, b"Job"), (B, b'"2"'))
    assert get_metadata(guest, theirs(user, b"Job")) == {A: b"1", B: b"2"}
    assert state(owner) == {(b"Job", A): b"1", (b"Job", B): b"2"}
    ok(owner, b"DELETE Job")
    refused(guest, *reads_and_writes(theirs(user, b"Job")))
    box(owner, b"Job", other)
    assert get_metadata(guest, theirs(user, b"Job")) == {} == state(owner)


@pytest.mark.valgrind
def test_others_rename_and_delete(client, user, other):
    """At once, in the owner's waiting session too."""
    owner, guest = client(user), client(other)
    box(owner, b"Top", other, rights=b"lrkx")
    box(owner, b"Top/Work", other, rights=b"lrkx")
    box(owner, b"Top/Work/Deep", other, rights=b"lrkx")
    for mailbox in (b"Top/Work", b"Top/Work/Deep"):
        put(owner, [(A, b'"%s"' % mailbox), (MINE, b'"mine"')], mailbox)
    w = Watch(owner, b"(PERSONAL) (/private /shared)").catch_up()
    ok(guest, b"RENAME %s %s" % (theirs(user, b"Top/Work"), theirs(user, b"Top/Job")))
    w.until("marker")
    assert w.state == {(b"Top/Job", A): b"Top/Work", (b"Top/Job", MINE): b"mine",
                       (b"Top/Job/Deep", A): b"Top/Work/Deep", (b"Top/Job/Deep", MINE): b"mine"}
    assert get_metadata(guest, theirs(user, b"Top/Job/Deep")) == {A: b"Top/Work/Deep"}
    ok(guest, b"DELETE " + theirs(user, b"Top/Job/Deep"))
    w.until("marker")
    assert w.state == {(b"Top/Job", A): b"Top/Work", (b"Top/Job", MINE): b"mine"}
    w.done()


def test_others_delete_though_the_store_is_damaged(server, client, user, other):
    owner, guest = client(user), client(other)
    box(owner, b"Work", other, rights=b"lrx")
    put(owner, [(A, b'"1"')], b"Work")
    owner.logout()
    server.await_no_session(user)
    damage(server, user)
    ok(guest, b"DELETE " + theirs(user, b"Work"))


@plain_doveadm
def test_renamed_by_a_process_without_the_plugin(server, client, user, other):
    """Noticed by the other user's session, which is the first that uses the store: what it may not see stays."""
    owner = client(user)
    box(owner, b"Work", other)
    for mailbox in (b"Hidden/Deep", b"Gone"):
        ok(owner, b"CREATE " + mailbox)
    for mailbox in (b"INBOX", b"Work", b"Hidden/Deep", b"Gone"):
        put(owner, [(A, b'"%s"' % mailbox), (MINE, b'"mine"')], mailbox)
    put(owner, [(A, b'"server"')])
    owner.logout()
    server.await_no_session(user)
    for command in (("rename", "-u", user, "Work", "Job"), ("delete", "-u", user, "Gone")):
        assert server.doveadm("-o", "mail_plugins=", "mailbox", *command).returncode == 0
    guest = client(other)
    assert get_metadata(guest, theirs(user, b"Job")) == {A: b"Work"}
    await_log(server, r"%s\).*metasync: Owner %s: Mailboxes were renamed or deleted without the plugin: "
              r"moved the entries of 1, removed those of 1" % (other, user))
    expected = {(b"", A): b"server"}
    for mailbox, value in ((b"INBOX", b"INBOX"), (b"Job", b"Work"), (b"Hidden/Deep", b"Hidden/Deep")):
        expected.update({(mailbox, A): value, (mailbox, MINE): b"mine"})
    assert state(client(user)) == expected
