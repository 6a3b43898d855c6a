"""/shared entries of a mailbox that is shared by ACL: the owner's store has them, for the owner and for all others."""

import os
import re

import pytest

from lifecycle import MESSAGE, await_log
from metasync import Watch, ask, last, put, sane

plain_doveadm = pytest.mark.skipif(os.environ.get("DOVETAIL_WRAPPER") == "asan",
                                   reason="doveadm does not load sanitized plugins")
as_root = pytest.mark.skipif(os.getuid() != 0, reason="users of several uids need root")
A, B = b"/shared/vendor/test/a", b"/shared/vendor/test/b"
MINE = b"/private/vendor/test/a"
OK = b"T OK Setmetadata completed."
BROKEN = b"T NO [UNAVAILABLE] The store cannot be used."
NO_OWNER = b"T NO [UNAVAILABLE] The owner's store cannot be used."

PLUGIN = {"acl": "vfile", "acl_shared_dict": "file:{root}/home/acls"}
SHARED = """
mail_plugins = $mail_plugins acl
namespace shared {
  type = shared
  prefix = shared/%%u/
  separator = /
  location = LOCATION
  subscriptions = no
  list = LIST
}
"""
DICTIONARY = "mail_attribute_dict = file:%h/dict\n"
FORMATS = {
    "maildir": ("maildir:~/mail", "maildir:%%h/mail"),
    # as the wiki has it: flags and caches of each user's own
    "maildir-index": ("maildir:~/mail", "maildir:%%h/mail:INDEX=~/shared/%%u"),
    "maildir-control": ("maildir:~/mail", "maildir:%%h/mail:INDEX=~/shared/%%u:CONTROL=~/control/%%u"),
    "mdbox": ("mdbox:~/mail", "mdbox:%%h/mail"),
    "sdbox-index": ("sdbox:~/mail:LAYOUT=index", "sdbox:%%h/mail:LAYOUT=index"),
}


def sharing(location="maildir:%%h/mail", listed="children", extra="", plugin=None, plugins="", **kwargs):
    """Settings of a server whose users can share mailboxes."""
    return dict(kwargs, plugin={**PLUGIN, **(plugin or {})}, plugins="acl imap_acl " + plugins,
                extra=SHARED.replace("LOCATION", location).replace("LIST", listed) + extra)


@pytest.fixture(scope="module")
def server(make_module_server):
    return make_module_server(**sharing())


@pytest.fixture(scope="module")
def dictionary(make_module_server):
    """Whose users have a dictionary, too."""
    return make_module_server(**sharing(extra=DICTIONARY))


@pytest.fixture
def other(user):
    return user + "-other"


def ok(c, command):
    line = last(c, command)
    assert line.startswith(b"T OK"), line


def share(c, mailbox, *others, rights=b"lr"):
    for name in others:
        ok(c, b"SETACL %s %s %s" % (mailbox, name.encode(), rights))


def box(c, mailbox, *others, rights=b"lr"):
    ok(c, b"CREATE " + mailbox)
    share(c, mailbox, *others, rights=rights)


def theirs(owner, mailbox):
    """The name that others see."""
    return b"shared/%s/%s" % (owner.encode(), mailbox)


def set_metadata(c, mailbox, *pairs):
    assert last(c, b"SETMETADATA %s (%s)" % (mailbox, b" ".join(b"%s %s" % p for p in pairs))) == OK


def get_metadata(c, mailbox, entries=b"/shared", options=b"(DEPTH infinity) "):
    """{name: value} of GETMETADATA's answer."""
    tag = c.start(b"GETMETADATA %s%s (%s)" % (options, mailbox, entries))
    values = {}
    for r in c.until(tag):
        if r.line.startswith(b"* METADATA "):
            items = r.parsed[3]
            values.update(zip(map(bytes, items[::2]), items[1::2]))
    assert r.line.startswith(tag + b" OK "), r.line
    return {name: value if value is None else bytes(value) for name, value in values.items()}


def state(c, selection=b"(SERVER PERSONAL) (/private /shared)"):
    return Watch(c, selection).catch_up().done().state


def refused(c, *commands, code=b"T NO "):
    for command in commands:
        lines = ask(c, command)
        assert lines[-1].startswith(code), lines
        assert not any(line.startswith(b"* METADATA") for line in lines), lines
    sane(c)


def reads_and_writes(mailbox):
    return (b"GETMETADATA %s %s" % (mailbox, A), b"GETMETADATA (DEPTH infinity) %s /shared" % mailbox,
            b'SETMETADATA %s (%s "no")' % (mailbox, A))


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


# -- namespaces and formats ------------------------------------------------------------------------

@pytest.mark.parametrize("name", FORMATS)
def test_formats(make_server, name):
    own, location = FORMATS[name]
    server = make_server(**sharing(location, mail_location=own))
    owner, guest = server.login("ann"), server.login("bob")
    for mailbox in (b"INBOX", b"Work", b"Work/&ZeVnLIqe-"):
        if mailbox == b"INBOX":
            ok(owner, b"SELECT INBOX")
            share(owner, mailbox, "bob", rights=b"lrkx")
        else:
            box(owner, mailbox, "bob", rights=b"lrkx")
        set_metadata(guest, theirs("ann", mailbox), (A, b'"%s"' % mailbox))
        put(owner, [(B, b'"%s"' % mailbox)], mailbox)
        assert get_metadata(guest, theirs("ann", mailbox)) == {A: mailbox, B: mailbox}
    ok(guest, b"RENAME %s %s" % (theirs("ann", b"Work/&ZeVnLIqe-"), theirs("ann", b"Work/x")))
    ok(owner, b"DELETE Work")
    # a new session compares the mailboxes
    assert state(server.login("ann")) == {(b"INBOX", A): b"INBOX", (b"INBOX", B): b"INBOX",
                                          (b"Work/x", A): b"Work/&ZeVnLIqe-", (b"Work/x", B): b"Work/&ZeVnLIqe-"}
    assert get_metadata(server.login("bob"), theirs("ann", b"Work/x")) == {
        A: b"Work/&ZeVnLIqe-", B: b"Work/&ZeVnLIqe-"}


PREFIXES = """
namespace inbox {
  prefix = INBOX.
  separator = .
}
namespace archive {
  prefix = Archive/
  separator = /
  location = maildir:~/archive:LAYOUT=fs
  hidden = yes
  list = no
}
namespace shared2 {
  type = shared
  prefix = archives/%%u/
  separator = /
  location = maildir:%%h/archive:LAYOUT=fs
  subscriptions = no
  list = no
}
"""
ALIAS = """
namespace alias {
  prefix =
  separator = .
  location = maildir:~/mail
  alias_for = INBOX.
  hidden = yes
  list = no
}
"""


@pytest.mark.valgrind
@pytest.mark.parametrize("alias", ["", ALIAS])
def test_prefixes_and_separators(make_server, alias):
    """The owner's namespaces have others than the shared ones, and there are several."""
    server = make_server(**sharing(listed="no", extra=PREFIXES + alias))
    owner, guest = server.login("ann"), server.login("bob")
    names = {b"INBOX": b"shared/ann/INBOX", b"INBOX.Work": b"shared/ann/Work",
             b"INBOX.Work.&ZeVnLIqe-": b"shared/ann/Work/&ZeVnLIqe-", b"Archive/Work": b"archives/ann/Work",
             b"Archive/Work/Older": b"archives/ann/Work/Older"}
    if alias:
        # Dovecot cannot set rights for it then
        del names[b"INBOX"]
    for mine, name in names.items():
        if mine != b"INBOX":
            ok(owner, b"CREATE " + mine)
        share(owner, mine, "bob", rights=b"lrkx")
        set_metadata(guest, name, (A, b'"guest"'))
        put(owner, [(B, b'"%s"' % mine)], mine)
        assert get_metadata(guest, name) == {A: b"guest", B: mine}
    expected = {(mine, entry): value for mine in names for entry, value in ((A, b"guest"), (B, mine))}
    assert state(owner) == expected == state(server.login("ann"))
    if alias:
        assert get_metadata(owner, b"Work") == {A: b"guest", B: b"INBOX.Work"}
    ok(guest, b"RENAME shared/ann/Work/&ZeVnLIqe- shared/ann/Work/x")
    ok(guest, b"DELETE archives/ann/Work/Older")
    expected = {({b"INBOX.Work.&ZeVnLIqe-": b"INBOX.Work.x"}.get(mine, mine), entry): value
                for (mine, entry), value in expected.items() if mine != b"Archive/Work/Older"}
    assert state(owner) == expected == state(server.login("ann"))


def test_mailbox_that_the_owner_has_not_got(make_server):
    """The shared namespace leads to another place than the owner's own ones: Dovecot's dictionary, for all."""
    server = make_server(**sharing("maildir:%%h/elsewhere", extra=DICTIONARY + "mail_debug = yes\n"))
    server.login("ann")
    boxes = server.home("ann") + "/elsewhere"
    os.makedirs(boxes + "/.Work/cur")
    with open(boxes + "/.Work/dovecot-acl", "w") as f:
        f.write("user=bob lrw\nuser=cid lrw\n")
    for directory, _, files in os.walk(server.home("ann")):
        for name in [directory] + [os.path.join(directory, f) for f in files]:
            os.chown(name, server.mail_uid, server.mail_gid)
    bob, cid = server.login("bob"), server.login("cid")
    set_metadata(bob, theirs("ann", b"Work"), (A, b'"1"'))
    assert get_metadata(cid, theirs("ann", b"Work"), A, options=b"") == {A: b"1"}
    await_log(server, "metasync: Owner ann: No private namespace has mailbox shared/ann/Work: left to Dovecot")
    assert state(server.login("ann")) == {}


PUBLIC = """
namespace public {
  type = TYPE
  prefix = Public/
  separator = /
  location = maildir:{root}/home/public
  list = children
}
"""


@pytest.mark.parametrize("kind", ["public", "shared"])
@pytest.mark.parametrize("extra", ["", DICTIONARY.replace("%h/dict", "{root}/home/dict")])
def test_mailboxes_without_an_owner_are_dovecots(make_server, kind, extra):
    """All of it is in Dovecot's dictionary, or refused. (A shared namespace with one fixed place.)"""
    server = make_server(extra=PUBLIC.replace("TYPE", kind) + extra)
    ann, bob = server.login("ann"), server.login("bob")
    ok(ann, b"CREATE Public/Work")
    if extra:
        set_metadata(ann, b"Public/Work", (A, b'"1"'))
        assert get_metadata(bob, b"Public/Work", A, options=b"") == {A: b"1"}
    else:
        refused(ann, b'SETMETADATA Public/Work (%s "1")' % A, b"GETMETADATA Public/Work " + A, code=b"T NO [CANNOT] ")
    refused(ann, b"XMETASYNC Public/Work /shared", b'XMETASET Public/Work (%s "1")' % A, code=b"T NO [CANNOT] ")
    assert state(ann) == {}


# -- /private entries ------------------------------------------------------------------------------

@pytest.mark.valgrind
def test_private_entries_need_a_dictionary(client, user, other):
    """Of others' mailboxes: stock's, in the accessing user's dictionary. A set that has one of them writes nothing."""
    owner, guest = client(user), client(other)
    box(owner, b"Work", other)
    put(owner, [(MINE, b'"owner"')], b"Work")
    name = theirs(user, b"Work")
    refused(guest, b'SETMETADATA %s (%s "1")' % (name, MINE), b"GETMETADATA %s %s" % (name, MINE),
            b'SETMETADATA %s (%s "1" %s "1")' % (name, A, MINE), code=b"T NO [CANNOT] ")
    assert get_metadata(guest, name, b"/private /shared") == {}
    assert state(owner) == {(b"Work", MINE): b"owner"} and state(guest) == {}


def test_private_entries_are_each_users(dictionary, user, other):
    server = dictionary
    owner, guest, third = server.login(user), server.login(other), server.login(user + "-third")
    box(owner, b"Work", other, user + "-third")
    put(owner, [(MINE, b'"owner"'), (A, b'"owner"')], b"Work")
    name = theirs(user, b"Work")
    set_metadata(guest, name, (MINE, b'"guest"'), (A, b'"guest"'))
    both = MINE + b" " + A
    assert get_metadata(guest, name, both, options=b"") == {MINE: b"guest", A: b"guest"}
    assert get_metadata(third, name, both, options=b"") == {MINE: None, A: b"guest"}
    assert get_metadata(owner, b"Work", both, options=b"") == {MINE: b"owner", A: b"guest"}
    assert not os.path.exists(server.home(other) + "/metasync")
    with open(server.home(other) + "/dict") as f:
        text = f.read()
    assert "priv/" in text and "shared/" not in text
    assert not os.path.exists(server.home(user) + "/dict")


def test_dictionary_from_before_is_not_mixed_in(dictionary, user, other):
    """What others have left in the owner's dictionary before the plugin came."""
    server = dictionary
    owner = server.login(user)
    box(owner, b"Work", other)
    name = theirs(user, b"Work")
    if server.wrapper != "asan":
        r = server.doveadm("-o", "plugin/metasync_enabled=no", "mailbox", "metadata", "set", "-u", other,
                           name.decode(), A.decode(), "old")
        assert r.returncode == 0, r.stderr
        with open(server.home(user) + "/dict") as f:
            assert "old" in f.read()
        r = server.doveadm("mailbox", "metadata", "list", "-u", other, name.decode())
        assert r.returncode == 0 and "vendor/test" not in r.stdout
    guest = server.login(other)
    assert get_metadata(guest, name) == {} == get_metadata(owner, b"Work")
    assert get_metadata(guest, name, A, options=b"") == {A: None}


# -- the owner's settings --------------------------------------------------------------------------

@pytest.mark.valgrind
def test_settings_are_the_owners(make_server):
    """Limits and directory, though the userdb gives them to each user: here the users' names are the limits."""
    server = make_server(**sharing(userdb="metasync_limit_value=%u metasync_limit_entries=%u "
                                          "metasync_dir={root}/home/stores/%u"))
    for owner_name, guest_name in (("3", "500"), ("400", "1")):
        owner, guest = server.login(owner_name), server.login(guest_name)
        box(owner, b"Work", guest_name)
        name = theirs(owner_name, b"Work")
        limit = int(owner_name)
        set_metadata(guest, name, (b"/shared/1", b'"%s"' % (b"x" * min(limit, 100))), (b"/shared/2", b'"2"'))
        line = last(guest, b"SETMETADATA %s (%s {%d+}\r\n%s)" % (name, A, limit + 1, b"x" * (limit + 1)))
        assert line == b"T NO [METADATA MAXSIZE %d] Value is too large." % limit
        for i in range(0, limit, 100):
            pairs = [(b"/shared/%d" % n, b'"%d"' % (n % 9)) for n in range(i + 1, min(limit, i + 100) + 1)]
            set_metadata(guest, name, *pairs)
        assert last(guest, b'SETMETADATA %s (%s "1")' % (name, A)) == b"T NO [METADATA TOOMANY] Too many entries."
        assert len(get_metadata(owner, b"Work")) == limit
        assert os.path.exists(server.root + "/home/stores/" + owner_name)
        assert not os.path.exists(server.root + "/home/stores/" + guest_name)


def test_variables_in_settings(make_server):
    """Those of the userdb, too, mean the same as in the owner's session."""
    server = make_server(**sharing("maildir:%%h/mail-%%u", mail_location="maildir:~/%{userdb:where}",
                                   plugin={"metasync_dir": "~/store-%s-%r-%i-%{userdb:where}-%u"},
                                   userdb="where=mail-%u"))
    owner, guest = server.login("ann"), server.login("bob")
    box(owner, b"Work", "bob")
    set_metadata(guest, theirs("ann", b"Work"), (A, b'"1"'))
    assert state(owner) == {(b"Work", A): b"1"}
    assert os.path.exists(server.home("ann") + "/store-imap-127.0.0.1-%d-mail-ann-ann" % server.mail_uid)


def test_owner_has_another_plugin(make_server):
    """Which changes the names of mailboxes, for the owner only."""
    plugins = "acl,metasync,imap_acl,imap_long_command,imap_metasync"
    server = make_server(**sharing(userdb="mail_plugins=%s,%%{if;%%u;eq;ann;listescape;zlib}" % plugins))
    owner, guest = server.login("ann"), server.login("bob")
    box(owner, b"a.b", "bob")
    put(owner, [(A, b'"1"')], b"a.b")
    name = rb'"shared/ann/a\\2eb"'
    assert get_metadata(guest, name) == {A: b"1"}
    set_metadata(guest, name, (A, b'"2"'))
    assert state(owner) == {(b"a.b", A): b"2"}


def test_plugin_is_off_for_one_user(make_server):
    """Off for the owner: stock's dictionary, for all. Off for the other: still the owner's store."""
    server = make_server(**sharing(extra=DICTIONARY, userdb="metasync_enabled=%u"))
    yes, no = server.login("yes"), server.login("no")
    box(yes, b"Work", "no")
    box(no, b"Work", "yes")
    put(yes, [(A, b'"1"')], b"Work")
    assert get_metadata(no, theirs("yes", b"Work")) == {A: b"1"}
    set_metadata(no, theirs("yes", b"Work"), (A, b'"2"'))
    assert state(yes) == {(b"Work", A): b"2"}
    set_metadata(yes, theirs("no", b"Work"), (A, b'"3"'))
    assert get_metadata(no, b"Work", A, options=b"") == {A: b"3"}
    assert not os.path.exists(server.home("no") + "/metasync")
    with open(server.home("no") + "/dict") as f:
        assert "3" in f.read().split("\n")


@pytest.mark.valgrind
def test_owner_has_not_logged_in(make_server):
    """Dovecot's other plugins see no login of the owner, and do their work."""
    plugins = "notify mail_log quota zlib last_login replication"
    server = make_server(**sharing(extra="mail_plugins = $mail_plugins %s\n" % plugins, plugins=plugins, plugin={
        "quota": "count:User quota", "quota_vsizes": "yes", "quota_rule": "*:storage=1G",
        "last_login_dict": "file:%h/last-login", "mail_log_events": "mailbox_create delete save"}))
    owner, guest = server.login("ann"), server.login("bob")
    box(owner, b"Work", "bob")
    owner.logout()
    server.await_no_session("ann")
    os.remove(server.home("ann") + "/last-login")
    set_metadata(guest, theirs("ann", b"Work"), (A, b'"1"'))
    assert get_metadata(guest, theirs("ann", b"Work")) == {A: b"1"}
    guest.logout()
    server.await_no_session("bob")
    assert os.path.exists(server.home("bob") + "/last-login") and not os.path.exists(server.home("ann") + "/last-login")
    assert not re.search(r"imap.*(Error|Warning): ", server.log())


# -- the owner's store cannot be used --------------------------------------------------------------

def damage(server, user):
    with open(server.home(user) + "/metasync/store.db", "r+b") as f:
        f.write(b"\xff" * 4096)


def broken(server, client, user, other):
    """The owner has an entry, and has gone."""
    owner = client(user)
    box(owner, b"Work", other)
    put(owner, [(A, b'"secret"')], b"Work")
    owner.logout()
    server.await_no_session(user)
    return client(other)


@pytest.mark.valgrind
def test_store_is_refused(server, client, user, other):
    """The session lives on, and works again when the operator has mended it."""
    guest = broken(server, client, user, other)
    os.chmod(server.home(user) + "/metasync", 0o777)
    for command in reads_and_writes(theirs(user, b"Work")):
        refused(guest, command, code=BROKEN)
    assert len(re.findall(r"Error: metasync: Owner %s: .* is writable by others" % user, server.log())) == 1
    put(guest, [(A, b'"own"')])
    os.chmod(server.home(user) + "/metasync", 0o700)
    assert get_metadata(guest, theirs(user, b"Work")) == {A: b"secret"}
    assert state(guest) == {(b"", A): b"own"}


@pytest.mark.valgrind
def test_store_is_damaged(server, client, user, other):
    guest = broken(server, client, user, other)
    damage(server, user)
    refused(guest, *reads_and_writes(theirs(user, b"Work")), code=b"T NO [CORRUPTION] The store is damaged.")
    assert "Error: metasync: Owner %s: " % user in server.log()


def test_store_is_busy(make_server):
    import sqlite3
    server = make_server(**sharing(plugin={"metasync_busy_timeout": "50ms"}))
    guest = broken(server, server.login, "ann", "bob")
    database = sqlite3.connect(server.home("ann") + "/metasync/store.db", isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    name = theirs("ann", b"Work")
    refused(guest, b'SETMETADATA %s (%s "1")' % (name, A), code=b"T NO [UNAVAILABLE] The store is busy, try again.")
    assert get_metadata(guest, name) == {A: b"secret"}
    database.execute("ROLLBACK")
    database.close()
    set_metadata(guest, name, (A, b'"1"'))


@as_root
@pytest.mark.parametrize("mode, reason", [("0666", "Cannot be looked up"),
                                          ("0777", "Has uid 29001, but this process is uid 29003")])
def test_owner_has_another_uid(make_server, mode, reason):
    """Mail can be shared by file permissions then, entries cannot: said so, and no store is made that the owner
    could not use. (By default auth tells nothing of users of another uid.)"""
    server = make_server(**sharing("maildir:{root}/home/%%u/mail", userdb="\n  result_success = continue-ok", extra="""
userdb {
  driver = passwd-file
  args = {root}/users
}
service auth {
  unix_listener auth-userdb {
    mode = %s
  }
}
""" % mode))
    users = {"ann": 29001, "bob": 29003}
    with open(server.root + "/users", "w") as f:
        for name, uid in users.items():
            f.write("%s::%d:%d::%s::\n" % (name, uid, uid, server.home(name)))
    os.chmod(server.root + "/home", 0o777)
    owner, guest = server.login("ann"), server.login("bob")
    box(owner, b"Work", "bob")
    for directory, _, files in os.walk(server.home("ann")):
        os.chmod(directory, 0o777)
        for f in files:
            os.chmod(os.path.join(directory, f), 0o666)
    ok(guest, b"STATUS shared/ann/Work (MESSAGES)")
    refused(guest, *reads_and_writes(b"shared/ann/Work"), code=NO_OWNER)
    await_log(server, "Error: metasync: Owner ann: " + reason)
    assert len(re.findall(r"Error: metasync: Owner ann: " + reason, server.log())) == 1
    assert not os.path.exists(server.home("ann") + "/metasync")
    put(owner, [(A, b'"1"')], b"Work")


# -- processes -------------------------------------------------------------------------------------

@pytest.mark.valgrind
def test_many_sessions_of_a_process(make_server):
    """Owners and others together; sessions end in between."""
    server = make_server(**sharing(client_limit=50, service_count=0))
    owners = {name: server.login(name) for name in ("ann", "bob", "cid")}
    for name, c in owners.items():
        box(c, b"Work", *owners)
    watches = {name: Watch(server.login(name), b"(PERSONAL) /shared").catch_up() for name in owners}
    for i in range(3):
        for name in owners:
            for other in owners:
                c = server.login(other)
                mine = b"Work" if name == other else theirs(name, b"Work")
                set_metadata(c, mine, (A, b'"%d %s"' % (i, other.encode())))
                watches[name].until("marker")
                assert watches[name].state == {(b"Work", A): b"%d %s" % (i, other.encode())}
                if other != "ann":
                    c.logout()
    for w in watches.values():
        w.done()


# -- dsync -----------------------------------------------------------------------------------------

def dsync(server, source, target, *options, to=None):
    """to: another server."""
    # doveadm hands its settings to its children
    done = server.doveadm("sync", "-u", source, *options, "env", "-i", "PATH=" + os.environ["PATH"], "doveadm", "-c",
                          (to or server).root + "/dovecot.conf", "dsync-server", "-u", target)
    assert done.returncode in (0, 2), done.stderr
    return done.stdout.strip()


@plain_doveadm
@pytest.mark.parametrize("name", ["maildir", "maildir-index"])
def test_dsync(make_server, name):
    """Carries what others have written, removals included, also if their index of the mailbox is another."""
    own, location = FORMATS[name]
    server = make_server(**sharing(location, mail_location=own))
    owner, guest = server.login("ann"), server.login("bob")
    for mailbox in (b"INBOX", b"Work"):
        if mailbox != b"INBOX":
            ok(owner, b"CREATE " + mailbox)
        share(owner, mailbox, "bob")
        put(owner, [(A, b'"1"')], mailbox)
        set_metadata(guest, theirs("ann", mailbox), (B, b'"1"'))
    owner.logout()
    guest.logout()
    for c in ("ann", "bob"):
        server.await_no_session(c)
    first = dsync(server, "ann", "target", "-s", "")
    assert state(server.login("target")) == {(mailbox, entry): b"1" for mailbox in (b"INBOX", b"Work")
                                             for entry in (A, B)}
    guest = server.login("bob")
    for mailbox in (b"INBOX", b"Work"):
        set_metadata(guest, theirs("ann", mailbox), (A, b'"2"'), (B, b"NIL"))
    guest.logout()
    server.await_no_session("bob")
    dsync(server, "ann", "target", "-s", first)
    assert state(server.login("target")) == {(b"INBOX", A): b"2", (b"Work", A): b"2"}


@plain_doveadm
def test_dsync_of_a_shared_namespace(make_server):
    """From host to host, by the other user: out of the owner's store there, into the owner's store here."""
    here, there = make_server(**sharing()), make_server(**sharing())

    def write(*pairs):
        owner = here.login("ann")
        put(owner, pairs, b"Work")
        owner.logout()
        here.await_no_session("ann")
    owner = here.login("ann")
    box(owner, b"Work", "bob", rights=b"lrwstiekx")
    owner.logout()
    write((A, b'"1"'))
    there.login("ann")
    dsync(here, "ann", "ann", to=there)
    share(there.login("ann"), b"Work", "bob", rights=b"lrwstiekx")
    w = Watch(there.login("ann"), b"(PERSONAL) /shared").catch_up()
    assert w.state == {(b"Work", A): b"1"}
    # makes the namespaces
    for server in (here, there):
        ok(server.login("bob"), b"SUBSCRIBE shared/ann/Work")
    first = dsync(here, "bob", "bob", "-N", "-s", "", to=there)
    write((A, b"NIL"), (B, b'"2"'))
    dsync(here, "bob", "bob", "-N", "-s", first, to=there)
    w.until("marker")
    assert w.state == {(b"Work", B): b"2"}
    assert state(there.login("bob")) == {}


# -- what Dovecot keeps for itself -----------------------------------------------------------------

@plain_doveadm
def test_internal_attributes_of_shared_mailboxes(make_server):
    """mail_crypt hands the key of an encrypted mailbox to another user, in an attribute of the mailbox."""
    server = make_server(**sharing(extra=DICTIONARY + "mail_plugins = $mail_plugins mail_crypt mail_crypt_acl\n"
                                   # mail_crypt_acl looks for users without the userdb
                                   "mail_home = {root}/home/%u\n",
                                   plugins="mail_crypt mail_crypt_acl",
                                   plugin={"mail_crypt_curve": "secp521r1", "mail_crypt_save_version": "2"}))
    owner = server.login("ann")
    ok(owner, b"CREATE Work")
    r = server.doveadm("mailbox", "cryptokey", "generate", "-u", "ann", "-U")
    assert r.returncode == 0, r.stderr
    owner = server.login("ann")
    set_metadata(owner, b"Work", (A, b'"1"'))
    ok(owner, b"APPEND Work {%d+}\r\n%s" % (len(MESSAGE), MESSAGE))
    share(owner, b"Work", "bob")
    guest = server.login("bob")
    ok(guest, b"SELECT " + theirs("ann", b"Work"))
    assert b"world" in b"".join(ask(guest, b"FETCH 1 BODY[TEXT]"))
    set_metadata(guest, theirs("ann", b"Work"), (B, b'"2"'))
    assert get_metadata(owner, b"Work") == {A: b"1", B: b"2"}
    assert state(owner) == {(b"Work", A): b"1", (b"Work", B): b"2"}
    with open(server.home("ann") + "/dict") as f:
        text = f.read()
    assert "vendor/vendor.dovecot/pvt/crypt/" in text and "vendor/test" not in text
    assert b"lr" in b"".join(ask(owner, b"GETACL Work"))
