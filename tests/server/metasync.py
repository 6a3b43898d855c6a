"""What the tests of XMETASYNC and XMETASET share: sending a command and reading its answer, and a
reader that keeps a state as a mail client would."""

import re

MARK = re.compile(rb"\* OK \[XMETASYNC \((\d+) (\d+) ([0-9a-f]{16})\)\] ")
PARTIAL = re.compile(rb"\* OK \[XMETASYNC PARTIAL \((\d+) (\d+) ([0-9a-f]{16})\)\] ")
RESET = b"* OK [XMETASYNC RESET]"
LIMITS = b"* OK [XMETASYNC LIMITS ("


# Dovecot adds the time that a command took to its reply
TOOK = re.compile(rb" \([0-9.]+ [+0-9. ]* secs\)\.$")


def ask(client, command):
    """Sends a command; returns the lines of the answer, the tag replaced by b"T"."""
    tag = client.start(command)
    return lines_until(client, tag)


def lines_until(client, tag):
    lines = [r.line for r in client.until(tag)]
    assert lines[-1].startswith(tag + b" ")
    lines[-1] = b"T" + TOOK.sub(b".", lines[-1][len(tag):])
    return lines


def last(client, command):
    """The tagged line only."""
    return ask(client, command)[-1]


def ok(client, command):
    line = last(client, command)
    assert line.startswith(b"T OK"), line


def sane(client):
    """The connection still answers."""
    assert last(client, b"NOOP").startswith(b"T OK"), "NOOP after the command"


def position(line):
    """(epoch, modseq) of XMETASET's OK or MODIFIED."""
    m = re.match(rb"T (?:OK|NO) \[XMETASET (?:MODIFIED )?\((\d+) (\d+)\)\] ", line)
    assert m, line
    return int(m[1]), int(m[2])


def put(client, pairs, mailbox=b'""', condition=b""):
    """XMETASET of (name, quoted or NIL value) pairs; returns the position."""
    body = b" ".join(b"%s %s" % p for p in pairs)
    line = last(client, b"XMETASET %s%s (%s)" % (condition, mailbox, body))
    assert line.startswith(b"T OK [XMETASET ("), line
    return position(line)


def get_metadata(c, command):
    """{name: value} of GETMETADATA's answer."""
    tag = c.start(b"GETMETADATA " + command)
    values = {}
    for r in c.until(tag):
        if r.line.startswith(b"* METADATA "):
            items = r.parsed[3]
            values.update(zip(map(bytes, items[::2]), items[1::2]))
    assert r.line.startswith(tag + b" OK "), r.line
    return {name: value if value is None else bytes(value) for name, value in values.items()}


class Watch:
    """A client's state under one XMETASYNC. state: {(mailbox, name): value}, names of values that are
    not shown map to the string "?"; pending changes count only from the next marker on."""

    def __init__(self, client, selection, options=b"DEPTH infinity", state=None):
        self.client = client
        self.selection = selection
        self.options = options
        self.state = dict(state or {})
        self.pending = []
        self.mark = None
        self.log = []
        self.tag = None

    def start(self, mark=None):
        options = self.options
        if mark:
            options = (options + b" SINCE (%d %d %s)" % mark).strip()
        options = b"(%s) " % options if options else b""
        self.log = []
        self.tag = self.client.start(b"XMETASYNC " + options + self.selection)
        return self

    def handle(self, resp):
        """Returns what the line was: "limits", "reset", "entry", "partial", "marker", "idling",
        "end", "other"."""
        line = resp.line
        if resp.tag == self.tag:
            self.log.append(TOOK.sub(b".", line))
            return "end"
        self.log.append(line)
        if line == b"+ idling":
            return "idling"
        if line.startswith(LIMITS):
            return "limits"
        if line.startswith(RESET):
            self.pending = ["reset"]
            return "reset"
        m = PARTIAL.match(line)
        if m:
            self.partial = (int(m[1]), int(m[2]), m[3])
            return "partial"
        m = MARK.match(line)
        if m:
            self.mark = (int(m[1]), int(m[2]), m[3])
            self.commit()
            return "marker"
        if line.startswith(b"* METADATA "):
            # the response's tokens: *, METADATA, mailbox, (name value …) or name
            mailbox, what = resp.parsed[2], resp.parsed[3]
            if isinstance(what, list):
                for name, value in zip(what[::2], what[1::2]):
                    self.pending.append((bytes(mailbox), bytes(name), value))
            else:
                self.pending.append((bytes(mailbox), bytes(what), "?"))
            return "entry"
        return "other"

    def commit(self):
        for change in self.pending:
            if change == "reset":
                self.state = {}
                continue
            mailbox, name, value = change
            if value is None:
                self.state.pop((mailbox, name), None)
            else:
                self.state[(mailbox, name)] = value if value == "?" else bytes(value)
        self.pending = []

    def until(self, *kinds):
        while True:
            kind = self.handle(self.client.read_response())
            if kind in kinds:
                return kind
            assert kind != "end", self.log

    def catch_up(self, mark=None):
        """Starts and reads to + idling."""
        self.start(mark)
        self.until("idling")
        return self

    def done(self):
        self.client.send(b"DONE\r\n")
        self.until("end")
        assert self.log[-1] == self.tag + b" OK XMETASYNC completed.", self.log[-1]
        return self

    def entries(self):
        """The METADATA lines of this run."""
        return [line for line in self.log if line.startswith(b"* METADATA ")]
