"""/shared entries of mailboxes shared by ACL, under other formats, namespaces, settings, owners and with dsync."""

import os
import re

import pytest

from lifecycle import MESSAGE, await_log
from metasync import Watch, ask, last, ok, put
from shared import (A, B, BROKEN, DICTIONARY, FORMATS, MINE, NO_OWNER, as_root, box, damage,
                    get_metadata, plain_doveadm, reads_and_writes, refused, set_metadata, share, sharing, state, theirs)
from shared import server, dictionary, other  # noqa: F401  (fixtures)

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
