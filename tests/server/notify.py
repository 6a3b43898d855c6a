"""What the tests of NOTIFY share: asking for it, changing what it tells of, and reading what is told.

That something is not told is seen by what comes next: changes are told in their order, so a change that
is surely told ("fence") ends each look."""

import itertools

import pytest

from metasync import last, put

A, B, FENCE = b"/private/vendor/test/a", b"/private/vendor/test/b", b"/private/vendor/test/fence"
MAILBOX, SERVER = b"(personal (MailboxMetadataChange))", b"(personal (ServerMetadataChange))"
BOTH = b"(personal (MailboxMetadataChange ServerMetadataChange))"
MESSAGES = b"(selected (MessageNew MessageExpunge FlagChange))"
EVENTS = (b"MessageNew MessageExpunge FlagChange MailboxName SubscriptionChange MailboxMetadataChange "
          b"ServerMetadataChange")
numbers = itertools.count(1)


def notify(c, groups):
    assert last(c, b"NOTIFY SET " + groups) == b"T OK NOTIFY completed."


def change(d, mailbox=b"", name=A):
    """What others change: a value that was never there before."""
    put(d, [(name, b'"%d"' % next(numbers))], b'"%s"' % mailbox)


def line(mailbox=b"", name=A):
    return b'* METADATA "%s" %s' % (mailbox, name)


def pushed(c, d, mailbox=b""):
    """All that the session is told, up to a fence in this mailbox; it sends no command."""
    change(d, mailbox, FENCE)
    out = []
    while True:
        out.append(c.read_response().line)
        if out[-1] == line(mailbox, FENCE):
            return out[:-1]


def metadata(lines):
    return [each for each in lines if each.startswith(b"* METADATA ")]


@pytest.fixture
def pair(client, user):
    """A session that is told, and another one that changes things."""
    c, d = client(user), client(user)
    change(d)
    return c, d
