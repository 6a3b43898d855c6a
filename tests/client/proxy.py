"""A TCP proxy that does to connections what networks do: cuts them at an octet, freezes them, loses an answer."""

import select
import socket
import threading

UP, DOWN = "up", "down"


class Proxy:
    """Between a client and the server on a port. The rules are for the connections that come after they are set.

    cut: (direction, octets): the connection is reset when so many have gone that way.
    lose: octets; when the server sends them, they and all that follows do not arrive, and the connection is reset.
    reset(): ends those that there are.
    freeze(): nothing goes through any more, nothing is closed; thaw() lets new connections through.
    go_down(): ends those that there are, and each new one at once, until come_up()."""

    def __init__(self, port):
        self.target = port
        self.cut = self.lose = None
        self.frozen = threading.Event()
        self.down = False
        self.count = 0
        self.octets = {UP: b"", DOWN: b""}
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.closing, self.closed = socket.socketpair()
        self.threads = []
        self.live = set()
        self.accepting = threading.Thread(target=self._accept)
        self.accepting.start()

    def _accept(self):
        while self.closed not in select.select([self.listener, self.closed], [], [])[0]:
            client = self.listener.accept()[0]
            if self.down:
                client.close()
                continue
            self.count += 1
            self.octets = {UP: b"", DOWN: b""}
            thread = threading.Thread(target=self._serve, args=(client, self.cut, self.lose))
            self.threads.append(thread)
            thread.start()

    def _serve(self, client, cut, lose):
        try:
            server = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            client.close()
            return
        self.live |= {client, server}
        ways = {client: (UP, server), server: (DOWN, client)}
        gone = {UP: 0, DOWN: 0}
        sent = b""
        frozen = False
        while True:
            ready = select.select(list(ways) + [self.closed], [], [])[0]
            if self.closed in ready:
                break
            frozen = frozen or self.frozen.is_set()
            if frozen:
                # its end is not seen, what it sends is not read
                select.select([self.closed], [], [])
                break
            way, to = ways[ready[0]]
            try:
                data = ready[0].recv(65536)
            except OSError:
                data = b""
            if not data:
                break
            if cut and cut[0] == way:
                data = data[:cut[1] - gone[way]]
            if lose and way == DOWN:
                sent += data
                if lose in sent:
                    break
            gone[way] += len(data)
            self.octets[way] += data
            try:
                to.sendall(data)
            except OSError:
                break
            if cut and gone[cut[0]] >= cut[1]:
                break
        self.live -= {client, server}
        for s in (client, server):
            s.close()

    def reset(self):
        for s in list(self.live):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def freeze(self):
        self.frozen.set()

    def thaw(self):
        self.frozen.clear()

    def go_down(self):
        self.down = True
        self.reset()

    def come_up(self):
        self.down = False

    def close(self):
        self.closing.send(b"x")
        self.accepting.join()
        for thread in self.threads:
            thread.join()
        for s in (self.listener, self.closing, self.closed):
            s.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
