"""NOTIFY (RFC 5465): MailboxMetadataChange and ServerMetadataChange, beside Dovecot's own events.

That something is not told is seen by what comes next: changes are told in their order, so a change that
is surely told ("fence") ends each look."""

import contextlib
import fcntl
import itertools
import os
import re
import signal
import struct
import termios
import time

import pytest

from lifecycle import assert_quiet, await_blocked, private_kib
from lifecycle_matrix import SHARED
from metasync import Watch, ask, last, lines_until, put, sane
from harness.server import imap_pid

A, B, FENCE = b"/private/vendor/test/a", b"/private/vendor/test/b", b"/private/vendor/test/fence"
MAILBOX, SERVER = b"(personal (MailboxMetadataChange))", b"(personal (ServerMetadataChange))"
BOTH = b"(personal (MailboxMetadataChange ServerMetadataChange))"
MESSAGES = b"(selected (MessageNew MessageExpunge FlagChange))"
EVENTS = (b"MessageNew MessageExpunge FlagChange MailboxName SubscriptionChange MailboxMetadataChange "
          b"ServerMetadataChange")
numbers = itertools.count(1)


def ok(c, command):
    assert last(c, command).startswith(b"T OK"), command


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


# -- which mailboxes -------------------------------------------------------------------------------

BOXES = [b"INBOX", b"Work", b"Work/a", b"Work/a/b", b"Workshop", b"Other", b"a&AOQ-/b"]


@pytest.fixture(scope="module")
def boxes(server):
    """Some mailboxes, and who changes them."""
    d = server.login("boxes")
    for box in BOXES[1:]:
        ok(d, b'CREATE "%s"' % box)
    yield d


@pytest.mark.parametrize("group, told", [
    (b"personal", BOXES),
    (b"PERSONAL", BOXES),
    (b"inboxes", BOXES),
    (b"subtree Work", [b"Work", b"Work/a", b"Work/a/b"]),
    (b"subtree (Work/a Other)", [b"Work/a", b"Work/a/b", b"Other"]),
    (b'subtree "a&AOQ-"', [b"a&AOQ-/b"]),
    (b'subtree ""', BOXES),
    (b"subtree INBOX", [b"INBOX"]),
    (b"subtree Nothing", []),
    (b"mailboxes Work", [b"Work"]),
    (b'mailboxes ("Other" Work/a)', [b"Work/a", b"Other"]),
    (b"mailboxes inbox", [b"INBOX"]),
    (b'mailboxes "a&AOQ-/b"', [b"a&AOQ-/b"]),
    (b"mailboxes {4+}\r\nWork", [b"Work"]),
    (b'mailboxes ({5+}\r\nOther "Work")', [b"Work", b"Other"]),
    # nothing that exists: not an error (RFC 5465 section 3.1), and no wildcards (section 6.6)
    (b"mailboxes Nothing", []),
    (b"mailboxes Work%", []),
    (b'mailboxes "*"', []),
    (b'mailboxes ""', []),
    (b'mailboxes "a&b"', []),
    (b"mailboxes work", []),
    (b"mailboxes Work/", []),
])
def test_filters(client, boxes, group, told):
    c = client("boxes")
    notify(c, b"%s (%s (MailboxMetadataChange))" % (SERVER, group))
    for box in BOXES:
        change(boxes, box)
    assert pushed(c, boxes) == [line(box) for box in told]
    sane(c)


def test_several_groups(client, boxes):
    """They add up."""
    c = client("boxes")
    notify(c, b"(mailboxes Other (mailboxmetadatachange)) (subtree Work/a (SERVERMETADATACHANGE MailboxMetadataChange))"
              b" (personal NONE)")
    for box in BOXES + [b""]:
        change(boxes, box)
    assert pushed(c, boxes) == [line(box) for box in [b"Work/a", b"Work/a/b", b"Other", b""]]


def test_the_server_is_no_mailbox(client, boxes):
    """ServerMetadataChange is for the account, whatever the mailboxes of its group are."""
    c = client("boxes")
    notify(c, b"(mailboxes Nothing (ServerMetadataChange))")
    change(boxes, b"Work")
    change(boxes, b"", B)
    assert pushed(c, boxes) == [line(b"", B)]
    notify(c, b"(mailboxes (Other INBOX) (MailboxMetadataChange))")
    change(boxes, b"", B)
    assert pushed(c, boxes, b"Other") == []
    notify(c, MAILBOX)
    change(boxes, b"", B)
    assert pushed(c, boxes, b"Work") == []


def test_the_selected_mailbox_is_one_of_them(client, boxes):
    """Only message events are for "selected" alone (RFC 5465 section 3.1)."""
    c = client("boxes")
    ok(c, b"SELECT Work")
    notify(c, MESSAGES + b" " + BOTH)
    change(boxes, b"Work")
    assert pushed(c, boxes) == [line(b"Work")]


@pytest.mark.parametrize("filter", [b"selected", b"SELECTED", b"selected-delayed"])
@pytest.mark.parametrize("event", [b"MailboxMetadataChange", b"ServerMetadataChange"])
def test_not_for_selected(pair, filter, event):
    """RFC 5465 section 6.1: an error. What was asked for before stays."""
    c, d = pair
    notify(c, SERVER)
    for events in (event, b"MessageNew MessageExpunge " + event, b"MessageNew (UID FLAGS) %s MessageExpunge" % event):
        assert last(c, b"NOTIFY SET (%s (%s))" % (filter, events)) == (
            b"T BAD Error in IMAP command NOTIFY: MailboxMetadataChange and ServerMetadataChange are not for the "
            b"selected mailbox.")
    change(d, b"INBOX")
    change(d)
    assert pushed(c, d) == [line()]


def test_subscribed(pair):
    """As they are when something changes."""
    c, d = pair
    for box in (b"One", b"Two", b"Three"):
        ok(d, b"CREATE " + box)
    ok(d, b"SUBSCRIBE One")
    notify(c, b"(subscribed (MailboxMetadataChange ServerMetadataChange)) (mailboxes Three (MailboxMetadataChange))")

    def told():
        for box in (b"One", b"Two", b"Three"):
            change(d, box)
        return pushed(c, d)
    assert told() == [line(b"One"), line(b"Three")]
    ok(d, b"SUBSCRIBE Two")
    assert told() == [line(b"One"), line(b"Two"), line(b"Three")]
    ok(d, b"UNSUBSCRIBE One")
    ok(c, b"SUBSCRIBE Three")
    assert told() == [line(b"Two"), line(b"Three")]


def test_mailboxes_come_and_go(pair):
    """By name, whether there is a mailbox at the time of NOTIFY or not."""
    c, d = pair
    notify(c, SERVER + b" (subtree Later (MailboxMetadataChange)) (mailboxes New (MailboxMetadataChange))")
    for box in (b"Later/a", b"New", b"Elsewhere"):
        ok(d, b"CREATE " + box)
        change(d, box)
    assert pushed(c, d) == [line(b"Later/a"), line(b"New")]
    # out of what is watched, into it, within it
    ok(d, b"RENAME New Gone")
    assert pushed(c, d) == [line(b"New")]
    ok(d, b"RENAME Elsewhere Later/b")
    assert pushed(c, d) == [line(b"Later/b")]
    ok(d, b"RENAME Later/b Later/c")
    assert sorted(pushed(c, d)) == [line(b"Later/b"), line(b"Later/c")]
    ok(d, b"DELETE Later/c")
    ok(d, b"DELETE Gone")
    assert pushed(c, d) == [line(b"Later/c")]
    ok(d, b"CREATE New")
    change(d, b"New", B)
    assert pushed(c, d) == [line(b"New", B)]


def test_access_control(make_server, user):
    """Nothing of a mailbox whose metadata one may not read. With ENABLE METADATA, too."""
    server = make_server(plugin={"acl": "vfile"}, extra="""
mail_plugins = metasync acl
protocol imap {
  mail_plugins = metasync acl imap_long_command imap_metasync
}""")
    d = server.login(user)
    boxes = [(b"Read", "lr"), (b"Post", "li"), (b"See", "l"), (b"Hidden", "")]
    for box, _ in boxes + [(b"Gone", "")]:
        ok(d, b"CREATE " + box)
        change(d, box)
    c, e = server.login(user), server.login(user)
    notify(c, BOTH)
    ok(e, b"ENABLE METADATA")
    # the rights are taken away after the changes, and before they are told
    pid = imap_pid(c.sock)
    os.kill(pid, signal.SIGSTOP)
    for box, rights in boxes:
        change(d, box)
        with open(server.home(user) + "/mail/.%s/dovecot-acl" % box.decode(), "w") as f:
            f.write("owner %s\n" % rights)
    ok(d, b"DELETE Gone")
    os.kill(pid, signal.SIGCONT)
    told = [line(b"Read"), line(b"Post"), line(b"Gone")]
    assert pushed(c, d) == told
    assert metadata(ask(e, b"NOOP")) == told + [line(b"", FENCE)]


# -- SET and NONE ----------------------------------------------------------------------------------

@pytest.mark.valgrind
def test_set_replaces(pair):
    c, d = pair
    notify(c, BOTH)
    change(d, b"INBOX")
    change(d)
    assert pushed(c, d) == [line(b"INBOX"), line()]
    notify(c, SERVER)
    change(d, b"INBOX")
    change(d)
    assert pushed(c, d) == [line()]
    # without our events
    notify(c, b"(personal (MailboxName))")
    change(d, b"INBOX")
    change(d)
    ok(d, b"CREATE box")
    c.expect(rb'\* LIST \(.*\) "/" box$')
    assert metadata(ask(c, b"NOOP")) == []
    # what came in between is not news
    notify(c, BOTH)
    assert pushed(c, d) == []


def test_none(pair):
    c, d = pair
    assert last(c, b"NOTIFY NONE") == b"T OK NOTIFY completed."
    notify(c, BOTH)
    assert last(c, b"NOTIFY NONE") == b"T OK NOTIFY completed."
    change(d, b"INBOX")
    assert metadata(ask(c, b"NOOP")) == []
    assert last(c, b"NOTIFY SET") == b"T OK NOTIFY completed."
    change(d, b"INBOX")
    assert metadata(ask(c, b"NOOP")) == []
    change(c)
    notify(c, BOTH)
    change(c)
    assert pushed(c, d) == []


def test_from_now_on(pair):
    """What was there before is not told, what came since the last NOTIFY is."""
    c, d = pair
    change(d)
    notify(c, BOTH)
    assert pushed(c, d) == []
    # nothing is lost between two of them, and nothing told twice
    names = [b"/private/n/%d" % i for i in range(20)]
    for name in names:
        c.send(b"x NOTIFY SET %s\r\n" % BOTH)
        change(d, b"", name)
    assert metadata(pushed(c, d)) == [line(b"", name) for name in names]
    sane(c)


REFUSED = [
    # by us
    (b"(selected (MailboxMetadataChange))", b"BAD"),
    (b"(foo (MailboxMetadataChange))", b"BAD"),
    (b"(MailboxMetadataChange)", b"BAD"),
    (b"((MailboxMetadataChange))", b"BAD"),
    (b"(personal (MailboxMetadataChange) foo)", b"BAD"),
    (b"(subtree (MailboxMetadataChange))", b"BAD"),
    (b"(subtree () (MailboxMetadataChange))", b"BAD"),
    (b"(mailboxes ((Work)) (MailboxMetadataChange))", b"BAD"),
    (b"(mailboxes NIL (MailboxMetadataChange))", b"BAD"),
    (b"(mailboxes ((Work)) (ServerMetadataChange))", b"BAD"),
    (b"(subtree (Work NIL) (ServerMetadataChange))", b"BAD"),
    (b"(foo (FooChange))", b"BAD"),
    (b"(mailboxes %s (MailboxMetadataChange))" % (b"(" + b" ".join(b"m%d" % i for i in range(101)) + b")"),
     b"NO [NOTIFICATIONOVERFLOW]"),
    # by Dovecot
    (b"(personal MailboxMetadataChange)", b"BAD"),
    (b"(personal ())", b"BAD"),
    (b"(personal (MailboxMetadataChange (UID)))", b"BAD"),
    (b'(personal (MailboxMetadataChange "MailboxName"))', b"BAD"),
    (b"MailboxMetadataChange", b"BAD"),
    (b"%s foo" % BOTH, b"BAD"),
    (b"STATUS STATUS %s" % BOTH, b"BAD"),
    (b"%s (selected (MessageNew))" % BOTH, b"BAD"),
    (b"%s (selected (FlagChange))" % BOTH, b"BAD"),
    (b"%s (selected (MessageNew (foo) MessageExpunge))" % BOTH, b"BAD"),
    (b"%s (selected NONE) (selected NONE)" % BOTH, b"BAD"),
    (b"%s (mailboxes %s (MailboxName))" % (BOTH, b"(" + b" ".join(b"m%d" % i for i in range(101)) + b")"),
     b"NO [NOTIFICATIONOVERFLOW]"),
    # by both
    (b"%s (personal (AnnotationChange))" % BOTH, b"NO [BADEVENT (" + EVENTS + b")]"),
    (b"(personal (MailboxMetadataChange FooChange))", b"NO [BADEVENT (" + EVENTS + b")]"),
    (b"(selected (MessageNew (UID) MessageExpunge FooChange)) " + BOTH, b"NO [BADEVENT (" + EVENTS + b")]"),
]


@pytest.mark.parametrize("groups, answer", REFUSED)
def test_refused(pair, groups, answer):
    """All of it or nothing: what was asked for before stays."""
    c, d = pair
    notify(c, SERVER)
    assert last(c, b"NOTIFY SET " + groups).startswith(b"T %s " % answer)
    change(d, b"INBOX")
    change(d)
    assert pushed(c, d) == [line()]
    # nor is it set if there was nothing before
    ok(c, b"NOTIFY NONE")
    assert last(c, b"NOTIFY SET " + groups).startswith(b"T %s " % answer)
    change(d)
    assert metadata(ask(c, b"NOOP")) == []
    sane(c)


@pytest.mark.parametrize("command", [b"NOTIFY", b"NOTIFY FOO", b'NOTIFY "SET" ' + BOTH, b"NOTIFY (SET)",
                                     b"NOTIFY %s" % BOTH, b"NOTIFY SET " + BOTH + b")", b"NOTIFY SET (" + BOTH])
def test_no_such_command(pair, command):
    c, d = pair
    notify(c, SERVER)
    assert last(c, command).startswith(b"T BAD ")
    change(d, b"INBOX")
    assert pushed(c, d) == []


def test_not_dovecots_part_either(pair):
    """What we refuse leaves Dovecot's events as they were."""
    c, d = pair
    notify(c, b"(personal (MailboxName)) " + SERVER)
    assert last(c, b"NOTIFY SET (personal (SubscriptionChange)) (selected (MailboxMetadataChange))").startswith(b"T BAD ")
    ok(d, b"CREATE box")
    ok(d, b"SUBSCRIBE box")
    listed = c.expect(rb"\* LIST ").line
    assert b"Subscribed" not in listed and listed.endswith(b" box")
    assert metadata(pushed(c, d)) == []


@pytest.fixture(scope="module")
def stock(make_module_server):
    return make_module_server(plugins=False)


LINES = [b"SET", b"NONE", b"", b"FOO", b"SET STATUS", b"SET ()", b"SET (personal)", b"SET (personal NONE)",
         b"SET (personal (MailboxName) foo)", b"SET (foo NONE)", b"SET (foo (MailboxName))", b"SET (personal none x)",
         b"SET (selected NONE x)", b"SET (selected (MailboxName))", b"SET (subtree)", b"SET (subtree x)",
         b"SET (subtree (x (y)) NONE)", b"SET (subtree (x (y)) (MailboxName))", b"SET (subtree () NONE)",
         b'SET (mailboxes "a\\"b\'\\\\c" (MessageNew MessageExpunge))', b"SET (mailboxes {3+}\r\na\"b (MailboxName))",
         b"SET (mailboxes {0+}\r\n (MailboxName))", b"SET (mailboxes NIL (MailboxName))", b"SET (mailboxes a%* NONE)",
         b'SET (mailboxes "\xc3\xa4" (MailboxName SubscriptionChange))', b"SET (personal (MessageNew (UID)))",
         b"SET (selected (MessageNew (UID BODY.PEEK[HEADER.FIELDS (From \"To\")]<0.10> FLAGS) MessageExpunge))",
         b"SET (selected (MessageNew (BODY[1.2.MIME] (FLAGS)) MessageExpunge))", b"SET (selected (MessageNew () MessageExpunge))",
         b"SET STATUS (selected-delayed (MessageNew MessageExpunge FlagChange)) (subscribed (MessageNew MessageExpunge))",
         b"SET (mailboxes INBOX (MessageNew MessageExpunge)) (personal (SubscriptionChange))", b"SET (personal (MailboxName)"]


@pytest.mark.parametrize("line", LINES)
def test_all_else_as_in_dovecot(client, stock, user, line):
    """Word for word."""
    answers = []
    for c in (client(user), stock.login(user)):
        ok(c, b"SELECT INBOX")
        answers.append([re.sub(rb"UIDVALIDITY \d+", b"UIDVALIDITY n", each) for each in ask(c, b"NOTIFY " + line)])
        sane(c)
    assert answers[0] == answers[1]


def test_literals(pair):
    """Synchronizing ones are asked for once."""
    c, d = pair
    ok(d, b"CREATE Work")
    c.send(b"x NOTIFY SET %s (mailboxes {4}\r\n" % SERVER)
    assert c.read_response().line.startswith(b"+ ")
    c.send(b"Work (MailboxMetadataChange MailboxName)) (mailboxes ({5}\r\n")
    assert c.read_response().line.startswith(b"+ ")
    c.send(b"INBOX) (MailboxMetadataChange))\r\n")
    assert c.read_response().line.startswith(b"x OK ")
    change(d, b"Work")
    change(d, b"INBOX")
    assert pushed(c, d) == [line(b"Work"), line(b"INBOX")]
    c.send(b"x NOTIFY SET (mailboxes {70000}\r\n")
    assert c.read_response().line.startswith(b"* BYE ")


def test_arguments_in_events(make_server, user):
    """Dovecot's own event has them as they came, once."""
    server = make_server(extra="log_debug = event=imap_command_finished")
    c = server.login(user)
    notify(c, b"(selected NONE) " + BOTH)
    sane(c)
    assert "Command finished: NOTIFY SET (selected NONE) %s\n" % BOTH.decode() in server.log()


def test_without_list_index(make_server, user):
    """Dovecot then tells of the selected mailbox only, and does not announce NOTIFY. Our events do not need it."""
    server = make_server(extra="mailbox_list_index = no")
    c, d = server.login(user), server.login(user)
    assert b"NOTIFY" not in ask(c, b"CAPABILITY")[0].split()
    notify(c, BOTH)
    change(d, b"INBOX")
    assert pushed(c, d) == [line(b"INBOX")]
    assert last(c, b"NOTIFY SET (personal (MailboxName)) " + SERVER).startswith(b"T NO [NOTIFICATIONOVERFLOW] ")
    change(d, b"INBOX")
    assert pushed(c, d) == [line(b"INBOX")]


def test_user_without_the_plugin(make_server):
    server = make_server(plugin={"metasync_enabled": "no"})
    c = server.login("u1")
    assert last(c, b"NOTIFY SET " + MAILBOX).startswith(b"T NO [BADEVENT MailboxMetadataChange] ")
    notify(c, b"(personal (MailboxName))")


def test_without_a_store(make_server, user):
    """NO, and nothing is set; it works again with the store."""
    server = make_server()
    d = server.login(user)
    change(d)
    d.logout()
    server.await_no_session(user)
    store = server.home(user) + "/metasync"
    os.rename(store, store + "-elsewhere")
    os.symlink("metasync-elsewhere", store)
    c, d = server.login(user), server.login(user)
    assert last(c, b"NOTIFY SET (personal (MailboxName)) " + SERVER).startswith(b"T NO [UNAVAILABLE] ")
    ok(d, b"CREATE box")
    ok(c, b"NOOP")
    # Dovecot's own events need no store
    notify(c, b"(personal (MailboxName))")
    ok(d, b"CREATE box2")
    assert c.expect(rb"\* LIST ").line.endswith(b" box2")
    os.remove(store)
    os.rename(store + "-elsewhere", store)
    notify(c, BOTH)
    assert pushed(c, d) == []


# -- ENABLE METADATA beside it ---------------------------------------------------------------------

@pytest.mark.parametrize("first", ["enable", "notify"])
def test_notify_decides(pair, first):
    """RFC 5465 section 5: an event that is left out is not sent. It lasts until the next NOTIFY (section 3.1)."""
    c, d = pair
    if first == "enable":
        ok(c, b"ENABLE METADATA")
        change(d)
        assert metadata(ask(c, b"NOOP")) == [line()]
    notify(c, SERVER)
    if first == "notify":
        ok(c, b"ENABLE METADATA")
    change(d, b"INBOX")
    change(d)
    assert pushed(c, d) == [line()]
    ok(c, b"NOTIFY NONE")
    change(d)
    assert metadata(ask(c, b"NOOP")) == []
    tag = c.start(b"IDLE")
    c.expect(rb"\+ idling")
    change(d)
    c.send(b"DONE\r\n")
    assert metadata(lines_until(c, tag)) == []
    notify(c, MESSAGES)
    change(d)
    assert metadata(ask(c, b"NOOP")) == []
    notify(c, BOTH)
    assert pushed(c, d) == []


def test_refused_leaves_enable(pair):
    c, d = pair
    ok(c, b"ENABLE METADATA")
    assert last(c, b"NOTIFY SET (selected (MailboxMetadataChange))").startswith(b"T BAD ")
    assert last(c, b"NOTIFY SET (personal (AnnotationChange)) " + SERVER).startswith(b"T NO ")
    assert last(c, b"NOTIFY SET (selected (FlagChange)) " + SERVER).startswith(b"T BAD ")
    change(d, b"INBOX")
    assert metadata(ask(c, b"NOOP")) == [line(b"INBOX")]


# -- Dovecot's events beside ours ------------------------------------------------------------------

def inotify_watches(pid):
    count = 0
    for fd in os.listdir("/proc/%d/fdinfo" % pid):
        with contextlib.suppress(OSError), open("/proc/%d/fdinfo/%s" % (pid, fd)) as f:
            count += f.read().count("inotify wd:")
    return count


class SelectedWatch:
    """Made right after NOTIFY. Dovecot watches the selected mailbox only from a second after the last command on, also
    after what it tells itself; what changes before that is told with the next command."""

    def __init__(self, c):
        self.pid = imap_pid(c.sock)
        self.without = inotify_watches(self.pid)

    def wait(self):
        end = time.monotonic() + 30
        while inotify_watches(self.pid) <= self.without:
            assert time.monotonic() < end
            time.sleep(0.05)


def await_lines(c, told, *patterns):
    """The line told by us, and what Dovecot tells after a while. It may tell more."""
    patterns = [re.escape(told)] + list(patterns)
    while patterns:
        got = c.read_response().line
        left = [each for each in patterns if not re.match(each, got)]
        assert left != patterns or not got.startswith(b"* METADATA")
        patterns = left


def append(d, mailbox=b"INBOX", subject=b"hello"):
    message = b"From: a@example.org\r\nSubject: %s\r\n\r\ntext\r\n" % subject
    ok(d, b"APPEND %s {%d+}\r\n%s" % (mailbox, len(message), message))


@pytest.mark.valgrind
def test_messages_beside(pair):
    c, d = pair
    ok(d, b"CREATE Work")
    ok(c, b"SELECT INBOX")
    notify(c, b"(selected (MessageNew (UID BODY.PEEK[HEADER.FIELDS (Subject)]) MessageExpunge FlagChange)) "
              b"(subtree Work (MessageNew MessageExpunge MailboxMetadataChange)) "
              b"(personal (ServerMetadataChange MailboxName SubscriptionChange))")
    selected = SelectedWatch(c)
    selected.wait()
    append(d)
    change(d)
    await_lines(c, line(), rb"\* 1 EXISTS", rb"\* 1 FETCH \(UID 1 BODY\[HEADER.FIELDS \(SUBJECT\)\] \{18\}\r\nSubject: hello")
    ok(d, b"SELECT INBOX")
    selected.wait()
    ok(d, b"STORE 1 +FLAGS (\\Flagged)")
    change(d, b"Work")
    await_lines(c, line(b"Work"), rb"\* 1 FETCH \(FLAGS \(\\Flagged")
    append(d, b"Work")
    change(d, b"Work")
    await_lines(c, line(b"Work"), rb"\* STATUS Work \(MESSAGES 1 ")
    ok(d, b"CREATE New")
    ok(d, b"SUBSCRIBE New")
    change(d)
    await_lines(c, line(), rb'\* LIST \(.*\\Subscribed.*\) "/" New')
    selected.wait()
    ok(d, b"STORE 1 +FLAGS (\\Deleted)")
    ok(d, b"EXPUNGE")
    change(d, b"Work")
    await_lines(c, line(b"Work"), rb"\* 1 EXPUNGE")
    # metadata of INBOX was not asked for
    change(d, b"INBOX")
    assert metadata(pushed(c, d)) == []


def test_status(pair):
    """For message events only (RFC 5465 section 3.1)."""
    c, d = pair
    ok(d, b"CREATE Work")
    assert ask(c, b"NOTIFY SET STATUS " + BOTH) == [b"T OK NOTIFY completed."]
    lines = ask(c, b"NOTIFY SET STATUS (mailboxes Work (MessageNew MessageExpunge)) " + BOTH)
    assert len(lines) == 2 and lines[0].startswith(b"* STATUS Work ")
    change(d, b"Work")
    assert pushed(c, d) == [line(b"Work")]


def test_metadata_alone_is_selected_none(pair):
    """NOTIFY without "selected" ends message events (RFC 5465 section 3.1), as in Dovecot."""
    c, d = pair
    ok(c, b"SELECT INBOX")
    notify(c, BOTH)
    append(d)
    change(d)
    assert pushed(c, d) == [line()]
    assert b"* 1 EXISTS" not in ask(c, b"NOOP")


# -- what is told ----------------------------------------------------------------------------------

def test_own_changes_are_not_told(pair):
    c, d = pair
    notify(c, BOTH)
    change(c)
    ok(c, b'SETMETADATA INBOX (%s "mine")' % B)
    ok(c, b"CREATE box")
    change(c, b"box")
    ok(c, b"RENAME box box2")
    change(d, b"box2", B)
    assert pushed(c, d) == [line(b"box2", B)]
    ok(c, b"DELETE box2")
    # what others did in between comes at the latest before the next command's answer
    change(d)
    assert metadata(ask(c, b'XMETASET INBOX (%s "mine")' % A)) == [line()]
    assert pushed(c, d) == []


def test_removed_and_unchanged(pair):
    c, d = pair
    put(d, [(A, b'"1"'), (B, b'"1"')])
    notify(c, BOTH)
    put(d, [(A, b'"1"')])
    put(d, [(B, b"NIL")])
    assert pushed(c, d) == [line(b"", B)]
    put(d, [(A, b'"2"'), (B, b'"2"')], b"INBOX")
    assert sorted(pushed(c, d)) == [line(b"INBOX", A), line(b"INBOX", B)]


def test_names_that_need_quotes(pair):
    c, d = pair
    notify(c, BOTH)
    put(d, [(b'"/private/a b"', b'"1"')])
    ok(d, b'CREATE "a \\"b&AOQ-"')
    change(d, b'a \\"b&AOQ-')
    assert pushed(c, d) == [b'* METADATA "" "/private/a b"', line(b'a \\"b&AOQ-')]


def test_all_writers(pair, server, user):
    """SETMETADATA and doveadm, too."""
    c, d = pair
    notify(c, BOTH)
    ok(d, b'SETMETADATA INBOX (/shared/comment "x" /private/comment "y")')
    assert sorted(pushed(c, d)) == [line(b"INBOX", b"/private/comment"), line(b"INBOX", b"/shared/comment")]
    assert server.doveadm("metasync", "set", "-u", user, "INBOX", A.decode(), "new").returncode == 0
    assert pushed(c, d) == [line(b"INBOX")]


def test_new_epoch(pair):
    """The history is gone: all that exists, and is asked for, may be new."""
    c, d = pair
    change(d, b"INBOX")
    notify(c, SERVER)
    assert pushed(c, d) == []
    epoch, modseq, token = Watch(d, b'"" /private').catch_up().done().mark
    # a client that knows more than the store
    Watch(d, b'"" /private').catch_up((epoch, modseq + 100, token)).done()
    assert sorted(metadata(ask(c, b"NOOP"))) == [line(), line(b"", FENCE)]
    assert pushed(c, d) == []


def test_replaced_store(make_server, user):
    """Another store in the place of the one that is open: its changes are told, too."""
    server = make_server(plugin={"imap_long_command_check_interval": "1s"})
    c, d = server.login(user), server.login(user)
    change(d)
    notify(c, BOTH)
    assert pushed(c, d) == []
    store = server.home(user) + "/metasync"
    os.rename(store, store + "-old")
    change(d, b"INBOX")
    assert line(b"INBOX") in pushed(c, d)
    change(c, b"INBOX")
    change(d)
    assert pushed(c, d) == [line()]


# -- when ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mailbox", [b"", b"INBOX"])
def test_at_once_between_commands(pair, mailbox):
    c, d = pair
    if mailbox:
        ok(c, b"SELECT " + mailbox)
    notify(c, MESSAGES + b" " + BOTH)
    start = time.monotonic()
    for i in range(20):
        change(d)
        assert c.read_response().line == line()
        if i % 2:
            sane(c)
    # no timer of a second or of the slow check is behind it
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("mailbox", [b"", b"INBOX"])
def test_in_idle(pair, mailbox):
    """RFC 5465 section 4: exactly the same events."""
    c, d = pair
    if mailbox:
        ok(c, b"SELECT " + mailbox)
    notify(c, MESSAGES + b" " + SERVER)
    tag = c.start(b"IDLE")
    c.expect(rb"\+ idling")
    start = time.monotonic()
    for _ in range(20):
        change(d, b"INBOX")
        change(d)
        assert c.read_response().line == line()
    assert time.monotonic() - start < 10
    c.send(b"DONE\r\n")
    assert lines_until(c, tag) == [b"T OK Idle completed."]
    change(d)
    assert pushed(c, d) == [line()]


def test_before_a_command(pair):
    """A command finds all told that was there when it began, also if the event that wakes comes late."""
    c, d = pair
    notify(c, BOTH)
    for _ in range(20):
        change(d)
        lines = ask(c, b"NOOP")
        assert lines == [line(), b"T OK NOOP completed."]


LARGE = b"".join(b"%09d line\r\n" % i for i in range(1250000))


def assert_told_after(c, count):
    """What changed meanwhile comes by itself, each once."""
    lines = [c.read_response().line for _ in range(count)]
    assert lines == metadata(lines) and len(set(lines)) == count
    sane(c)


def many_changes(d):
    for i in range(50):
        change(d)
        change(d, b"INBOX", b"/private/many/%d" % i)
    return 51


def test_never_inside_a_fetch(pair, client, user):
    """A message of 20 MB is read slowly while entries change."""
    _, d = pair
    message = b"Subject: large\r\n\r\n" + LARGE
    ok(d, b"APPEND INBOX {%d+}\r\n%s" % (len(message), message))
    c = client(user, rcvbuf=65536)
    ok(c, b"SELECT INBOX")
    notify(c, MESSAGES + b" " + BOTH)
    tag = c.start(b"FETCH 1 BODY.PEEK[TEXT]")
    await_blocked(c)
    count = many_changes(d)
    responses = c.until(tag)
    assert [r.line[:20] for r in responses if r.line.startswith(b"* METADATA")] == []
    fetch = next(r for r in responses if b" FETCH " in r.line[:20])
    assert fetch.line.endswith(LARGE + b")")
    start = time.monotonic()
    assert_told_after(c, count)
    assert time.monotonic() - start < 10


def test_never_inside_dovecots_own_fetch(pair, client, user):
    """MessageNew with a text of 20 MB: Dovecot sends it between commands, without locking the output."""
    _, d = pair
    c = client(user, rcvbuf=65536)
    ok(c, b"SELECT INBOX")
    notify(c, b"(selected (MessageNew (UID BODY.PEEK[TEXT]) MessageExpunge)) " + BOTH)
    SelectedWatch(c).wait()
    message = b"Subject: large\r\n\r\n" + LARGE
    ok(d, b"APPEND INBOX {%d+}\r\n%s" % (len(message), message))
    await_blocked(c)
    count = many_changes(d)
    fetch = c.expect(rb"\* 1 FETCH ")
    assert fetch.line.endswith(LARGE + b")")
    assert_told_after(c, count)


def test_never_inside_getmetadata(make_server, user):
    server = make_server(plugin={"metasync_limit_value": "20M", "metasync_limit_bytes": "30M"})
    d = server.login(user)
    ok(d, b"SETMETADATA INBOX (%s {%d+}\r\n%s)" % (B, len(LARGE) - 5000000, LARGE[:-5000000]))
    c = server.login(user, rcvbuf=65536)
    notify(c, BOTH)
    tag = c.start(b"GETMETADATA INBOX " + B)
    await_blocked(c)
    count = many_changes(d)
    responses = c.until(tag)
    assert [r.parsed[3] for r in responses[:-1]] == [[B, LARGE[:-5000000]]]
    assert_told_after(c, count)


@pytest.mark.parametrize("how", ["notify", "enable"])
@pytest.mark.parametrize("start, end", [
    (b"APPEND INBOX {100}\r\n", b"x" * 98 + b"\r\n"),
    (b"SETMETADATA INBOX (%s {100}\r\n" % B, b"x" * 100 + b")"),
    (b"SEARCH SUBJECT {3}\r\n", b"abc"),
], ids=["APPEND", "SETMETADATA", "SEARCH"])
def test_not_while_a_literal_is_sent(pair, start, end, how):
    c, d = pair
    ok(c, b"SELECT INBOX")
    if how == "notify":
        notify(c, BOTH)
    else:
        ok(c, b"ENABLE METADATA")
    c.send(b"x " + start)
    assert c.read_response().line.startswith(b"+ ")
    change(d)
    # in pieces: the command is looked at again with each
    c.send(end[:2])
    change(d, b"INBOX")
    assert_nothing_comes(c)
    c.send(end[2:] + b"\r\n")
    lines = [c.read_response().line]
    while not lines[-1].startswith(b"x "):
        lines.append(c.read_response().line)
    assert metadata(lines) == [] and lines[-1].startswith(b"x OK")
    if how == "notify":
        assert {c.read_response().line for _ in range(2)} == {line(), line(b"INBOX")}
    else:
        assert sorted(metadata(ask(c, b"NOOP"))) == [line(), line(b"INBOX")]


def assert_nothing_comes(c):
    """For longer than the second after which it is tried again."""
    pid = imap_pid(c.sock)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        unread = struct.unpack("i", fcntl.ioctl(c.sock.fileno(), termios.FIONREAD, b"\0" * 4))[0]
        assert unread == 0, "process %d sends while it receives" % pid
        time.sleep(0.05)


def test_as_soon_as_a_command_is_done(pair):
    """Not only when it is tried again."""
    c, d = pair
    notify(c, BOTH)
    start = time.monotonic()
    for _ in range(10):
        c.send(b"x APPEND INBOX {6}\r\n")
        assert c.read_response().line.startswith(b"+ ")
        change(d)
        # the wake has been seen before the rest comes, or comes after it
        time.sleep(0.1)
        c.send(b"a: b\r\n\r\n")
        assert c.read_response().line.startswith(b"x OK ")
        assert c.read_response().line == line()
    assert time.monotonic() - start < 5 or "DOVETAIL_WRAPPER" in os.environ


def test_not_while_a_line_is_sent(pair):
    c, d = pair
    notify(c, BOTH)
    c.send(b"x NO")
    change(d)
    c.send(b"OP\r\n")
    lines = [c.read_response().line for _ in range(2)]
    assert sorted(lines)[0] == line() and any(each.startswith(b"x OK") for each in lines)


def test_pipelined(pair):
    """Each once, whole lines, before and after and between the answers."""
    c, d = pair
    notify(c, BOTH)
    names = [b"/private/n/%d" % i for i in range(20)]
    lines = []
    for name in names:
        c.send(b"".join(b"p%d NOOP\r\n" % i for i in range(20)))
        change(d, b"", name)
        lines += [r.line for r in c.until(b"p19")]
    assert metadata(lines + pushed(c, d)) == [line(b"", name) for name in names]
    sane(c)


@pytest.mark.skipif("DOVETAIL_WRAPPER" in os.environ, reason="measures the memory of the process")
def test_many_names_to_a_slow_reader(make_server):
    """15 MB of names do not pile up in the process, though no command runs."""
    server = make_server(plugin={"metasync_limit_entries": "100000", "metasync_limit_bytes": "100M"})
    d = server.login("u1")
    change(d)
    c = server.login("u1", rcvbuf=65536)
    notify(c, BOTH)
    name = b"/private/" + b"x" * 600
    count = 24000
    for start in range(0, count, 100):
        put(d, [(b"%s/%d" % (name, i), b'"1"') for i in range(start, start + 100)])
    await_blocked(c)
    assert private_kib(imap_pid(c.sock)) < 6000
    names = set()
    while len(names) < count:
        names.update(metadata([c.read_response().line]))
    assert pushed(c, d) == []


# -- XMETASYNC -------------------------------------------------------------------------------------

def test_not_what_xmetasync_watches(pair):
    """The command shows it; the rest is told after its markers. Nothing twice, nothing lost."""
    c, d = pair
    notify(c, BOTH)
    w = Watch(c, b'"" /private/vendor/test').catch_up()
    put(d, [(A, b'"1"'), (b"/private/other", b'"1"')])
    w.until("marker")
    assert w.state[(b"", A)] == b"1"
    assert c.read_response().line == line(b"", b"/private/other")
    change(d, b"INBOX")
    assert c.read_response().line == line(b"INBOX")
    w.done()
    # by itself again, from there on
    change(d)
    assert pushed(c, d) == [line()]


def test_what_is_not_asked_for_stays_so_in_xmetasync(pair):
    c, d = pair
    notify(c, SERVER)
    w = Watch(c, b'"" /private/vendor/test').catch_up()
    change(d, b"INBOX")
    change(d, b"", b"/private/other")
    assert c.read_response().line == line(b"", b"/private/other")
    w.done()
    assert w.entries() == [b'* METADATA "" (%s "%s")' % (A, w.state[(b"", A)])]


def test_changes_around_done(pair):
    """Each change is shown by the command, or told after it by itself."""
    c, d = pair
    notify(c, BOTH)
    shown = 0
    for i in range(200):
        w = Watch(c, b'"" /private/vendor/test').catch_up()
        tag = d.start(b'XMETASET "" (%s "around %d")' % (A, i))
        # before the commit, after it, and while it is being told
        time.sleep(i % 40 * 0.00005)
        c.send(b"DONE\r\n")
        w.until("end")
        if b'* METADATA "" (%s "around %d")' % (A, i) in w.log:
            shown += 1
        else:
            assert c.read_response().line == line()
        d.until(tag)
    assert pushed(c, d) == []
    assert 0 < shown < 200


def test_change_and_done_at_once(pair):
    """The process finds both: it has been woken for a command that ends."""
    c, d = pair
    notify(c, BOTH)
    pid = imap_pid(c.sock)
    start = time.monotonic()
    for _ in range(10):
        w = Watch(c, b'"" /private/vendor/test').catch_up()
        os.kill(pid, signal.SIGSTOP)
        change(d)
        c.send(b"DONE\r\n")
        os.kill(pid, signal.SIGCONT)
        kind = w.until("entry", "end")
        if kind == "entry":
            w.until("end")
        else:
            assert c.read_response().line == line()
    assert pushed(c, d) == []
    # not only with the look that comes a second after each event
    assert time.monotonic() - start < 5 or "DOVETAIL_WRAPPER" in os.environ


def test_more_than_fits_beside_xmetasync(make_server):
    """What XMETASYNC watches is not told, however much else there is to tell to a slow reader."""
    server = make_server(plugin={"metasync_limit_entries": "100000", "metasync_limit_bytes": "100M"})
    d = server.login("u1")
    change(d)
    c = server.login("u1", rcvbuf=65536)
    notify(c, BOTH)
    w = Watch(c, b'"" ' + A).catch_up()
    name, count = b"/private/" + b"x" * 1000, 10000
    for start in range(0, count, 50):
        put(d, [(b"%s/%d" % (name, i), b'"1"') for i in range(start, start + 50)] + [(A, b'"%d"' % start)])
    await_blocked(c)
    c.send(b"DONE\r\n")
    lines = lines_until(c, w.tag)
    assert not [each for each in lines if each == line()]
    told = [each for each in lines if each.startswith(b'* METADATA "" /private/x')]
    told += pushed(c, d)
    assert len(told) == len(set(told)) == count
    sane(c)


# -- the end ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("end", ["close", "reset", "half_close", "logout", "pipelined"])
def test_end_while_waiting(make_server, end):
    """Several sessions of one process: the end of one does not touch the others."""
    server = make_server(extra=SHARED, plugin={"long_command_test_path": "%h/wake"})
    d = server.login("u1")
    change(d)
    sessions = [server.login("u1") for _ in range(3)]
    for c in sessions:
        notify(c, BOTH)
    w = Watch(server.login("u1"), b'"" /private').catch_up()
    change(d)
    w.until("marker")
    for c in sessions:
        assert c.read_response().line == line()
    if end == "logout":
        change(d)
        lines = ask(sessions[1], b"LOGOUT")
        assert metadata(lines) == [line()] and lines[-1].startswith(b"T OK")
        w.until("marker")
        for i in (0, 2):
            assert sessions[i].read_response().line == line()
    elif end == "pipelined":
        sessions[1].send(b"x NOOP\r\ny IDLE\r\nDONE\r\nz LOGOUT\r\n")
        assert sessions[1].eof()[-1].line.startswith(b"z OK")
    else:
        getattr(sessions[1], end)()
    change(d)
    w.until("marker")
    for i in (0, 2):
        assert sessions[i].read_response().line == line()
    ok(sessions[0], b"NOTIFY NONE")
    w.done()
    change(d)
    assert sessions[2].read_response().line == line()
    assert metadata(ask(sessions[0], b"NOOP")) == []
    bystander = server.login("b")
    bystander.start(b"XTEST")
    bystander.expect(rb"\+ idling")
    assert_quiet([imap_pid(d.sock)], bystander)


def test_gone_in_the_middle_of_names(make_server):
    """The connection ends while names wait in the output."""
    server = make_server(extra=SHARED, plugin={"metasync_limit_entries": "100000", "metasync_limit_bytes": "100M"})
    d = server.login("u1")
    change(d)
    c, e = server.login("u1", rcvbuf=4096), server.login("u1")
    notify(c, BOTH)
    notify(e, SERVER)
    names = set()
    for start in range(0, 6000, 100):
        put(d, [(b"/private/%s/%d" % (b"x" * 600, i), b'"1"') for i in range(start, start + 100)])
    await_blocked(c)
    c.reset()
    while len(names) < 6000:
        names.add(e.read_response().line)
    assert pushed(e, d) == []


def test_kicked(server, pair):
    """SIGTERM, as from doveadm kick."""
    c, d = pair
    notify(c, BOTH)
    os.kill(imap_pid(c.sock), signal.SIGTERM)
    change(d)
    assert metadata([r.line for r in c.eof()]) in ([], [line()])


def test_two_users_in_a_process(make_server):
    server = make_server(extra=SHARED)
    sessions = [(server.login(u), server.login(u)) for u in ("u1", "u2")]
    for c, d in sessions:
        change(d)
        notify(c, BOTH)
    for i in range(5):
        for c, d in sessions:
            change(d, b"INBOX", b"/private/%d" % i)
    for c, d in sessions:
        assert pushed(c, d) == [line(b"INBOX", b"/private/%d" % i) for i in range(5)]
