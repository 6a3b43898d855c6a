"""The examples of RFC 5464 (METADATA), put right by its errata, and those of RFC 5465 (NOTIFY) that have metadata
events, played against the server.

C: is sent, S: is what must come, 0: is done by another client of the user before. Lines that are indented go on the one
before them. Of METADATA responses it counts what they say of a mailbox, not in how many of them (RFC 5464 section 4.4); of
tagged and continuation lines, status and response code.

Errata: 2785 puts the options before the mailbox (section 4.2.1). The example of section 4.2.2 (2786) has its options there
for the same reason: the note of 2785 and the formal syntax. 3868 puts several entries into parentheses (section 4.4.1).
The examples of a server entry that changes have /shared/comment: with Dovecot that one is a setting, so a vendor's entry
stands in for it."""

import re

import pytest

from metasync import ask

SETTINGS = {"extra": "mail_server_comment = Shared comment"}

EXAMPLES = {
    "5464-4.2-server": """
        C: a GETMETADATA "" /shared/comment
        S: * METADATA "" (/shared/comment "Shared comment")
        S: a OK GETMETADATA complete
    """,
    "5464-4.2-mailbox": """
        0: SETMETADATA INBOX (/private/comment "My own comment")
        C: a GETMETADATA "INBOX" /private/comment
        S: * METADATA "INBOX" (/private/comment "My own comment")
        S: a OK GETMETADATA complete
    """,
    "5464-4.2-two": """
        0: SETMETADATA INBOX (/shared/comment "Shared comment" /private/comment "My own comment")
        C: a GETMETADATA "INBOX" (/shared/comment /private/comment)
        S: * METADATA "INBOX" (/shared/comment "Shared comment"
                               /private/comment "My own comment")
        S: a OK GETMETADATA complete
    """,
    "5464-4.2.1": """
        0: SETMETADATA INBOX (/shared/comment "{2199}" /private/comment "My own comment")
        C: a GETMETADATA (MAXSIZE 1024) "INBOX"
                         (/shared/comment /private/comment)
        S: * METADATA "INBOX" (/private/comment "My own comment")
        S: a OK [METADATA LONGENTRIES 2199] GETMETADATA complete
    """,
    "5464-4.2.2": """
        0: SETMETADATA INBOX (/private/filters/values/small "SMALLER 5000"
                              /private/filters/values/boss "FROM \\"boss@example.com\\""
                              /private/filters/values/boss/not "this")
        C: a GETMETADATA (DEPTH 1) "INBOX" (/private/filters/values)
        S: * METADATA "INBOX" (/private/filters/values/small
             "SMALLER 5000" /private/filters/values/boss
             "FROM \\"boss@example.com\\"")
        S: a OK GETMETADATA complete
    """,
    "5464-4.3-literal": """
        C: a SETMETADATA INBOX (/private/comment {33}
        S: + ready for data
        C: My new comment across<CRLF>two lines.)
        S: a OK SETMETADATA complete
        C: b GETMETADATA INBOX /private/comment
        S: * METADATA INBOX (/private/comment "My new comment across<CRLF>two lines.")
        S: b OK GETMETADATA complete
    """,
    "5464-4.3-nil": """
        0: SETMETADATA INBOX (/private/comment "My own comment")
        C: a SETMETADATA INBOX (/private/comment NIL)
        S: a OK SETMETADATA complete
        C: b GETMETADATA INBOX /private/comment
        S: * METADATA INBOX (/private/comment NIL)
        S: b OK GETMETADATA complete
    """,
    "5464-4.3-two": """
        C: a SETMETADATA INBOX (/private/comment "My new comment"
                                /shared/comment "This one is for you!")
        S: a OK SETMETADATA complete
        C: b GETMETADATA INBOX (/private/comment /shared/comment)
        S: * METADATA INBOX (/private/comment "My new comment" /shared/comment "This one is for you!")
        S: b OK GETMETADATA complete
    """,
    "5464-4.4.1-server": """
        C: a GETMETADATA "" /shared/comment
        S: * METADATA "" (/shared/comment "Shared comment")
        S: a OK GETMETADATA complete
    """,
    "5464-4.4.1-two": """
        0: SETMETADATA INBOX (/private/comment "My comment" /shared/comment "Its sunny outside!")
        C: a GETMETADATA "INBOX" (/private/comment /shared/comment)
        S: * METADATA "INBOX" (/private/comment "My comment"
                               /shared/comment "Its sunny outside!")
        S: a OK GETMETADATA complete
    """,
    "5464-4.4.1-responses": """
        0: SETMETADATA INBOX (/private/comment "My comment" /shared/comment "Its sunny outside!")
        C: a GETMETADATA "INBOX" (/private/comment /shared/comment)
        S: * METADATA "INBOX" (/private/comment "My comment")
        S: * METADATA "INBOX" (/shared/comment "Its sunny outside!")
        S: a OK GETMETADATA complete
    """,
    "5464-4.4.2-server": """
        C: z ENABLE METADATA
        S: * ENABLED METADATA
        S: z OK Enabled
        0: SETMETADATA "" (/shared/vendor/example/comment "new")
        C: a NOOP
        S: * METADATA "" /shared/vendor/example/comment
        S: a OK NOOP complete
    """,
    "5464-4.4.2-mailbox": """
        C: z ENABLE METADATA
        S: * ENABLED METADATA
        S: z OK Enabled
        0: SETMETADATA INBOX (/shared/comment "new" /private/comment "new")
        C: a NOOP
        S: * METADATA "INBOX" /shared/comment /private/comment
        S: a OK NOOP complete
    """,
    "5465-5.6": """
        C: a NOTIFY SET (personal (MailboxMetadataChange))
        S: a OK done
        0: SETMETADATA "" (/shared/vendor/example/comment "not this")
        0: SETMETADATA INBOX (/shared/comment "new")
        S: * METADATA "INBOX" /shared/comment
        0: SETMETADATA INBOX (/shared/comment NIL)
        S: * METADATA "INBOX" /shared/comment
    """,
    "5465-5.7": """
        C: a NOTIFY SET (personal (ServerMetadataChange))
        S: a OK done
        0: SETMETADATA INBOX (/shared/comment "not this")
        0: SETMETADATA "" (/shared/vendor/example/comment "new")
        S: * METADATA "" /shared/vendor/example/comment
        0: SETMETADATA "" (/shared/vendor/example/comment NIL)
        S: * METADATA "" /shared/vendor/example/comment
    """,
}


def steps(text):
    """(who, line) pairs."""
    out = []
    for each in text.strip("\n").splitlines():
        m = re.match(r" {8}([CS0]): (.*)", each)
        if m:
            out.append([m[1], m[2]])
        elif each.strip():
            out[-1][1] += " " + each.strip()
    fill = re.compile(r"\{(\d{3,})\}")
    return [(who, fill.sub(lambda m: "x" * int(m[1]), line).replace("<CRLF>", "\r\n").encode()) for who, line in out]


def tokens(line):
    out = []
    for m in re.finditer(rb'"((?:[^"\\]|\\.)*)"|([()])|([^ ()"]+)', line):
        out.append(re.sub(rb"\\(.)", rb"\1", m[1]) if m[1] is not None else m[2] or (None if m[3] == b"NIL" else m[3]))
    return out


def said(parsed):
    """What METADATA responses say, as (mailbox, name, value) or (mailbox, name)."""
    mailbox, rest = bytes(parsed[0]), parsed[1:]
    if isinstance(rest[0], list):
        rest = rest[0]
        return {(mailbox, bytes(n), v if v is None else bytes(v)) for n, v in zip(rest[::2], rest[1::2])}
    return {(mailbox, bytes(n)) for n in rest}


def wanted(line):
    mailbox, *rest = tokens(line)[2:]
    if rest[0] == b"(":
        return {(mailbox, n, v) for n, v in zip(rest[1:-1:2], rest[2:-1:2])}
    return {(mailbox, n) for n in rest}


def hear(got, left):
    """A METADATA response must say what is left to be said."""
    assert said(got.parsed[2:]) <= left, got
    left -= said(got.parsed[2:])


def hear_all(c, left):
    while left:
        hear(c.read_response(), left)


def check(c, line, left):
    """Another S: line than METADATA."""
    while True:
        got = c.read_response()
        if not got.line.startswith(b"* METADATA "):
            break
        hear(got, left)
    assert left == set()
    pattern = rb"\+" if line.startswith(b"+ ") else rb"\S+( \S+)?( \[.*?\])?"
    assert re.match(pattern, got.line)[0] == re.match(pattern, line)[0], got


def play(c, other, text):
    """What METADATA responses are to say is heard before the next line of another kind."""
    left = set()
    for who, line in steps(text):
        if who == "0":
            hear_all(c, left)
            assert ask(other, line)[-1].startswith(b"T OK")
        elif who == "C":
            c.send(line + b"\r\n")
        elif line.startswith(b"* METADATA "):
            left |= wanted(line)
        else:
            check(c, line, left)
    hear_all(c, left)
    assert len(ask(c, b"NOOP")) == 1, "nothing else was said"


@pytest.fixture(scope="module")
def example_server(make_module_server):
    return make_module_server(**SETTINGS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(example_server, user, name):
    play(example_server.login(user), example_server.login(user), EXAMPLES[name])


def test_too_many(make_server, user):
    """RFC 5464 section 4.3, the last example."""
    server = make_server(plugin={"metasync_limit_entries": "1"})
    play(server.login(user), server.login(user), """
        0: SETMETADATA INBOX (/shared/comment "the only one")
        C: a SETMETADATA INBOX (/private/comment "My new comment")
        S: a NO [METADATA TOOMANY] SETMETADATA failed
    """)
