"""NOTIFY (RFC 5465): MailboxMetadataChange and ServerMetadataChange, what they ask for and what is refused."""

import os
import re
import signal

import pytest

from harness.server import imap_pid
from metasync import ask, last, lines_until, ok, sane
from notify import B, BOTH, EVENTS, FENCE, MAILBOX, MESSAGES, SERVER, change, line, metadata, notify, pushed
from notify import pair  # noqa: F401  (fixture)

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
