"""What the tests of mailboxes that are shared by ACL have in common: such servers, and commands on both sides."""

import os

import pytest

import metasync
from metasync import Watch, ask, last, ok, sane

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
    return metasync.get_metadata(c, b"%s%s (%s)" % (options, mailbox, entries))


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


def damage(server, user):
    with open(server.home(user) + "/metasync/store.db", "r+b") as f:
        f.write(b"\xff" * 4096)
