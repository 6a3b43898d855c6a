"""A server that says what a test wants it to say, for what no real server should: it lets anybody log in, then the
test's function speaks."""

import re
import socket
import threading

MARK = b"(7 3 0123456789abcdef)"


class Gone(Exception):
    """The client has closed the connection."""


class Connection:
    """After the login: CAPABILITY is answered (capability: the words), then the script's turn."""

    def __init__(self, sock):
        self.sock = sock
        self.buffer = b""

    def fill(self):
        try:
            data = self.sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            raise Gone
        self.buffer += data

    def line(self):
        while b"\r\n" not in self.buffer:
            self.fill()
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    def octets(self, count):
        while len(self.buffer) < count:
            self.fill()
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def send(self, data):
        try:
            self.sock.sendall(data)
        except OSError:
            raise Gone from None

    def command(self, word):
        """The next line, which has to be this command: (tag, line)"""
        line = self.line()
        tag, rest = line.split(b" ", 1)
        if rest == b"LOGOUT":
            raise Gone
        assert rest.upper().startswith(word), (word, line)
        return tag, line

    def login(self):
        self.send(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] Hello.\r\n")
        while True:
            tag, line = self.line().split(b" ", 1)
            if line.upper().startswith((b"AUTHENTICATE", b"LOGIN")):
                self.send(tag + b" OK Logged in.\r\n")
                return
            self.send(b"* CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN\r\n" + tag + b" OK Done.\r\n")

    def capability(self, words=b"LITERAL+ METADATA XMETASYNC", before=b""):
        tag, _ = self.command(b"CAPABILITY")
        self.send(before + b"* CAPABILITY IMAP4rev1 " + words + b"\r\n" + tag + b" OK Done.\r\n")

    def sync(self, lines=b"", mark=MARK, idling=True):
        """Answers XMETASYNC up to where it waits; its line."""
        self.tag, line = self.command(b"XMETASYNC")
        self.send(b"* OK [XMETASYNC LIMITS (VALUE 99999 ENTRIES 99 BYTES 99999 NAME 99 SET 99)] Limits.\r\n" + lines)
        if mark:
            self.send(b"* OK [XMETASYNC " + mark + b"] Consistent.\r\n" + (b"+ idling\r\n" if idling else b""))
        return line

    def done(self):
        """The client's DONE, and its end."""
        assert self.line() == b"DONE"
        self.send(self.tag + b" OK XMETASYNC completed.\r\n")

    def rest(self):
        """Reads until the client goes."""
        while True:
            self.fill()
            self.buffer = b""


class Script:
    """serve: called with each Connection that has logged in; greet: False: at once."""

    def __init__(self, serve, greet=True):
        self.serve = serve
        self.greet = greet
        self.errors = []
        self.closing = False
        self.count = 0
        self.socks = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        while True:
            sock, _ = self.listener.accept()
            if self.closing:
                sock.close()
                return
            self.count += 1
            self.socks.append(sock)
            connection = Connection(sock)
            try:
                if self.greet:
                    connection.login()
                self.serve(connection)
            except Gone:
                pass
            except Exception as error:  # told by the test
                self.errors.append(error)
            sock.close()

    def close(self):
        self.closing = True
        for sock in self.socks:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        socket.create_connection(("127.0.0.1", self.port)).close()
        self.thread.join()
        self.listener.close()
        assert not self.errors, self.errors

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def literal(line):
    """(size, synchronizing) of the literal that the line announces, None: none"""
    m = re.search(rb"\{(\d+)(\+?)\}$", line)
    return m and (int(m[1]), not m[2])
