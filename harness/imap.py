"""A raw IMAP client that shows what goes over the wire. It sends what it is told to and reads whole
responses, literals included; it knows no commands. Every read has a deadline."""

import os
import re
import socket
import ssl
import struct
import time

# Everything is slower under valgrind
PATIENCE = 20 * float(os.environ.get("DOVETAIL_PATIENCE", "1"))
LITERAL = re.compile(rb"~?\{(\d+)\+?\}$")


class ImapError(AssertionError):
    pass


class Closed(ImapError):
    """The server has closed the connection."""


class Atom(bytes):
    """A token that was written without quotes. NIL is None."""


class Resp:
    """One response. line: its bytes with literals as they were sent, without the last CRLF."""

    def __init__(self, line, parts):
        self.line = line
        self._parts = parts
        self.tag = line.split(b" ", 1)[0]

    @property
    def parsed(self):
        """Tokens: lists for parentheses, bytes for strings, Atom, None."""
        return Parser(self._parts).tokens(None)

    def __repr__(self):
        return "<%r>" % self.line[:300]


class Parser:
    def __init__(self, parts):
        # text and literals in turn
        self.parts = [[p, 0] if kind == "text" else p for kind, p in parts]

    def tokens(self, end):
        out = []
        while self.parts:
            if isinstance(self.parts[0], bytes):
                out.append(self.parts.pop(0))
                continue
            text, at = self.parts[0]
            if at >= len(text):
                self.parts.pop(0)
                continue
            c = text[at:at + 1]
            if c == b" ":
                self.parts[0][1] += 1
            elif c == b"(":
                self.parts[0][1] += 1
                out.append(self.tokens(b")"))
            elif c == b")" and end == b")":
                self.parts[0][1] += 1
                return out
            elif c == b'"':
                m = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.S).match(text, at)
                self.parts[0][1] = m.end()
                out.append(re.sub(rb"\\(.)", rb"\1", m[1], flags=re.S))
            elif re.compile(rb"~?\{\d+\+?\}$").match(text, at):
                self.parts.pop(0)
            else:
                m = re.compile(rb"[^ ()\"]+|\)").match(text, at)
                self.parts[0][1] = m.end()
                out.append(None if m[0].upper() == b"NIL" else Atom(m[0]))
        return out


def shown(data):
    """For the transcript: printable, long values shortened."""
    text = data.decode("latin-1").encode("unicode_escape").decode()
    return text if len(text) <= 400 else text[:200] + " … %d bytes … " % len(data) + text[-100:]


class Client:
    def __init__(self, port, user="u1", password="pass", tls=False, login=True, rcvbuf=0, greeting=True):
        self.transcript = []
        self._buffer = bytearray()
        self._tags = 0
        raw = socket.socket()
        if rcvbuf:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        raw.settimeout(PATIENCE)
        raw.connect(("127.0.0.1", port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            raw = context.wrap_socket(raw)
        self.sock = raw
        if greeting:
            self.expect(rb"\* OK")
        if login:
            answer = self.command(b'LOGIN "%s" "%s"' % (user.encode(), password.encode()))[-1]
            if b" OK " not in answer.line:
                raise ImapError("login failed: %r" % answer.line)

    # -- sending

    def send(self, data):
        self.transcript.append("C: " + shown(data))
        self.sock.sendall(data)

    def start(self, command):
        """Sends a command; returns its tag."""
        self._tags += 1
        tag = b"a%d" % self._tags
        self.send(tag + b" " + command + b"\r\n")
        return tag

    def command(self, command):
        """All responses up to the tagged one."""
        return self.until(self.start(command))

    # -- reading

    def _fail(self, what):
        raise ImapError("%s\n%s" % (what, self.tail()))

    def tail(self):
        return "\n".join(self.transcript[-40:])

    def _fill(self, deadline):
        left = deadline - time.monotonic()
        if left <= 0:
            self._fail("no answer in %d s" % PATIENCE)
        self.sock.settimeout(left)
        try:
            data = self.sock.recv(262144)
        except (socket.timeout, TimeoutError):
            self._fail("no answer in %d s" % PATIENCE)
        except ConnectionError:
            data = b""
        if not data:
            raise Closed("connection closed\n" + self.tail())
        self._buffer += data

    def _line(self, deadline):
        at = 0
        while True:
            end = self._buffer.find(b"\n", at)
            if end >= 0:
                line = bytes(self._buffer[:end + 1])
                del self._buffer[:end + 1]
                if not line.endswith(b"\r\n"):
                    self._fail("line without CR: %r" % line[:200])
                return line[:-2]
            at = len(self._buffer)
            self._fill(deadline)

    def read_response(self):
        deadline = time.monotonic() + PATIENCE
        parts, whole = [], b""
        while True:
            text = self._line(deadline)
            parts.append(("text", text))
            m = LITERAL.search(text)
            if not m:
                break
            size = int(m[1])
            while len(self._buffer) < size:
                self._fill(deadline)
            literal = bytes(self._buffer[:size])
            del self._buffer[:size]
            parts.append(("literal", literal))
        whole = b"".join(p + b"\r\n" if kind == "text" else p for kind, p in parts)[:-2]
        self.transcript.append("S: " + shown(whole))
        return Resp(whole, parts)

    def until(self, tag):
        """Responses up to the tagged one, which is the last."""
        out = []
        while True:
            out.append(self.read_response())
            if out[-1].tag == tag:
                return out

    def expect(self, pattern):
        """Reads up to a response that matches; returns it."""
        while True:
            resp = self.read_response()
            if re.match(pattern, resp.line):
                return resp

    def next(self, pattern):
        """The very next response must match."""
        resp = self.read_response()
        if not re.match(pattern, resp.line):
            self._fail("expected %r, got %r" % (pattern, resp.line[:200]))
        return resp

    def eof(self):
        """Reads to the end of the connection; returns the whole responses that came before it."""
        out = []
        while True:
            try:
                out.append(self.read_response())
            except Closed:
                return out

    # -- the end

    def logout(self):
        self.command(b"LOGOUT")
        self.close()

    def close(self):
        self.sock.close()

    def reset(self):
        """The connection ends with an RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def half_close(self):
        self.sock.shutdown(socket.SHUT_WR)
