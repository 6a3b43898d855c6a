"""Mails that are away for a moment while the store is there (a file system that is not mounted), GUIDs that are made anew,
and INBOXes that go: nothing is lost but what is known to be gone."""

import contextlib
import os
import re
import shutil
import sqlite3
import time

import pytest

from harness.server import imap_pid
from lifecycle import await_log
from mailboxes import A, FORMATS, await_sleep, create, ok, others, rename
from metasync import Watch, ask, last, lines_until, put

B = b"/private/vendor/test/b"
AWAY = "are the mails away"


@pytest.fixture(scope="module", params=FORMATS)
def server(request, make_module_server):
    return make_module_server(mail_location=FORMATS[request.param])


@pytest.fixture(scope="module")
def plain(make_module_server):
    return make_module_server()


def entries(c):
    return Watch(c, b"(PERSONAL) /private").catch_up().done().state


@contextlib.contextmanager
def session(server, user):
    """That has ended wholly afterwards."""
    c = server.login(user)
    yield c
    c.logout()
    server.await_no_session(user)


def seen(server, user):
    with session(server, user) as c:
        return entries(c)


def fill(server, user, *names):
    """Mailboxes with an entry each, INBOX too. Returns the entries."""
    with session(server, user) as c:
        put(c, [(A, b'"INBOX"')], mailbox=b"INBOX")
        create(c, *names)
    return {(name, A): name for name in (b"INBOX", *names)}


def lose(server, user):
    """The mails are gone; an empty directory is left, as where a file system was mounted."""
    mail = server.home(user) + "/mail"
    shutil.rmtree(mail, ignore_errors=True)
    os.mkdir(mail)
    if os.getuid() == 0:
        os.chown(mail, server.mail_uid, server.mail_gid)


def unmount(server, user):
    os.rename(server.home(user) + "/mail", server.home(user) + "/mail-away")
    lose(server, user)


def mount(server, user):
    shutil.rmtree(server.home(user) + "/mail")
    os.rename(server.home(user) + "/mail-away", server.home(user) + "/mail")


def warnings(server, user, least=0):
    """Those in the log, which is read until there are so many: it is written by another process."""
    deadline = time.monotonic() + 30
    while True:
        found = [line for line in server.log().splitlines() if AWAY in line and "(%s)" % user in line]
        if len(found) >= least or time.monotonic() > deadline:
            return found
        time.sleep(0.01)


def purge(server, user, *options):
    done = server.doveadm("metasync", "purge", "-m", *options, "-u", user)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def delete_inbox(server, user):
    """Without the plugin."""
    done = server.doveadm("-o", "mail_plugins=", "mailbox", "delete", "-u", user, "INBOX")
    if done.returncode == 0:
        return
    # Maildir's is not deleted by Dovecot
    assert "INBOX can't be deleted" in done.stderr
    mail = server.home(user) + "/mail/"
    for name in os.listdir(mail):
        if name.startswith("dovecot"):
            os.remove(mail + name)
    for name in ("cur", "new", "tmp"):
        shutil.rmtree(mail + name)


def new_guid(server, user, name, number):
    others(server, "update", user, "--mailbox-guid", "%032x" % number, name)


# -- the mails are away ----------------------------------------------------------------------------

@pytest.mark.valgrind
def test_away_and_back(server, user):
    expected = fill(server, user, b"Work", b"Job")
    unmount(server, user)
    with session(server, user) as c:
        assert entries(c) == expected
        assert last(c, b"GETMETADATA Job %s" % A).startswith(b"T NO ")
        assert last(c, b'XMETASET Job (%s "x")' % A).startswith(b"T NO [NONEXISTENT] ")
        # made anew, by a client that finds nothing
        ok(c, b"SELECT INBOX")
        ok(c, b"CREATE Work")
        put(c, [(B, b'"new"')], mailbox=b"Work")
        assert ask(c, b"GETMETADATA Work %s" % A)[0].endswith(b"Work)")
        create(c, b"Meanwhile")
        assert entries(c) == {**expected, (b"Work", B): b"new", (b"Meanwhile", A): b"Meanwhile"}
    with session(server, user) as c:
        ok(c, b'SETMETADATA INBOX (%s "new")' % B)
    expected.update({(b"Work", B): b"new", (b"INBOX", B): b"new"})
    assert seen(server, user) == {**expected, (b"Meanwhile", A): b"Meanwhile"}
    # of what was there meanwhile only, nothing stays
    mount(server, user)
    for _ in range(2):
        assert seen(server, user) == expected
    # and what is known of them is right
    rename(server, user, "Work", "Other")
    others(server, "delete", user, "Job")
    assert seen(server, user) == {(b"INBOX", A): b"INBOX", (b"INBOX", B): b"new", (b"Other", A): b"Work",
                                  (b"Other", B): b"new"}


@pytest.mark.parametrize("command", [b"XMETASET", b"SETMETADATA"])
def test_away_during_a_session(server, user, command):
    """Which has used the store, and these mailboxes, before."""
    expected = fill(server, user, b"Work", b"Job")
    with session(server, user) as c:
        put(c, [(B, b'"1"')], mailbox=b"Work")
        expected[b"Work", B] = b"1"
        unmount(server, user)
        # with LAYOUT=index Dovecot fails
        if last(c, b"CREATE Work").startswith(b"T OK"):
            ok(c, b'%s Work (%s "2")' % (command, B))
            assert last(c, b'XMETASET Job (%s "x")' % A).startswith(b"T NO [NONEXISTENT] ")
            expected[b"Work", B] = b"2"
        assert entries(c) == expected
    mount(server, user)
    assert seen(server, user) == expected


@pytest.mark.parametrize("command", [b"DELETE Work", b"RENAME Work Job", b"RENAME Work Else"])
def test_deleted_and_renamed_while_away(server, user, command):
    """It was not the mailbox whose entries the store has."""
    expected = fill(server, user, b"Work", b"Job")
    unmount(server, user)
    with session(server, user) as c:
        ok(c, b"CREATE Work")
        ok(c, command)
        assert entries(c) == expected
    mount(server, user)
    assert seen(server, user) == expected


def test_back_during_a_session(server, user):
    """Its writes know the mailboxes again."""
    expected = fill(server, user, b"Work", b"Job")
    others(server, "create", user, "New")
    unmount(server, user)
    with session(server, user) as c:
        assert entries(c) == expected
        mount(server, user)
        # with LAYOUT=index Dovecot fails
        if not last(c, b'XMETASET New (%s "New")' % A).startswith(b"T NO [UNAVAILABLE] Mailbox"):
            expected[b"Newer", A] = b"New"
    rename(server, user, "New", "Newer", "Work", "Worker")
    expected[b"Worker", A] = expected.pop((b"Work", A))
    assert seen(server, user) == expected


def test_all_made_anew_while_away(server, user):
    """Then it cannot be told from GUIDs that are new; nothing is lost nevertheless."""
    expected = fill(server, user, b"Work")
    unmount(server, user)
    with session(server, user) as c:
        ok(c, b"SELECT INBOX")
        ok(c, b"CREATE Work")
        assert entries(c) == expected
    mount(server, user)
    assert seen(server, user) == expected
    rename(server, user, "Work", "Job")
    assert seen(server, user) == {(b"INBOX", A): b"INBOX", (b"Job", A): b"Work"}


def test_away_while_mailboxes_are_compared(plain, user):
    """INBOX was there when it was looked at, and then all is gone."""
    expected = fill(plain, user, b"Work", b"Job")
    db = sqlite3.connect(plain.home(user) + "/metasync/store.db", isolation_level=None)
    db.execute("UPDATE meta SET witness = NULL")
    db.execute("BEGIN IMMEDIATE")
    c = plain.login(user)
    tag = c.start(b"XMETASYNC (ONCE DEPTH infinity) (PERSONAL) /private")
    await_sleep(imap_pid(c.sock))
    # it is about to remember the INBOX that it has seen
    unmount(plain, user)
    db.execute("ROLLBACK")
    db.close()
    assert sum(line.startswith(b"* METADATA") for line in lines_until(c, tag)) == 3
    # the look made no INBOX
    assert os.listdir(plain.home(user) + "/mail") == []
    c.logout()
    assert seen(plain, user) == expected
    mount(plain, user)
    assert seen(plain, user) == expected


def test_looking_makes_no_inbox(server, user):
    expected = fill(server, user, b"Work")
    unmount(server, user)
    assert seen(server, user) == expected
    made = [name for _, names, _ in os.walk(server.home(user) + "/mail") for name in names]
    assert not {"cur", "dbox-Mails", "INBOX"} & set(made), made


def test_one_line_says_so(plain, user):
    fill(plain, user, b"Work", b"Job", b"Deep")
    unmount(plain, user)
    for inbox in ("is missing", "is another one than before"):
        with session(plain, user) as c:
            for _ in range(3):
                entries(c)
                assert last(c, b'XMETASET Job (%s "x")' % A).startswith(b"T NO [NONEXISTENT] ")
                # each looks whether it may be followed
                ok(c, b"CREATE Else")
                ok(c, b"DELETE Else")
            ok(c, b"SELECT INBOX")
        line = warnings(plain, user, 1).pop()
        assert re.search(r"Warning: metasync: INBOX %s, and (3|4) of 4 mailboxes with entries are missing" % inbox, line)
        assert line.endswith("doveadm metasync purge -m -u " + user)
    assert len(warnings(plain, user, 2)) == 2
    mount(plain, user)
    seen(plain, user)
    assert len(warnings(plain, user, 2)) == 2


def test_inbox_that_cannot_be_opened(plain, user):
    expected = fill(plain, user, b"Work")
    others(plain, "delete", user, "Work")
    path = plain.home(user) + "/mail/dovecot-uidlist"
    os.rename(path, path + "-")
    os.mkdir(path)
    try:
        assert seen(plain, user) == expected
        assert "INBOX cannot be opened" in warnings(plain, user, 1)[0]
        done = plain.doveadm("metasync", "purge", "-m", "-u", user)
        assert done.returncode == 75
        assert "metasync: INBOX cannot be opened" in done.stderr
    finally:
        os.rmdir(path)
        os.rename(path + "-", path)
    assert seen(plain, user) == {(b"INBOX", A): b"INBOX"}


# -- GUIDs that are new ----------------------------------------------------------------------------

def test_new_guids(server, user):
    expected = fill(server, user, b"Work", b"Work/Sub")
    for number, name in enumerate(("INBOX", "Work", "Work/Sub")):
        new_guid(server, user, name, number + 1)
    assert seen(server, user) == expected
    await_log(server, r"\(%s\).*took over the new GUIDs of 3" % user)
    assert warnings(server, user) == []
    rename(server, user, "Work", "Job")
    assert seen(server, user) == {(b"INBOX", A): b"INBOX", (b"Job", A): b"Work", (b"Job/Sub", A): b"Work/Sub"}


def test_lost_uidlists(plain, user):
    expected = fill(plain, user, b"Work", b"Job")
    for directory, _, names in os.walk(plain.home(user) + "/mail"):
        for name in names:
            if name == "dovecot-uidlist":
                os.remove(os.path.join(directory, name))
    for _ in range(2):
        assert seen(plain, user) == expected
    others(plain, "delete", user, "Work")
    assert seen(plain, user) == {(b"INBOX", A): b"INBOX", (b"Job", A): b"Job"}


def test_new_guids_of_some(server, user):
    """Those that have kept theirs are found under other names, too."""
    fill(server, user, b"Work", b"Job")
    new_guid(server, user, "INBOX", 1)
    new_guid(server, user, "Work", 2)
    rename(server, user, "Job", "Else")
    assert seen(server, user) == {(b"INBOX", A): b"INBOX", (b"Work", A): b"Work", (b"Else", A): b"Job"}


# -- the mails are gone for good -------------------------------------------------------------------

@pytest.mark.parametrize("inbox", [True, False])
def test_purge(server, user, inbox):
    expected = fill(server, user, b"Work", b"Job", b"Deep")
    lose(server, user)
    with session(server, user) as c:
        if inbox:
            ok(c, b"CREATE Work")
            ok(c, b"SELECT INBOX")
        assert entries(c) == expected
    assert len(warnings(server, user, 1)) == 1
    assert purge(server, user) == "purged=0 mailboxes=%d" % (2 if inbox else 4)
    expected = {(b"INBOX", A): b"INBOX", (b"Work", A): b"Work"} if inbox else {}
    with session(server, user) as c:
        assert entries(c) == expected
        ok(c, b"SELECT INBOX")
        create(c, b"New")
    # the present INBOX is the witness
    others(server, "delete", user, "New")
    assert seen(server, user) == expected
    assert len(warnings(server, user, 1)) == 1


def test_purge_of_what_is_there(plain, user):
    expected = fill(plain, user, b"Work", b"Job")
    assert purge(plain, user) == "purged=0 mailboxes=0"
    assert seen(plain, user) == expected
    others(plain, "delete", user, "Job")
    assert purge(plain, user, "-a") == "purged=1 mailboxes=1"
    assert purge(plain, user + "-none") == "purged=0 mailboxes=0"
    assert not os.path.exists(plain.home(user + "-none") + "/metasync")


def test_purge_for_several(plain, user):
    names = [user + "-x1", user + "-x2"]
    for name in names:
        fill(plain, name, b"Work")
        lose(plain, name)
    users = plain.root + "/users"
    with open(users, "w") as f:
        f.write("".join(name + "\n" for name in names))
    done = plain.doveadm("-f", "tab", "metasync", "purge", "-m", "-F", users)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == [name + "\t0\t2" for name in names]


# -- INBOX goes ------------------------------------------------------------------------------------

@pytest.mark.parametrize("by", ["client", "doveadm", "others"])
def test_inbox_renamed(server, user, by):
    """The witness goes along, until there is another INBOX."""
    expected = fill(server, user, b"Work", b"Job")
    if by == "client":
        with session(server, user) as c:
            done = last(c, b"RENAME INBOX Old").startswith(b"T OK")
    elif by == "doveadm":
        done = server.doveadm("mailbox", "rename", "-u", user, "INBOX", "Old").returncode == 0
    else:
        done = server.doveadm("-o", "mail_plugins=", "mailbox", "rename", "-u", user, "INBOX", "Old").returncode == 0
    if done:
        expected[b"Old", A] = expected.pop((b"INBOX", A))
    others(server, "delete", user, "Work")
    del expected[b"Work", A]
    assert seen(server, user) == expected
    with session(server, user) as c:
        ok(c, b"SELECT INBOX")
        assert entries(c) == expected
    assert seen(server, user) == expected
    if done:
        # it is not needed any more
        others(server, "delete", user, "Old")
        del expected[b"Old", A]
        assert seen(server, user) == expected
    unmount(server, user)
    assert seen(server, user) == expected
    mount(server, user)
    assert seen(server, user) == expected


def test_inbox_deleted(server, user):
    fill(server, user, b"Work", b"Job")
    done = server.doveadm("mailbox", "delete", "-u", user, "INBOX")
    if "INBOX can't be deleted" in done.stderr:
        return
    with session(server, user) as c:
        ok(c, b"SELECT INBOX")
    others(server, "delete", user, "Work")
    assert seen(server, user) == {(b"Job", A): b"Job"}
    unmount(server, user)
    assert seen(server, user) == {(b"Job", A): b"Job"}
    assert len(warnings(server, user, 1)) == 1


def test_inbox_deleted_by_others(server, user):
    """If all the others are there, the next INBOX is taken for the right one."""
    expected = fill(server, user, b"Work", b"Job")
    delete_inbox(server, user)
    with session(server, user) as c:
        ok(c, b"SELECT INBOX")
    assert seen(server, user) == expected
    assert warnings(server, user) == []
    others(server, "delete", user, "Work")
    del expected[b"Work", A]
    assert seen(server, user) == expected


def test_inbox_and_more_deleted_by_others(server, user):
    """It looks as if the mails were away: the operator has to say it."""
    expected = fill(server, user, b"Work", b"Job")
    delete_inbox(server, user)
    others(server, "delete", user, "Work")
    assert seen(server, user) == expected
    assert len(warnings(server, user, 1)) == 1
    with session(server, user) as c:
        ok(c, b"SELECT INBOX")
    assert purge(server, user) == "purged=0 mailboxes=1"
    del expected[b"Work", A]
    assert seen(server, user) == expected


# -- the owner of shared mailboxes -----------------------------------------------------------------

def test_shared_by_an_owner_whose_mails_are_away(make_server, user):
    """Another user's session heals the owner's store: the same rule."""
    acls = "mail_plugins = metasync acl\nprotocol imap {\n  mail_plugins = metasync acl imap_long_command imap_metasync\n}\n"
    with make_server(plugin={"acl": "vfile", "acl_shared_dict": "file:{root}/home/acls"}, extra=acls + """
namespace shared {
  type = shared
  prefix = shared/%%u/
  separator = /
  location = maildir:%%h/mail
  subscriptions = no
  list = children
}
""") as server:
        shared, guest = b"/shared/vendor/test/a", user + "-guest"
        expected = fill(server, user, b"Work", b"Job")

        def set_as_guest(value):
            with open(server.home(user) + "/mail/.Work/dovecot-acl", "w") as f:
                f.write("owner lrwiakxte\nuser=%s lr\n" % guest)
            with session(server, guest) as c:
                ok(c, b'SETMETADATA shared/%s/Work (%s "%s")' % (user.encode(), shared, value))
        set_as_guest(b"1")
        unmount(server, user)
        others(server, "create", user, "Work")
        set_as_guest(b"2")
        await_log(server, "metasync: Owner %s: INBOX is .*%s" % (user, AWAY))
        mount(server, user)
        with session(server, user) as c:
            w = Watch(c, b"(PERSONAL) (/private /shared)").catch_up().done()
            assert w.state == {**expected, (b"Work", shared): b"2"}
