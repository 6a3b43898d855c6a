"""Mailboxes that are renamed, deleted, created again: by a client, by doveadm with the plugin, and by a doveadm that
has not got it (noticed at the next access). The entries follow the mailbox, not the name."""

import itertools
import os
import sqlite3
import threading
import time

import pytest

from harness.server import imap_pid
from lifecycle import await_log
from mailboxes import A, FORMATS, await_sleep, away, create, healed, ok, others, rename, state
from metasync import Watch, ask, last, lines_until, put, sane

ARCHIVE = """
namespace archive {
  prefix = Archive/
  separator = /
  location = maildir:~/archive
}
namespace hidden {
  prefix = Hidden/
  separator = /
  location = maildir:~/hidden
  hidden = yes
  list = no
}
namespace dotted {
  prefix = Dotted.
  separator = .
  location = maildir:~/dotted
  hidden = yes
  list = no
}
namespace alias {
  prefix = Old/
  separator = /
  location = maildir:~/mail
  alias_for =
  hidden = yes
  list = no
}
namespace public {
  type = public
  prefix = Public/
  separator = /
  location = maildir:~/public
}
namespace inbox {
  mailbox Auto {
    auto = create
  }
}
"""


@pytest.fixture(scope="module", params=FORMATS)
def server(request, make_module_server):
    return make_module_server(mail_location=FORMATS[request.param])


@pytest.fixture(scope="module")
def namespaces(make_module_server):
    return make_module_server(extra=ARCHIVE)


# -- in a process with the plugin ------------------------------------------------------------------

@pytest.mark.valgrind
def test_rename_takes_children_along(server, user):
    c = server.login(user)
    create(c, b"Work", b"Work/Sub", b"Work/Sub/Deep", b"Workshop")
    w = Watch(server.login(user), b"(PERSONAL) /private").catch_up()
    before = w.mark[1]
    ok(c, b"RENAME Work Job")
    w.until("marker")
    assert w.mark[1] == before + 1
    w.done()
    assert state(c) == {b"Job": b"Work", b"Job/Sub": b"Work/Sub", b"Job/Sub/Deep": b"Work/Sub/Deep",
                        b"Workshop": b"Workshop"}
    # those that the store names are those that are there
    c.logout()
    assert healed(server, user)[b"Job/Sub"] == b"Work/Sub"


def test_rename_of_a_parent_that_is_no_mailbox(server, user):
    c = server.login(user)
    create(c, b"None/Sub")
    assert last(c, b'XMETASET "None" (%s "x")' % A).startswith(b"T NO [NONEXISTENT] ")
    ok(c, b"RENAME None Job")
    assert state(c) == {b"Job/Sub": b"None/Sub"}


def test_rename_that_fails_changes_nothing(server, user):
    c = server.login(user)
    create(c, b"Work", b"Job")
    assert last(c, b"RENAME Work Job").startswith(b"T NO ")
    assert last(c, b"RENAME Nowhere Somewhere").startswith(b"T NO ")
    assert last(c, b"DELETE Nowhere").startswith(b"T NO ")
    assert state(c) == {b"Work": b"Work", b"Job": b"Job"}


def test_rename_of_the_inbox(server, user):
    """Maildir++ refuses; else its entries go along with the mailbox, and the new INBOX has none. Those below it go
    where their mailboxes go."""
    c = server.login(user)
    put(c, [(A, b'"INBOX"')], mailbox=b"INBOX")
    create(c, b"INBOX/Sub")
    line = last(c, b"RENAME INBOX Old")
    if line.startswith(b"T NO"):
        assert state(c) == {b"INBOX": b"INBOX", b"INBOX/Sub": b"INBOX/Sub"}
        return
    below = b"Old/Sub" if b"Old/Sub" in b"".join(r.line for r in c.command(b'LIST "" *')) else b"INBOX/Sub"
    expected = {b"Old": b"INBOX", below: b"INBOX/Sub"}
    assert state(c) == expected
    ok(c, b"SELECT INBOX")
    c.logout()
    assert healed(server, user) == expected


def test_delete_leaves_children(server, user):
    c = server.login(user)
    create(c, b"Work", b"Work/Sub")
    ok(c, b"DELETE Work")
    assert state(c) == {b"Work/Sub": b"Work/Sub"}


def test_a_mailbox_created_again_inherits_nothing(server, user):
    c = server.login(user)
    create(c, b"Work")
    ok(c, b"DELETE Work")
    ok(c, b"CREATE Work")
    assert state(c) == {}
    put(c, [(A, b'"new"')], mailbox=b"Work")
    c.logout()
    assert healed(server, user) == {b"Work": b"new"}


def test_doveadm_with_the_plugin(server, user):
    c = server.login(user)
    create(c, b"Work", b"Work/Sub", b"Gone")
    w = Watch(c, b"(PERSONAL) /private").catch_up()
    for args in (["rename", "-u", user, "Work", "Job"], ["delete", "-u", user, "Gone"]):
        done = server.doveadm("mailbox", *args)
        assert (done.returncode, done.stderr) == (0, "")
        # told at once, nothing had to be healed
        w.until("marker")
    assert w.state == {(b"Job", A): b"Work", (b"Job/Sub", A): b"Work/Sub"}
    w.done()


def test_who_never_used_it_gets_no_store(server, user):
    c = server.login(user)
    ok(c, b"CREATE Work")
    ok(c, b"RENAME Work Job")
    ok(c, b"DELETE Job")
    c.logout()
    assert not os.path.exists(server.home(user) + "/metasync")


def test_names_with_wildcards_of_the_engine(server, user):
    c = server.login(user)
    create(c, b"a_b", b"a_b/x", b"aXb", b"aXb/x")
    ok(c, b"RENAME a_b fresh")
    assert state(c) == {b"fresh": b"a_b", b"fresh/x": b"a_b/x", b"aXb": b"aXb", b"aXb/x": b"aXb/x"}


# -- by a process without the plugin ---------------------------------------------------------------

@pytest.mark.valgrind
def test_renamed_by_others(server, user):
    away(server, user, b"Work", b"Work/Sub", b"Workshop")
    c = server.login(user)
    put(c, [(A, b'"INBOX"')], mailbox=b"INBOX")
    c.logout()
    rename(server, user, "Work", "Job")
    expected = {b"Job": b"Work", b"Job/Sub": b"Work/Sub", b"Workshop": b"Workshop", b"INBOX": b"INBOX"}
    assert healed(server, user) == expected
    # once is enough
    c = server.login(user)
    mark = Watch(c, b"(PERSONAL) /private").catch_up().done().mark
    c.logout()
    c = server.login(user)
    assert Watch(c, b"(PERSONAL) /private").catch_up().done().mark == mark


def test_a_rename_by_others_is_told_as_a_change(server, user):
    away(server, user, b"Work")
    c = server.login(user)
    w = Watch(c, b"(PERSONAL) /private").catch_up().done()
    c.logout()
    rename(server, user, "Work", "Job")
    w.client = server.login(user)
    w.catch_up(w.mark).done()
    assert sorted(w.entries()) == [b'* METADATA "Job" (%s "Work")' % A, b'* METADATA "Work" (%s NIL)' % A]


def test_deleted_by_others(server, user):
    away(server, user, b"Work", b"Work/Sub", b"Stays")
    others(server, "delete", user, "Work/Sub")
    others(server, "delete", user, "Work")
    assert healed(server, user) == {b"Stays": b"Stays"}


def test_deleted_by_others_leaves_children(server, user):
    """Where there are directories, what is left of it is one."""
    away(server, user, b"Work", b"Work/Sub")
    others(server, "delete", user, "Work")
    assert healed(server, user) == {b"Work/Sub": b"Work/Sub"}


def test_renamed_by_others_there_and_back(make_server, user):
    """While a session goes on, which had seen the mailbox under its name before."""
    with make_server() as server:
        c = server.login(user)
        create(c, b"Work")
        put(c, [(A, b'"1"')], mailbox=b"Work")
        rename(server, user, "Work", "Job")
        put(c, [(b"/private/b", b'"2"')], mailbox=b"Job")
        rename(server, user, "Job", "Work")
        put(c, [(b"/private/c", b'"3"')], mailbox=b"Work")
        for _ in range(2):
            w = Watch(c, b"(PERSONAL) /private").catch_up().done()
            assert w.state == {(b"Work", A): b"1", (b"Work", b"/private/b"): b"2", (b"Work", b"/private/c"): b"3"}
            c.logout()
            c = server.login(user)


def test_entries_under_two_names_of_a_mailbox(make_server, user):
    """One session has seen the mailbox under its old name, another one under the new; then it is there and back. Both
    write: the next session finds what both have written."""
    with make_server() as server:
        c, d = server.login(user), server.login(user)
        create(c, b"Work")
        put(c, [(A, b'"0"')], mailbox=b"Work")
        rename(server, user, "Work", "Job")
        put(d, [(A, b'"1"'), (b"/private/b", b'"1"')], mailbox=b"Job")
        rename(server, user, "Job", "Work")
        put(c, [(b"/private/b", b'"2"'), (b"/private/c", b'"3"')], mailbox=b"Work")
        c.logout()
        d.logout()
        c = server.login(user)
        w = Watch(c, b"(PERSONAL) /private").catch_up().done()
        assert w.state == {(b"Work", A): b"1", (b"Work", b"/private/b"): b"2", (b"Work", b"/private/c"): b"3"}


def test_a_mailbox_is_moved_in_passing(make_server, user):
    """A session that has noticed a rename when no command named the mailbox does not rely on what it saw before."""
    with make_server() as server:
        c = server.login(user)
        create(c, b"Work")
        put(c, [(A, b'"1"')], mailbox=b"Work")
        rename(server, user, "Work", "Job")
        # Maildir++ could have failed in the middle: compare again
        assert last(c, b"RENAME Nope Else").startswith(b"T NO ")
        assert last(c, b'XMETASYNC (ONCE) "" /private').startswith(b"T OK ")
        await_log(server, r"imap\(%s\).*moved the entries of 1" % user)
        put(c, [(b"/private/b", b'"2"')], mailbox=b"Job")
        rename(server, user, "Job", "Work")
        put(c, [(b"/private/c", b'"3"')], mailbox=b"Work")
        w = Watch(c, b"(PERSONAL) /private").catch_up().done()
        assert w.state == {(b"Work", A): b"1", (b"Work", b"/private/b"): b"2", (b"Work", b"/private/c"): b"3"}


def test_deleted_and_created_by_others(server, user):
    away(server, user, b"Work", b"Stays")
    others(server, "delete", user, "Work")
    others(server, "create", user, "Work")
    assert healed(server, user) == {b"Stays": b"Stays"}


def test_name_taken_by_another(server, user):
    away(server, user, b"Work")
    rename(server, user, "Work", "Job")
    others(server, "create", user, "Work")
    assert healed(server, user) == {b"Job": b"Work"}


def test_names_that_go_on(server, user):
    """Each name is the next one's old name."""
    away(server, user, b"A", b"B", b"C")
    rename(server, user, "C", "D", "B", "C", "A", "B")
    assert healed(server, user) == {b"B": b"A", b"C": b"B", b"D": b"C"}


@pytest.mark.valgrind
def test_names_that_go_round(server, user):
    away(server, user, b"A", b"B", b"C")
    rename(server, user, "A", "T", "C", "A", "B", "C", "T", "B")
    assert healed(server, user) == {b"A": b"C", b"B": b"A", b"C": b"B"}


def test_a_child_that_went_elsewhere(server, user):
    away(server, user, b"Work", b"Work/Sub", b"Work/Rest")
    rename(server, user, "Work/Sub", "Else", "Work", "Job")
    assert healed(server, user) == {b"Job": b"Work", b"Else": b"Work/Sub", b"Job/Rest": b"Work/Rest"}


def test_renamed_by_others_during_a_session(server, user):
    """A command that names the mailbox notices it; a watch is told."""
    c = server.login(user)
    create(c, b"Work", b"Other")
    w = Watch(server.login(user), b"(PERSONAL) /private").catch_up()
    rename(server, user, "Work", "Job")
    put(c, [(A, b'"new"')], mailbox=b"Job")
    assert state(c) == {b"Job": b"new", b"Other": b"Other"}
    while w.state != {(b"Job", A): b"new", (b"Other", A): b"Other"}:
        w.until("marker")
    w.done()


def test_name_taken_by_another_during_a_session(server, user):
    c = server.login(user)
    create(c, b"One", b"Two")
    others(server, "delete", user, "One")
    rename(server, user, "Two", "One")
    put(c, [(b"/private/vendor/test/b", b'"b"')], mailbox=b"One")
    w = Watch(c, b"One /private").catch_up().done()
    assert w.state == {(b"One", A): b"Two", (b"One", b"/private/vendor/test/b"): b"b"}


def test_name_taken_by_another_after_it_was_named_often(server, user):
    c = server.login(user)
    create(c, b"One", b"Two")
    put(c, [(A, b'"again"')], mailbox=b"One")
    others(server, "delete", user, "One")
    rename(server, user, "Two", "One")
    put(c, [(b"/private/vendor/test/b", b'"b"')], mailbox=b"One")
    w = Watch(c, b"(PERSONAL) /private").catch_up().done()
    assert w.state == {(b"One", A): b"Two", (b"One", b"/private/vendor/test/b"): b"b"}


def test_created_again_by_others_during_a_session(server, user):
    """A condition for the old mailbox's entry does not hold for the new one's."""
    c = server.login(user)
    create(c, b"Work")
    others(server, "delete", user, "Work")
    others(server, "create", user, "Work")
    put(c, [(b"/private/vendor/test/b", b'"new"')], mailbox=b"Work")
    w = Watch(c, b"(PERSONAL) /private").catch_up().done()
    assert w.state == {(b"Work", b"/private/vendor/test/b"): b"new"}


def test_deleted_by_others_during_a_session(server, user):
    c = server.login(user)
    create(c, b"Work")
    others(server, "delete", user, "Work")
    assert last(c, b'XMETASET "Work" (%s "x")' % A).startswith(b"T NO [NONEXISTENT] ")
    assert state(c) == {}


def test_stock_sync_of_a_renamed_mailbox(server, user):
    """A rename that comes from another server."""
    away(server, user, b"Work")
    copy = "mdbox:%s/copy" % server.home(user)
    for _ in range(2):
        done = server.doveadm("sync", "-u", user, copy)
        assert (done.returncode, done.stderr) == (0, "")
        other = server.doveadm("-o", "mail_plugins=", "-o", "mail_location=" + copy, "mailbox", "rename", "-u", user,
                               "Work", "Job")
    assert other.returncode != 0, "renamed the first time only"
    assert healed(server, user) == {b"Job": b"Work"}


# -- namespaces ------------------------------------------------------------------------------------

def test_rename_to_another_namespace(namespaces, user):
    c = namespaces.login(user)
    create(c, b"Work", b"Work/Sub")
    ok(c, b"RENAME Work Archive/Work")
    expected = {b"Archive/Work": b"Work", b"Archive/Work/Sub": b"Work/Sub"}
    assert state(c) == expected
    c.logout()
    assert healed(namespaces, user) == expected


def test_rename_to_a_namespace_with_another_separator(namespaces, user):
    c = namespaces.login(user)
    create(c, b"Work", b"Work/Sub")
    ok(c, b"RENAME Work Dotted.Work")
    there = state(c)
    assert there[b"Dotted.Work"] == b"Work"
    # stock Dovecot 2.3 loses the child; in any case there are no entries of what is no mailbox
    for name in there:
        ok(c, b'SELECT "%s"' % name)
    c.logout()
    assert healed(namespaces, user) == there


def test_others_rename_in_a_hidden_namespace(namespaces, user):
    away(namespaces, user, b"Hidden/Work")
    rename(namespaces, user, "Hidden/Work", "Hidden/Job")
    assert healed(namespaces, user) == {b"Hidden/Job": b"Hidden/Work"}


def test_an_alias_is_the_same_mailbox(namespaces, user):
    c = namespaces.login(user)
    create(c, b"Work")
    put(c, [(A, b'"by its alias"')], mailbox=b"Old/Work")
    assert state(c) == {b"Work": b"by its alias"}
    ok(c, b"RENAME Old/Work Old/Job")
    assert state(c) == {b"Job": b"by its alias"}
    ok(c, b"DELETE Old/Job")
    assert state(c) == {}


def test_public_mailboxes_are_left_alone(namespaces, user):
    c = namespaces.login(user)
    ok(c, b"CREATE Public/Work")
    assert last(c, b'XMETASET "Public/Work" (%s "x")' % A).startswith(b"T NO [CANNOT] ")
    ok(c, b"RENAME Public/Work Public/Job")
    ok(c, b"DELETE Public/Job")
    assert not os.path.exists(namespaces.home(user) + "/metasync")


def test_names_of_the_inbox(namespaces, user):
    c = namespaces.login(user)
    put(c, [(A, b'"x"')], mailbox=b"inBoX")
    create(c, b"INBOX/Sub")
    put(c, [(A, b'"y"')], mailbox=b"inbox/Sub")
    assert state(c) == {b"INBOX": b"x", b"INBOX/Sub": b"y"}


@pytest.mark.parametrize("name", [b"Archive", b"Archive/", b"Public", b"/x", b"x//y", b"../x", b"x.y"])
def test_names_that_are_no_mailboxes(namespaces, user, name):
    c = namespaces.login(user)
    assert last(c, b'XMETASET "%s" (%s "x")' % (name, A)).startswith((b"T NO [NONEXISTENT] ", b"T NO [CANNOT] "))
    sane(c)


def test_children_that_stay(namespaces, user):
    """Maildir++ leaves a child where it is if the new parent has one of that name: neither may get the other's
    entries."""
    c = namespaces.login(user)
    create(c, b"Work", b"Work/Sub", b"Work/Rest", b"Job/Sub")
    ok(c, b"RENAME Work Job")
    expected = {b"Job": b"Work", b"Job/Rest": b"Work/Rest", b"Job/Sub": b"Job/Sub", b"Work/Sub": b"Work/Sub"}
    assert state(c) == expected
    c.logout()
    assert healed(namespaces, user) == expected


def test_healing_creates_no_mailbox(namespaces, user):
    """One that is created automatically when it is opened."""
    c = namespaces.login(user)
    put(c, [(A, b'"x"')], mailbox=b"Auto")
    c.logout()
    assert os.path.exists(namespaces.home(user) + "/mail/.Auto")
    others(namespaces, "delete", user, "Auto")
    assert healed(namespaces, user) == {}
    assert not os.path.exists(namespaces.home(user) + "/mail/.Auto")


# -- access control lists --------------------------------------------------------------------------

def test_access_control(make_server, user):
    """The rights of stock METADATA apply (RFC 5464, 4.1); a mailbox that may not be seen has not gone."""
    with make_server(plugin={"acl": "vfile"}, extra="""
mail_plugins = metasync acl
protocol imap {
  mail_plugins = metasync acl imap_long_command imap_metasync
}""") as server:
        c = server.login(user)
        create(c, b"Read", b"Post", b"Seen", b"Unseen", b"Moved")
        c.logout()
        for name, rights in (("Read", "lr"), ("Post", "li"), ("Seen", "l"), ("Unseen", ""), ("Moved", "")):
            with open(server.home(user) + "/mail/.%s/dovecot-acl" % name, "w") as f:
                f.write("owner %s\n" % rights)
        rename(server, user, "Moved", "Unseen2")
        c = server.login(user)
        put(c, [(A, b'"new"')], mailbox=b"Read")
        put(c, [(A, b'"new"')], mailbox=b"Post")
        assert last(c, b'XMETASET "Seen" (%s "x")' % A).startswith(b"T NO [NOPERM] ")
        assert last(c, b'XMETASET "Unseen" (%s "x")' % A).startswith(b"T NO [NONEXISTENT] ")
        assert last(c, b"RENAME Seen Else").startswith(b"T NO ")
        assert last(c, b"DELETE Seen").startswith(b"T NO ")
        assert state(c) == {b"Read": b"new", b"Post": b"new", b"Seen": b"Seen", b"Unseen": b"Unseen",
                            b"Unseen2": b"Moved"}
        c.logout()


@pytest.mark.parametrize("command", [b"XMETASET", b"SETMETADATA"])
@pytest.mark.parametrize("change", ["delete", "delete a parent", "rename"])
def test_a_mailbox_goes_while_an_entry_is_set(server, user, command, change):
    """The command has found the mailbox and waits for the store; meanwhile others take the mailbox away."""
    away(server, user, b"Work", b"Stays")
    server.await_no_session(user)
    c = server.login(user)
    if change == "delete a parent":
        # its name stays
        separator = ask(c, b'LIST "" ""')[0].split(b'"')[1]
        ok(c, b"CREATE Work" + separator + b"Sub")
    w = Watch(server.login(user), b"(PERSONAL) /private").catch_up()
    db = sqlite3.connect(server.home(user) + "/metasync/store.db", isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    tag = c.start(b'%s Work (%s "late")' % (command, A))
    await_sleep(imap_pid(c.sock))
    if change == "rename":
        others(server, "rename", user, "Work", "Job")
    else:
        others(server, "delete", user, "Work")
    db.execute("ROLLBACK")
    db.close()
    reply = lines_until(c, tag)[-1]
    # stock's own transaction notices it sometimes
    assert reply.startswith(b"T OK") or (command == b"SETMETADATA" and reply == b"T NO Mailbox was deleted under us.")
    expected = {(b"Stays", A): b"Stays"}
    if change == "rename":
        expected[b"Job", A] = b"late"
    while w.state != expected:
        w.until("marker")
    w.done()


def test_renamed_by_others_all_the_time(make_server, user):
    """A mailbox that is just being renamed can be missed when mailboxes are listed. Its entries stay."""
    with make_server(mail_location="maildir:~/mail:LAYOUT=fs") as server:
        boxes = {"Start%d" % i: "Start%d" % i for i in range(12)}
        away(server, user, *(name.encode() for name in boxes))
        server.await_no_session(user)
        stop = threading.Event()

        def rename_all():
            for i in itertools.count():
                if stop.wait(0.004):
                    return
                box = "Start%d" % (i % len(boxes))
                os.rename("%s/mail/%s" % (server.home(user), boxes[box]), "%s/mail/Name%d" % (server.home(user), i))
                boxes[box] = "Name%d" % i

        thread = threading.Thread(target=rename_all)
        thread.start()
        try:
            end = time.monotonic() + 4
            while time.monotonic() < end:
                c = server.login(user)
                # healed here
                assert last(c, b'XMETASYNC (ONCE) "" /private').startswith(b"T OK")
                c.logout()
        finally:
            stop.set()
            thread.join()
        server.await_no_session(user)
        assert healed(server, user) == {name.encode(): box.encode() for box, name in boxes.items()}


# -- a store that fails ----------------------------------------------------------------------------

def test_a_failing_store_fails_no_rename(make_server, user):
    """The mailbox is renamed, the operator gets one line, and the next session mends it."""
    with make_server() as server:
        c = server.login(user)
        create(c, b"A", b"B", b"C")
        c.logout()
        server.await_no_session(user)
        store = server.home(user) + "/metasync"
        os.rename(store, store + "-elsewhere")
        with open(store, "w"):
            pass
        c = server.login(user)
        # not there: as if it had never been used
        ok(c, b"RENAME A D")
        os.remove(store)
        os.symlink("metasync-elsewhere", store)
        ok(c, b"RENAME B E")
        ok(c, b"DELETE C")
        os.remove(store)
        os.rename(store + "-elsewhere", store)
        assert state(c) == {b"D": b"A", b"E": b"B"}
        c.logout()
        await_log(server, "moved the entries of 2, removed those of 1(.|\n)*Logged out")
        assert server.log().count("is a link") == 1


def test_a_locked_store_is_mended_in_the_same_session(make_server, user):
    with make_server(plugin={"metasync_busy_timeout": "100ms"}) as server:
        c = server.login(user)
        create(c, b"Work", b"Gone")
        db = sqlite3.connect(server.home(user) + "/metasync/store.db", isolation_level=None)
        db.execute("BEGIN IMMEDIATE")
        ok(c, b"RENAME Work Job")
        ok(c, b"DELETE Gone")
        db.execute("ROLLBACK")
        db.close()
        assert state(c) == {b"Job": b"Work"}
        c.logout()


def test_a_store_that_was_replaced(make_server, user):
    """A session goes on with the new one, and compares the mailboxes that it knows."""
    with make_server() as server:
        c, d = server.login(user), server.login(user)
        put(c, [(A, b'"x"')])
        store = server.home(user) + "/metasync"
        os.rename(store, store + "-elsewhere")
        create(d, b"Work")
        rename(server, user, "Work", "Job")
        assert state(c) == {b"Job": b"Work"}


# -- settings --------------------------------------------------------------------------------------

@pytest.mark.parametrize("setting, value", [
    ("metasync_enabled", "maybe"),
    ("metasync_dir", "metasync"),
    ("metasync_limit_value", "much"),
    ("metasync_limit_value", "0"),
    ("metasync_limit_value", "257M"),
    ("metasync_limit_entries", "-1"),
    ("metasync_limit_entries", "0"),
    ("metasync_limit_entries", "2147483648"),
    ("metasync_limit_bytes", "1X"),
    ("metasync_limit_name", "1025"),
    ("metasync_limit_set", "101"),
    ("metasync_tombstones", "0"),
    ("metasync_tombstones", "90 moons"),
    ("metasync_busy_timeout", "soon"),
    ("metasync_busy_timeout", "0"),
])
def test_wrong_settings_are_named(namespaces, setting, value):
    done = namespaces.doveadm("-o", "plugin/%s=%s" % (setting, value), "mailbox", "list", "-u", "u1")
    assert done.returncode != 0
    assert done.stderr.startswith("doveadm(u1): Error: %s: " % setting), done.stderr


@pytest.mark.parametrize("setting, value", [
    ("metasync_limit_value", "256M"),
    ("metasync_limit_value", "1"),
    ("metasync_limit_entries", "2147483647"),
    ("metasync_limit_entries", "1"),
    ("metasync_limit_name", "1024"),
    ("metasync_limit_set", "100"),
    ("metasync_dir", ""),
])
def test_the_largest_and_smallest_settings(namespaces, setting, value):
    done = namespaces.doveadm("-o", "plugin/%s=%s" % (setting, value), "mailbox", "list", "-u", "u1")
    assert (done.returncode, done.stderr) == (0, "")


def test_no_session_with_a_wrong_setting(make_server):
    """As with other plugins: better than to run without the limit that was meant."""
    with make_server(plugin={"metasync_limit_entries": "many"}) as server:
        c = server.login("u1", login=False)
        c.start(b"LOGIN u1 pass")
        assert c.eof()[-1].line.startswith(b"* BYE Internal error occurred.")
        await_log(server, "Error: metasync_limit_entries: Must be 1 .. 2147483647, not many")


def test_switched_off(make_server):
    with make_server(plugin={"metasync_enabled": "no"}) as server:
        c = server.login("u1")
        assert b"XMETASYNC" not in c.command(b"CAPABILITY")[0].line
        assert last(c, b'XMETASYNC "" /private').startswith(b"T BAD ")
        assert last(c, b'XMETASET "" (%s "x")' % A).startswith(b"T BAD ")
        ok(c, b"CREATE Work")
        ok(c, b"RENAME Work Job")
        ok(c, b"DELETE Job")
        c.logout()
        assert not os.path.exists(server.home("u1") + "/metasync")


@pytest.mark.parametrize("value", ["~/state/metasync", "%h/state/metasync"])
def test_directory_in_the_home(make_server, value):
    with make_server(plugin={"metasync_dir": value}) as server:
        c = server.login("u1")
        put(c, [(A, b'"x"')])
        c.logout()
        path = server.home("u1") + "/state/metasync"
        assert os.stat(path).st_mode & 0o777 == 0o700
        assert os.stat(path + "/store.db").st_mode & 0o777 == 0o600


# users have mail, but no home
HOMELESS = {"homes": False, "mail_location": "maildir:{root}/home/%u"}


def test_no_home(make_server):
    with make_server(**HOMELESS) as server:
        c = server.login("u1")
        assert b"XMETASYNC" not in c.command(b"CAPABILITY")[0].line
        ok(c, b"CREATE Work")
        ok(c, b"DELETE Work")
        c.logout()
        await_log(server, "Logged out")
        assert server.log().count("no home directory") == 1


def test_no_home_and_a_directory(make_server):
    with make_server(plugin={"metasync_dir": "{root}/home/state/%u"}, **HOMELESS) as server:
        c = server.login("u1")
        put(c, [(A, b'"x"')])
        c.logout()
        assert os.path.exists(server.root + "/home/state/u1/store.db")
