"""Entries follow their mailbox: renamed and deleted over IMAP, by doveadm, and by processes that know nothing of
the plugin (found at the next access, by the mailbox's GUID)."""

import os
import re

import pytest

from lifecycle import await_log
from metasync import Watch, last, put

A = b"/private/vendor/test/a"
FORMATS = {"maildir": "maildir:~/mail", "sdbox": "sdbox:~/mail", "mdbox": "mdbox:~/mail"}


@pytest.fixture(scope="module", params=sorted(FORMATS))
def place(request, make_module_server):
    return make_module_server(mail_location=FORMATS[request.param])


def ok(client, command):
    line = last(client, command)
    assert line.startswith(b"T OK"), line


def state(client):
    """{mailbox: value} of all mailboxes."""
    w = Watch(client, b"(PERSONAL) /private").catch_up().done()
    return {mailbox.decode(): value.decode() for (mailbox, _), value in w.state.items()}


def fill(c, *mailboxes):
    for mailbox in mailboxes:
        if mailbox != "INBOX":
            ok(c, b'CREATE "%s"' % mailbox.encode())
        put(c, [(A, b'"%s"' % mailbox.encode())], mailbox=b'"%s"' % mailbox.encode())


def doveadm(server, user, *command, plugins=True):
    """With plugins=False as a process that has never heard of Dovetail."""
    config = None
    if not plugins:
        config = server.root + "/plain.conf"
        with open(server.config) as f, open(config, "w") as out:
            out.write(re.sub(r"mail_plugins = .*", "mail_plugins =", f.read()))
    result = server.doveadm("mailbox", command[0], "-u", user, *command[1:], config=config)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("plugins", [True, False])
def test_renamed_by_doveadm(place, user, plugins):
    c = place.login(user)
    fill(c, "Work", "Work/Sub", "Workshop", "INBOX")
    c.logout()
    doveadm(place, user, "rename", "Work", "Job", plugins=plugins)
    assert state(place.login(user)) == {"Job": "Work", "Job/Sub": "Work/Sub", "Workshop": "Workshop",
                                        "INBOX": "INBOX"}


@pytest.mark.parametrize("plugins", [True, False])
def test_deleted_by_doveadm(place, user, plugins):
    c = place.login(user)
    fill(c, "Work", "Work/Sub", "Play")
    c.logout()
    doveadm(place, user, "delete", "Play", plugins=plugins)
    doveadm(place, user, "delete", "Work/Sub", plugins=plugins)
    c = place.login(user)
    assert state(c) == {"Work": "Work"}
    # what is created again inherits nothing
    ok(c, b"CREATE Play")
    assert state(c) == {"Work": "Work"}


def test_deleted_and_created_again_by_others(place, user):
    c = place.login(user)
    fill(c, "Play", "Work")
    c.logout()
    doveadm(place, user, "delete", "Play", plugins=False)
    doveadm(place, user, "create", "Play", plugins=False)
    assert state(place.login(user)) == {"Work": "Work"}


def test_swapped_by_others(place, user):
    c = place.login(user)
    fill(c, "One", "Two")
    c.logout()
    for old, new in (("One", "Tmp"), ("Two", "One"), ("Tmp", "Three")):
        doveadm(place, user, "rename", old, new, plugins=False)
    assert state(place.login(user)) == {"One": "Two", "Three": "One"}


def test_mended_when_it_is_named_in_a_session(place, user):
    """The session has looked already; then others act, then the mailbox is named."""
    c = place.login(user)
    fill(c, "One", "Two")
    doveadm(place, user, "delete", "One", plugins=False)
    doveadm(place, user, "rename", "Two", "One", plugins=False)
    put(c, [(b"/private/vendor/test/b", b'"b"')], mailbox=b"One")
    w = Watch(c, b"One /private").catch_up().done()
    assert w.state == {(b"One", A): b"Two", (b"One", b"/private/vendor/test/b"): b"b"}


def test_a_rename_by_others_is_told_as_a_change(place, user):
    c = place.login(user)
    fill(c, "Work")
    w = Watch(c, b"(PERSONAL) /private").catch_up().done()
    c.logout()
    doveadm(place, user, "rename", "Work", "Job", plugins=False)
    w.client = place.login(user)
    w.catch_up(w.mark).done()
    assert sorted(w.entries()) == [b'* METADATA "Job" (/private/vendor/test/a "Work")',
                                   b'* METADATA "Work" (/private/vendor/test/a NIL)']


def test_names_with_wildcards_of_the_engine(place, user):
    c = place.login(user)
    fill(c, "a_b", "a_b/x", "aXb", "aXb/x")
    ok(c, b"RENAME a_b new")
    assert state(c) == {"new": "a_b", "new/x": "a_b/x", "aXb": "aXb", "aXb/x": "aXb/x"}


def test_no_store_is_made_by_deleting(place, user):
    c = place.login(user)
    ok(c, b"CREATE Play")
    ok(c, b"DELETE Play")
    assert not os.path.exists(place.home(user) + "/metasync")


# -- settings --------------------------------------------------------------------------------------

@pytest.mark.parametrize("setting, value", [
    ("metasync_limit_value", "many"), ("metasync_limit_value", "0"), ("metasync_limit_entries", "-1"),
    ("metasync_limit_bytes", "x"), ("metasync_limit_name", "1025"), ("metasync_limit_set", "101"),
    ("metasync_busy_timeout", "soon"), ("metasync_tombstones", "0"), ("metasync_dir", "relative/path"),
])
def test_wrong_settings_are_named(make_server, setting, value):
    server = make_server(plugin={setting: value})
    c = server.login("u1", login=False)
    c.start(b"LOGIN u1 pass")
    c.eof()
    await_log(server, r"Error: .*%s" % setting)


def test_switched_off(make_server):
    server = make_server(plugin={"metasync_enabled": "no"})
    c = server.login("u1")
    assert b"XMETASYNC" not in c.command(b"CAPABILITY")[0].line
    assert last(c, b'XMETASYNC "" /private').startswith(b"T BAD ")
    assert last(c, b'XMETASET "" (/private/x "1")').startswith(b"T BAD ")
