"""What stands between a client and its server, or in place of it: peers that misbehave, proxies, someone in the middle.
Each listens on loopback, serves each connection in a thread, and ends with its context."""

import contextlib
import select
import socket
import ssl
import threading


class Peer:
    """serve(connection) is called for each connection. tls: (certificate, key): TLS from the start."""

    def __init__(self, serve, address="127.0.0.1", tls=None):
        self.serve = serve
        self.context = None
        if tls:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(*tls)
        self.socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        self.socket.bind((address, 0))
        self.socket.listen(20)
        self.port = self.socket.getsockname()[1]
        self.connections = []
        self.errors = []
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def _accept(self):
        while True:
            try:
                connection = self.socket.accept()[0]
            except OSError:
                return
            self.connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self.threads.append(thread)
            thread.start()

    def _serve(self, connection):
        # the client may go at any time
        with contextlib.suppress(OSError, EOFError):
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True)
                self.connections.append(connection)
            with connection:
                self.serve(connection)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ended.set()
        for s in [self.socket] + self.connections:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()
        # not before: a thread may be about to wait for it
        for s in [self.socket] + self.connections:
            s.close()


def lines(connection):
    """Lines from a connection, without CRLF, until it ends."""
    with connection.makefile("rb") as f:
        for line in f:
            yield line.rstrip(b"\r\n")


def pump(a, b, rewrite=lambda data: data, back=lambda data: data):
    """Copies both ways until one side ends. rewrite: what b sends to a, back: what a sends to b."""
    while True:
        for source in select.select([a, b], [], [])[0]:
            data = source.recv(65536)
            if not data:
                return
            if source is b:
                a.sendall(rewrite(data))
            else:
                b.sendall(back(data))


def forwarder(port, address="127.0.0.1", **kwargs):
    """To a port of 127.0.0.1."""
    def serve(connection):
        with socket.create_connection(("127.0.0.1", port)) as server:
            pump(connection, server, **kwargs)
    return Peer(serve, address)


def take(connection, size):
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def socks_proxy(seen):
    """SOCKS 5 (RFC 1928) without a login. All hosts are 127.0.0.1; appends (host, port) to seen."""
    def serve(connection):
        take(connection, take(connection, 2)[1])
        connection.sendall(b"\5\0")
        kind = take(connection, 4)[3]
        host = take(connection, take(connection, 1)[0]) if kind == 3 else take(connection, 4 if kind == 1 else 16)
        port = int.from_bytes(take(connection, 2), "big")
        seen.append((host.decode() if kind == 3 else host, port))
        with socket.create_connection(("127.0.0.1", port)) as server:
            connection.sendall(b"\5\0\0\1\0\0\0\0\0\0")
            pump(connection, server)
    return Peer(serve)


def http_proxy(seen, refuse=False, to=None):
    """HTTP CONNECT. All hosts are 127.0.0.1, and all ports this one, if it is given; appends "host:port" to seen."""
    def serve(connection):
        head = b""
        while b"\r\n\r\n" not in head:
            head += take(connection, 1)
        target = head.split(b" ")[1].decode()
        seen.append(target)
        if refuse:
            connection.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 3\r\n\r\nNo\n")
            return
        with socket.create_connection(("127.0.0.1", to or int(target.rpartition(":")[2]))) as server:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Proxy: yes\r\n\r\n")
            pump(connection, server)
    return Peer(serve)


def imap_login(connection, capability=b"IMAP4rev1 AUTH=PLAIN"):
    """What a server says until a client has logged in, with whatever password; returns a file with what follows."""
    connection.sendall(b"* OK hello\r\n")
    f = connection.makefile("rb")
    while True:
        tag, _, command = f.readline().rstrip().partition(b" ")
        if command.upper() == b"CAPABILITY":
            connection.sendall(b"* CAPABILITY " + capability + b"\r\n" + tag + b" OK done\r\n")
        elif command.upper().startswith(b"AUTHENTICATE"):
            connection.sendall(b"+ \r\n")
            f.readline()
            connection.sendall(tag + b" OK in\r\n")
            return f
        elif not tag:
            raise EOFError
