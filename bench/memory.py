"""A reader that stops reading: what its imap process and the write-ahead log cost meanwhile, and what it gets in
the end. tests/server/test_slow_reader.py goes the same way with fewer changes."""

import os
import re

from harness.server import imap_pid

from . import servers

ENTRIES = 1000
SIZE = 10000
# After so many the sockets' buffers are full and the reader's process is blocked
FULL = 600
METADATA = re.compile(rb'\* METADATA "" \(/private/vendor/bench/e(\d+) \{(\d+)\}\r\n')
MARKER = re.compile(rb"\* OK \[XMETASYNC (?:PARTIAL )?\(\d+ (\d+) ")


def value(change):
    return b"%08d" % change + b"\xff" * (SIZE - 8)


def write(connection, change):
    connection.ask(b'XMETASET "" (/private/vendor/bench/e%06d {%d+}\r\n%s)'
                   % (change % ENTRIES, SIZE, value(change)))


class Reader:
    """A session that waits in XMETASYNC and can be told to read on."""

    def __init__(self, server, user):
        # a small window: what it does not read stays at the server
        self.connection = servers.Connection(server.port, user, rcvbuf=16384)
        self.connection.send(b'XMETASYNC (DEPTH infinity) "" /private')
        self.connection.until(b"+ idling")
        self.pid = imap_pid(self.connection.socket)

    def read_to(self, last):
        """Reads until a marker after the change `last`; returns entry → change, and how many values were read.
        What must not be seen raises."""
        state, marker, values = {}, 0, 0
        with self.connection.socket.makefile("rb") as stream:
            for line in stream:
                found = METADATA.match(line)
                if found:
                    entry, data = int(found[1]), stream.read(int(found[2]))
                    change = int(data[:8])
                    if data != value(change) or change % ENTRIES != entry or change <= state.get(entry, -1):
                        raise RuntimeError("entry %d: not a newer value" % entry)
                    state[entry] = change
                    values += 1
                found = MARKER.match(line)
                if found:
                    if int(found[1]) <= marker:
                        raise RuntimeError("markers out of order: %s after %d" % (found[1].decode(), marker))
                    marker = int(found[1])
                    if state.get(last % ENTRIES) == last and b"PARTIAL" not in line:
                        return state, values
        raise EOFError("the server closed the connection")


def wal_kib(server, user):
    return os.path.getsize(os.path.join(server.home(user), "metasync", "store.db-wal")) // 1024


def blocked(server, user, changes):
    """The whole story; returns its figures."""
    reader = Reader(server, user)
    with servers.Connection(server.port, user) as writer:
        write(writer, 0)
        before = private = servers.private_kib(reader.pid)
        for change in range(1, changes + 1):
            write(writer, change)
            if change == FULL:
                wal = wal_kib(server, user)
            if change % 50 == 0:
                private = max(private, servers.private_kib(reader.pid))
        wal_grown = wal_kib(server, user) - wal
    state, values = reader.read_to(changes)
    private = max(private, servers.private_kib(reader.pid))
    for entry in range(min(ENTRIES, changes + 1)):
        newest = changes - (changes - entry) % ENTRIES
        if state.get(entry) != newest:
            raise RuntimeError("entry %d: change %s instead of %d" % (entry, state.get(entry), newest))
    reader.connection.close()
    return {"changes": changes, "values_read": values, "grown_kib": private - before, "wal_kib": wal,
            "wal_grown_kib": wal_grown}


def run(results):
    with servers.dovetail() as server:
        results.data_is_on(server.root)
        figures = blocked(server, "memory", 2000 if results.quick else 10000)
    results.runs["memory-blocked"] = 1
    results.add("memory-blocked", "dovetail", figures)
    results.target("memory that a reader costs that does not read, MiB", figures["grown_kib"] / 1024, 2)
    results.target("growth of the log while it does not read, MiB", figures["wal_grown_kib"] / 1024, 1)
